"""Random faults on the real engines: 6 here, 40 in the soak. A seed that fails replays with FAULTS_SEED=N."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.engines.conftest import ALIAS, Engines, config
from tests.support import faults
from tests.support.harness import Daemon

SEED = int(os.environ.get("FAULTS_SEED", "20261120"))


@pytest.fixture(scope="module")
def made(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[faults.Faults]:
    settings: dict[str, Any] = config(engines)
    settings["models"][ALIAS]["health"] = {"period": 1, "stall_grace": 5, "canary_timeout": 5}
    settings["gateway"]["health"] = {"period": 1, "timeout": 3}
    ports = {ALIAS: settings["models"][ALIAS]["port"]}
    shared = set(os.listdir("/dev/shm"))
    folder = tmp_path_factory.mktemp("faults")
    with faults.small_disk(folder / "home", "64m") as disk, Daemon(folder, settings) as running:
        running.wait_ready(timeout=300)
        yield faults.Faults(running, (ALIAS, "gateway"), SEED, patience=180, ports=ports, disk=disk)
    # but for a semaphore that nobody has mapped: it is removed ten minutes later, when it is certain that nobody will
    left = {name for name in os.listdir("/dev/shm") if not name.startswith("sem.mp-")} - shared
    assert not left, "dead trees leave nothing in shared memory"


def test_six_random_faults(made: faults.Faults) -> None:
    faults.run(made, 6)


@pytest.mark.soak
def test_forty_random_faults(made: faults.Faults) -> None:
    faults.run(replace(made, seed=SEED + 1), 40)
