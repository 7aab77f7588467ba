"""Which options an installed vLLM has: its own parser is asked once, and the answer is kept until it changes.

Asking imports vLLM, which takes seconds. So only ``install`` and ``check`` ask; everything else uses the kept answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from llm_supervisor.host.files import write_atomically

PATIENCE = 180.0  # seconds
_SCRIPTS = ("dump_vllm_options.py", "vllm_serve.py")


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``takes``: ``flag``, ``value``, ``values`` (one or more behind it), ``any`` (or none), ``each`` (it
    is written again for each), ``maybe`` (a flag, or a value); ``negatable``: there is a ``--no-`` form of it;
    ``kind`` of each value: ``int``, ``float``, ``count`` (25k is one), ``count or auto``, ``json``, ``object`` (a
    mapping), ``mapping or text``, ``text``, ``word`` (its choices, in capitals or not, with - or _), ``commas`` (a
    list, with commas between), or empty where that is not known; ``optional``: an empty text and ``None`` are taken
    for none."""

    takes: str
    negatable: bool
    choices: tuple[str, ...] | None
    kind: str = ""
    optional: bool = False

    @property
    def lists(self) -> str:
        """How a list is written: as ``values`` behind it, the option again for ``each``, ``commas`` or ``json``."""
        if self.kind == "commas":
            return "commas"
        return {"values": "values", "any": "values", "each": "each"}.get(self.takes, "json")


Options = Mapping[str, Option]


def known(python: str, data: Path) -> Options | None:
    """The kept answer for the environment of that interpreter; None when none is kept, or the environment has
    changed since."""
    try:
        kept = json.loads(_file(python, data).read_bytes())
        return _read(kept["options"]) if kept["state"] == state_of(python, _SCRIPTS) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def learn(python: str, data: Path) -> Options | None:
    """Ask the parser (seconds), and keep the answer in the folder ``data``; None when it gives no answer."""
    if (kept := known(python, data)) is not None:
        return kept
    script = str(files("llm_supervisor.engines.inside") / _SCRIPTS[0])
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VLLM_"))}
    try:
        done = subprocess.run(
            [python, script], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, env=environ
        )
        found = json.loads(done.stdout)
        options = _read(found)
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError, AttributeError):
        return None
    try:
        file = _file(python, data)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"python": python, "state": state_of(python, _SCRIPTS), "options": found})
        write_atomically(file, text.encode(), 0o666)
    except OSError:
        pass  # it will be asked again
    return options


def _read(found: Any) -> Options:
    return {
        str(name): Option(
            str(one["takes"]),
            bool(one["negatable"]),
            None if one["choices"] is None else tuple(str(choice) for choice in one["choices"]),
            str(one["kind"]),
            bool(one["optional"]),
        )
        for name, one in found.items()
    }


def _file(python: str, data: Path) -> Path:
    return data / "options" / f"{hashlib.sha256(python.encode()).hexdigest()[:16]}.json"


def state_of(python: str, scripts: Sequence[str]) -> list[object]:
    """Values that change when something is installed in the environment, or one of our scripts changes by which it is
    asked."""
    folder = Path(python).parent.parent
    inside = files("llm_supervisor.engines.inside")
    digest = hashlib.sha256(b"".join((inside / name).read_bytes() for name in scripts)).hexdigest()[:16]
    return [
        digest,
        *([str(path), path.stat().st_mtime_ns] for path in sorted(folder.glob("lib/python*/site-packages"))),
    ]
