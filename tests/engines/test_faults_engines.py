"""Random faults on the real engines: 3 here, 40 in the soak. A seed that fails replays with FAULTS_SEED=N."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import ALIAS, Engines, Shared, config, in_shared_memory
from tests.support import faults
from tests.support.harness import Daemon
from tests.support.programs import until

SEED = int(os.environ.get("FAULTS_SEED", "20261120"))


def with_little_patience(settings: dict[str, Any]) -> dict[str, Any]:
    settings["models"][ALIAS]["health"] = {"period": 1, "stall_grace": 5, "canary_timeout": 5}
    settings["gateway"]["health"] = {"period": 1, "timeout": 3}
    return settings


def made(daemon: Daemon, settings: dict[str, Any], seed: int, disk: Path | None = None) -> faults.Faults:
    ports = {ALIAS: settings["models"][ALIAS]["port"]}
    return faults.Faults(daemon, (ALIAS, "gateway"), seed, patience=180, ports=ports, disk=disk)


def test_three_random_faults(shared: Shared) -> None:
    settings = with_little_patience(shared.config())
    with shared.using_config(settings):
        faults.run(made(shared, settings, SEED), 3)


@pytest.mark.soak
def test_forty_random_faults(engines: Engines, tmp_path: Path) -> None:
    """With a disk that is full now and then."""
    settings = with_little_patience(config(engines))
    before = in_shared_memory()
    with faults.small_disk(tmp_path / "home", "64m") as disk, Daemon(tmp_path, settings) as daemon:
        daemon.wait_ready(timeout=300)
        faults.run(made(daemon, settings, SEED + 1, disk), 40)
    # but for a semaphore that nobody has mapped: it is removed ten minutes later, when it is certain that nobody will
    until(lambda: not in_shared_memory() - before, "dead trees leave nothing in shared memory", 10)
