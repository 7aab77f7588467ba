"""A PostgreSQL of a test's own, from the system's packages. It has one database, of one user without a password."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.programs import free_port, until

USER = DATABASE = "litellm"


def programs() -> Path | None:
    """The folder of PostgreSQL's programs; None where it is not installed, or nobody may run it. It refuses root."""
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or _account() is None):
        return None
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def _account() -> int | None:
    """The user id of Debian's account for it."""
    import pwd

    try:
        return pwd.getpwnam("postgres").pw_uid
    except KeyError:
        return None


class Postgres:
    """The server. A context manager: it runs inside, unless it was stopped."""

    def __init__(self, folder: Path) -> None:
        self._bin, self._folder, self.port = folder, Path(tempfile.mkdtemp(prefix="postgres-")), free_port()
        self._data, self._process = self._folder / "data", None
        self._as: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    _process: subprocess.Popen[bytes] | None

    @property
    def url(self) -> str:
        """Where LiteLLM finds the database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    def __enter__(self) -> Self:
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", USER, "--no-sync")
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", USER, DATABASE)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        words = [self._bin / "postgres", "-D", self._data, "-p", self.port, "-k", self._folder]
        words += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with open(os.devnull, "wb") as nowhere:
            self._process = subprocess.Popen(
                [*self._as, *map(str, words)], stdout=nowhere, stderr=nowhere, cwd="/", start_new_session=True
            )
        ready = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", self.port]
        until(lambda: subprocess.run([*map(str, ready)], check=False).returncode == 0, "PostgreSQL answers", 30)

    def stop(self) -> None:
        """Stop it at once; its clients lose their connections."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)

    def ask(self, sql: str) -> str:
        """What a statement returns, as psql prints it without a frame."""
        return self._run("psql", "-h", "127.0.0.1", "-p", self.port, "-U", USER, "-Atc", sql, DATABASE)

    def _run(self, program: str, *words: object) -> str:
        command = [*self._as, str(self._bin / program), *map(str, words)]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/", timeout=60).stdout.strip()
