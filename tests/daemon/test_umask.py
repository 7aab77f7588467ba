"""Files of programs have the modes that their user expects, and those of the daemon are for its user alone."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Make, program
from tests.support.harness import Daemon

pytestmark = pytest.mark.slow


def saying(name: str, folder: Path) -> dict[str, Any]:
    """A program that writes its umask down and makes a file, as an engine that fills a shared cache of models does."""
    script = f"rm -f {folder}/{name}.*; umask > {folder}/{name}.umask; : > {folder}/{name}.model; exec sleep 1000"
    return {**program("obedient"), "command": ["sh", "-c", script]}


def started_by(umask: str) -> dict[str, Any]:
    return {"prefix": ["sh", "-c", f'umask {umask}; exec "$@"', "sh"]}


def modes(folder: Path, name: str) -> tuple[int, int]:
    """The umask of that program, and the mode of what it has made."""
    return int((folder / f"{name}.umask").read_text(), 8), (folder / f"{name}.model").stat().st_mode & 0o777


def assert_private(daemon: Daemon) -> None:
    """Nothing but the logs is for others, whatever the umask is."""
    for path in [daemon.runtime, *daemon.runtime.rglob("*"), daemon.home]:
        if not path.is_symlink():
            assert path.stat().st_mode & 0o077 == 0, path
    logs = daemon.home / "logs"
    for path in [logs, *(one for one in logs.rglob("*") if not one.is_symlink())]:
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path


@pytest.mark.parametrize("umask", ["022", "002", "027", "077", "000"])
def test_a_program_has_the_umask_of_the_start(make: Make, tmp_path: Path, umask: str) -> None:
    daemon = make({"p": saying("p", tmp_path)}, **started_by(umask))
    daemon.wait("p", state="RUNNING")
    assert modes(tmp_path, "p") == (int(umask, 8), 0o666 & ~int(umask, 8))
    assert_private(daemon)


def test_an_upgrade_and_a_crash_keep_it(make: Make, tmp_path: Path) -> None:
    daemon = make({name: saying(name, tmp_path) for name in ("p", "q")}, **started_by("002"))
    daemon.wait("p", state="RUNNING")
    for _ in range(2):  # the second one is handed over by a daemon that got it by a handover itself
        assert daemon.cli("upgrade").returncode == 0
        (tmp_path / "p.umask").unlink()
        assert daemon.cli("restart", "p").returncode == 0
        assert modes(tmp_path, "p") == (0o002, 0o664)
    assert_private(daemon)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    daemon._prefix = started_by("027")["prefix"]
    daemon.start()
    daemon.wait("p", state="RUNNING")
    assert modes(tmp_path, "q") == (0o002, 0o664), "it is adopted"
    assert daemon.cli("restart", "q").returncode == 0
    assert modes(tmp_path, "q") == (0o027, 0o640), "what is started now has what this daemon got"
