"""What `vllm serve` starts beyond one API server, on the real vLLM: several of them, data-parallel ranks, and TLS."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from llm_supervisor.host.process import read_rows
from tests.engines.conftest import ALIAS, Engines, chat, config
from tests.support.harness import Daemon


def tree(daemon: Daemon) -> dict[str, int]:
    """The processes of the engine by what they call themselves, the leader as `leader`."""
    leader = int(daemon.program(ALIAS)["pid"])
    rows = read_rows()
    ours = {leader}
    while more := {pid for pid, row in rows.items() if row.ppid in ours} - ours:
        ours |= more
    found = {"leader": leader}
    for pid in ours - {leader}:
        if rows[pid].comm.startswith("VLLM::"):  # the whole name is longer than the kernel keeps there
            title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()
            found[title.removeprefix("VLLM::")] = pid
    return found


def kill_each(daemon: Daemon, expected: set[str]) -> None:
    """Kill each process in turn; after each, the engine is ready again, whole and new, and answers."""
    daemon.wait_for(lambda: (daemon.program(ALIAS)["fork_server"] or {}).get("state") == "ready", "a fork server", 120)
    assert tree(daemon).keys() >= expected
    for name in list(tree(daemon)):
        before, restarts = tree(daemon), int(daemon.program(ALIAS)["restarts"])
        os.kill(before[name], signal.SIGKILL)
        daemon.wait_for(lambda n=restarts: int(daemon.program(ALIAS)["restarts"]) > n, f"a restart after {name}", 60)
        daemon.wait_ready(timeout=180)
        after = tree(daemon)
        assert after.keys() == before.keys(), name
        assert not set(after.values()) & set(before.values()), f"all are new after the loss of {name}"
        assert daemon.program(ALIAS)["started"] == "warm"
        chat(daemon)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("option", "expected"),
    [
        pytest.param(
            "api-server-count", {"leader", "APIServer_0", "APIServer_1", "EngineCore", "Worker"}, id="servers"
        ),
        pytest.param("data-parallel-size", {"leader", "APIServer_0", "APIServer_1"}, id="ranks"),
    ],
)
def test_every_process_of_a_larger_engine_is_a_part_of_it(
    engines: Engines, tmp_path: Path, option: str, expected: set[str]
) -> None:
    settings = config(engines)
    settings["models"][ALIAS]["vllm"][option] = 2
    settings["models"][ALIAS]["warm"] = "full"
    settings["models"][ALIAS]["env"] = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with Daemon(tmp_path, settings) as running:
        running.wait_ready(timeout=300)
        chat(running)
        kill_each(running, expected)
