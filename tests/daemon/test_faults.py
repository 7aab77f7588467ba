"""Random faults on plain programs: 30 here, 300 in the soak. A seed that fails replays with FAULTS_SEED=N."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.harness import Daemon, free_port

SERVED = Path(__file__).parent.parent / "support/programs/served.py"
SEED = int(os.environ.get("FAULTS_SEED", "20261120"))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[faults.Faults]:
    health = {"period": 0.3, "timeout": 0.5, "failure_threshold": 2, "startup_period": 0.1}
    programs: dict[str, object] = {}
    ports = {name: free_port() for name in ("one", "two", "three")}
    for name, port in ports.items():
        programs[name] = {
            "command": [sys.executable, "-S", str(SERVED), port],
            "ready": {"http": f"http://127.0.0.1:{port}/"},
            "health": health,
            "restart": {"backoff": 0, "intensity": 1000},
            "stop": {"grace": 1},
        }
    with faults.small_disk(tmp_path / "home", "48m") as disk, Daemon(tmp_path, {"programs": programs}) as running:
        running.wait_ready()
        yield faults.Faults(running, tuple(ports), SEED, ports=ports, disk=disk)


@pytest.mark.slow
def test_twelve_random_faults(made: faults.Faults) -> None:
    faults.run(made, 12)


@pytest.mark.soak
def test_three_hundred_random_faults(made: faults.Faults) -> None:
    faults.run(replace(made, seed=SEED + 1), 300)
