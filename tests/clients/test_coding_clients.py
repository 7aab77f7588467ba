"""Claude Code, Codex and Gemini CLI each complete a prompt on the local model, set up by what ``env`` prints alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.engines.conftest import Engines, engines
from tests.engines.presets.conftest import running
from tests.support.harness import Daemon

__all__ = ["engines"]

pytestmark = pytest.mark.clients
ROOT = Path(__file__).parent.parent.parent
BIN = ROOT / ".demo/clients/node_modules/.bin"
COMMANDS = {
    "claude-code": ["claude", "-p", "say hello", "--max-turns", "1"],
    "codex": ["codex", "exec", "--skip-git-repo-check", "say hello"],
    "gemini-cli": ["gemini", "--skip-trust", "-p", "say hello"],
}


@pytest.fixture(scope="module")
def daemon(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The preset for them, with the tiny model, whose own configuration is of a shorter context, and who never comes to
    the end of its thinking."""
    tiny = {"hf-overrides": {"text_config": {"max_position_embeddings": 131072}}, "reasoning-parser": None}
    changes = {"model": str(engines.model), "vllm": tiny, "env": {"VLLM_CPU_KVCACHE_SPACE": "2"}}
    with running(
        "coding-clients", tmp_path_factory.mktemp("clients") / "preset", engines, {"coder": changes}
    ) as preset:
        yield preset.daemon


def finished(daemon: Daemon) -> float:
    """Requests that vLLM has answered."""
    page = httpx.get(f"http://127.0.0.1:{daemon.ports[1]}/metrics", trust_env=False).text
    return sum(
        float(found) for found in re.findall(r"^vllm:request_success_total\{.*\} ([0-9.e+]+)$", page, re.MULTILINE)
    )


@pytest.mark.parametrize("client", COMMANDS)
def test_a_prompt_is_completed(daemon: Daemon, client: str, tmp_path: Path) -> None:
    if not (BIN / COMMANDS[client][0]).exists():
        pytest.skip("npm has not installed it: make test-clients")
    home = {**daemon.env, "HOME": str(tmp_path)}
    told = subprocess.run(
        ["llm-supervisor", "env", client, "--json", "--write"], env=home, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    variables = json.loads(told.stdout)["variables"]
    before = finished(daemon)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "dumb", "NO_COLOR": "1", **variables}
    done = subprocess.run(
        [str(BIN / COMMANDS[client][0]), *COMMANDS[client][1:]],
        env=environ, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    print(done.stdout[-2000:], done.stderr[-2000:])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
    assert finished(daemon) > before, "it was the local model that answered"
