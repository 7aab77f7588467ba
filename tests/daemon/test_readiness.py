"""Ready when it answers, unhealthy when it no longer does, and who leaves before whom."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Make, played, program
from tests.support.harness import Daemon
from tests.support.programs import alive, free_port, open_gate

QUICK = {"period": 0.1, "timeout": 2, "failure_threshold": 2, "startup_period": 0.05, "stall_grace": 0.5}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Programs that are asked how they are; each test has one of its own."""
    folder = tmp_path_factory.mktemp("asked")
    programs = {}
    for name, more in {
        "tcp": {},
        "http": {},
        "worse": {},
        "frozen": {"health": {**QUICK, "timeout": 0.3}, "stop": {"grace": 0.3}},
        "late": {"health": {**QUICK, "startup_budget": 0.5}, "restart": {"backoff": 0, "intensity": 2}},
    }.items():
        port = free_port()
        arguments: list[object] = ["--port", port]
        if name in ("tcp", "http", "late"):
            os.mkfifo(folder / f"{name}.gate")
            arguments += ["--gate", folder / f"{name}.gate"]
        plain = name in ("tcp", "late")
        ready = {"tcp": f"127.0.0.1:{port}"} if plain else {"http": f"http://127.0.0.1:{port}/health"}
        arguments += [] if plain else ["--http"]
        programs[name] = program("listener", *arguments, **{"ready": ready, "health": QUICK, **more})
    with Daemon(folder, {"programs": programs}) as daemon:
        daemon.wait_up()
        yield daemon


@pytest.mark.parametrize("name", ["tcp", "http"])
def test_ready_when_it_answers(asked: Daemon, name: str) -> None:
    seen = asked.wait_for(lambda: asked.program(name).get("probes") and asked.program(name), "it was asked")
    assert (seen["state"], seen["health"]) == ("STARTING", "starting")
    assert seen["probes"]["liveness"]["answer"] == "refused"
    assert asked.call("status", name).returncode == 3
    open_gate(asked.folder / f"{name}.gate")
    seen = asked.wait(name, state="RUNNING", health="ready")
    assert seen["probes"]["liveness"]["answer"] == "ok"
    assert asked.call("status", name).returncode == 0


def test_a_wrong_answer_is_a_reason_to_restart_at_its_threshold(asked: Daemon) -> None:
    before = asked.wait("worse", state="RUNNING", health="ready")
    os.kill(before["pid"], signal.SIGUSR1)  # 503 from now on
    after = asked.wait("worse", state="RUNNING", health="ready", restarts=1)
    assert after["incarnation"] != before["incarnation"]
    reasons = [event["reason"] for event in asked.events() if event.get("state") == "STOPPING"]
    assert any("answers 503" in reason for reason in reasons), reasons


def test_a_frozen_program_is_replaced(asked: Daemon) -> None:
    """It still holds its port, so the kernel accepts for it; nobody answers."""
    before = asked.wait("frozen", state="RUNNING", health="ready")
    os.kill(before["pid"], signal.SIGSTOP)
    after = asked.wait("frozen", state="RUNNING", health="ready", restarts=1)
    assert not alive(before["pid"])
    assert after["pid"] != before["pid"]


def test_a_start_that_takes_too_long(asked: Daemon) -> None:
    seen = asked.wait("late", state="FATAL")
    assert seen["restarts"] == 1
    assert any("not ready within" in str(event) for event in asked.events())


# With engines that are played ---------------------------------------------------------------------------------


def engine_config(engines: dict[str, Any]) -> dict[str, Any]:
    health = {**QUICK, "canary": False}
    common = {"health": health, "restart": {"backoff": 0}, "stop": {"grace": 10}}
    return {
        "gateway": {"port": free_port(), **common},
        "models": {"glm": {"model": "org/glm", "port": free_port(), "vision": True, **common}},
        "engines": engines,
    }


def complete(endpoint: str, key: str) -> str:
    """One completion through the gateway."""
    body = json.dumps({"model": "glm", "messages": []}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{endpoint}/v1/chat/completions", body, headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A gateway, its model, and what they stand on; each test leaves them ready."""
    folder = tmp_path_factory.mktemp("pair")
    config = {"programs": {"redis": program("obedient")}, **engine_config(played(folder))}
    with Daemon(folder, config) as daemon:
        for name in ("glm", "gateway", "redis"):
            daemon.wait(name, state="RUNNING", health="ready")
        yield daemon


def test_a_gateway_and_its_model(pair: Daemon) -> None:
    """What ``run`` prints when all is ready, and the key that it made."""
    status = pair.status()
    assert status["endpoint"] == f"http://127.0.0.1:{pair.ports[0]}"
    (model,) = status["models"]
    assert (model["name"], model["local"], model["vision"], model["ready"]) == ("glm", True, True, True)
    kinds = {one["name"]: one["kind"] for one in status["programs"]}
    assert kinds == {"redis": "command", "glm": "vllm", "gateway": "litellm"}
    text = pair.call("status").stdout
    assert text.splitlines()[-1] == f"{status['endpoint']}/v1  glm"

    key_file = pair.home / "master_key"
    key = key_file.read_text().strip()
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert len(key) > 40
    assert complete(status["endpoint"], key) == f"glm at {pair.program('gateway')['pid']}"
    pair.wait_for(lambda: f"Ready: {status['endpoint']}/v1" in pair.stdout(), "the announcement")
    everything = pair.stdout() + pair.stderr() + json.dumps(status)
    for pid in pair.children():
        everything += Path(f"/proc/{pid}/cmdline").read_text()
    everything += (pair.runtime / "litellm_config.yaml").read_text() + (pair.runtime / "state.json").read_text()
    assert key not in everything, "it goes by environment, and by nothing else"
    assert str(key_file) in pair.stdout(), "the curl reads it from its file"


def test_the_gateway_is_replaced_without_a_refused_connection(pair: Daemon) -> None:
    """Its listening socket is the daemon's: clients queue in it."""
    endpoint = pair.status()["endpoint"]
    key = (pair.home / "master_key").read_text().strip()
    before = pair.program("gateway")
    model = pair.program("glm")["incarnation"]
    os.kill(before["pid"], signal.SIGKILL)
    answered = complete(endpoint, key)
    after = pair.wait("gateway", state="RUNNING", health="ready", restarts=before["restarts"] + 1)
    assert answered == f"glm at {after['pid']}"
    assert pair.program("glm")["incarnation"] == model, "the model is left alone"


def test_a_models_death_is_nothing_to_the_gateway(pair: Daemon) -> None:
    gateway = pair.program("gateway")["incarnation"]
    before = pair.program("glm")["restarts"]
    assert pair.call("stop", "glm").stdout == "glm: stopped\n"
    assert pair.status()["models"][0]["ready"] is False
    done = pair.call("status")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"{pair.status()['endpoint']}/v1  glm (not ready)")
    assert pair.call("start", "glm").stdout == "glm: started\n"
    os.kill(pair.program("glm")["pid"], signal.SIGKILL)
    pair.wait("glm", state="RUNNING", health="ready", restarts=before + 2)
    assert pair.program("gateway")["incarnation"] == gateway


def test_a_stopped_gateway_refuses_its_clients(pair: Daemon) -> None:
    """They are not left in a backlog that nobody accepts."""
    endpoint = pair.status()["endpoint"]
    pair.call("stop", "gateway")
    with pytest.raises(OSError, match="refused"):
        complete(endpoint, "x")
    assert pair.call("start", "gateway").returncode == 0
    key = (pair.home / "master_key").read_text().strip()
    assert complete(endpoint, key).startswith("glm at ")


def test_a_port_that_is_taken_while_a_model_is_down_is_waited_for(pair: Daemon) -> None:
    """Not a strike: it says who holds it, and starts when it is free."""
    port = pair.ports[1]
    pair.call("stop", "glm")
    with socket.create_server(("127.0.0.1", port)):
        done = pair.call("start", "glm")
        assert done.returncode == 1
        assert f"port {port} is taken" in done.stderr
        assert f"pid {os.getpid()} (" in done.stderr
        assert pair.program("glm")["state"] in ("BACKOFF", "STARTING", "STOPPING")
    pair.wait("glm", state="RUNNING", health="ready")


def test_what_uses_others_leaves_before_them(pair: Daemon) -> None:
    """Last of those with this daemon: the fixture then asserts that nothing is left."""
    assert pair.end() == 0
    stopped = [
        event["program"] for event in pair.events() if event.get("event") == "state" and event["state"] == "STOPPED"
    ]
    assert stopped[-3:] == ["gateway", "glm", "redis"], "what uses others leaves before them"
    assert not (pair.runtime / "litellm_config.yaml").exists()


@pytest.mark.parametrize("way", ["given", "kept"])
def test_a_master_key_of_ones_own(make: Make, engines: dict[str, Any], way: str) -> None:
    environ = {"LITELLM_MASTER_KEY": "sk-own"} if way == "given" else {}
    daemon = make({}, start=False, env=environ, **engine_config(engines))
    if way == "kept":
        daemon.home.mkdir()
        (daemon.home / "master_key").write_text("sk-own\n")
    daemon.start()
    daemon.wait("gateway", state="RUNNING", health="ready")
    assert complete(daemon.status()["endpoint"], "sk-own").startswith("glm at ")
    assert (daemon.home / "master_key").exists() == (way == "kept")
