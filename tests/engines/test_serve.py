"""What `vllm serve` starts beyond one API server, on the real vLLM: several of them, data-parallel ranks, and TLS."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from llm_supervisor.host.process import read_rows
from tests.engines.conftest import ALIAS, Engines, Shared, chat, config
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


def test_an_engine_with_tls_answers_through_the_gateway(shared: Shared, tmp_path: Path) -> None:
    """Its certificate is self-signed and for another name, as such certificates are on loopback."""
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=llm.example.org"
    files = {"ssl-keyfile": str(tmp_path / "tls.key"), "ssl-certfile": str(tmp_path / "tls.crt")}
    command = [*make.split(), "-keyout", files["ssl-keyfile"], "-out", files["ssl-certfile"]]
    subprocess.run(command, check=True, capture_output=True)
    settings = shared.config()
    settings["models"][ALIAS]["vllm"] |= files | {"api-key": ["first", "second"]}
    settings["models"][ALIAS]["served_model_name"] = ["tiny", "tiny-by-another-name"]
    port = settings["models"][ALIAS]["port"]
    with shared.using_config(settings):
        for name in (ALIAS, "tiny-by-another-name"):
            assert chat(shared, name)["usage"]["completion_tokens"] > 0
        probes = shared.program(ALIAS)["probes"]
        assert {"liveness", "catalogue", "canary"} <= probes.keys(), probes
        names = []
        for key in ("first", "second"):
            answer = httpx.get(
                f"https://127.0.0.1:{port}/v1/models",
                headers={"Authorization": f"Bearer {key}"},
                verify=False,
                trust_env=False,
            )
            names += [one["id"] for one in answer.json()["data"]]
        assert names == ["tiny", "tiny-by-another-name"] * 2
        assert httpx.get(f"https://127.0.0.1:{port}/v1/models", verify=False, trust_env=False).status_code == 401
        master = (shared.home / "master_key").read_text().strip()
        gateway = httpx.Client(
            base_url=shared.status()["endpoint"],
            headers={"Authorization": f"Bearer {master}"},
            timeout=60,
            trust_env=False,
        )
        said = {"model": ALIAS, "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
        for path, body in (
            ("/v1/messages", said),
            ("/v1/completions", {"model": ALIAS, "max_tokens": 4, "prompt": "hello"}),
            ("/v1/chat/completions", said | {"stream": True}),
            ("/v1/responses", {"model": ALIAS, "max_output_tokens": 16, "input": "hello"}),
        ):
            answer = gateway.post(path, json=body)
            assert answer.status_code == 200, (path, answer.text)
        leader = int(shared.program(ALIAS)["pid"])
        os.kill(leader, signal.SIGKILL)
        shared.wait_for(lambda: shared.program(ALIAS)["pid"] not in (None, leader), "a restart", 60)
        shared.wait_ready(timeout=120)
        chat(shared)
