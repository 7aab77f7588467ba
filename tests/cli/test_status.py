"""``status --watch`` on a terminal, which is a pseudo terminal here."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from llm_supervisor.cli import main
from tests.cli.conftest import FakeDaemon, program

CODE = "import sys; from llm_supervisor.cli import main, status; status.PERIOD = 0.1; sys.exit(main.main())"
WATCH = [sys.executable, "-c", CODE, "status", "--watch"]
SHOW_CURSOR = "\x1b[?25h"


def watched(
    daemon: FakeDaemon, *options: str, rows: int = 10, term: str = "xterm", looks: int = 2
) -> tuple[int, str, str]:
    """The exit status of a watcher that is interrupted after some looks, what it wrote until then, and after that."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*WATCH, *options], stdin=theirs, stdout=theirs, stderr=theirs, env=environ | {"TERM": term}
    )
    os.close(theirs)
    before = after = b""
    try:
        end = time.monotonic() + 30
        while daemon.asked <= looks:  # when it looks again, it has written what it saw before
            assert time.monotonic() < end
            time.sleep(0.02)
        before = os.read(ours, 1 << 20)
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
        while True:
            try:
                after += os.read(ours, 1 << 20)
            except OSError:  # EIO: the other end is closed, and everything was read
                break
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return code, before.decode(), after.decode()


def test_watching_redraws_in_place(daemon: FakeDaemon) -> None:
    daemon.status["programs"] = [program("calm"), program("twin")]
    code, before, after = watched(daemon)
    assert code == 0
    assert "\x1b[2J" not in before, "clearing the terminal would flicker"
    assert "\x1b[1A" in before, "the cursor goes back up"
    assert before.count("calm") >= 2
    assert SHOW_CURSOR in after
    assert "calm" in after, "the last status stays"
    assert re.search(r"\x1b\[\d*m", before + after) is None, "nothing is coloured"


def test_watching_more_than_fits(daemon: FakeDaemon) -> None:
    daemon.status["programs"] = [program(f"p{number}") for number in range(30)]
    code, before, after = watched(daemon, rows=10)
    assert code == 0
    assert "p8 " in before and "..." in before and "p9 " not in before
    assert "p29 " in after, "the last status is complete"


def test_watching_shows_problems_in_their_place(daemon: FakeDaemon) -> None:
    daemon.status["programs"] = [program("calm", state="BACKOFF", reason="status 7", retry_in_s=3.0)]
    daemon.status["supervisor"]["config_problems"] = ["x.yaml:1: wrong"]
    code, before, _ = watched(daemon)
    assert code == 3
    assert "status 7, next start in 3 s" in before
    assert "the last good one is in use: x.yaml:1: wrong" in before


def test_what_does_not_answer_and_a_daemon_that_is_late_are_shown(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.status["supervisor"] |= {"loop_lag_s": 2.34, "not_answering": [{"name": "GPU 0", "for_s": 95.0}]}
    assert main.main(["status"]) == 0
    said = capsys.readouterr().err
    assert "GPU 0 does not answer (for 0:01:35)" in said
    assert "the daemon was held up for 2.3 s" in said


def test_a_stopped_program_of_which_something_lives_on_is_not_fine(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = {"kind": "unkillable", "summary": "survives SIGKILL for 30 s: Core (pid 7, state D)", "permanent": False}
    stopped = program("x", wanted="down", state="STOPPED", pid=None, health="unknown")
    daemon.status["programs"] = [stopped]
    assert main.main(["status"]) == 0
    daemon.status["programs"] = [stopped | {"health": "unhealthy", "failure": failure}]
    assert main.main(["status"]) == 3
    assert "survives SIGKILL for 30 s: Core (pid 7, state D)" in capsys.readouterr().out


def test_watching_a_name_that_is_none(daemon: FakeDaemon) -> None:
    daemon.status["programs"] = [program("calm")]
    code, before, _ = watched(daemon, "clam")
    assert code == 2
    assert "no such program: clam (did you mean calm?)" in before


@pytest.mark.parametrize(("term", "options"), [("dumb", []), ("xterm", ["--json"])])
def test_watching_without_moving_the_cursor(daemon: FakeDaemon, term: str, options: list[str]) -> None:
    """Where the terminal cannot, and where a program reads."""
    daemon.status["programs"] = [program("calm")]
    code, before, after = watched(daemon, *options, term=term)
    assert code == 0
    assert "\x1b" not in before + after
    assert before.count("calm") >= 2
