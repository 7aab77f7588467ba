"""Groups of the native file whose key is not there, limits that are optional, and addresses without their version."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_supervisor.config import keep, plan, restore
from llm_supervisor.config.plan import Plan
from llm_supervisor.config.specs import Pythons
from llm_supervisor.engines.litellm import config as proxy_config
from tests.config.conftest import Place, Said, assert_said

G = "gateway: {litellm_config: native.yaml}\n"
TWO = """\
model_list:
  - model_name: claude
    litellm_params: {model: anthropic/x, api_key: os.environ/A_KEY}
  - model_name: gpt
    litellm_params: {model: openai/x, api_key: os.environ/B_KEY, organization: os.environ/B_ORG}
  - model_name: gpt
    litellm_params: {model: openai/x, api_key: os.environ/C_KEY}
"""


def made(place: Place, environ: dict[str, str], text: str = G) -> Plan:
    config = place.load(text, environ)
    return plan(config, runtime=Path("/run/x"), pythons=Pythons("v", "l", vllm_cpu=False), master_key="k")


def deployments(made_: Plan) -> list[str]:
    assert made_.litellm_config is not None
    return [entry["litellm_params"]["api_key"] for entry in made_.litellm_config["model_list"]]


ALL = {"A_KEY": "a", "B_KEY": "b", "B_ORG": "o", "C_KEY": "c"}
# What is not set; what is said of it; which deployments LiteLLM gets; which groups are disabled, and why
ROWS: list[tuple[str, list[Said], list[str], dict[str, str]]] = [
    ("", [], ["A_KEY", "B_KEY", "C_KEY"], {}),
    (
        "A_KEY",
        [(3, "model_list[0].litellm_params.api_key", "A_KEY is not set: claude is disabled", "export A_KEY")],
        ["B_KEY", "C_KEY"],
        {"claude": "A_KEY is not set"},
    ),
    (
        "B_KEY",
        [(5, "model_list[1].litellm_params.api_key", "B_KEY is not set: this deployment of gpt is left out", "B_KEY")],
        ["A_KEY", "C_KEY"],
        {},
    ),
    (
        "B_KEY B_ORG C_KEY",
        [
            (
                5,
                "model_list[1].litellm_params.api_key",
                "B_KEY is not set: gpt is disabled",
                "export B_KEY",
            ),
            (7, "model_list[2].litellm_params.api_key", "C_KEY is not set: gpt is disabled", "export C_KEY"),
        ],
        ["A_KEY"],
        {"gpt": "B_KEY is not set"},
    ),
    (
        "A_KEY B_ORG C_KEY",
        [
            (3, "model_list[0].litellm_params.api_key", "A_KEY is not set: claude is disabled", "A_KEY"),
            (
                5,
                "model_list[1].litellm_params.organization",
                "B_ORG is not set: gpt is served without organization",
                "B_ORG",
            ),
            (
                7,
                "model_list[2].litellm_params.api_key",
                "C_KEY is not set: this deployment of gpt is left out",
                "C_KEY",
            ),
        ],
        ["B_KEY"],
        {"claude": "A_KEY is not set"},
    ),
]


@pytest.mark.parametrize(("unset", "said", "kept", "disabled"), ROWS, ids=[row[0] or "none" for row in ROWS])
def test_a_missing_key_disables_what_needs_it(
    place: Place, unset: str, said: list[Said], kept: list[str], disabled: dict[str, str]
) -> None:
    place.write(TWO, "native.yaml")
    environ = {name: value for name, value in ALL.items() if name not in unset.split()}
    problems = place.problems(G, environ)
    assert_said(place, problems, "native.yaml", said)
    assert all(problem.warning for problem in problems)
    made_ = made(place, environ)
    assert deployments(made_) == [f"os.environ/{name}" for name in kept]
    assert {group.name: group.disabled for group in made_.groups} == {"claude": None, "gpt": None} | disabled


def test_the_gateways_own_variables_count(place: Place) -> None:
    place.write(TWO, "native.yaml")
    text = "gateway: {litellm_config: native.yaml, env: {A_KEY: a}}\n"
    environ = {name: value for name, value in ALL.items() if name != "A_KEY"}
    assert place.problems(text, environ) == []
    assert [group.disabled for group in made(place, environ, text).groups] == [None, None]


def test_the_key_that_we_make_is_never_missing(place: Place) -> None:
    place.write(
        "model_list:\n  - model_name: a\n    litellm_params: {model: x/y, api_key: os.environ/LITELLM_MASTER_KEY}\n",
        "native.yaml",
    )
    assert place.problems(G) == []


def test_elsewhere_a_missing_variable_is_a_warning(place: Place) -> None:
    place.write(
        TWO + "    model_info: {note: os.environ/NOTE}\ngeneral_settings: {url: os.environ/URL}\n", "native.yaml"
    )
    found = [(problem.path, problem.warning) for problem in place.problems(G, {"A_KEY": "a"})]
    assert found == [
        ("model_list[1].litellm_params.api_key", True),
        ("model_list[2].litellm_params.api_key", True),
        ("model_list[2].model_info.note", True),
        ("general_settings.url", True),
    ]


def test_a_configuration_that_was_kept_is_disabled_alike(place: Place) -> None:
    place.write(TWO, "native.yaml")
    config = restore(keep(place.load(G, {"A_KEY": "a"})), {"A_KEY": "a"})
    again = plan(config, runtime=Path("/run/x"), pythons=Pythons("v", "l", vllm_cpu=False), master_key="k")
    assert [group.disabled for group in again.groups] == [None, "B_KEY is not set"]


ROUTER = """
router_settings:
  fallbacks:
    - {local: [claude, gpt]}
    - {other: [{model: claude, max_tokens: 5}], gpt: [local]}
    - {third: [claude]}
    - odd
  context_window_fallbacks: [{local: [claude]}]
  model_group_alias: {sonnet: claude, hidden: {model: claude, hidden: true}, chat: gpt}
  num_retries: 2
litellm_settings:
  default_fallbacks: [claude, gpt]
  content_policy_fallbacks: [{gpt: [claude]}]
  drop_params: true
"""


def test_nothing_leads_to_a_group_that_is_disabled() -> None:
    native = yaml.safe_load(TWO + ROUTER)
    before = copy.deepcopy(native)
    config, disabled = proxy_config.usable(native, {**ALL, "A_KEY": ""})
    assert list(disabled) == ["claude"]
    assert config["router_settings"] == {
        "fallbacks": [{"local": ["gpt"]}, {"gpt": ["local"]}, "odd"],
        "context_window_fallbacks": [],
        "model_group_alias": {"chat": "gpt"},
        "num_retries": 2,
    }
    assert config["litellm_settings"] == {
        "default_fallbacks": ["gpt"], "content_policy_fallbacks": [], "drop_params": True,
    }  # fmt: skip
    assert native == before
    assert proxy_config.usable(native, ALL) == (before, {})


# Limits ---------------------------------------------------------------------------------------------------------

LIMITED = """\
model_list:
  - model_name: llm
    litellm_params: {model: openai/x, rpm: os.environ/LLM_RPM, tpm: os.environ/LLM_TPM}
"""


def limits(made_: Plan) -> dict[str, Any]:
    assert made_.litellm_config is not None
    params = made_.litellm_config["model_list"][0]["litellm_params"]
    return {name: value for name, value in params.items() if name != "model"}


def test_a_limit_that_is_not_set_is_none(place: Place) -> None:
    place.write(LIMITED, "native.yaml")
    for environ in ({"LLM_RPM": "60"}, {"LLM_RPM": "60", "LLM_TPM": ""}):
        assert place.problems(G, environ) == []
        assert limits(made(place, environ)) == {"rpm": "os.environ/LLM_RPM"}
    assert limits(made(place, {})) == {}
    assert made(place, {}).groups[0].disabled is None
    replicas = "gateway: {litellm_config: native.yaml, replicas: 2}\n"
    assert place.problems(replicas, {}) == [], "nothing is counted"
    assert [problem.path for problem in place.problems(replicas, {"LLM_TPM": "1000"})] == ["gateway.replicas"]


@pytest.mark.parametrize("value", ["sixty", "-1", "1.5", "1e3", "60/min"])
def test_a_limit_is_a_number(place: Place, value: str) -> None:
    place.write(LIMITED, "native.yaml")
    (problem,) = place.problems(G, {"LLM_RPM": value})
    assert str(problem).endswith(
        f"native.yaml:3: model_list[0].litellm_params.rpm: must be a whole number, not {value!r}"
    )
    assert not problem.warning
    place.write(LIMITED.replace("os.environ/LLM_TPM", value), "native.yaml")
    (problem,) = place.problems(G, {})
    assert problem.path == "model_list[0].litellm_params.tpm"


# Addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "fine"),
    [
        ({"model": "openai/x", "api_base": "http://127.0.0.1:8000"}, False),
        ({"model": "openai/x", "api_base": "http://127.0.0.1:8000/"}, False),
        ({"model": "openai/x", "api_base": "http://127.0.0.1:8000/v1"}, True),
        ({"model": "openai/x", "api_base": "http://127.0.0.1:8000/v1/"}, True),
        ({"model": "openai/x", "api_base": "https://example.org/api/paas/v4"}, True),
        ({"model": "openai/x", "api_base": "https://example.org/v1beta/openai/"}, True),
        ({"model": "openai/x", "api_base": "https://v1.example.org"}, False),
        ({"model": "openai/x", "base_url": "https://example.org"}, False),
        ({"model": "openai/x", "api_base": "os.environ/BASE"}, False),
        (
            {"model": "os.environ/MODEL", "custom_llm_provider": "os.environ/PROVIDER", "api_base": "os.environ/BASE"},
            False,
        ),
        ({"model": "hosted_vllm/x", "api_base": "http://127.0.0.1:8000"}, False),
        ({"model": "anthropic/x", "api_base": "https://example.org"}, True),
        ({"model": "openai/x"}, True),
        ({"model": "openai/x", "custom_llm_provider": "azure", "api_base": "https://example.org"}, True),
    ],
)
def test_an_address_without_its_version(place: Place, params: dict[str, str], fine: bool) -> None:
    place.write(yaml.safe_dump({"model_list": [{"model_name": "x", "litellm_params": params}]}), "native.yaml")
    problems = place.problems(G, {"MODEL": "x", "PROVIDER": "openai", "BASE": "https://user:secret@example.org"})
    key = "base_url" if "base_url" in params else "api_base"
    assert [problem.path for problem in problems] == ([] if fine else [f"model_list[0].litellm_params.{key}"])
    assert all(problem.warning and "has no /v1" in problem.message for problem in problems)
    assert "secret" not in str(problems)


@pytest.mark.parametrize(
    ("address", "fine"),
    [
        ("http://127.0.0.1:4000", False),
        ("http://localhost:4000/v1", False),
        ("http://127.0.0.1:4001/v1", True),
        ("https://api.anthropic.com", True),
        ("", True),
    ],
)
def test_a_gateway_that_would_ask_itself(place: Place, address: str, fine: bool) -> None:
    """As it comes about in a shell that has evaluated what ``env`` prints."""
    problems = place.problems("gateway: {port: 4000}\n", {"ANTHROPIC_BASE_URL": address})
    assert [(problem.path, problem.warning) for problem in problems] == ([] if fine else [("gateway", True)])
    assert fine or problems[0].advice == "unset ANTHROPIC_BASE_URL where the daemon is started"
