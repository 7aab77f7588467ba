"""Several files, variables in them, and what is shown of the result: to people and to editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from llm_supervisor import redaction
from llm_supervisor.cli import main
from llm_supervisor.config import ConfigError, keep, load, restore
from llm_supervisor.config.show import json_schema, redacted
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.redaction import HIDDEN
from tests.config.conftest import GOOD, Place

ROOT = Path(__file__).parent.parent.parent

# Several files ------------------------------------------------------------------------------------------------

BASE = """gateway: {port: 4000}
models:
  a:
    model: org/a
    port: 8000
    vllm: {max-model-len: 1000, dtype: bfloat16}
    gpus: [0]
  b: {model: org/b, port: 8001}
"""


def test_what_a_later_file_says_holds(place: Place) -> None:
    base = place.write(BASE, "base.yaml")
    site = place.write("models:\n  a: {vllm: {max-model-len: 2000}, gpus: [3]}\n  b: null\n", "site.yaml")
    last = place.write("gateway: {port: 4001}\n", "last.yaml")
    config = load([base, site, last], {})
    assert config.files == (base, site, last)
    assert config.root.gateway is not None
    assert config.root.gateway.port == 4001
    assert list(config.root.models) == ["a"], "a key without a value takes out what was said before"
    model = config.root.models["a"]
    assert (model.vllm, model.gpus, model.port) == ({"max-model-len": 2000, "dtype": "bfloat16"}, [3], 8000)
    assert restore(keep(config), {}).files == config.files


def test_a_problem_is_where_it_was_said(place: Place) -> None:
    base = place.write(BASE, "base.yaml")
    site = place.write("# a line\nmodels:\n  a:\n    prot: 1\n    port: x\n  c: {model: m}\n", "site.yaml")
    with pytest.raises(ConfigError) as error:
        load([base, site], {})
    said = [(problem.file, problem.line, problem.path) for problem in error.value.problems]
    assert said == [
        (str(site), 4, "models.a.prot"),
        (str(site), 5, "models.a.port"),
        (str(site), 6, "models.c.port"),
    ]
    with pytest.raises(ConfigError) as error:
        load([site, base, place.folder / "none.yaml", place.write("[", "broken.yaml")], {})
    files = {problem.file.rpartition("/")[2] for problem in error.value.problems}
    assert files == {"site.yaml", "none.yaml", "broken.yaml"}


# Variables ------------------------------------------------------------------------------------------------------


def test_variables(place: Place) -> None:
    place.write("FROM_FILE=file\n", "keys.env", 0o600)
    text = """
env_file: keys.env
gateway: {port: "${PORT}", host: "${HOST:-127.0.0.1}"}
models:
  a:
    model: ${ORG}/name-${FROM_FILE}
    port: ${PORT_A:-8000}
    vision: ${VISION}
    vllm: {chat-template: "$${not}", number: "${NUMBER}", text: "n${NUMBER}"}
programs:
  p: {command: [sh, -c, "echo ${SHELLS_OWN}"], env: {A: "${PORT}"}}
"""
    config = place.load(text, {"PORT": "4005", "ORG": "org", "VISION": "true", "NUMBER": "0.5"})
    assert config.root.gateway is not None
    assert (config.root.gateway.port, config.root.gateway.host) == (4005, "127.0.0.1")
    model = config.root.models["a"]
    assert (model.model, model.port, model.vision) == ("org/name-file", 8000, True)
    assert model.vllm == {"chat-template": "${not}", "number": 0.5, "text": "n0.5"}
    assert config.root.programs["p"].command == ["sh", "-c", "echo ${SHELLS_OWN}"], "a shell's own"
    assert config.root.programs["p"].env == {"A": "4005"}


def test_a_variable_that_is_not_set(place: Place) -> None:
    problems = place.problems("gateway: {}\nmodels:\n  a:\n    model: ${NOPE}/x\n    port: ${ALSO}\n")
    assert [(problem.line, problem.path, problem.message) for problem in problems] == [
        (4, "models.a.model", "${NOPE} is not set"),
        (5, "models.a.port", "${ALSO} is not set"),
    ]
    assert "${NOPE:-a default}" in problems[0].advice


# What is shown -----------------------------------------------------------------------------------------------------

SECRETS = {
    "ANTHROPIC_API_KEY": "sk-ant-secret-1",
    "native": "sk-native-secret-2",
    "vllm": "vllm-own-secret-3",
    "redis": "redis-secret-4",
    "model": "env-secret-5",
    "master": "sk-master-secret-6",
}


@pytest.fixture
def secretive(place: Place) -> Path:
    place.write(f"ANTHROPIC_API_KEY={SECRETS['ANTHROPIC_API_KEY']}\nPLAIN=visible-value\n", "keys.env", 0o600)
    native: dict[str, Any] = {
        "model_list": [
            {"model_name": "one", "litellm_params": {"model": "openai/one", "api_key": SECRETS["native"]}},
            {"model_name": "two", "litellm_params": {"model": "x/two", "api_key": "os.environ/ANTHROPIC_API_KEY"}},
            {"model_name": "three", "litellm_params": {"model": "openai/three", "api_key": "none"}},
        ],
        "general_settings": {"master_key": SECRETS["master"]},
        "router_settings": {"redis_host": "h", "redis_port": 1, "redis_password": SECRETS["redis"]},
    }
    place.write(yaml.safe_dump(native), "native.yaml", 0o600)
    return place.write(
        f"""
env_file: keys.env
gateway: {{litellm_config: native.yaml}}
models:
  a:
    model: org/a
    port: 8000
    vllm: {{api-key: {SECRETS["vllm"]}}}
    env: {{HF_TOKEN: {SECRETS["model"]}}}
"""
    )


def test_no_secret_is_shown(secretive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--json"]):
        assert main.main(["config", "show", "-c", str(secretive), *options]) == 0
        shown = capsys.readouterr()
        found = [name for name, value in SECRETS.items() if value in shown.out + shown.err]
        assert found == []
        assert HIDDEN in shown.out
    message = json.loads(shown.out)
    assert message["env_file"] == ["ANTHROPIC_API_KEY", "PLAIN"]
    assert message["config"]["models"]["a"]["vllm"] == {"api-key": HIDDEN}
    assert "--shutdown-timeout" in message["argv"]["a"]
    entries = {one["model_name"]: one["litellm_params"]["api_key"] for one in message["litellm_config"]["model_list"]}
    assert entries["two"] == "os.environ/ANTHROPIC_API_KEY"
    assert entries["three"] == "none"
    assert entries["one"].startswith("os.environ/LLM_SUPERVISOR_SECRET_"), "LiteLLM reads it from its environment"


def test_secrets_are_taken_out_of_the_file_for_litellm() -> None:
    native = {
        "model_list": [{"model_name": "key", "litellm_params": {"api_key": "secret-a", "tpm": 5, "max_tokens": 7}}],
        "litellm_settings": {"cache_params": {"password": "secret-b"}, "token": 12345678},
        "router_settings": {"redis_url": "redis://:secret-c@host:1"},
        "environment_variables": {"OPENAI_API_KEY": "secret-a"},
        "general_settings": {"database_url": "postgres://u:p@h/d"},
    }
    clean, variables = proxy_config.hide_secrets(native)
    hidden = ["12345678", "postgres://u:p@h/d", "redis://:secret-c@host:1", "secret-a", "secret-b"]
    assert sorted(variables.values()) == hidden
    text = json.dumps(clean)
    assert not [value for value in variables.values() if value in text]
    assert clean["model_list"][0]["model_name"] == "key"
    assert clean["model_list"][0]["litellm_params"]["tpm"] == 5
    names = {value: name for name, value in variables.items()}
    assert clean["environment_variables"]["OPENAI_API_KEY"] == f"os.environ/{names['secret-a']}"
    assert proxy_config.hide_secrets(clean) == (clean, {}), "and there is nothing left to hide"


NAMED_SECRETS = """
    key api_key api-key apiKey OPENAI_APIKEY X_APIKEY X-Api-Key api_keys LITELLM_MASTER_KEY AWS_SECRET_ACCESS_KEY
    token HF_TOKEN hf-token accessToken authtoken Authorization PGPASSWORD password redis_password passwd PASSPHRASE
    ssl_key_passphrase pwd MY_PWD db_pwd pass DB_PASS dbPass auth REDISCLI_AUTH proxy-auth secret client_secret
    clientSecret auth_value credentials GOOGLE_APPLICATION_CREDENTIALS webhook slack_webhook SLACK_WEBHOOK_URL
    webhook_url alert_to_webhook_url database_url DATABASE_URL SENTRY_DSN Cookie
""".split()
NO_SECRETS = """
    max_tokens max-num-batched-tokens tokens tokenizer tokenizer-mode skip-tokenizer-init keepalive keys keyword monkey
    ssl-keyfile author authors authentication oauth bypass compass pass_config pass_through_endpoints passthrough PWD
    OLDPWD SSH_AUTH_SOCK SUDO_ASKPASS custom_auth enable-tokenizer-info-endpoint otlp-traces-endpoint eos_token
    pad_token image_token think_start_token input_cost_per_token output_cost_per_reasoning_token model model_name
    api_base api_version base_url LLM_PROVIDER_BASE_URL aws_access_key_id_name secretary webhooks_enabled
""".split()


def test_what_a_secret_is_called() -> None:
    assert [name for name in NAMED_SECRETS if not redaction.names_secret(name)] == []
    assert [name for name in NO_SECRETS if redaction.names_secret(name)] == []


HIDDEN_VALUES = {
    "PGPASSWORD": "word-of-postgres",
    "OPENAI_APIKEY": "of-openai-01",
    "REDISCLI_AUTH": "of-redis-02",
    "MY_PWD": "of-mine-03",
    "SLACK_WEBHOOK_URL": "https://hooks.example.org/services/T0/B0/04",
    "WHATEVER": 'what"ever\\-covered-05x',
    "LINK_URL": "https://somebody@example.org/06",
    "SIGNED_URL": "https://example.org/?X-Amz-Signature=07",
    "HTTPS_PROXY": "http://user:password@proxy:3128",
}
SHOWN_VALUES = {
    "LLM_MODEL": "meta-llama/Llama-9",
    "LLM_PROVIDER": "together_ai",
    "LLM_PROVIDER_BASE_URL": "https://api.example.org/v1",
    "LLM_RPM": "600000",
    "HF_HOME": "/srv/models/hub",
    "HF_ENDPOINT": "https://mirror.example.org",
    "HF_HUB_ENABLE_HF_TRANSFER": "certainly",
    "WHERE": "https://example.org/page?lang=en",
    "MANY": "1234567.5",
    "FAVOURITE": "org/some-model",
    "OURS": "my-group",
}


def test_what_the_env_file_says_is_shown_where_it_is_plainly_no_secret(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {**HIDDEN_VALUES, **SHOWN_VALUES}
    place.write("".join(f"{name}={value}\n" for name, value in values.items()), "keys.env", 0o600)
    native: dict[str, Any] = {
        "model_list": [
            {"model_name": "a", "litellm_params": {"model": "openai/a", "extra_body": {"pwd": "of-the-body-11"}}},
            {"model_name": "b", "litellm_params": {"model": "openai/b", "input_cost_per_token": 0.000125}},
            {"model_name": "my-group", "litellm_params": {"model": "openai/c"}},
        ],
        "general_settings": {
            "alerting_args": {"slack_webhook": "https://hooks.example.org/12"},
            "alert_to_webhook_url": {"budget_alerts": ["https://hooks.example.org/13"]},
        },
        "router_settings": {"model_group_alias": {"my-pass": "a"}},
    }
    place.write(yaml.safe_dump(native), "native.yaml", 0o600)
    env = {f"E{number}": f"${{{name}}}" for number, name in enumerate(values)}
    written = yaml.safe_dump(
        {
            "gateway": {"litellm_config": "native.yaml"},
            "env_file": "keys.env",
            "models": {
                "m": {
                    "model": "${FAVOURITE}",
                    "port": 8000,
                    "env": {**env, "X_APIKEY": "of-somebody-14", "PWD": "/srv/folder"},
                    "vllm": {"chat-template": "x${WHATEVER}", "override-generation-config": {"a": ["${MY_PWD}"]}},
                }
            },
        }
    )
    file = place.write(written, mode=0o600)
    hidden = [
        *HIDDEN_VALUES.values(),
        "of-the-body-11",
        "hooks.example.org",
        "of-somebody-14",
        "covered-05x",
        "my_pwd",
    ]
    for options in ([], ["--json"]):
        assert main.main(["config", "show", "-c", str(file), *options]) == 0
        shown = capsys.readouterr().out
        assert [value for value in hidden if value in shown] == []
        values_shown = [*SHOWN_VALUES.values(), "/srv/folder", "0.000125", "my-pass"]
        assert [value for value in values_shown if value not in shown] == []


def test_a_list_keeps_what_litellm_would_not_look_up() -> None:
    """In a list a reference is plain text for it."""
    of_a = {"api_keys": ["of-a-list", {"key": "of-a-mapping"}], "urls": ["http://u:p@h"]}
    native: dict[str, Any] = {"a": of_a, "b": {1: {"key": "k"}}}
    clean, variables = proxy_config.hide_secrets(native)
    assert sorted(variables.values()) == ["k", "of-a-mapping"]
    assert (clean["a"]["api_keys"][0], clean["a"]["urls"]) == ("of-a-list", ["http://u:p@h"])
    assert redacted(native["a"], [])["api_keys"] == [HIDDEN, {"key": HIDDEN}]


def test_a_wrong_one_is_shown_as_problems(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["config", "show", "-c", str(place.write("zzz: 1\n"))]) == 2
    assert "zzz: unknown key" in capsys.readouterr().err


def test_redaction_goes_everywhere() -> None:
    assert redacted({"a": ["x secret y", 3, None], "b": {"c": "secret"}}, ["secret"]) == {
        "a": [f"x {HIDDEN} y", 3, None],
        "b": {"c": HIDDEN},
    }


# For editors -----------------------------------------------------------------------------------------------------


def test_the_published_schema_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["config", "schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json_schema()
    published = json.loads((ROOT / "configs/supervisor.schema.json").read_text())
    assert published == printed, "write it anew: llm-supervisor config schema > configs/supervisor.schema.json"


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_what_we_publish_is_valid_by_it(file: Path) -> None:
    data = yaml.safe_load(file.read_text())
    if "model_list" not in data:  # that is LiteLLM's
        jsonschema.validate(data, json_schema())


def test_it_allows_what_we_read_and_nothing_else() -> None:
    check = jsonschema.Draft202012Validator(json_schema())
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert list(check.iter_errors(yaml.safe_load(GOOD))) == []
    right = {
        "gateway": {"port": "${PORT}", "hold": "5m", "max_rss": "2GB", "stop": {"signal": "INT", "grace": 3}},
        "programs": {"p": {"command": ["a", 1, True], "env": {"A": 1}, "health": {"period": "500ms"}}},
        "ready_when": "${WHEN:-all}",
    }
    assert list(check.iter_errors(right)) == []
    for wrong in (
        {"gatway": {}},
        {"gateway": {"port": "x"}},
        {"gateway": {"port": 70000}},
        {"gateway": {"hold": "soon"}},
        {"gateway": {"warm": "yes"}},
        {"gateway": {"replicas": "2"}},
        {"gateway": {"replicas": True}},
        {"models": {"a": {"port": 1}}},
        {"programs": {"p": {"command": "a b"}}},
    ):
        assert list(check.iter_errors(wrong)), wrong
