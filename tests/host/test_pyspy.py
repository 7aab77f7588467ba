"""Where a process stands, as py-spy sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from llm_supervisor.host import pyspy
from llm_supervisor.host.process import read_row
from tests.support.programs import until

STANDS = """
import sys, time
def where_it_stands():
    print("here", flush=True)
    time.sleep(600)
where_it_stands()
"""


@pytest.fixture
def standing() -> Iterator[int]:
    """A process that stands in a function of a known name."""
    child = subprocess.Popen([sys.executable, "-c", STANDS], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield child.pid
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("stopped", [False, True])
def test_it_shows_the_function(standing: int, stopped: bool) -> None:
    assert pyspy.tool() is not None, "py-spy is among what the tests need"
    if stopped:
        os.kill(standing, signal.SIGSTOP)
        until(lambda: (row := read_row(standing)) is not None and row.state == "T", "it is stopped")
    text = asyncio.run(pyspy.dump([standing]))
    assert "where_it_stands" in text
    assert str(standing) in text


def test_who_is_gone_has_no_stack() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert str(child.pid) in asyncio.run(pyspy.dump([child.pid])), "it says whom it could not see"


def test_without_the_tool_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyspy, "tool", lambda: None)
    assert asyncio.run(pyspy.dump([1])) == ""
