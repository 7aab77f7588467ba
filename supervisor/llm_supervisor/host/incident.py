"""Incidents: a folder for each failure, bounded in number and size, for ``explain`` and for people.

``<folder>/<program>/<id>/`` holds ``incident.json`` (what happened, and why) and ``log.txt`` (the end of what the dead
incarnation wrote), and ``stacks.txt`` (where a hung engine stood) if that could be seen. An id is the UTC time of the
failure, so ids sort by age.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_supervisor.host.files import write_atomically

KEPT = 20  # incidents a program
LOG_BYTES = 256 * 1024  # of the log in each
FOLDER_BYTES = 8 * 1024 * 1024  # of all of a program's


def write(
    folder: Path, program: str, facts: dict[str, Any], log: bytes, more: Mapping[str, bytes] | None = None
) -> str:
    """Keep one incident (``more`` are other files by name), drop the oldest ones beyond the bounds, and return its id.
    Raises OSError."""
    home = folder / program
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    number = 0
    while True:
        name = f"{stamp}-{number:03d}"
        try:
            (home / name).mkdir(mode=0o700)
            break
        except FileExistsError:
            number += 1
    facts = {"id": name, "program": program, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts}
    for file, data in {"log.txt": log[-LOG_BYTES:], **(more or {})}.items():
        (home / name / file).write_bytes(data)
    # the folder counts as an incident once this file is there
    write_atomically(home / name / "incident.json", json.dumps(facts, indent=1, default=str).encode())
    _prune(home)
    return name


def _prune(home: Path) -> None:
    total = 0
    for place, path in enumerate(sorted(home.iterdir(), reverse=True)):
        total += sum(file.stat().st_size for file in path.iterdir())
        if place and (place >= KEPT or total > FOLDER_BYTES):
            shutil.rmtree(path, ignore_errors=True)


def ids(folder: Path, program: str) -> list[str]:
    """A program's incidents, oldest first."""
    return sorted(path.parent.name for path in (folder / program).glob("*/incident.json"))


def read(folder: Path, program: str, incident: str) -> dict[str, Any]:
    """One incident. Raises OSError or ValueError when it does not exist or cannot be read."""
    facts: dict[str, Any] = json.loads((folder / program / incident / "incident.json").read_text())
    return facts


def stacks_of(folder: Path, program: str, incident: str) -> Path | None:
    """The file that shows where a hung engine stood, if there is one."""
    path = folder / program / incident / "stacks.txt"
    return path if path.exists() else None


def log_of(folder: Path, program: str, incident: str) -> bytes:
    """The end of what the dead incarnation wrote."""
    return (folder / program / incident / "log.txt").read_bytes()
