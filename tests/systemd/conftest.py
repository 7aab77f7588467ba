"""One systemd for all tests here, and a clean start for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.systemd.box import NoSystemd
from tests.support.systemd.machine import Machine, a_machine


@pytest.fixture(scope="session")
def booted() -> Iterator[Machine]:
    try:
        with a_machine() as machine:
            yield machine
    except NoSystemd as no:
        pytest.skip(f"no systemd can be booted: {no}")


@pytest.fixture
def machine(booted: Machine) -> Iterator[Machine]:
    """A running systemd in which nothing of ours is left from another test."""
    try:
        yield booted
    finally:
        booted.inside("reset")
