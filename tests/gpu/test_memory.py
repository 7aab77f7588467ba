"""A real process tree that holds real GPU memory: its leader is killed, the rest is swept, the memory waited for.

Needs NVML with a GPU, and torch with CUDA in this interpreter; says so and skips elsewhere. (The project's own
environment has no torch: run it with one that has, with this project on its path.)
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import pytest

from llm_supervisor.core.gpu_memory import Ended, held
from llm_supervisor.host import gpu
from llm_supervisor.host.output import reader as output_reader
from llm_supervisor.host.output.pump import Pump, make_fifo
from llm_supervisor.host.process import COOKIE, Child, Tree, become_subreaper, find, read_rows, signal_process, spawn

torch = pytest.importorskip("torch", reason="torch is not in this environment")
GPUS = gpu.detect()
pytestmark = pytest.mark.skipif(
    GPUS.memory(0) is None or not torch.cuda.is_available(), reason="no NVIDIA GPU that NVML and torch can use"
)

GIB = 1024 * gpu.MIB
HOLD = 4  # GiB
# A leader whose child leaves the session, ignores SIGTERM and holds the memory
HOLDER = f"""
import os, signal, sys, time
pid = os.fork()
if pid == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    import torch
    held = torch.ones({HOLD} * 2**30, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    print("held", os.getpid(), flush=True)
time.sleep(600)
"""


def held_by(tmp: Path) -> str:
    """What the log says so far."""
    return b"\n".join(output_reader.tail(tmp / "logs/holder", 50)[0]).decode()


def test_a_headless_tree_gives_its_memory_back(tmp_path: Path) -> None:
    become_subreaper()
    before = GPUS.memory(0)
    assert before is not None
    pump = Pump(tmp_path / "logs")
    pump.start()
    pump.add("holder", make_fifo(tmp_path / "fifo", 1 << 18))
    at = os.stat(tmp_path / "fifo")
    cookie = f"holder/{uuid.uuid4().hex}"
    pid = spawn([sys.executable, "-c", HOLDER], {**os.environ, COOKIE: cookie}, output=tmp_path / "fifo")
    leader = Child.open(pid)
    assert leader is not None
    tree = Tree(cookie, (pid, leader.identity.started), (at.st_dev, at.st_ino), {(pid, leader.identity.started)})
    try:
        end = time.monotonic() + 120
        while "held" not in held_by(tmp_path):
            assert time.monotonic() < end, held_by(tmp_path)
            time.sleep(0.1)
        tree.look(read_rows())
        during = GPUS.memory(0)
        assert during is not None
        assert during.used >= before.used + HOLD * GIB

        leader.signal(signal.SIGKILL)
        pids = frozenset({row.pid for row in find(tree)} | {leader.pid})
        judge = partial(held, 0, ended=Ended(before.nobodys(), pids))
        late = asyncio.run(gpu.wait_for_memory(GPUS, {0: judge}, patience=2))
        assert late, "the child lives on, and holds it"

        began = time.monotonic()
        while left := find(tree):
            for row in left:
                signal_process(row.pid, row.started, signal.SIGKILL)
            time.sleep(0.01)
        assert asyncio.run(gpu.wait_for_memory(GPUS, {0: judge}, patience=60)) == []
        print(f"memory back and flat {time.monotonic() - began:.2f} s after the kill")
    finally:
        for row in find(tree):
            signal_process(row.pid, row.started, signal.SIGKILL)
        leader.reap()
        pump.stop()
