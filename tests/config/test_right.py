"""Right configurations: what is read, and what is the default."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from llm_supervisor.config import ConfigError, load
from llm_supervisor.config.document import path_words
from llm_supervisor.config.schema import signal_number
from llm_supervisor.config.yaml_reader import read
from llm_supervisor.units import duration, size
from tests.config.conftest import GOOD, NATIVE, Place

ENV = {"ANTHROPIC_API_KEY": "x"}
WEIGHTS = "\2" + "\0" * 7 + "{}"  # safetensors of no tensor


def test_the_documented_example(place: Place) -> None:
    config = place.load(GOOD)
    root = config.root
    assert root.gateway is not None
    assert (root.gateway.port, root.gateway.hold) == (4000, "auto")
    model = root.models["glm-4.1v"]
    assert (model.model, model.gpus, model.port, model.vision) == ("THUDM/GLM-4.1V-9B-Thinking", [0], 8000, True)
    assert model.vllm == {"max-model-len": 25000, "limit-mm-per-prompt": {"image": 32, "video": 1}}
    assert (model.health.startup_budget, model.health.stall_grace, model.restart.window) == (1800, 120, 3600)
    assert (model.stop.signal, model.stop.grace) == (15, 30)
    assert root.programs["redis"].command == ["redis-server", "--port", "6379"]
    assert root.programs["web"].command == ["serve", "1", "true"], "YAML's numbers are meant as words there"
    assert root.programs["web"].env == {"DEBUG": "1"}
    assert (root.logs.max_bytes, root.logs.backups) == (10 * 1024**2, 3)
    assert config.environ == {"ANTHROPIC_API_KEY": "sk-ant-1"}, "from the env file"
    assert config.native["router_settings"] == {"num_retries": 2}
    assert config.master_key is None
    assert all(problem.warning for problem in config.warnings)
    assert config.model_path(model) is None, "a hub id"
    assert config.model_path(root.models["tiny"]) == place.folder / "tiny"
    assert [row[:3] for row in config.port_places()] == [
        ("127.0.0.1", 4000, "gateway"),
        ("127.0.0.1", 8000, "glm-4.1v"),
        ("127.0.0.1", 8001, "tiny"),
    ]


def test_the_defaults_are_the_documented_ones(place: Place) -> None:
    root = place.load("gateway: {}\nmodels: {a: {model: org/name, port: 8000}}\n").root
    assert root.gateway is not None
    for block in (root.gateway, root.models["a"]):
        assert block.health.model_dump() | {
            "period": 10, "timeout": 10, "failure_threshold": 3, "startup_budget": 1800, "startup_stall": 600,
            "stall_grace": 120, "canary": True, "canary_interval": 300, "expect": None,
        } == block.health.model_dump()  # fmt: skip
        assert block.restart.model_dump() == {
            "policy": "always", "backoff": 5, "backoff_factor": 2, "backoff_cap": 300, "intensity": 5, "window": 3600,
        }  # fmt: skip
        assert block.stop.model_dump() == {"signal": 15, "grace": 30}
    assert (root.gateway.host, root.gateway.port, root.gateway.replicas) == ("127.0.0.1", 4000, 1)
    assert (root.ready_when, root.env_file) == ("gateway", None)


def test_an_environment_of_the_process_wins_over_the_env_file(place: Place) -> None:
    config = place.load("env_file: keys.env\n", {"ANTHROPIC_API_KEY": "mine", "OTHER": "1"})
    assert config.environ == {"ANTHROPIC_API_KEY": "mine", "OTHER": "1"}


def test_the_env_file(place: Place) -> None:
    text = (
        "# keys\n\nA=1\n export B = two words \nC='single # quoted'\nD=\"double\"\nE=a=b\nF=\nG='\nH=x\x0cy\u2028z\r\n"
    )
    place.write(text, "keys.env", 0o600)
    assert place.load("env_file: keys.env\n").environ == {
        "A": "1",
        "B": "two words",
        "C": "single # quoted",
        "D": "double",
        "E": "a=b",
        "F": "",
        "G": "'",
        "H": "x\x0cy\u2028z",
    }


@pytest.mark.parametrize(
    ("general", "environ", "key"),
    [
        ("", {}, None),
        ("", {"LITELLM_MASTER_KEY": "sk-env"}, "sk-env"),
        ("general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}\n", {"LITELLM_MASTER_KEY": "sk-env"}, "sk-env"),
        ("general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}\n", {}, None),
        ("general_settings: {master_key: os.environ/MINE}\n", {"MINE": "sk-mine"}, "sk-mine"),
        ("general_settings: {master_key: sk-file}\n", {"LITELLM_MASTER_KEY": "sk-env"}, "sk-file"),
        ("general_settings:\n", {"LITELLM_MASTER_KEY": "sk-env"}, "sk-env"),
    ],
)
def test_the_master_key_that_is_given(place: Place, general: str, environ: dict[str, str], key: str | None) -> None:
    place.write("model_list: []\n" + general, "native.yaml", 0o600)
    assert place.load("gateway: {litellm_config: native.yaml}\n", environ).master_key == key


def test_a_key_that_others_can_read_is_a_warning_only(place: Place) -> None:
    place.write("model_list: []\ngeneral_settings: {master_key: sk-file}\n", "native.yaml", 0o644)
    config = place.load("gateway: {litellm_config: native.yaml}\n")
    assert config.master_key == "sk-file"
    (warning,) = config.warnings
    assert warning.warning
    assert "others can read" in warning.message


def test_merge_keys_and_anchors(place: Place) -> None:
    """YAML's own way to say a thing once; what is merged in may be written again."""
    config = place.load(
        """\
gateway: {}
models:
  a: &one
    model: org/a
    port: 8000
    gpus: [0]
  b:
    port: 8001
    <<: *one
    gpus: [1]
  c:
    <<: [{port: 8002}, *one]
"""
    )
    models = config.root.models
    assert {name: (model.model, model.port, model.gpus) for name, model in models.items()} == {
        "a": ("org/a", 8000, [0]),
        "b": ("org/a", 8001, [1]),
        "c": ("org/a", 8002, [0]),
    }


def test_a_merged_key_has_the_line_where_it_stands(place: Place) -> None:
    text = "gateway: {}\nmodels:\n  a: &one\n    model: org/a\n    port: 8000\n  b:\n    <<: *one\n"
    (problem,) = place.problems(text)
    assert (problem.line, problem.path) == (5, "models.b.port")
    (problem,) = place.problems(text + "    port: 1\n    port: 2\n")
    assert (problem.line, problem.message) == (9, "is written twice; the first is in line 8")


@pytest.mark.parametrize(
    ("name", "folder"),
    [("tiny", True), ("./tiny", True), ("../{base}/tiny", True), ("{tmp}/tiny", True), ("org/tiny", False)],
)
def test_a_model_is_a_folder_when_there_is_one(place: Place, name: str, folder: bool) -> None:
    text = f"gateway: {{}}\nmodels: {{a: {{model: {name}, port: 1}}}}\n"
    config = place.load(text.replace("{tmp}", str(place.folder)).replace("{base}", place.folder.name))
    assert config.model_path(config.root.models["a"]) == (place.folder / "tiny" if folder else None)


def test_paths_begin_at_the_files_folder(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(place.folder))
    config = place.load(GOOD.replace("litellm_config: native.yaml", "litellm_config: ~/native.yaml"))
    assert config.resolve("tiny") == place.folder / "tiny"


def test_a_key_that_only_some_use(place: Place) -> None:
    """An unset key matters only where it is referred to, and as a whole value."""
    place.write(NATIVE + "# os.environ/COMMENT\nlitellm_settings: {note: see os.environ/THERE}\n", "native.yaml")
    place.load("gateway: {litellm_config: native.yaml}\n", ENV)
    place.load(
        "gateway: {}\nmodels: {a: {model: tiny, port: 1, litellm: {organization: os.environ/ORG}}}\n", {"ORG": "x"}
    )


def test_an_unreadable_folder_is_no_traceback(place: Place) -> None:
    loop = place.folder / "loop"
    loop.symlink_to(loop)
    for name in ("loop", "./loop", "loop/x"):
        problems = place.problems(f"gateway: {{}}\nmodels: {{a: {{model: {name}, source: path, port: 1}}}}\n")
        assert [problem.path for problem in problems] == ["models.a.model"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *((5, 5), (0, 0), (2.5, 2.5), ("30", 30), ("30s", 30), ("500ms", 0.5), ("5m", 300), ("1h", 3600)),
        *(("1.5h", 5400), ("2d", 172800), (" 5 m ", 300)),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    assert duration(value) == seconds


@pytest.mark.parametrize(
    ("value", "count"),
    [
        *((1, 1), (4096, 4096), ("512", 512), ("1k", 1024), ("1KiB", 1024)),
        *(("50MB", 50 << 20), ("1.5g", 3 << 29), ("2 GiB", 2 << 30)),
    ],
)
def test_sizes(value: object, count: int) -> None:
    assert size(value) == count


@pytest.mark.parametrize(
    ("value", "number"), [("TERM", 15), ("term", 15), ("SIGTERM", 15), ("INT", 2), (9, 9), ("USR1", 10)]
)
def test_signals(value: object, number: int) -> None:
    assert signal_number(value) == number


def test_places_and_lines(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a:\n  b: [1,\n      {c: 2}]\n# comment\nd: |\n  text\n  text\ne: 1\n")
    document = read(file)
    assert document.data == {"a": {"b": [1, {"c": 2}]}, "d": "text\ntext\n", "e": 1}
    lines = {path_words(where): line for where, line in document.lines.items()}
    assert lines == {"": 1, "a": 1, "a.b": 2, "a.b[0]": 2, "a.b[1]": 3, "a.b[1].c": 3, "d": 5, "e": 8}
    assert document.line(("a", "nothing", "there")) == 1, "the nearest place around it"


def test_keys_are_text_whatever_yaml_thinks(place: Place) -> None:
    """``on``, ``no`` and numbers are names like any other."""
    config = place.load(
        'programs:\n  on: {command: [sh]}\n  8000: {command: [sh]}\n  no: {command: [sh], env: {YES: "1"}}\n'
    )
    assert list(config.root.programs) == ["on", "8000", "no"]


def test_aliases_of_aliases_do_not_fill_the_memory(place: Place) -> None:
    text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for above, name in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{name}: &{name} [{', '.join([f'*{above}'] * 10)}]\n"
    (problem,) = place.problems(text)
    assert "too deep or too large" in problem.message
    (problem,) = place.problems("a: " + "[" * 5000 + "]" * 5000)
    assert "is not valid YAML" in problem.message


def test_problems_are_values(place: Place) -> None:
    with pytest.raises(ConfigError) as error:
        load(place.write("zzz: 1\n"), {})
    (problem,) = error.value.problems
    assert asdict(problem) == {
        "file": str(place.folder / "supervisor.yaml"),
        "line": 1,
        "path": "zzz",
        "message": "unknown key",
        "advice": problem.advice,
        "warning": False,
    }


# Whole models, and keys that cannot be guessed ------------------------------------------------------------------


def test_litellms_way_to_name_a_variable(place: Place) -> None:
    """It is ours as well, but for what LiteLLM itself reads."""
    text = (
        "gateway: {port: os.environ/PORT}\nmodels:\n  a:\n    model: org/a\n    port: 8000\n"
        "    vllm: {api-key: ' os.environ/KEY '}\n    env: {HF_TOKEN: os.environ/N, OTHER: see os.environ/N}\n"
        "    litellm: {organization: os.environ/KEY}\n"
        "programs: {p: {command: [sh, -c, os.environ/KEY]}}\n"
    )
    config = place.load(text, {"PORT": "4001", "KEY": "secret", "N": "0755"})
    assert config.root.gateway is not None
    assert config.root.gateway.port == 4001
    model = config.root.models["a"]
    assert model.vllm == {"api-key": "secret"}
    assert model.env == {"HF_TOKEN": "0755", "OTHER": "see os.environ/N"}
    assert model.litellm == {"organization": "os.environ/KEY"}
    assert config.root.programs["p"].command == ["sh", "-c", "os.environ/KEY"]


def test_a_folder_whose_download_was_interrupted(place: Place) -> None:
    index = {
        "weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors", "d": "x.safetensors"}
    }
    place.write(json.dumps(index), "tiny/model.safetensors.index.json")
    place.write(WEIGHTS, "tiny/one.safetensors")
    place.write("", "tiny/x.safetensors")
    text = "gateway: {}\nmodels: {a: {model: ./tiny, port: 8000}}\n"
    (problem,) = place.problems(text)
    assert "two.safetensors, x.safetensors are missing, empty or cut off" in problem.message
    assert (problem.line, problem.path) == (2, "models.a.model")
    for name in ("two", "x"):
        place.write(WEIGHTS, f"tiny/{name}.safetensors")
    assert place.problems(text) == []
    for index_ in ("[", "[" * 100_000, '{"weight_map": {"a": {}}}'):
        place.write(index_, "tiny/model.safetensors.index.json")
        assert place.problems(text) == [], "an index that cannot be read is vLLM's to complain of"
    (place.folder / "tiny/model.safetensors.index.json").unlink()
    os.mkfifo(place.folder / "tiny/model.safetensors.index.json")
    assert place.problems(text) == [], "and nobody waits for one that is no file"


@pytest.mark.parametrize(
    ("host", "key", "fine"),
    [
        ("0.0.0.0", "sk-short", False),
        ("::", "sk-short", False),
        ("192.168.1.5", "sk-short", False),
        ("0.0.0.0", "sk-long-enough-to-be-no-word", True),
        ("0.0.0.0", None, True),
        ("127.0.0.1", "sk-short", True),
        ("localhost", "sk-short", True),
        ("::1", "sk-short", True),
    ],
)
def test_a_gateway_that_others_reach_needs_a_strong_key(place: Place, host: str, key: str | None, fine: bool) -> None:
    problems = place.problems(f'gateway: {{host: "{host}"}}\n', {"LITELLM_MASTER_KEY": key} if key else {})
    assert [problem.path for problem in problems] == ([] if fine else ["gateway.host"])
    assert fine or key not in str(problems), "the key itself is not said"


@pytest.mark.parametrize(
    "address",
    "127.0.0.1:80 localhost:80 h:1 a-b.org:65535 my_host:80 x.org.:80 [::1]:80 ::1:80 [fe80::1%eth0]:80".split(),
)
def test_where_a_program_listens(place: Place, address: str) -> None:
    assert place.problems(f"programs: {{p: {{command: [sh], ready: {{tcp: '{address}'}}}}}}\n") == []


@pytest.mark.parametrize(
    ("host", "here"),
    [
        *((host, True) for host in ("127.0.0.1", "127.1.2.3", "127.1", "localhost", "LOCALHOST", "::1")),
        *((host, True) for host in ("0:0:0:0:0:0:0:1", "::ffff:127.0.0.1")),
        *(
            (host, False)
            for host in ("0.0.0.0", "::", "10.0.0.1", "127.evil.com", "127", "::ffff:10.0.0.1", "example.org")
        ),
    ],
)
def test_who_reaches_the_gateway(place: Place, host: str, here: bool) -> None:
    """It decides whether a key must be strong."""
    said = place.problems(f"gateway: {{host: '{host}'}}\n", {"LITELLM_MASTER_KEY": "sk-short"})
    assert [problem.path for problem in said] == ([] if here else ["gateway.host"])


@pytest.mark.parametrize(
    "name",
    [
        *("gpt2", "org/name", "THUDM/GLM-4.1V-9B-Thinking", "Org_1/a.b-c_d", "org/name-GGUF:Q4_K_M", "123/4"),
        *("s3://bucket/model", "GS://bucket/model", "az://container/model"),
    ],
)
def test_names_that_vllm_takes(place: Place, name: str) -> None:
    assert place.problems(f"gateway: {{}}\nmodels: {{a: {{model: '{name}', port: 8000}}}}\n") == []


def test_a_plugin_may_load_from_elsewhere(place: Place) -> None:
    text = "gateway: {}\nmodels: {a: {model: 'oss://b/m', port: 8000, vllm: {load_format: mine}}}\n"
    assert place.problems(text) == []


# Variables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["4.1", "0012345", "yes", "true", "1.5e+10", "2024-01-01", "0x10", "17"])
def test_a_variable_is_text_where_text_is_wanted(place: Place, value: str) -> None:
    place.write("{}", f"{value}/config.json")
    place.write(WEIGHTS, f"{value}/model.safetensors")
    config = place.load(
        "gateway: {}\nmodels:\n  a:\n    model: ${N}\n    served_model_name: ${N}\n    port: 8000\n    source: path\n"
        "    health: {expect: '${N}'}\n    vllm: {api-key: '${N}'}\n"
        "programs: {p: {command: [sh], cwd: '${N}'}}\n",
        {"N": value},
    )
    model = config.root.models["a"]
    assert (model.model, model.served_model_name, model.health.expect) == (value, value, value)
    assert model.vllm == {"api-key": value}
    assert config.root.programs["p"].cwd == value


def test_a_host_of_a_variable(place: Place) -> None:
    gateway = place.load("gateway: {host: '${HOST}'}\n", {"HOST": "127.1"}).root.gateway
    assert gateway is not None
    assert gateway.host == "127.1"


@pytest.mark.parametrize(
    ("value", "made"),
    [
        *(("8", 8), ("-1", -1), ("0", 0), ("0.9", 0.9), ("-0.5", -0.5), ("true", True), ("false", False)),
        *(("0012345", "0012345"), ("1.5e+10", "1.5e+10"), ("1.10", "1.10"), ("yes", "yes"), ("off", "off")),
        *(("1_000", "1_000"), ("0x10", "0x10"), ("22:22", "22:22"), (".inf", ".inf"), ("nan", "nan"), ("25k", "25k")),
        *(("9" * 30, "9" * 30), ("2024-01-01", "2024-01-01"), ("[1]", "[1]"), ("+1", "+1"), ("-", "-")),
    ],
)
def test_a_variable_for_vllm_loses_nothing(place: Place, value: str, made: object) -> None:
    text = "gateway: {}\nmodels: {a: {model: org/a, port: 8000, vllm: {x: '${N}'}}}\n"
    options = place.load(text, {"N": value}).root.models["a"].vllm
    assert options == {"x": made}
    assert type(options["x"]) is type(made)


@pytest.mark.parametrize(("value", "made"), [("0.70", 0.7), ("1e-5", 1e-5), ("0012345", "0012345"), ("no", "no")])
def test_a_variable_in_json(place: Place, value: str, made: object) -> None:
    """There a number is one, however it is written."""
    text = (
        "gateway: {}\nmodels: {a: {model: org/a, port: 8000, litellm: {temperature: '${N}'},\n"
        "  vllm: {override-generation-config: {temperature: '${N}'}}}}\n"
    )
    model = place.load(text, {"N": value}).root.models["a"]
    assert model.vllm == {"override-generation-config": {"temperature": made}}
    assert model.litellm == {"temperature": made}


def test_a_variable_for_a_number_or_a_flag(place: Place) -> None:
    text = (
        "gateway: {port: '${P}', replicas: '${R}', hold: '${H}', restart: {backoff_factor: '${F}'}}\n"
        "models:\n  a: {model: org/a, uds: '${U}', vision: '${V}', gpus: ['${R}'], health: {period: '${H}'},\n"
        "      warm: '${W}', vllm: {tensor-parallel-size: 1}}\nlogs: {max_bytes: '${M}'}\n"
    )
    given = {"P": "4001", "R": "2", "H": "1.50", "F": "2.50", "U": "true", "V": "on", "W": "off", "M": "10MB"}
    root = place.load(text, given).root
    assert root.gateway is not None
    assert (root.gateway.port, root.gateway.replicas, root.gateway.hold) == (4001, 2, 1.5)
    assert root.gateway.restart.backoff_factor == 2.5
    model = root.models["a"]
    assert (model.uds, model.vision, model.gpus, model.health.period, model.warm) == (True, True, [2], 1.5, "off")
    assert root.logs.max_bytes == 10 << 20


@pytest.mark.parametrize(("place_", "value"), [("port", "010000"), ("port", "66:40"), ("port", "1e3"), ("port", "yes")])
def test_a_variable_that_is_no_number(place: Place, place_: str, value: str) -> None:
    (problem,) = place.problems(f"gateway: {{{place_}: '${{P}}'}}\n", {"P": value})
    assert problem.path == "gateway.port"


@pytest.mark.parametrize(
    ("said", "environ"),
    [("${FILE}", {"FILE": "keys.env"}), ("${FILE:-keys.env}", {}), ("os.environ/FILE", {"FILE": "keys.env"})],
)
def test_an_env_file_by_a_variable(place: Place, said: str, environ: dict[str, str]) -> None:
    config = place.load(f"env_file: {said}\n", environ)
    assert config.env_values == {"ANTHROPIC_API_KEY": "sk-ant-1"}
    assert config.root.env_file == "keys.env"


# Model folders --------------------------------------------------------------------------------------------------

TENSOR = json.dumps({"__metadata__": {}, "w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}})
CUT = chr(len(TENSOR)) + "\0" * 7 + TENSOR + "ab"
BINARIES = json.dumps({"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}})


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ({"pytorch_model.bin.index.json": BINARIES, "pytorch_model-1.bin": "x"}, "", "pytorch_model-2.bin is missing"),
        ({"pytorch_model-00001-of-00002.bin": "x"}, "", "pytorch_model-00002-of-00002.bin is missing"),
        ({"config.json": ""}, "", "its config.json is empty"),
        ({"config.json": "{"}, "", "its config.json is no JSON"),
        ({"config.json": "[]"}, "", "its config.json is no mapping in JSON"),
        ({"config.json": "\x80\x81"}, "", "its config.json is no JSON"),
        ({"model.safetensors": "xx"}, "", "model.safetensors is missing, empty or cut off"),
        ({"model.safetensors": "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"}, "", "cut off"),
        ({"model.safetensors": CUT}, "", "model.safetensors is missing, empty or cut off"),
        ({"model-00001-of-00002.safetensors": WEIGHTS}, "", "model-00002-of-00002.safetensors is missing"),
        ({"model-00000-of-00002.safetensors": WEIGHTS}, "", "model-00001-of-00002.safetensors is missing"),
        ({"consolidated-00001-of-00002.safetensors": WEIGHTS}, "", "consolidated-00002-of-00002.safetensors"),
        ({"model.safetensors": "xx"}, "load-format: safetensors", "model.safetensors is missing"),
    ],
)
def test_a_folder_that_is_not_complete(place: Place, files: dict[str, str], options: str, words: str) -> None:
    for name, text in files.items():
        place.write("", f"tiny/{name}")
        (place.folder / "tiny" / name).write_bytes(text.encode("latin-1"))
    (problem,) = place.problems(f"gateway: {{}}\nmodels: {{a: {{model: ./tiny, port: 8000, vllm: {{{options}}}}}}}\n")
    assert (problem.path, problem.warning) == ("models.a.model", False)
    assert f"{place.folder}/tiny is incomplete: " in problem.message
    assert words in problem.message
    assert "download it again" in problem.advice


@pytest.mark.parametrize(
    ("files", "options"),
    [
        ({"config.json": None, "model-Q4_K_M.gguf": "x"}, ""),
        ({"config.json": None, "params.json": "{}", "consolidated.safetensors": WEIGHTS}, ""),
        ({"config.json": None}, "hf-config-path: org/a"),
        ({"config.json": None, "adapter_config.json": "{}"}, ""),
        ({"model.safetensors": CUT + "cd"}, ""),
        ({"model.safetensors": "xx"}, "load-format: dummy"),
        ({"model.safetensors": "xx"}, "load_format: sharded_state"),
        ({"model-00000-of-00002.safetensors": WEIGHTS, "model-00001-of-00002.safetensors": WEIGHTS}, ""),
        # of several kinds only those that vLLM takes
        ({"consolidated.safetensors": WEIGHTS, "model-00001-of-00002.safetensors": WEIGHTS}, ""),
        ({"model.safetensors": WEIGHTS, "pytorch_model-00001-of-00002.bin": "x"}, ""),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "b.safetensors"}}', "pytorch_model.bin": "x"}, ""),
        ({"adapter_model.safetensors": WEIGHTS, "model.safetensors": WEIGHTS}, "tokenizer: org/a"),
        ({"training_args.bin": "", "model.safetensors": WEIGHTS}, ""),
    ],
)
def test_a_folder_that_vllm_can_load(place: Place, files: dict[str, str | None], options: str) -> None:
    for name, text in files.items():
        if text is None:
            (place.folder / "tiny" / name).unlink()
        else:
            place.write(text, f"tiny/{name}")
    text = f"gateway: {{}}\nmodels: {{a: {{model: ./tiny, port: 8000, vllm: {{{options}}}}}}}\n"
    assert place.problems(text) == []


def test_numbers_that_are_what_they_look_like(place: Place) -> None:
    """And one that is merged in counts only where it is not written again."""
    place.load("gateway: {port: 0x1000, restart: {window: 1_000}, stop: {grace: 07}}\n")
    merged = "models: {a: &a {model: org/a, port: 8000, vllm: {seed: 010}}, b: {<<: *a, port: 8001, vllm: {seed: 9}}}"
    assert [problem.path for problem in place.problems(f"gateway: {{}}\n{merged}\n")] == ["models.a.vllm.seed"]
