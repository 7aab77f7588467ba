"""References to the environment in LiteLLM's file, judged as LiteLLM resolves them: what is said, and what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_supervisor.config import plan
from llm_supervisor.config.specs import Pythons
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.litellm import references
from tests.config.conftest import Place

G = "gateway: {litellm_config: native.yaml}\n"
LOCAL = 'model_list: [{model_name: x, litellm_params: {model: hosted_vllm/x, api_base: "http://127.0.0.1:1/v1"}}]\n'

Rows = list[tuple[str, str, dict[str, str], list[tuple[str, bool]]]]
# Name, the file, the environment, and what is said: a part of the text, and whether it is only a warning
ROWS: Rows = [
    (
        "an empty password",
        LOCAL + "router_settings: {redis_host: os.environ/H, redis_port: os.environ/P, redis_password: os.environ/PW}",
        {"H": "127.0.0.1", "P": "6379", "PW": ""},
        [],
    ),
    (
        "an empty text elsewhere",
        LOCAL + "litellm_settings: {default_team_settings: [{team_id: a, x: os.environ/E}]}",
        {"E": ""},
        [],
    ),
    (
        "an empty header",
        "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: k, organization: os.environ/E}}]",
        {"E": ""},
        [],
    ),
    (
        "an empty key of a cloud model",
        "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: os.environ/E}}]",
        {"E": ""},
        [("E is not set: a is disabled", True)],
    ),
    (
        "a team's logging",
        LOCAL + "litellm_settings: {default_team_settings: [{team_id: api, langfuse_secret: os.environ/LF}]}",
        {},
        [("os.environ/LF is not set: the logging of api does not work", True)],
    ),
    (
        "a credential",
        LOCAL + "credential_list: [{credential_name: mine, credential_values: {api_key: os.environ/C}}]",
        {},
        [("os.environ/C is not set: the credential mine does not work", True)],
    ),
    (
        "an MCP server",
        LOCAL + 'mcp_servers: {wiki: {url: "http://w", auth_value: os.environ/M}}',
        {},
        [("os.environ/M is not set: the MCP server wiki goes on without it", True)],
    ),
    (
        "a guardrail",
        LOCAL + "guardrails: [{guardrail_name: g, litellm_params: {guardrail: x, mode: m, api_key: os.environ/L}}]",
        {},
        [("os.environ/L is not set: the guardrail g goes on without it, or is left out", True)],
    ),
    (
        "the database",
        LOCAL + "general_settings: {database_url: os.environ/DB}",
        {},
        [("os.environ/DB is not set: no database is used", True)],
    ),
    (
        "a variable of the file that is none",
        LOCAL + "environment_variables: {A: os.environ/B}",
        {},
        [("os.environ/B is not set: LiteLLM leaves it unset", True)],
    ),
    (
        "where the cache is",
        LOCAL + "litellm_settings: {cache: true, cache_params: {type: redis, host: os.environ/H, port: os.environ/P}}",
        {},
        [("os.environ/H is not set, and LiteLLM does not start without it", False), ("os.environ/P is not set", True)],
    ),
    (
        "where the cache is, by Redis' own variable",
        LOCAL + "litellm_settings: {cache: true, cache_params: {type: redis, host: os.environ/H}}",
        {"REDIS_HOST": "h"},
        [("os.environ/H is not set: the cache goes on without it", True)],
    ),
    (
        "where the cache is, by a variable of the file",
        LOCAL
        + "litellm_settings: {cache: true, cache_params: {host: os.environ/REDIS_HOST}}\n"
        + "environment_variables: {REDIS_HOST: h}",
        {},
        [],
    ),
    (
        "a cache that is off",
        LOCAL + "litellm_settings: {cache: false, cache_params: {type: redis, host: os.environ/H}}",
        {},
        [("os.environ/H is not set: the cache goes on without it", True)],
    ),
    (
        "the gateway's key",
        LOCAL + "general_settings: {master_key: os.environ/MINE}",
        {},
        [("os.environ/MINE is not set, and LiteLLM does not start without it", False)],
    ),
    (
        "the name of a group",
        "model_list: [{model_name: os.environ/N, litellm_params: {model: openai/a, api_key: k}}]",
        {},
        [("os.environ/N is not set, and LiteLLM does not start without it", False)],
    ),
    (
        "a provider's own variable, set by the file",
        "model_list: [{model_name: gpt, litellm_params: {model: openai/gpt, api_key: os.environ/OPENAI_API_KEY}}]\n"
        "environment_variables: {OPENAI_API_KEY: no-key}",
        {},
        [],
    ),
    (
        "a provider's own variable under another name",
        "model_list: [{model_name: c, litellm_params: {model: anthropic/c, api_key: os.environ/MY_KEY}}]",
        {"ANTHROPIC_API_KEY": "sk"},
        [],
    ),
    (
        "a variable of the file that no provider knows",
        "model_list: [{model_name: gpt, litellm_params: {model: openai/gpt, api_key: os.environ/MINE}}]\n"
        "environment_variables: {MINE: no-key}",
        {},
        [("MINE is not set: gpt is disabled; environment_variables are read after references", True)],
    ),
    (
        "a server that needs no key",
        "model_list: [{model_name: o, litellm_params: {model: ollama/o, api_key: os.environ/O_KEY}}]",
        {},
        [("O_KEY is not set: o is served without api_key", True)],
    ),
    (
        "credentials that are found elsewhere, too",
        "model_list: [{model_name: b, litellm_params: {model: bedrock/b, aws_access_key_id: os.environ/AWS_ID}}]",
        {},
        [("AWS_ID is not set: b is served without aws_access_key_id", True)],
    ),
    (
        "a secret manager",
        "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: os.environ/K}}]\n"
        "general_settings: {key_management_system: hashicorp_vault, database_url: os.environ/DB}",
        {},
        [],
    ),
    ("text in a list, which LiteLLM leaves as it is", LOCAL + "litellm_settings: {tags: [os.environ/T]}", {}, []),
]


@pytest.mark.parametrize(("text", "environ", "said"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_is_said_of_a_reference(
    place: Place, text: str, environ: dict[str, str], said: list[tuple[str, bool]]
) -> None:
    place.write(text, "native.yaml", 0o600)
    found = place.problems(G, environ)
    assert [problem.warning for problem in found] == [warning for _, warning in said], found
    assert all(words in problem.message for problem, (words, _) in zip(found, said, strict=True)), found


def test_a_secret_manager_keeps_every_deployment() -> None:
    native = {
        "model_list": [{"model_name": "a", "litellm_params": {"model": "openai/a", "api_key": "os.environ/K"}}],
        "general_settings": {"key_management_system": "aws_secret_manager"},
    }
    assert proxy_config.usable(native, {}) == (native, {})


def test_what_is_resolved() -> None:
    native = {"a": "os.environ/A", "b": [{"c": "os.environ/B"}, "os.environ/A"], "d": {"e": "os.environ/EMPTY"}}
    environ = {"A": "1", "EMPTY": ""}
    expected = {"a": "1", "b": [{"c": None}, "os.environ/A"], "d": {"e": ""}}
    assert references.resolved(native, environ) == expected


NAMED = """\
model_list:
  - {model_name: os.environ/NAME, litellm_params: {model: openai/gpt, api_key: os.environ/KEY}}
router_settings:
  model_group_alias: {other: os.environ/NAME}
  fallbacks: [{other: [gpt]}]
"""


def test_names_by_reference_are_compared_resolved(place: Place) -> None:
    place.write(NAMED, "native.yaml", 0o600)
    environ = {"NAME": "gpt", "KEY": "k"}
    assert place.problems(G, environ) == []
    made = plan(place.load(G, environ), runtime=Path("/r"), pythons=Pythons("v", "l", False), master_key="k")
    assert [group.name for group in made.groups] == ["gpt", "other"]
    local = G + "models:\n  gpt: {model: ./tiny, port: 8000}\n"
    assert any("gpt is also the alias of a local model" in one.message for one in place.problems(local, environ))
