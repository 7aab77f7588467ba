"""What the installed vLLM says of the options of models: its own parser, validators and configuration are asked.

Asking imports vLLM, which takes seconds. So ``check`` asks, and a reload before it is accepted; the answer is kept
until the options, the files that they name, or the environment change.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from llm_supervisor.engines import site_packages
from llm_supervisor.engines.vllm.installed_options import state_of
from llm_supervisor.host.files import write_atomically

PATIENCE = 180.0  # seconds for all models together
_SCRIPTS = ("judge_vllm_options.py", "vllm_serve.py")
_KEPT = 100  # answers for each environment
# Variables that vLLM's judgement may depend on
_DECIDING = ("VLLM_", "HF_", "HUGGING", "TRANSFORMERS_", "MODELSCOPE_", "CUDA_")
# Files by which a model's configuration is known
_MODEL_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class Question:
    """The options of one model: names as the configuration has them, each with its words of the command line.
    ``folder``: where the model's files are; None where they are not on this machine, or may not be looked at."""

    model: str
    folder: str | None
    options: tuple[tuple[str, tuple[str, ...]], ...]
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that vLLM does not accept: the options it is about, the one to blame first (empty: it is not known),
    the keys inside its value, vLLM's own words, and all keys that it knows there."""

    options: tuple[str, ...]
    keys: tuple[str, ...]
    text: str
    choices: tuple[str, ...] = ()


Answer = tuple[Complaint, ...] | None  # None: this model was not judged in time


def judge(python: str, data: Path, questions: Sequence[Question]) -> list[Answer] | None:
    """The answer to each question, kept in the folder ``data``; None where there is no vLLM beside that interpreter."""
    if not questions or not any((folder / "vllm").is_dir() for folder in site_packages.folders(Path(python))):
        return None
    state = state_of(python, _SCRIPTS)
    kept = _kept(python, data, state)
    digests = [_digest(one) for one in questions]
    new = [number for number, digest in enumerate(digests) if digest not in kept]
    fresh = _ask(python, [questions[number] for number in new]) if new else []
    for number, answer in zip(new, fresh, strict=True):
        if answer is not None:
            kept[digests[number]] = answer
    if any(answer is not None for answer in fresh):
        _keep(python, data, state, kept)
    return [_read(kept.get(digest)) for digest in digests]


def _ask(python: str, questions: Sequence[Question]) -> list[Any]:
    """What the program inside the environment prints: a line for each model, None for those that it did not reach."""
    script = str(files("llm_supervisor.engines.inside") / _SCRIPTS[0])
    asked = [
        {
            "model": one.folder or one.model,
            "here": one.folder is not None,
            "options": one.options,
            "env": dict(one.environ),
        }
        for one in questions
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VLLM_"))}
    # read while it is imported: no hub is asked, and no thread is left that a fork would lose
    environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen(
            [python, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
            start_new_session=True,
        )
    except OSError:
        return [None] * len(questions)
    try:
        said = process.communicate(json.dumps({"models": asked}).encode(), timeout=PATIENCE)[0]
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
    finally:
        _end(process)
    lines = [_line(line) for line in said.splitlines()[: len(questions)]]
    return lines + [None] * (len(questions) - len(lines))


def _line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with everything that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _read(said: Any) -> Answer:
    """The kept form of an answer as complaints; None where it is none."""
    try:
        return tuple(
            Complaint(tuple(one["options"]), tuple(one["keys"]), str(one["text"]), tuple(one["choices"]))
            for one in said
        )
    except (TypeError, KeyError):
        return None


def _digest(question: Question) -> str:
    """Equal for questions with equal answers: the model counts by its files, a path by what is there now."""
    deciding = {name: value for name, value in question.environ.items() if name.startswith(_DECIDING)}
    paths = [word for _, words in question.options for word in words if word.startswith("/")]
    parts = [
        question.options,
        sorted(deciding.items()),
        [_stamp(path) for path in paths],
        question.folder and [_content(Path(question.folder, name)) for name in _MODEL_FILES],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _stamp(path: str) -> list[int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return [found.st_mtime_ns, found.st_size]


def _content(file: Path) -> str | None:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def _file(python: str, data: Path) -> Path:
    return data / "judged" / f"{hashlib.sha256(python.encode()).hexdigest()[:16]}.json"


def _kept(python: str, data: Path, state: list[object]) -> dict[str, Any]:
    """The answers that are kept for this environment as it is now."""
    try:
        said = json.loads(_file(python, data).read_bytes())
        return dict(said["answers"]) if said["state"] == state else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _keep(python: str, data: Path, state: list[object], answers: Mapping[str, Any]) -> None:
    latest = dict(list(answers.items())[-_KEPT:])
    text = json.dumps({"python": python, "state": state, "answers": latest})
    try:
        file = _file(python, data)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text.encode(), 0o600)
    except OSError:
        pass  # it will be asked again
