"""The daemon over the real vLLM and LiteLLM: an image is answered, and each death of either is healed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.engines.conftest import ALIAS, Engines, alone, config, pasted_curl, run_in_shell
from tests.support.harness import Daemon


def answer(daemon: Daemon) -> str:
    """The text that the pasted curl gets."""
    body = json.loads(run_in_shell(pasted_curl(daemon)))
    assert body["usage"]["completion_tokens"] > 0, body
    return str(body["choices"][0]["message"])


def test_the_pasted_curl_answers_an_image(daemon: Daemon) -> None:
    assert f"Ready: {daemon.status()['endpoint']}/v1" in daemon.stdout()
    assert "data:image/png;base64," in pasted_curl(daemon)
    assert "sk-" not in pasted_curl(daemon), "the key itself is never printed"
    assert answer(daemon)


def test_litellm_starts_beside_vllm(daemon: Daemon) -> None:
    lines = [json.loads(line) for line in daemon.stderr().splitlines() if line.startswith("{")]
    states = [(line["program"], line["state"]) for line in lines if line.get("event") == "state"]
    first_ready = {name: states.index((name, "RUNNING")) for name in (ALIAS, "gateway")}
    assert states.index(("gateway", "STARTING")) < first_ready[ALIAS]
    assert first_ready["gateway"] < first_ready[ALIAS], "LiteLLM is up while vLLM still loads"
    shown = [line for line in daemon.stdout().splitlines() if ALIAS in line]
    assert any("loading weights" in line or "weights loaded" in line for line in shown)


def test_status_of_a_ready_pair(daemon: Daemon) -> None:
    done = daemon.cli("status")
    assert done.returncode == 0
    assert [line.split()[:3] for line in done.stdout.splitlines()[:2]] == [
        [ALIAS, "RUNNING", "ready"],
        ["gateway", "RUNNING", "ready"],
    ]
    status = daemon.status()
    daemon.wait_for(lambda: daemon.status()["models"][0]["ready"], "a request through the gateway")
    ready = {"name": ALIAS, "local": True, "vision": True, "ready": True, "state": "ready", "reason": None}
    assert daemon.status()["models"] == [ready]
    for program in status["programs"]:
        assert program["probes"]["liveness"]["answer"] == "ok"
        assert program["probes"]["catalogue"]["answer"] == "ok"


def test_check_beside_the_running_pair(daemon: Daemon) -> None:
    """What runs is not in its own way."""
    done = daemon.cli("check", "--json")
    answer = json.loads(done.stdout)
    rows = {(row["check"], row["subject"]): row for row in answer["host"]}
    assert (done.returncode, answer["verdict"]) == (0, "fine"), answer
    assert rows["port", ", ".join(map(str, daemon.ports))]["detail"] == "ours already"
    assert {("engine", "vllm"), ("engine", "litellm"), ("model", ALIAS)} <= rows.keys()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, all threads, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def cost_of_a_second(*pids: int) -> list[float]:
    """Milliseconds of CPU that each process uses in a second, in the next quarter of a minute."""
    seconds = 15.0
    before = [cpu_seconds(pid) for pid in pids]
    time.sleep(seconds)
    return [(cpu_seconds(pid) - was) / seconds * 1000 for pid, was in zip(pids, before, strict=True)]


# Asks as often as the defaults do, by the same library, and does nothing else
BARE_PROBES = """
import asyncio, sys, httpx

async def ask(path, period):
    async with httpx.AsyncClient(base_url=sys.argv[1], trust_env=False) as client:
        while True:
            (await client.get(path)).raise_for_status()
            await asyncio.sleep(period)

async def main():
    asked = [("/health", 10), ("/metrics", 10), ("/version", 30)], [("/health", 10), ("/version", 30)]
    await asyncio.gather(*(ask(path, period) for engine in asked for path, period in engine))

asyncio.run(main())
"""


def test_probing_both_engines_costs_next_to_nothing(daemon: Daemon) -> None:
    """DESIGN's budget: at most 2 ms of CPU a second with the defaults, and 64 MiB. What a millisecond is worth depends
    on who else uses the machine: so where bare questions in the same seconds cost more than they should, at most three
    times those (it is twice)."""
    daemon.wait_ready()
    servers = ("ready", "off")  # until then it makes fork servers, which is no probing
    daemon.wait_for(
        lambda: all(
            (one["fork_server"] or {"state": "off"})["state"] in servers for one in daemon.status()["programs"]
        ),
        "the fork servers are made",
    )
    assert daemon.process is not None
    address = f"http://127.0.0.1:{daemon.ports[1]}"
    with subprocess.Popen([sys.executable, "-c", BARE_PROBES, address]) as bare:
        time.sleep(3)  # its imports, and what follows readiness (the route's canary): only kept out of the measurement
        # who else uses the machine may disturb one window, or two: the least disturbed one tells
        for _ in range(3):
            cost, yardstick = cost_of_a_second(daemon.process.pid, bare.pid)
            print(f"probing: {cost:.2f} ms of CPU a second (bare: {yardstick:.2f})")
            if cost <= max(2.0, 3 * yardstick):
                break
        assert bare.poll() is None
        bare.kill()
    memory = Path(f"/proc/{daemon.process.pid}/status").read_text().partition("VmRSS:")[2].split()[0]
    print(f"{int(memory) / 1024:.1f} MiB resident")
    assert yardstick > 0.1, "else it has not asked"
    assert cost <= max(2.0, 3 * yardstick)
    assert int(memory) <= 64 * 1024


@pytest.mark.parametrize("victim", ["litellm", "api server", "VLLM::EngineCor", "VLLM::Worker"])
def test_a_killed_process_is_healed_without_a_hand(daemon: Daemon, victim: str) -> None:
    before = {program["name"]: program for program in daemon.wait_ready()["programs"]}
    old_tree = daemon.tree(ALIAS)
    if victim == "litellm":
        name, pid = "gateway", before["gateway"]["pid"]
    elif victim == "api server":
        name, pid = ALIAS, before[ALIAS]["pid"]
    else:
        name, pid = ALIAS, next(pid for pid, comm in old_tree.items() if comm == victim)
    killed_at = datetime.now(UTC)
    os.kill(pid, signal.SIGKILL)
    daemon.wait(name, timeout=5, restarts=before[name]["restarts"] + 1)
    noticed_at = min(
        datetime.fromisoformat(line["timestamp"])
        for line in daemon.events()
        if line.get("program") == name and line["timestamp"] > killed_at.isoformat()
    )
    assert (noticed_at - killed_at).total_seconds() < 1, "by the kernel's word, not by a probe"
    after = {program["name"]: program for program in daemon.wait_ready(timeout=120)["programs"]}

    assert answer(daemon)
    other = ALIAS if name == "gateway" else "gateway"
    assert after[other]["incarnation"] == before[other]["incarnation"], "the other engine is left alone"
    assert after[name]["incarnation"] != before[name]["incarnation"]
    assert after[name]["restarts"] == before[name]["restarts"] + 1
    assert not daemon.tree(name, before[name]["incarnation"]), "nothing of the older incarnation lives"
    engine_processes = [comm for comm in daemon.tree(ALIAS).values() if comm.startswith("VLLM::")]
    assert sorted(engine_processes) == ["VLLM::EngineCor", "VLLM::Worker"]


def test_a_vllm_that_is_down_leaves_the_gateway_up(daemon: Daemon) -> None:
    gateway = daemon.program("gateway")["incarnation"]
    assert daemon.cli("stop", ALIAS).stdout == f"{ALIAS}: stopped\n"
    (model,) = daemon.status()["models"]
    assert (model["ready"], model["state"]) == (False, "degraded")
    assert model["reason"] == f"{ALIAS} is STOPPED: asked to stop"
    assert daemon.program("gateway")["state"] == "RUNNING"
    assert not daemon.tree(ALIAS, "") or daemon.program(ALIAS)["pid"] is None
    done = daemon.cli("start", ALIAS, timeout=180)
    assert (done.returncode, done.stdout) == (0, f"{ALIAS}: started\n")
    assert daemon.program("gateway")["incarnation"] == gateway
    assert answer(daemon)


def test_ctrl_c_stops_everything_in_order(daemon: Daemon) -> None:
    """Last in this module: the daemon's own fixture then asserts that nothing is left."""
    assert daemon.process is not None
    os.kill(daemon.process.pid, signal.SIGINT)
    assert daemon.process.wait(90) == 0
    lines = [json.loads(line) for line in daemon.stderr().splitlines() if line.startswith("{")]
    stopped = [line["program"] for line in lines if line.get("event") == "state" and line["state"] == "STOPPED"]
    assert stopped[-2:] == ["gateway", ALIAS], "what uses the engine leaves before it"


def test_sigterm_while_an_engine_loads_leaves_nothing(
    engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("loading")
    daemon = Daemon(folder, alone(config(engines), folder))
    with daemon:
        daemon.wait(ALIAS, timeout=60, state="STARTING")
        end = time.monotonic() + 120
        while "VLLM::EngineCor" not in daemon.tree(ALIAS).values():  # it has forked its children: the worst moment
            assert time.monotonic() < end
            time.sleep(0.1)
        assert daemon.program(ALIAS)["state"] == "STARTING"
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(90) == 0
