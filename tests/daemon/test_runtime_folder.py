"""The runtime folder goes while the daemon runs, as ``/run/user/UID`` does at logout: nobody has to care."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Make, program
from tests.daemon.test_adoption import knocking, pair
from tests.support.harness import Daemon
from tests.support.programs import alive, until

# The usual places as a user without RUNTIME_DIRECTORY has them
PLACES = """
import os, sys
from pathlib import Path
from llm_supervisor import paths
paths.runtime_dirs = lambda environ: [Path(os.environ["FIRST"]) / "ours", Path(os.environ["SECOND"])]
from llm_supervisor.cli import main
sys.exit(main.main())
"""


def killed(daemon: Daemon) -> None:
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()


def pid_of(daemon: Daemon, name: str) -> int:
    return int(daemon.wait(name, state="RUNNING", health="ready")["pid"])


def talker(folder: Path) -> dict[str, Any]:
    """A program that says what is written to a FIFO, which nobody has to keep open."""
    os.mkfifo(folder / "gate")
    script = f"exec 3<>{folder}/gate; while read word <&3; do echo said $word; done"
    return {**program("obedient"), "command": ["sh", "-c", script]}


def say(daemon: Daemon, folder: Path, name: str, word: str) -> None:
    """Its output still arrives in its log."""
    with open(folder / "gate", "w") as gate:
        gate.write(f"{word}\n")
    until(lambda: f"said {word}\n".encode() in daemon.log(name), "what it said")


def gone_at_once(folder: Path) -> None:
    """As by an unmount: nobody can write there while it is removed."""
    away = folder.with_name(f".{folder.name}.removed")
    folder.rename(away)
    shutil.rmtree(away)


def everything(runtime: Path) -> None:
    gone_at_once(runtime)


def only(name: str) -> Callable[[Path], None]:
    def remove(runtime: Path) -> None:
        path = runtime / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def replaced(runtime: Path) -> None:
    """Another file system is there, as after another login."""
    gone_at_once(runtime)
    runtime.mkdir()


@pytest.mark.parametrize(
    "remove",
    [everything, replaced, only("control.sock"), only("state.json"), only("fifo"), only("daemon.lock")],
    ids=["everything", "replaced", "control.sock", "state.json", "fifo", "daemon.lock"],
)
def test_it_is_made_again(make: Make, tmp_path: Path, remove: Callable[[Path], None]) -> None:
    daemon = make({"p": talker(tmp_path), "q": program("obedient")})
    p, q = pid_of(daemon, "p"), pid_of(daemon, "q")
    say(daemon, tmp_path, "p", "before")
    remove(daemon.runtime)
    os.kill(q, 9)  # a crash in the worst moment
    wanted = [daemon.runtime / name for name in ("control.sock", "state.json", "fifo", "daemon.lock")]
    until(lambda: all(path.exists() for path in wanted), "everything is there again")
    assert daemon.runtime.stat().st_mode & 0o777 == 0o700
    daemon.wait("q", state="RUNNING", health="ready")
    assert "Free some room" not in daemon.stderr()
    assert "FATAL" not in daemon.stderr()
    assert daemon.cli("status").returncode == 0
    assert (pid_of(daemon, "p"), pid_of(daemon, "q") != q) == (p, True), "who lives notices nothing"
    say(daemon, tmp_path, "p", "after")
    # and the next daemon finds everything, though the pipes have no name any more
    daemon.wait_written()
    q = pid_of(daemon, "q")
    killed(daemon)
    daemon.start()
    assert (pid_of(daemon, "p"), pid_of(daemon, "q")) == (p, q)
    say(daemon, tmp_path, "p", "adopted")
    # over an upgrade, too
    assert daemon.cli("upgrade").returncode == 0
    say(daemon, tmp_path, "p", "upgraded")
    assert pid_of(daemon, "p") == p
    refused = daemon.cli("run", "-c", str(daemon.config_file))
    assert (refused.returncode, "another llm-supervisor runs" in refused.stderr) == (2, True)


@pytest.mark.parametrize("moves", [False, True], ids=["made-again", "moved"])
def test_the_gateway_gets_new_private_sockets_and_refuses_nobody(make: Make, tmp_path: Path, moves: bool) -> None:
    config = pair(tmp_path)
    if moves:
        daemon, first, second = moving(make, tmp_path, {}, **config)
    else:
        daemon = make({}, **config)
    daemon.wait_for(lambda: (daemon.status()["supervisor"] or {}).get("ready"), "all is ready")
    before = {name: daemon.program(name) for name in ("glm", "gateway")}
    with knocking(config["gateway"]["port"]) as refused:
        gone_at_once(first if moves else daemon.runtime)
        if moves:
            daemon.runtime = second
        daemon.wait_for(
            lambda: daemon.program("gateway")["pid"] not in (None, before["gateway"]["pid"]), "a new replica"
        )
        daemon.wait_for(lambda: (daemon.status()["supervisor"] or {}).get("ready"), "all is ready again", timeout=15)
    assert refused == []
    assert daemon.program("glm")["pid"] == before["glm"]["pid"]
    assert (daemon.runtime / "gateway.sock").exists() or (daemon.runtime / "gateway-2.sock").exists()
    assert daemon.program("gateway")["failure"] is None


def moving(make: Make, tmp_path: Path, programs: dict[str, Any], **more: Any) -> tuple[Daemon, Path, Path]:
    """A daemon that can use two places, and these."""
    first, second = tmp_path / "session", tmp_path / "fallback"
    first.mkdir(mode=0o700)
    prefix = ["sh", "-c", f'shift 3; exec {sys.executable} -c {shlex.quote(PLACES)} "$@"', "sh"]
    daemon = make(programs, start=False, prefix=prefix, **more)
    daemon.env |= {"FIRST": str(first), "SECOND": str(second)}
    del daemon.env["RUNTIME_DIRECTORY"]
    daemon.runtime = first / "ours"
    daemon.start()
    return daemon, first, second


def cli(daemon: Daemon, *argv: str) -> Any:
    """A command of the same user: it looks in the usual places."""
    daemon.env["RUNTIME_DIRECTORY"] = str(daemon.runtime)
    try:
        return daemon.cli(*argv)
    finally:
        del daemon.env["RUNTIME_DIRECTORY"]


def test_it_moves_where_the_place_itself_is_gone(make: Make, tmp_path: Path) -> None:
    daemon, first, second = moving(make, tmp_path, {"p": talker(tmp_path), "q": program("obedient")})
    p, q = pid_of(daemon, "p"), pid_of(daemon, "q")
    gone_at_once(first)
    until(lambda: (second / "control.sock").exists(), "the other place is used")
    daemon.runtime = second
    assert (pid_of(daemon, "p"), pid_of(daemon, "q")) == (p, q)
    say(daemon, tmp_path, "p", "moved")
    assert "another one is used" in daemon.stderr()
    os.kill(q, 9)
    daemon.wait_for(lambda: daemon.program("q")["pid"] not in (None, q), "it is started again")
    q = pid_of(daemon, "q")
    # the user logs in again: neither an upgrade nor the next daemon looks for its programs in the new, empty folder
    first.mkdir(mode=0o700)
    assert cli(daemon, "upgrade").returncode == 0
    assert (pid_of(daemon, "p"), pid_of(daemon, "q")) == (p, q)
    say(daemon, tmp_path, "p", "upgraded")
    daemon.wait_written()
    killed(daemon)
    daemon.start()
    assert (pid_of(daemon, "p"), pid_of(daemon, "q")) == (p, q)
    say(daemon, tmp_path, "p", "adopted")
    assert not (first / "ours").exists()
    assert daemon.end() == 0
    assert not alive(p)


def test_a_place_that_cannot_be_made_again_is_waited_for(make: Make, tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    daemon = make({"p": program("obedient")}, start=False)
    daemon.runtime = above / "run"
    daemon.env["RUNTIME_DIRECTORY"] = str(daemon.runtime)
    daemon.start()
    pid = pid_of(daemon, "p")
    gone_at_once(above)
    daemon.wait_for(lambda: "cannot be made again" in daemon.stderr(), "it says so")
    os.kill(pid, 9)
    daemon.wait_for(lambda: "runtime folder is gone" in daemon.stderr(), "it cannot be started")
    above.mkdir()
    daemon.wait_for(lambda: daemon.program("p")["pid"] not in (None, pid), "everything goes on", timeout=60)
    pid_of(daemon, "p")
    lines = [event for event in daemon.events() if "cannot be made again" in event["event"]]
    assert len(lines) == 1, "it is said once"
    assert "FATAL" not in json.dumps(daemon.events())
