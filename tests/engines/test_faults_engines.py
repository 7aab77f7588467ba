"""Random faults on the real engines: 6 here, 40 in the soak. A seed that fails replays with FAULTS_SEED=N."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon import faults
from tests.daemon.harness import Daemon
from tests.engines.conftest import ALIAS, Engines, config

SEED = int(os.environ.get("FAULTS_SEED", "20261120"))


@pytest.fixture(scope="module")
def daemon(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    settings: dict[str, Any] = config(engines)
    settings["models"][ALIAS]["health"] = {"period": 1, "stall_grace": 5, "canary_timeout": 5}
    settings["gateway"]["health"] = {"period": 1, "timeout": 3}
    shared = set(os.listdir("/dev/shm"))
    with Daemon(tmp_path_factory.mktemp("faults"), settings) as running:
        running.wait_ready(timeout=300)
        yield running
    assert set(os.listdir("/dev/shm")) <= shared, "dead trees leave nothing in shared memory"


def test_six_random_faults(daemon: Daemon) -> None:
    faults.run(faults.Faults(daemon, (ALIAS, "gateway"), SEED, patience=180), 6)


@pytest.mark.soak
def test_forty_random_faults(daemon: Daemon) -> None:
    faults.run(faults.Faults(daemon, (ALIAS, "gateway"), SEED + 1, patience=180), 40)
