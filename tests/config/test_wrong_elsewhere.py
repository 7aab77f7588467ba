"""The native LiteLLM file, the env file and the keys: what is wrong is said in the file that it is in.

And all of it at once.
"""

from __future__ import annotations

import pytest

from llm_supervisor.config import ConfigError, load
from tests.config.conftest import NATIVE, Place, Said, assert_said

G = "gateway: {litellm_config: native.yaml}\n"

NATIVES: list[tuple[str, str, dict[str, str], list[Said]]] = [
    ("empty", "", {}, [(0, "", "is empty", "")]),
    ("only comments", "# model_list:\n#   - model_name: x\n", {}, []),
    ("malformed", "model_list: [\n", {}, [(2, "", "is not valid YAML", "")]),
    ("a list", "- model_name: x\n", {}, [(1, "", "must be a mapping", "")]),
    ("twice", "model_list: []\nmodel_list: []\n", {}, [(2, "model_list", "is written twice", "")]),
    ("no list", "model_list: {a: b}\n", {}, [(1, "model_list", "must be a list", "")]),
    ("no entry", "model_list:\n  - claude\n", {}, [(2, "model_list[0]", "must be a mapping with model_name", "")]),
    (
        "an empty entry",
        "model_list:\n  - {}\n",
        {},
        [
            (2, "model_list[0].litellm_params.model", "is missing, or is no text", ""),
            (2, "model_list[0].model_name", "is missing, or is no text", ""),
        ],
    ),
    (
        "odd names",
        "model_list:\n"
        "  - {model_name: [x], litellm_params: {model: x}}\n"
        "  - {model_name: {}, litellm_params: {model: x}}\n",
        {},
        [(2, "model_list[0].model_name", "is no text", ""), (3, "model_list[1].model_name", "is no text", "")],
    ),
    (
        "odd params",
        "model_list:\n  - {model_name: x, litellm_params: []}\n",
        {},
        [(2, "model_list[0].litellm_params.model", "is no text", "")],
    ),
    (
        "odd info",
        "model_list:\n  - {model_name: x, litellm_params: {model: x}, model_info: x}\n",
        {},
        [(2, "model_list[0].model_info", "must be a mapping", "")],
    ),
    *(
        (f"odd {block}", f"model_list: []\n{block}: [x]\n", {}, [(2, block, "must be a mapping", "")])
        for block in ("general_settings", "litellm_settings", "router_settings")
    ),
    (
        "an unset key",
        NATIVE,
        {},
        [
            (
                5,
                "model_list[0].litellm_params.api_key",
                "ANTHROPIC_API_KEY is not set: claude is disabled",
                "export ANTHROPIC_API_KEY",
            )
        ],
    ),
    (
        "a blank key",
        NATIVE,
        {"ANTHROPIC_API_KEY": ""},
        [(5, "model_list[0].litellm_params.api_key", "is not set", "export")],
    ),
    (
        "a blank master key",
        NATIVE,
        {"ANTHROPIC_API_KEY": "x", "LITELLM_MASTER_KEY": " "},
        [(12, "general_settings.master_key", "LITELLM_MASTER_KEY is blank or a known default", "")],
    ),
    (
        "a known master key",
        NATIVE,
        {"ANTHROPIC_API_KEY": "x", "LITELLM_MASTER_KEY": "sk-1234"},
        [(12, "general_settings.master_key", "a known default", "")],
    ),
    (
        "an unset master key of another name",
        "general_settings: {master_key: os.environ/MINE}\n",
        {},
        [(1, "general_settings.master_key", "os.environ/MINE is not set", "MINE")],
    ),
    (
        "a weak master key in the file",
        "general_settings:\n  master_key: sk-1234\n",
        {},
        [
            (2, "general_settings.master_key", "is blank or a known default", ""),
            (2, "general_settings.master_key", "others can read", "chmod 600"),
        ],
    ),
    (
        "a blank master key in the file",
        "general_settings:\n  master_key: ''\n",
        {},
        [(2, "general_settings.master_key", "is blank", "")],
    ),
    (
        "other names of nothing",
        "model_list:\n  - {model_name: glm, litellm_params: {model: openai/x}}\n"
        "router_settings:\n  model_group_alias:\n    a: glm\n    b: gln\n    c: {model: other}\n",
        {},
        [
            (6, "router_settings.model_group_alias.b", "gln is no group", "did you mean glm?"),
            (7, "router_settings.model_group_alias.c", "other is no group", "there are: glm"),
        ],
    ),
    (
        "another name of what a wildcard may know",
        "model_list:\n  - {model_name: '*', litellm_params: {model: openai/*}}\n"
        "router_settings: {model_group_alias: {a: b}}\n",
        {},
        [],
    ),
    (
        "a readable master key",
        "general_settings:\n  master_key: sk-good\n",
        {},
        [(2, "general_settings.master_key", "others can read", "chmod 600")],
    ),
    (
        "a master key of digits",
        "general_settings:\n  master_key: 12345\n",
        {},
        [
            (2, "general_settings.master_key", "must be text", ""),
            (2, "general_settings.master_key", "others can read", "chmod 600"),
        ],
    ),
    (
        "a master key that no header can carry",
        "general_settings:\n  master_key: os.environ/LITELLM_MASTER_KEY\n",
        {"LITELLM_MASTER_KEY": "schlüssel"},
        [(2, "general_settings.master_key", "ASCII", "")],
    ),
]


@pytest.mark.parametrize(
    ("native", "environ", "expected"), [row[1:] for row in NATIVES], ids=[row[0] for row in NATIVES]
)
def test_a_wrong_native_file(place: Place, native: str, environ: dict[str, str], expected: list[Said]) -> None:
    place.write(native, "native.yaml")
    assert_said(place, place.problems(G, environ), "native.yaml", expected)


def test_a_blank_master_key_without_a_native_file(place: Place) -> None:
    problems = place.problems("gateway: {}\n", {"LITELLM_MASTER_KEY": ""})
    assert_said(place, problems, "supervisor.yaml", [(1, "gateway", "LITELLM_MASTER_KEY is blank", "")])
    assert place.problems("programs: {p: {command: [sh]}}\n", {"LITELLM_MASTER_KEY": ""}) == [], "nobody uses it"


def test_a_group_of_a_local_models_name(place: Place) -> None:
    place.write(NATIVE.replace("model_name: claude", "model_name: a"), "native.yaml")
    problems = place.problems(G + "models: {\n  a: {model: tiny, port: 1}}\n", {"ANTHROPIC_API_KEY": "x"})
    where = f"also the alias of a local model, in {place.folder}/supervisor.yaml:3"
    assert_said(place, problems, "native.yaml", [(2, "model_list[0].model_name", where, "")])


ENV_FILES: list[tuple[str, str, int, list[Said]]] = [
    ("readable by the group", "A=1\n", 0o640, [(1, "env_file", "others can read", "chmod 600")]),
    ("readable by all", "A=1\n", 0o604, [(1, "env_file", "others can read", "chmod 600")]),
    ("no equals sign", "A=1\n\n# comment\nB\n", 0o600, [(4, "", "is no NAME=value", "")]),
    ("no name", "=1\nB=2\n", 0o600, [(1, "", "is no NAME=value", "")]),
    ("a bad name", "A-B=1\n1A=2\nA B=3\n", 0o600, [(line, "", "is no NAME=value", "") for line in (1, 2, 3)]),
    ("a NUL", "A=x\0y\n", 0o600, [(1, "", "NUL", "")]),
]


@pytest.mark.parametrize(
    ("text", "mode", "expected"), [row[1:] for row in ENV_FILES], ids=[row[0] for row in ENV_FILES]
)
def test_a_wrong_env_file(place: Place, text: str, mode: int, expected: list[Said]) -> None:
    place.write(text, "keys.env", mode)
    file = "supervisor.yaml" if expected[0][1] else "keys.env"
    assert_said(place, place.problems("env_file: keys.env\n"), file, expected)


def test_an_env_file_that_is_no_text(place: Place) -> None:
    (place.folder / "keys.env").write_bytes(b"A=\xff\xfe\n")
    assert_said(place, place.problems("env_file: keys.env\n"), "", [(1, "", "it is not text", "")])


def test_the_advice_names_the_env_file_when_there_is_one(place: Place) -> None:
    place.write("OTHER=1\n", "keys.env", 0o600)
    (problem,) = place.problems("gateway: {litellm_config: native.yaml}\nenv_file: keys.env\n")
    assert problem.advice == "put ANTHROPIC_API_KEY=... into keys.env"


def test_several_mistakes_are_said_at_once(place: Place) -> None:
    """Of every sort, in three files, sorted by place; one does not hide another."""
    place.write("model_list:\n  - {model_name: claude}\n  - oops\n", "native.yaml")
    place.write("A=1\noops\n", "keys.env", 0o644)
    problems = place.problems(
        """\
gateway:
  prot: 4000
  port: 8000
  litellm_config: native.yaml
  replicas: 0
env_file: keys.env
models:
  a:
    model: ./none
    port: 8000
    gpus: [0, x]
    stop: {signal: TREM}
  b:
    port: http
    vllm: {port: 1, max-model-len: 1, max_model_len: 2}
  gateway: {model: tiny, port: 8002}
programs:
  a: {command: sleep 5, ready: {tcp: nowhere}}
  p:
"""
    )
    here, there, keys = (str(place.folder / name) for name in ("supervisor.yaml", "native.yaml", "keys.env"))
    assert [(problem.file, problem.line, problem.path) for problem in problems] == [
        (keys, 2, ""),
        (there, 2, "model_list[0].litellm_params.model"),
        (there, 3, "model_list[1]"),
        (here, 2, "gateway.prot"),
        (here, 5, "gateway.replicas"),
        (here, 6, "env_file"),
        (here, 9, "models.a.model"),
        (here, 10, "models.a.port"),
        (here, 11, "models.a.gpus[1]"),
        (here, 12, "models.a.stop.signal"),
        (here, 13, "models.b.model"),
        (here, 14, "models.b.port"),
        (here, 15, "models.b.vllm.max_model_len"),
        (here, 15, "models.b.vllm.port"),
        (here, 16, "models.gateway"),
        (here, 18, "programs.a"),
        (here, 18, "programs.a.command"),
        (here, 18, "programs.a.ready.tcp"),
        (here, 19, "programs.p"),
    ]


def test_a_problem_in_words(place: Place) -> None:
    (problem,) = place.problems("gateway: {}\nmodels:\n  a: {model: tiny, port: 1, visoin: true}\n")
    assert str(problem) == f"{place.folder}/supervisor.yaml:3: models.a.visoin: unknown key (did you mean vision?)"


def test_no_such_file(place: Place) -> None:
    for name, words in (("none.yaml", "no such file"), ("bare", "cannot be read: Is a directory")):
        with pytest.raises(ConfigError) as error:
            load(place.folder / name, {})
        assert str(error.value) == f"{place.folder / name}: {words}"
    (place.folder / "latin.yaml").write_bytes(b"gateway: {host: \xe4}\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:1: cannot be read: it is not text in UTF-8"):
        load(place.folder / "latin.yaml", {})


def test_secrets_are_not_repeated_in_problems(place: Place) -> None:
    """A key in the wrong place shows where it is, not what it is."""
    place.write("KEY sk-hush\n", "keys.env", 0o600)
    place.write("general_settings: {master_key: sk-1234}\n", "native.yaml")
    problems = place.problems("gateway: {litellm_config: native.yaml}\nenv_file: keys.env\n")
    assert [problem.line for problem in problems] == [1, 1, 1]
    assert "sk-" not in " ".join(str(problem) for problem in problems)
