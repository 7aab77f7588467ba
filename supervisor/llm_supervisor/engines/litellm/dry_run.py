"""Asking the installed LiteLLM what it makes of a configuration, and which providers it knows.

``inside/litellm_dry_run.py`` loads the configuration in LiteLLM's own environment, without a network and without
effects. That takes seconds, most of them LiteLLM's import; so answers are kept until the question, the environment or a
module that was read changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from llm_supervisor.host.files import write_atomically

PATIENCE = 60.0  # seconds
Where = tuple[str | int, ...]
# Exceptions whose text says enough
_PLAIN = ("Exception", "ValueError", "ImportError", "KeyError")
_SCRIPT = "litellm_dry_run.py"
_KEPT = 20  # answers in the folder
# With one of these LiteLLM would look into a database or a bucket
_NOT_OURS_TO_ASK = ("DATABASE_URL", "DIRECT_URL", "DATABASE_URL_READ_REPLICA", "LITELLM_WORKER_STARTUP_HOOKS")


@dataclass(frozen=True, slots=True)
class Complaint:
    """What LiteLLM says of a configuration. ``where`` is its place in it, empty where that is not known; ``fatal``: it
    does not start."""

    text: str
    where: Where
    fatal: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a dry run: all complaints; or why it could not be made, in a few words."""

    complaints: tuple[Complaint, ...] = ()
    untried: str = ""


def known_providers(python: str, data: Path) -> Collection[str] | None:
    """The providers that the LiteLLM of that interpreter has named; None where it was not asked yet."""
    kept = _read(_file(data, "providers", python))
    if kept is None or kept.get("state") != _state(python):
        return None
    return frozenset(map(str, kept["providers"]))


def learn_providers(python: str, data: Path) -> Collection[str] | None:
    """The same; it is asked where no answer is kept (seconds). None where it gives none."""
    if (kept := known_providers(python, data)) is not None:
        return kept
    found = _asked(python, {}, os.environ)
    if isinstance(found, str):
        return None
    _keep_providers(python, data, found)
    return frozenset(map(str, found["providers"]))


def ask(python: str, data: Path, content: Mapping[str, Any], environ: Mapping[str, str], modules: str | None) -> Answer:
    """What LiteLLM makes of ``content`` as its file, with these variables; Python modules that it names may be in the
    folder ``modules``."""
    question = {"config": content, "modules": modules}
    digest = _digest([question, sorted(environ.items())])
    file = _file(data, digest, python)
    kept = _read(file)
    if kept is not None and kept.get("state") == _state(python) and _unchanged(kept.get("files")):
        return _answer(kept)
    given = {name: value for name, value in environ.items() if name not in _NOT_OURS_TO_ASK}
    found = _asked(python, question, given)
    if isinstance(found, str):
        return Answer(untried=found)
    _keep_providers(python, data, found)
    if not found.get("kept_from"):
        read = {one: _changed(one) for one in found.get("files", ())}
        _keep(file, {"state": _state(python), **found, "files": read})
    return _answer(found)


def _asked(python: str, question: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any] | str:
    """The script's answer; text says why there is none."""
    script = str(files("llm_supervisor.engines.inside") / _SCRIPT)
    env = {name: value for name, value in environ.items() if not name.startswith("PYTHON")}
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    try:
        done = subprocess.run(
            [python, script],
            input=json.dumps(question, default=str).encode(),
            capture_output=True,
            timeout=PATIENCE,
            env=env,
        )
        found = json.loads(done.stdout)
        if isinstance(found, dict) and isinstance(found["providers"] if "config" not in question else [], list):
            return found
    except subprocess.TimeoutExpired:
        return f"it took longer than {PATIENCE:.0f} s"
    except OSError as error:
        return f"{python}: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        pass
    return "LiteLLM's Python gave no answer"


def _answer(found: Mapping[str, Any]) -> Answer:
    wanted, refused = found.get("kept_from"), list(found.get("refused", ()))
    if wanted and not refused:
        return Answer(untried=f"loading it wants to {' and to '.join(map(str, wanted))}")
    complaints = []
    for one in refused:
        said = str(one["text"]) or f"{one['type']} at {one['at']}"
        text = said if one["type"] in _PLAIN and " " in said else f"{one['type']}: {said}"
        complaints.append(Complaint(text, _where(one), fatal=True))
    complaints += [Complaint(str(one["text"]), _where(one), fatal=False) for one in found.get("said", ())]
    return Answer(tuple(dict.fromkeys(complaints)))


def _where(one: Mapping[str, Any]) -> Where:
    return tuple(one.get("where") or ())


def _keep_providers(python: str, data: Path, found: Mapping[str, Any]) -> None:
    if found.get("providers"):
        kept = {"state": _state(python), "providers": found["providers"]}
        _keep(_file(data, "providers", python), kept)


def _keep(file: Path, answer: Mapping[str, Any]) -> None:
    """Keep an answer, for us alone; of many only the newest."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(answer).encode())
        older = sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime, reverse=True)[_KEPT:]
        for one in older:
            one.unlink(missing_ok=True)
    except OSError:
        pass  # it will be asked again


def _read(file: Path) -> dict[str, Any] | None:
    """A kept answer; None where there is none, or it was written by somebody else."""
    try:
        if file.stat().st_uid not in (0, os.geteuid()):
            return None
        kept = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) else None


def _file(data: Path, name: str, python: str) -> Path:
    return data / "litellm" / f"{_digest([python])[:16]}-{name[:32]}.json"


def _state(python: str) -> list[object]:
    """Values that change when something is installed in the environment, or the script that asks changes."""
    folder = Path(python).parent.parent
    script = _digest((files("llm_supervisor.engines.inside") / _SCRIPT).read_text())[:16]
    places = sorted(folder.glob("lib/python*/site-packages"))
    return [script, *([str(path), path.stat().st_mtime_ns] for path in places)]


def _unchanged(read: object) -> bool:
    return isinstance(read, dict) and all(_changed(str(path)) == when for path, when in read.items())


def _changed(path: str) -> int:
    """When a file was changed; 0 where it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
