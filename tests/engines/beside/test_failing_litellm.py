"""Real failures, provoked on the real LiteLLM: each is named, and FATAL after one attempt where it is for good."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines.conftest import Engines, cold, config
from tests.support.harness import Daemon, free_port

UNSET = "os.environ/NOT_SET_X"
GATEWAY_CASES = {
    "weak-key": ({}, {"LITELLM_MASTER_KEY": "sk-1234"}, 2, "known default"),
    "broken-yaml": ("model_list: [\n", {}, 2, "is not valid YAML"),
    "empty-file": ("", {}, 2, "is empty"),
    "missing-file": (None, {}, 2, "no such file"),
    "unset-key": (
        {"litellm_settings": {"cache": True, "cache_params": {"type": "redis", "host": UNSET}}}, {}, 2, "NOT_SET_X",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GATEWAY_CASES)
def test_a_wrong_gateway_is_refused_before_it_starts(engines: Engines, tmp_path: Path, name: str) -> None:
    native, env, code, says = GATEWAY_CASES[name]
    settings = config(engines)
    del settings["models"]
    settings["gateway"]["litellm_config"] = "litellm.yaml"
    if native is not None:
        text = native if isinstance(native, str) else yaml.safe_dump(native or {"litellm_settings": {}})
        (tmp_path / "litellm.yaml").write_text(text)
    with Daemon(tmp_path, settings, env=env) as daemon:
        assert daemon.process is not None
        assert daemon.process.wait(30) == code
        assert says in daemon.stderr()
        assert "Traceback" not in daemon.stderr()


def gateway_daemon(engines: Engines, folder: Path, native: dict[str, Any], env: dict[str, str] | None = None) -> Daemon:
    settings: dict[str, Any] = cold(config(engines))
    del settings["models"]
    settings["gateway"] |= {"litellm_config": "litellm.yaml", "env": env or {}}
    (folder / "litellm.yaml").write_text(yaml.safe_dump(native))
    return Daemon(folder, settings)


def test_an_unknown_provider_is_named(engines: Engines, tmp_path: Path) -> None:
    entry = {"model_name": "x", "litellm_params": {"model": "no-such-provider/x", "api_key": "none"}}
    with gateway_daemon(engines, tmp_path, {"model_list": [entry]}) as daemon:
        seen = daemon.wait("gateway", timeout=60, health="degraded")
        assert "x is missing" in seen["reason"], "LiteLLM drops it without a word"
        assert seen["restarts"] == 0


def test_a_database_that_is_not_there(engines: Engines, tmp_path: Path) -> None:
    url = f"postgresql://user:secret-word@127.0.0.1:{free_port()}/litellm"
    with gateway_daemon(engines, tmp_path, {"litellm_settings": {}}, {"DATABASE_URL": url}) as daemon:
        daemon.wait_up()
        daemon.wait_for(lambda: daemon.program("gateway")["state"] in ("RUNNING", "FATAL", "BACKOFF"), "its end", 90)
        seen = daemon.program("gateway")
        # without prisma in its environment LiteLLM says so; with it, it waits for the database
        assert seen["failure"]["kind"] in ("database_driver_missing", "database_unreachable"), seen
        assert "secret-word" not in json.dumps(seen)
        assert "secret-word" not in daemon.cli("explain", "gateway").stdout


def test_a_redis_that_is_not_there_is_named_and_taken_when_it_is(engines: Engines, tmp_path: Path) -> None:
    """LiteLLM serves without it: so it is left alone, and its health says what does not work."""
    port = free_port()
    cache = {"type": "redis", "host": "127.0.0.1", "port": port}
    with gateway_daemon(engines, tmp_path, {"litellm_settings": {"cache": True, "cache_params": cache}}) as daemon:
        seen = daemon.wait("gateway", timeout=90, state="RUNNING", health="degraded")
        assert "redis" in seen["reason"] and f"127.0.0.1:{port} refuses connections" in seen["reason"]
        assert daemon.cli("status").returncode == 3
        with socket.socket() as redis:
            redis.bind(("127.0.0.1", port))
            redis.listen()
            seen = daemon.wait("gateway", timeout=30, health="ready")
        assert seen["restarts"] == 0
    said = subprocess.run(
        [sys.executable, "-m", "llm_supervisor.cli", "diagnose", "--component", "litellm"],
        input=daemon.log("gateway"), capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads(said)["kind"] in ("none", "redis_unreachable"), "no failure of LiteLLM's"


def test_a_missing_package_is_named(engines: Engines, tmp_path: Path) -> None:
    with gateway_daemon(
        engines, tmp_path, {"litellm_settings": {"callbacks": ["a_missing_package.handler"]}}
    ) as daemon:
        seen = daemon.wait("gateway", timeout=90, state="FATAL")
        assert seen["failure"]["permanent"] is True
        assert "a_missing_package" in seen["failure"]["summary"]
        assert "install it" in seen["failure"]["advice"]
        assert seen["restarts"] == 0
