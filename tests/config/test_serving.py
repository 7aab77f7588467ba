"""What is made of the options of a vLLM server, and said of them: paths, TLS, names, keys, and servers nobody can ask.

Without any vLLM: what the installed one itself says of values is in ``tests/engines/beside/test_judged.py``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.config import ConfigError, Problem, load, plan
from llm_supervisor.config.environments import with_own_programs
from llm_supervisor.config.option_paths import resolved
from llm_supervisor.config.specs import Pythons
from llm_supervisor.engines.vllm import former_options
from llm_supervisor.engines.vllm.installed_options import Option
from llm_supervisor.engines.vllm.judgement import Answer, Complaint, Question
from tests.config.conftest import Place

TEXT = Option("value", False, None, "text")
KNOWN = dict.fromkeys(("chat-template", "kv-transfer-config", "max-model-len", "structured-outputs-config"), TEXT)
PYTHONS = Pythons("/envs/vllm/bin/python", "/envs/litellm/bin/python", vllm_cpu=False)


def model(more: str, options: str = "{}", gateway: str = "") -> str:
    return (
        f"gateway: {{port: 4101{gateway}}}\n"
        f"models:\n  m:\n    model: org/name\n    port: 8001\n    {more}\n    vllm: {options}\n"
    )


def said(place: Place, text: str) -> list[str]:
    found = place.problems(text)
    return [f"{one.path.removeprefix('models.m.')}: {one.message} ({one.advice})" for one in found]


# Paths --------------------------------------------------------------------------------------------------------

# What is written beside files `t.jinja`, `lora/` and `tok/`, and what vLLM is given
PATHS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"chat-template": "t.jinja"}, {"chat-template": "{here}/t.jinja"}),
    ({"chat_template": "templates/x.jinja"}, {"chat_template": "{here}/templates/x.jinja"}),
    ({"chat-template": "../x.jinja"}, {"chat-template": "{up}/x.jinja"}),
    ({"chat-template": "template_chatml.jinja"}, {"chat-template": "template_chatml.jinja"}),
    ({"chat-template": "{{ a/b }}"}, {"chat-template": "{{ a/b }}"}),
    ({"chat-template": "/etc/x.jinja"}, {"chat-template": "/etc/x.jinja"}),
    ({"ssl-certfile": "tls.crt"}, {"ssl-certfile": "{here}/tls.crt"}),
    ({"ssl_keyfile": "k/tls.key"}, {"ssl_keyfile": "{here}/k/tls.key"}),
    ({"allowed-local-media-path": "media"}, {"allowed-local-media-path": "{here}/media"}),
    ({"tokenizer": "tok"}, {"tokenizer": "{here}/tok"}),
    ({"tokenizer": "org/tok"}, {"tokenizer": "org/tok"}),
    ({"generation-config": "vllm"}, {"generation-config": "vllm"}),
    ({"speculative-config": {"model": "./draft", "n": 1}}, {"speculative-config": {"model": "{here}/draft", "n": 1}}),
    ({"speculative-config.model": "tok"}, {"speculative-config.model": "{here}/tok"}),
    ({"profiler-config": {"torch_profiler_dir": "t"}}, {"profiler-config": {"torch_profiler_dir": "{here}/t"}}),
    ({"lora-modules": ["a=lora", "b=org/b"]}, {"lora-modules": ["a={here}/lora", "b=org/b"]}),
    ({"lora-modules": [{"name": "a", "path": "./x"}]}, {"lora-modules": [{"name": "a", "path": "{here}/x"}]}),
    ({"max-model-len": 5, "root-path": "a/b"}, {"max-model-len": 5, "root-path": "a/b"}),
]  # fmt: skip


@pytest.mark.parametrize(("written", "given"), PATHS, ids=lambda value: str(value)[:50])
def test_relative_paths_start_beside_the_configuration(
    tmp_path: Path, written: dict[str, Any], given: dict[str, Any]
) -> None:
    (tmp_path / "t.jinja").touch()
    for name in ("lora", "tok"):
        (tmp_path / name).mkdir()
    text = repr(given).replace("{here}", str(tmp_path)).replace("{up}", str(tmp_path.parent))
    assert repr(resolved(written, tmp_path)) == text


def test_the_engine_is_given_the_whole_path(place: Place) -> None:
    made = plan(
        place.load(model("", "{chat-template: a/b.jinja}")), runtime=Path("/run/x"), pythons=PYTHONS, master_key="sk-x"
    )
    assert f"{place.folder}/a/b.jinja" in made.programs["m"].spec.launch.argv


# Servers that nobody can ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option", ["headless: true", "grpc: true", "api-server-count: 0", "api_server_count: -1",
               "data-parallel-multi-port-external-lb: true"],
)  # fmt: skip
def test_a_server_that_the_gateway_cannot_ask_is_refused(place: Place, option: str) -> None:
    (only,) = said(place, model("", f"{{{option}}}"))
    assert "the gateway" in only


@pytest.mark.parametrize("option", ["headless: false", "grpc: false", "api-server-count: 4", "data-parallel-size: 2"])
def test_other_servers_are_not(place: Place, option: str) -> None:
    assert said(place, model("", f"{{{option}}}")) == []


# TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two certificates and their keys, one with a passphrase, and one file of both."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("a", "b"):
        make = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=llm.example.org -keyout {name}.key -out {name}.crt"  # noqa: E501
        subprocess.run(make.split(), cwd=folder, check=True, capture_output=True)
    lock = "openssl ec -in a.key -aes256 -passout pass:secret -out locked.key"
    subprocess.run(lock.split(), cwd=folder, check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "a.key").read_text() + (folder / "a.crt").read_text())
    return folder


def test_a_server_with_tls_is_asked_by_https(place: Place, certificates: Path) -> None:
    options = f"{{ssl-certfile: {certificates}/a.crt, ssl-keyfile: {certificates}/a.key, api-key: [one, two]}}"
    config = place.load(model("", options))
    assert config.warnings == ()
    made = plan(config, runtime=Path("/run/x"), pythons=PYTHONS, master_key="sk-x")
    asking = made.programs["m"].asking
    assert asking is not None
    assert asking.tls
    assert made.litellm_config is not None
    params = made.litellm_config["model_list"][0]["litellm_params"]
    assert params["api_base"] == "https://127.0.0.1:8001/v1"
    assert params["ssl_verify"] is False
    replica = made.programs["gateway"].spec.launch.argv
    assert replica[replica.index("--unverified") + 1] == "127.0.0.1:8001"
    assert [group.engines for group in made.groups] == [("m",)], "it is known by that address"


def test_a_certificate_may_be_verified(place: Place, certificates: Path) -> None:
    text = model("litellm: {ssl_verify: /etc/ca.pem}", f"{{ssl-certfile: {certificates}/both.pem}}")
    made = plan(place.load(text), runtime=Path("/run/x"), pythons=PYTHONS, master_key="sk-x")
    assert made.litellm_config is not None
    assert made.litellm_config["model_list"][0]["litellm_params"]["ssl_verify"] == "/etc/ca.pem"
    assert "--unverified" not in made.programs["gateway"].spec.launch.argv


def test_without_tls_nothing_is_said_of_it(place: Place) -> None:
    made = plan(place.load(model("")), runtime=Path("/run/x"), pythons=PYTHONS, master_key="sk-x")
    assert made.litellm_config is not None
    assert "ssl_verify" not in made.litellm_config["model_list"][0]["litellm_params"]


TLS = {
    "ssl-certfile: {c}/a.crt": "there is no private key in {c}/a.crt (write ssl-keyfile, too)",
    "ssl-keyfile: {c}/a.key": "has no certificate beside it (write ssl-certfile, too)",
    "ssl-certfile: {c}/a.crt, ssl-keyfile: {c}/b.key": "is not the certificate of the key in {c}/b.key",
    "ssl-certfile: {c}/a.crt, ssl-keyfile: {c}/locked.key": "its key has a passphrase",
    "ssl-certfile: {c}/none.crt, ssl-keyfile: {c}/a.key": "no such file: {c}/none.crt",
    "ssl-certfile: certs/tls.crt, ssl-keyfile: {c}/a.key": "no such file: {here}/certs/tls.crt",
    "ssl-certfile: {c}/a.crt, ssl-keyfile: {c}": "{c} is a folder",
    "ssl-certfile: {c}/both.pem, ssl-ca-certs: {c}/no.pem": "no such file: {c}/no.pem",
    "ssl-certfile: {c}/both.pem, ssl-cert-reqs: 2": "asks every client for a certificate",
}


@pytest.mark.parametrize("written", TLS)
def test_what_is_wrong_with_a_certificate(place: Place, certificates: Path, written: str) -> None:
    (only,) = said(place, model("", "{" + written.replace("{c}", str(certificates)) + "}"))
    assert TLS[written].replace("{c}", str(certificates)).replace("{here}", str(place.folder)) in only


def test_both_in_one_file(place: Place, certificates: Path) -> None:
    assert said(place, model("", f"{{ssl-certfile: {certificates}/both.pem, ssl-cert-reqs: 1}}")) == []


# Several names and keys ---------------------------------------------------------------------------------------


def test_several_names_are_aliases_of_the_group(place: Place) -> None:
    made = plan(
        place.load(model("served_model_name: [m, m-fp8, m-latest]")),
        runtime=Path("/run/x"), pythons=PYTHONS, master_key="sk-x",
    )  # fmt: skip
    argv = made.programs["m"].spec.launch.argv
    at = argv.index("--served-model-name")
    assert argv[at + 1 : at + 5] == ("m", "m-fp8", "m-latest", "--host")
    assert made.litellm_config is not None
    assert made.litellm_config["model_list"][0]["litellm_params"]["model"] == "hosted_vllm/m"
    assert made.litellm_config["router_settings"]["model_group_alias"] == {"m-fp8": "m", "m-latest": "m"}
    assert [group.name for group in made.groups] == ["m", "m-fp8", "m-latest"]


def test_an_alias_of_the_native_file_stays(place: Place) -> None:
    place.write("router_settings: {num_retries: 1, model_group_alias: {m-fp8: other, x: m}}\n", "l.yaml", 0o600)
    text = model("served_model_name: [a, m-fp8]", gateway=", litellm_config: l.yaml")
    made = plan(place.load(text), runtime=Path("/run/x"), pythons=PYTHONS, master_key="sk-x")
    assert made.litellm_config is not None
    router = made.litellm_config["router_settings"]
    assert router == {"num_retries": 1, "model_group_alias": {"a": "m", "m-fp8": "other", "x": "m"}}


@pytest.mark.parametrize("names", ["Name", "[Name]"])
def test_one_name_is_no_alias(place: Place, names: str) -> None:
    made = plan(
        place.load(model(f"served_model_name: {names}")), runtime=Path("/run/x"), pythons=PYTHONS, master_key="sk-x"
    )
    assert made.litellm_config is not None
    assert "router_settings" not in made.litellm_config
    assert [group.name for group in made.groups] == ["m"]


def test_a_name_that_another_group_has(place: Place) -> None:
    text = model("served_model_name: [m, n, n]") + "  n: {model: org/n, port: 8002, served_model_name: [x, m-2]}\n"
    text += "  o: {model: org/o, port: 8003, served_model_name: [m-2, o]}\n"
    found = [(one.path, one.message) for one in place.problems(text)]
    assert found == [
        ("models.m.served_model_name[1]", "n is the name of another group"),
        ("models.m.served_model_name[2]", "n is written twice"),
        ("models.o.served_model_name[0]", "m-2 is the name of n, too"),
    ]


@pytest.mark.parametrize(
    ("written", "one", "all_"),
    [("one", "one", None), ("[one]", "one", None), ("[one, two]", "one", '["one", "two"]'), ("['', two]", "two", None)],
)
def test_an_engine_takes_several_keys(place: Place, written: str, one: str, all_: str | None) -> None:
    made = plan(
        place.load(model("", f"{{api-key: {written}}}")), runtime=Path("/run/x"), pythons=PYTHONS, master_key="sk-x"
    )
    env = dict(made.programs["m"].spec.launch.env)
    assert (env["VLLM_API_KEY"], env.get("LLM_SUPERVISOR_API_KEYS")) == (one, all_)
    assert "two" not in made.programs["m"].spec.launch.argv
    asking = made.programs["m"].asking
    assert asking is not None
    assert dict(asking.headers) == {"Authorization": f"Bearer {one}"}


def test_every_key_must_fit_into_a_header(place: Place) -> None:
    (only,) = said(place, model("", "{api-key: [one, 'schlüssel']}"))
    assert only.startswith("vllm.api-key[1]: must be printable ASCII")


# Options that are gone ----------------------------------------------------------------------------------------

GONE = {
    "guided-decoding-backend: outlines": ("since 0.12", "write structured-outputs-config: {backend: outlines}"),
    "enable-reasoning: true": ("since 0.10", "reasoning-parser alone"),
    "disable_log_requests: true": ("since 0.12", "only with enable-log-requests"),
    "rope-scaling: {type: yarn}": ("installed vLLM", 'write hf-overrides: {rope_parameters: {"type": "yarn"}}'),
    "swap-space: 16": ("installed vLLM", "kv-offloading-size"),
    "speculative-model: org/draft": ("installed vLLM", "write speculative-config: {model: org/draft}"),
    "cuda-graph-sizes: [1, 2]": ("since 0.13", "write cudagraph-capture-sizes: [1, 2]"),
    "num-scheduler-steps: 8": ("since 0.11", "leave it out"),
    "task: embed": ("installed vLLM", "write runner: pooling"),
}


@pytest.mark.parametrize("written", GONE)
def test_what_replaces_an_option_that_is_gone(place: Place, written: str) -> None:
    message, advice = GONE[written]
    file = place.write(model("", f"{{{written}}}"), mode=0o600)
    with pytest.raises(ConfigError) as error:
        load(file, {}, lambda python: KNOWN)
    (only,) = error.value.problems
    assert message in only.message
    assert advice in only.advice
    assert "did you mean" not in only.advice


def test_the_advice_for_options_that_are_gone_is_whole() -> None:
    for gone in (*former_options.OPTIONS.values(), *former_options.KEYS.values()):
        told = former_options.advice(gone, "VALUE")
        assert told.count("{") == told.count("}"), told
        assert "{key}" not in told and "{value}" not in told


# What vLLM itself says ----------------------------------------------------------------------------------------


def judged(place: Place, options: str, *answers: Answer, more: str = "") -> tuple[list[Problem], list[Question]]:
    """What is said where vLLM answers that, and what it was asked."""
    asked: list[Question] = []

    def judge(python: str | None, questions: Sequence[Question]) -> list[Answer]:
        asked.extend(questions)
        return list(answers)

    file = place.write(model(more, options), mode=0o600)
    try:
        return list(load(file, {"VLLM_X": "1", "OPENAI_API_KEY": "sk-1"}, judge_of=judge).warnings), asked
    except ConfigError as error:
        return error.problems, asked


def test_vllm_is_asked_with_what_the_engine_gets(place: Place) -> None:
    problems, asked = judged(place, "{chat-template: a/b.jinja, api-key: secret, max_model_len: 5, dtype: null}", ())
    assert problems == []
    (one,) = asked
    assert one.options == (
        ("chat-template", ("--chat-template", f"{place.folder}/a/b.jinja")),
        ("max_model_len", ("--max-model-len", "5")),
    )
    assert one.folder is None, "its files are not here"
    assert one.environ["VLLM_X"] == "1"
    assert "secret" not in repr(one) + repr(dict(one.environ))
    assert "OPENAI_API_KEY" not in one.environ


def test_a_complaint_is_shown_at_its_key(place: Place) -> None:
    unknown = Complaint(("kv-transfer-config",), ("kv_roles",), "Unexpected keyword argument", ("kv_role", "kv_port"))
    value = Complaint(("max-model-len", "chat-template"), (), "it is too long")
    nobody = Complaint((), (), "something else")
    problems, _ = judged(
        place, "\n      max-model-len: 5\n      kv-transfer-config:\n        kv_roles: x\n", (unknown, value, nobody)
    )
    assert [(one.line, one.path.removeprefix("models.m."), one.message, one.advice) for one in problems] == [
        (4, "model", "vLLM would not start with it: something else", ""),
        (8, "vllm.max-model-len", "vLLM refuses it: it is too long", "it does not go together with chat-template"),
        (
            10,
            "vllm.kv-transfer-config.kv_roles",
            "kv_roles is no key of kv-transfer-config in the installed vLLM",
            "did you mean kv_role?",
        ),
    ]
    assert [one.warning for one in problems] == [True, False, False], "the other models go on, whatever the model is"


def test_what_another_check_refuses_is_not_asked(place: Place) -> None:
    problems, asked = judged(place, "{limit-mm-per-prompt: [1], max-model-len: 5}", ())
    assert len(problems) == 1
    assert [name for name, _ in asked[0].options] == ["max-model-len"]


def test_a_model_that_was_not_judged_in_time_is_a_warning(place: Place) -> None:
    (only,), _ = judged(place, "{max-model-len: 5}", None)
    assert only.warning
    assert "gave no answer in time" in only.message


def test_where_there_is_no_vllm_nothing_is_said(place: Place) -> None:
    file = place.write(model("", "{max-model-len: 5}"), mode=0o600)
    assert load(file, {}, judge_of=lambda python, questions: None).warnings == ()


@pytest.mark.parametrize("model_", ["./tiny", "tiny"])
def test_the_files_of_a_model_that_are_here_are_named(place: Place, model_: str) -> None:
    for more, folder in (("", f"{place.folder}/tiny"), (", trust-remote-code: true", None)):
        text = model("", f"{{max-model-len: 5{more}}}").replace("org/name", model_)
        asked: list[Question] = []
        load(place.write(text, mode=0o600), {}, judge_of=lambda _, questions, to=asked: to.extend(questions))  # type: ignore[misc]
        assert [one.folder for one in asked] == [folder]


# Programs of the environment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("/usr/bin:/bin", "/e/bin:/usr/bin:/bin"),
        ("/e/bin:/bin", "/e/bin:/bin"),
        ("/bin:/e/bin", "/e/bin:/bin:/e/bin"),
        ("", f"/e/bin:{os.defpath}"),
    ],
)
def test_the_programs_of_the_environment_come_first(path: str, made: str) -> None:
    assert with_own_programs("/e/bin/python", {"PATH": path}) == made
