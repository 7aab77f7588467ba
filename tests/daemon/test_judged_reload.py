"""A reload asks the installed vLLM about the values of its options before it is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.fakes import VLLM, litellm_python, scenario
from tests.support.harness import Daemon, free_port

pytestmark = pytest.mark.slow

COMPLAINT = {"options": ["max-model-len"], "keys": [], "text": "it is more than the model takes", "choices": []}


def environment(folder: Path) -> Path:
    """A played vLLM's environment, which refuses every max-model-len of 999999."""
    (folder / "lib/python3.11/site-packages/vllm").mkdir(parents=True)
    (folder / "bin").mkdir()
    python = folder / "bin/python"
    python.write_text(
        f"""#!/bin/sh
case "$1" in
*judge_vllm_options.py) if grep -q 999999; then echo '{json.dumps([COMPLAINT])}'; else echo '[]'; fi;;
*) exec "{VLLM}" "$@";;
esac
"""
    )
    python.chmod(0o755)
    return python


def test_what_vllm_refuses_is_not_taken(tmp_path: Path) -> None:
    health = {"period": 0.3, "startup_period": 0.05, "canary": False}
    model = {
        "model": "nobody/nothing",
        "port": free_port(),
        "warm": "off",
        "health": health,
        "env": {"FAKE_VLLM": scenario(start=0)},
        "vllm": {"max-model-len": 4096},
    }
    python = environment(tmp_path / "vllm")
    settings = {
        "gateway": {"port": free_port(), "warm": "off", "health": health, "restart": {"backoff": 0}},
        "engines": {"vllm": {"python": str(python)}, "litellm": {"python": str(litellm_python(tmp_path))}},
        "models": {"one": model},
    }
    with Daemon(tmp_path, settings) as daemon:
        daemon.wait_ready()
        before = daemon.program("one")["pid"]
        model["vllm"] = {"max-model-len": 999999}
        daemon.write(settings)
        done = daemon.cli("reload", "--json")
        assert done.returncode != 0
        (problem,) = json.loads(done.stdout)["problems"]
        assert "models.one.vllm.max-model-len: vLLM refuses it: it is more than the model takes" in problem
        assert daemon.program("one")["pid"] == before
        model["vllm"] = {"max-model-len": 8192}
        daemon.write(settings)
        assert daemon.cli("reload").returncode == 0
        assert daemon.program("one")["pid"] != before
