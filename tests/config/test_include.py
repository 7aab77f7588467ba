"""LiteLLM's own file in several files, and Python modules beside it."""

from __future__ import annotations

from pathlib import Path

import yaml

from llm_supervisor.config import Config, keep, plan, restore
from llm_supervisor.config.plan import Plan
from llm_supervisor.config.specs import Pythons
from tests.config.conftest import Place

G = "gateway: {litellm_config: litellm/native.yaml}\n"
FILES = {
    "native.yaml": """\
include: [a.yaml, sub/b.yaml]
model_list:
  - {model_name: one, litellm_params: {model: openai/one}}
litellm_settings: {drop_params: true, callbacks: beside.handler}
general_settings: {a: 1, b: 2}
""",
    "a.yaml": """\
include: [native.yaml, sub/b.yaml]
model_list:
  - {model_name: two, litellm_params: {model: openai/two, api_key: os.environ/TWO}}
general_settings: {c: 3}
""",
    # the first is beside it, the second beside the first file, and the third is read already
    "sub/b.yaml": "include: [c.yaml, d.yaml, ../a.yaml]\nrouter_settings: {num_retries: 1}\n",
    "sub/c.yaml": "# nothing\n",
    "c.yaml": "model_list: [{model_name: wrong-one, litellm_params: {model: openai/wrong}}]\n",
    "d.yaml": """\
model_list: [{model_name: three, litellm_params: {model: openai/three}}]
router_settings: {timeout: 5}
""",
}


def made(config: Config) -> Plan:
    return plan(config, runtime=Path("/run/x"), pythons=Pythons("v", "l", vllm_cpu=False), master_key="k")


def test_files_that_are_included_are_one_with_it(place: Place) -> None:
    for name, text in FILES.items():
        place.write(text, f"litellm/{name}")
    config = place.load(G, {"TWO": "x"})
    merged = {
        "model_list": [
            {"model_name": "one", "litellm_params": {"model": "openai/one"}},
            {"model_name": "two", "litellm_params": {"model": "openai/two", "api_key": "os.environ/TWO"}},
            {"model_name": "three", "litellm_params": {"model": "openai/three"}},
        ],
        "litellm_settings": {"drop_params": True, "callbacks": "beside.handler"},
        "general_settings": {"c": 3},
        "router_settings": {"timeout": 5},
    }
    assert config.native == merged
    assert config.warnings == ()
    assert [group.name for group in made(config).groups] == ["one", "two", "three"]
    (warning,) = place.load(G).warnings
    assert (warning.file, warning.line) == (str(place.folder / "litellm/a.yaml"), 3)
    assert warning.path == "model_list[1].litellm_params.api_key"
    for file in (place.folder / "litellm").rglob("*.yaml"):
        file.unlink()
    assert restore(keep(config), {"TWO": "x"}).native == merged


def test_modules_beside_it_are_found(place: Place) -> None:
    """LiteLLM looks beside the file that is made for it, and then where Python looks."""
    for name, text in FILES.items():
        place.write(text, f"litellm/{name}")
    plan_ = made(place.load(G, {"TWO": "x"}))
    argv = plan_.programs["gateway"].spec.launch.argv
    assert argv[argv.index("--modules") + 1] == str(place.folder / "litellm")
    assert plan_.litellm_config is not None
    # as a list: one by itself would take the place of ours
    assert plan_.litellm_config["litellm_settings"]["callbacks"] == ["beside.handler"]
    assert "include" not in plan_.litellm_config
    assert "--modules" not in made(place.load("gateway: {}\n")).programs["gateway"].spec.launch.argv
    assert yaml.safe_load(yaml.safe_dump(plan_.litellm_config)) == plan_.litellm_config
