"""The dry run of LiteLLM's loading, on a stand-in for LiteLLM: what it may do, what is named, and where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.engines.inside import litellm_dry_run as dry

SCRIPT = dry.__file__
CONFIG: dict[str, Any] = {
    "model_list": [
        {"model_name": "a", "litellm_params": {"model": "openai/a"}},
        {"model_name": "presidio", "litellm_params": {"model": "nosuch/b"}},
    ],
    "litellm_settings": {"callbacks": ["prometheus", "billing.handler"], "cache": True, "max_budget": "lots"},
    "router_settings": {"routing_strategy": "round-robin", "nonsense": 1, "enable": True},
    "guardrails": [{"guardrail_name": "pii", "litellm_params": {"guardrail": "presidio"}}],
}
PLACES = [
    ("It is wrong. Check 'router_settings.routing_strategy'", [], "router_settings.routing_strategy"),
    ("Invalid routing_strategy: 'round-robin'", [], "router_settings.routing_strategy"),
    ("Could not import handler from billing", [], "litellm_settings.callbacks.1"),
    ("Key 'nonsense' is not a valid argument", [], "router_settings.nonsense"),
    ("`enable` wants a licence", [], "router_settings.enable"),
    ("could not convert string to float: 'lots'", [], "litellm_settings.max_budget"),
    ("Missing PRESIDIO_X from environment", [("", "x"), ("guardrail_name", "pii")], "guardrails.0.guardrail_name"),
    ("LLM Provider NOT provided. You passed model=nosuch/b Pass model", [], "model_list.1.litellm_params.model"),
    ("no redis", [], "litellm_settings.cache"),
    ("something is wrong", [], None),
]


@pytest.mark.parametrize(("text", "hints", "where"), PLACES, ids=[row[0][:40] for row in PLACES])
def test_the_place_that_a_complaint_is_about(text: str, hints: list[dry.Hint], where: str | None) -> None:
    found = dry.place(CONFIG, text, hints)
    assert (None if found is None else ".".join(map(str, found))) == where


def test_places_stay_right_where_parts_are_gone() -> None:
    gone: list[dry.Where] = [["a", 1], ["a", 0], ["b"]]
    whole = {"a": [0, 1, {"c": 2}, 3], "b": 4}
    assert dry.without(whole, gone) == {"a": [{"c": 2}, 3]}
    assert dry.restored(["a", 0, "c"], gone) == ["a", 2, "c"]
    assert dry.restored(["a", 1], gone) == ["a", 3]
    assert dry.unit(["guardrails", 0, "litellm_params", "guardrail"]) == ["guardrails", 0]
    assert dry.unit(["general_settings", "allowed_ips", "x"]) == ["general_settings", "allowed_ips"]


# Plays litellm: what a setting `do` says, it does when it loads
LITELLM = """
import json, logging, os, socket, subprocess, sys
provider_list = ["openai", "anthropic"]
class Config:
    async def load_config(self, router, config_file_path):
        config = json.load(open(config_file_path))
        log = logging.getLogger("LiteLLM Proxy")
        for do in config.get("do", []):
            if do == "raise": raise ValueError("the value 'raise' is wrong")
            if do == "more": raise ImportError("Could not import b from more.a")
            if do == "key": os.environ["NOT_THERE"]
            if do == "connect": socket.create_connection(("127.0.0.1", 9), 1)
            if do == "quietly":
                try: socket.create_connection(("127.0.0.1", 9), 1)
                except OSError as error: log.error("no connection: %s", error)
            if do == "write": open(os.environ["ELSEWHERE"], "w")
            if do == "start": subprocess.run(["true"])
            if do == "module": __import__("beside")
            if do == "skip": log.error("Skipping guardrail '%s': WITHOUT it", "skip")
            if do == "chat": log.warning("nothing to see")
        class Router: model_list = config.get("model_list", [])
        return Router, None, {}
class proxy: pass
"""
PROXY = "from litellm import Config\nproxy_config = Config()\nredis_usage_cache = None\n"


def ask(folder: Path, *do: str, **environ: str) -> dict[str, Any]:
    """What the script says of a configuration; no file is left behind by it."""
    package = folder / "site-packages" / "litellm" / "proxy"
    package.mkdir(parents=True, exist_ok=True)
    (package.parent / "__init__.py").write_text(LITELLM)
    (package / "__init__.py").write_text("")
    (package / "proxy_server.py").write_text(PROXY)
    beside = folder / "beside"
    beside.mkdir(exist_ok=True)
    (beside / "beside.py").write_text("")
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    env = {"PYTHONPATH": str(package.parent.parent), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1", **environ}
    question = json.dumps({"config": {"do": list(do)}, "modules": str(beside)}).encode()
    done = subprocess.run([sys.executable, "-S", SCRIPT], input=question, capture_output=True, timeout=60, env=env)
    assert os.listdir(scratch) == [] and sorted(os.listdir(beside)) == ["beside.py"], done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_file_that_is_fine(tmp_path: Path) -> None:
    found = ask(tmp_path, "chat", "module")
    assert (found["refused"], found["said"]) == ([], [])
    assert found["providers"] == ["anthropic", "openai"]
    assert str(tmp_path / "beside" / "beside.py") in found["files"]


def test_everything_that_ends_the_start_is_named_at_once(tmp_path: Path) -> None:
    found = ask(tmp_path, "chat", "raise", "key")
    assert [(one["text"], one["where"]) for one in found["refused"]] == [
        ("the value 'raise' is wrong", ["do", 1]),
        ("the variable NOT_THERE is not set", []),
    ]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    assert [one["where"] for one in ask(tmp_path, "skip")["said"]] == [["do", 0]]


@pytest.mark.parametrize("do", ["connect", "write", "start"])
def test_what_a_dry_run_must_not_do_proves_nothing(tmp_path: Path, do: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    found = ask(tmp_path, do, ELSEWHERE=str(elsewhere))
    assert found["refused"] == [] and len(found["kept_from"]) == 1
    assert not elsewhere.exists()


def test_a_complaint_about_the_missing_network_is_none(tmp_path: Path) -> None:
    found = ask(tmp_path, "quietly")
    assert (found["refused"], found["said"]) == ([], [])
