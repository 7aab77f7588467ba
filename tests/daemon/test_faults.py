"""Random faults on plain programs: 30 here, 300 in the soak. A seed that fails replays with FAULTS_SEED=N."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import faults
from tests.daemon.harness import Daemon, free_port

SERVED = Path(__file__).parent.parent / "programs/served.py"
SEED = int(os.environ.get("FAULTS_SEED", "20261120"))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    health = {"period": 0.3, "timeout": 0.5, "failure_threshold": 2, "startup_period": 0.1}
    programs = {}
    for name in ("one", "two", "three"):
        port = free_port()
        programs[name] = {
            "command": [sys.executable, "-S", str(SERVED), port],
            "ready": {"http": f"http://127.0.0.1:{port}/"},
            "health": health,
            "restart": {"backoff": 0.2, "intensity": 20},
            "stop": {"grace": 1},
        }
    with Daemon(tmp_path, {"programs": programs}) as running:
        running.wait_ready()
        yield running


@pytest.mark.slow
def test_thirty_random_faults(daemon: Daemon) -> None:
    faults.run(faults.Faults(daemon, ("one", "two", "three"), SEED), 30)


@pytest.mark.soak
def test_three_hundred_random_faults(daemon: Daemon) -> None:
    faults.run(faults.Faults(daemon, ("one", "two", "three"), SEED + 1), 300)
