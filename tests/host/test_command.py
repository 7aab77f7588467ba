"""Running one command to its end: real processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from llm_supervisor.host.command import Cancellation, Cancelled, run


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_command_is_heard_line_by_line_and_logged(tmp_path: Path, said: list[str]) -> None:
    script = "import os, sys; print('one'); print('two', file=sys.stderr); print(os.environ['X']); sys.exit(3)"
    assert run([sys.executable, "-uc", script], tmp_path / "log", hear=said.append, extra={"X": "three"}) == 3
    assert said == ["one", "two", "three"]
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


def test_a_silent_command_is_a_pulse_and_a_slow_one_ends(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(TimeoutError, match="it took longer than 0 s"):
        run(["sleep", "600"], tmp_path / "log", hear=said.append, timeout=0.03, pulse=0.01)
    assert set(said) == {""}


def test_an_interruption_ends_the_command(tmp_path: Path) -> None:
    pids: list[int] = []

    def hear(line: str) -> None:
        pids.extend(int(word) for word in line.split())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", "sleep 600 & echo $$ $!; wait"], tmp_path / "log", hear=hear)
    for pid in pids:
        wait_until_dead(pid)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_install_leaves_no_command_behind(sent: signal.Signals, tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from llm_supervisor.host.command import run
        run(["sh", "-c", "echo $$; exec sleep 600"], Path(sys.argv[1]), hear=lambda line: print(line, flush=True))
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as killed:
        assert killed.stdout is not None
        pid = int(killed.stdout.readline())
        killed.send_signal(sent)
        killed.wait()
        wait_until_dead(pid)


def wait_until_dead(pid: int) -> None:
    """Return when the process has ended, be it a zombie that nobody reaps."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([watched], [], [], 10)[0], f"{pid} lives on"
    os.close(watched)


def test_a_cancelled_command_ends_with_all_that_it_started(tmp_path: Path) -> None:
    cancellation, started, pids = Cancellation(), threading.Event(), []

    def hear(line: str) -> None:
        pids.extend(int(word) for word in line.split())
        started.set()

    def cancel() -> None:
        started.wait(10)
        cancellation.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(Cancelled):
        run(["sh", "-c", "sleep 600 & echo $$ $!; wait"], tmp_path / "log", hear=hear, cancellation=cancellation)
    canceller.join()
    assert len(pids) == 2
    for pid in pids:
        wait_until_dead(pid)
    with pytest.raises(Cancelled):  # it stays cancelled for whoever begins later
        run(["sleep", "600"], tmp_path / "log", cancellation=cancellation)
    cancellation.close()


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/command"):
        run(["/no/such/command"], tmp_path / "log")
