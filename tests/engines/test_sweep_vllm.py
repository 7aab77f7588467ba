"""The sweep on a real vLLM: its leader is killed, and each trace alone, and all but each, finds the rest."""

from __future__ import annotations

import os
import re
import signal
import stat
import time
import urllib.request
import uuid
from pathlib import Path

import pytest

from llm_supervisor.engines.vllm import process as vllm_process
from llm_supervisor.host import scratch
from llm_supervisor.host.output import reader as output_reader
from llm_supervisor.host.output.pump import Pump, make_fifo
from llm_supervisor.host.process import (
    ALL_SOURCES,
    COOKIE,
    Child,
    Source,
    Tree,
    become_subreaper,
    find,
    read_rows,
    reap_strangers,
    signal_process,
    spawn,
)
from tests.engines.conftest import Engines
from tests.support.harness import free_port


def is_litter(name: str) -> bool:
    """Whether it is a file of the kind that a killed vLLM leaves."""
    return name.startswith("vllm_dist_") or re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) is not None


def healthy(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_engine_core_and_worker_are_found_by_what_is_left(engines: Engines, tmp_path: Path) -> None:
    become_subreaper()
    port, cookie = free_port(), f"tiny/{uuid.uuid4().hex}"
    pump = Pump(tmp_path / "logs")
    pump.start()
    pipe = make_fifo(tmp_path / "fifo", 1 << 20)
    pump.add("tiny", pipe)
    at = os.stat(tmp_path / "fifo")
    there = set(os.listdir("/tmp"))
    folder = scratch.make(os.environ, cookie)
    options = {"enforce-eager": True, "dtype": "bfloat16", "max-model-len": 2048}
    env = {
        **os.environ,
        **vllm_process.environment(gpus=(), api_keys=(), cpu=True, offline=True),
        **scratch.variables(folder, os.environ),
        COOKIE: cookie,
    }
    argv = vllm_process.argv(str(engines.vllm), str(engines.model), ["tiny"], port, options, 30)
    pid = spawn(argv, env, output=tmp_path / "fifo")
    leader = Child.open(pid)
    assert leader is not None
    tree = Tree(cookie, (pid, leader.identity.started), (at.st_dev, at.st_ino), {(pid, leader.identity.started)})
    try:
        end = time.monotonic() + 180
        while not healthy(port):
            assert time.monotonic() < end, output_reader.tail(tmp_path / "logs/tiny", 30)[0]
            time.sleep(0.2)
        sockets = [os.stat(folder / name).st_mode for name in os.listdir(folder)]
        tree.look(read_rows())  # as the daemon does while it lives
        assert leader.signal(signal.SIGKILL)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < end
            time.sleep(0.01)
        wanted = {"VLLM::EngineCor", "VLLM::Worker"}
        assert wanted <= {row.comm for row in find(tree)}, "they live on without their leader"
        for source in ALL_SOURCES - {Source.CGROUP}:  # it has none of its own here
            alone = {row.comm for row in find(tree, frozenset({source}))}
            assert wanted <= alone, f"by {source} alone: {alone}"
            without = {row.comm for row in find(tree, ALL_SOURCES - {source})}
            assert wanted <= without, f"without {source}: {without}"
        assert len(ALL_SOURCES) == len(Source) == 5
    finally:
        for _ in range(200):
            left = find(tree)
            if not left:
                break
            for row in left:
                signal_process(row.pid, row.started, signal.SIGKILL)
            time.sleep(0.05)
        leader.reap()
        reap_strangers(())
        pump.stop()
        litter = os.listdir(folder)
        scratch.remove(folder, cookie)
    assert not find(tree)
    assert any(stat.S_ISSOCK(mode) for mode in sockets), f"its sockets are not where they should be: {litter}"
    assert not folder.exists()
    fresh = {name for name in set(os.listdir("/tmp")) - there if is_litter(name)}
    assert not fresh, "what it leaves is in its folder, and goes with that"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
