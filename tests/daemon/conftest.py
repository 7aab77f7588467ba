"""Daemons over plain programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import Daemon
from tests.support.programs import ENGINE, command

Program = dict[str, Any]
Make = Callable[..., Daemon]


def program(name: str, *arguments: object, **more: Any) -> Program:
    """The configuration of one child program: ready soon, back at once, gone soon."""
    return {
        "command": command(name, *arguments),
        "ready": {"after": 0.1},
        "restart": {"backoff": 0},
        "stop": {"grace": 10},
        **more,
    }


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes daemons that are stopped, and have left nothing, at the end of the test."""
    with ExitStack() as stack:

        def one(programs: dict[str, Program], *, start: bool = True, folder: str = "d", **more: Any) -> Daemon:
            place = tmp_path / folder
            place.mkdir(exist_ok=True)
            options = {name: more.pop(name) for name in ("env", "prefix") if name in more}
            daemon = Daemon(place, {"programs": programs, **more}, **options)
            stack.push(daemon)
            if start:
                daemon.start()
            return daemon

        yield one


def played(folder: Path) -> dict[str, Any]:
    """What stands in for the engines' environments: a Python that plays them, whatever it is told to run."""
    python = folder / "engine-python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{ENGINE}" "$@"\n')
    python.chmod(0o755)
    return {"vllm": {"python": str(python)}, "litellm": {"python": str(python)}}


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, Any]:
    """``engines:`` of a configuration whose engines are played."""
    return played(tmp_path)
