"""What a diagnosis is, and what a row of the tables is. Values only: the tables are in ``tables``, the matcher beside
this module."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

Component = Literal["vllm", "litellm", "command"]
Phase = Literal["start", "run", "any"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a program failed.

    ``kind`` is one word for programs to act on; ``none`` for a log without a failure, ``unknown`` for a failure that no
    row knows. ``permanent``: True when an unchanged restart cannot help,
    None when that is not known. ``busy``: it waits
    for something that others hold (GPU memory, a port, a database), so waiting costs no strike. ``evidence`` are the
    lines of the log that say so, the root first, each bounded and without secrets.
    """

    kind: str
    permanent: bool | None
    busy: bool
    summary: str
    advice: str
    evidence: tuple[str, ...]


NONE = Diagnosis("none", None, False, "no failure found", "", ())


def to_message(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as JSON knows it."""
    return {
        "kind": diagnosis.kind,
        "permanent": diagnosis.permanent,
        "busy": diagnosis.busy,
        "summary": diagnosis.summary,
        "advice": diagnosis.advice,
        "evidence": list(diagnosis.evidence),
    }


class Rank(IntEnum):
    """How near to the root a match is: the lowest rank wins, and among equals what the log says first."""

    PROOF = 0  # the kernel says so
    CAUSE = 1  # names the cause itself
    COARSE = 2  # right, but says less than another row might
    UNKNOWN = 3  # an exception that no row knows, where a process died of it
    SYMPTOM = 4  # a process noticed that another one died
    ECHO = 5  # what the others say when one died: broken pipes, cancelled waits
    COMPLAINT = 6  # does not end the process, but leaves it unable to do a part of its work


Values = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One row. ``regex`` is searched in an exception ("Type: message", with its further lines) or in a line.

    ``summary`` and ``advice`` are templates over the named groups, the facts of the log (``{model}``,
    ``{port}`` ...) and
    what ``derive`` adds: the first summary, and every sentence of the advice, whose values are all known is used.
    ``needle`` is a literal that the log must contain before the regex is tried at all: it keeps a hundred rows cheap.
    ``frames``: a word that the exception's stack must contain. ``when``: a condition on the values. ``healed``: what a
    later line says when a complaint is over.
    """

    kind: str
    needle: str
    regex: re.Pattern[str]
    permanent: bool | None
    summary: tuple[str, ...]
    advice: tuple[str, ...]
    busy: bool = False
    rank: Rank = Rank.CAUSE
    where: Literal["exception", "line", "notice"] = "exception"
    phase: Phase = "any"
    frames: re.Pattern[str] | None = None
    when: Callable[[Values], bool] | None = None
    derive: Callable[[Values], Values] | None = None
    healed: re.Pattern[str] | None = None


def row(
    kind: str,
    needle: str,
    regex: str | None = None,
    *,
    permanent: bool | None,
    summary: str | Sequence[str],
    advice: str | Sequence[str],
    busy: bool = False,
    rank: Rank = Rank.CAUSE,
    where: Literal["exception", "line", "notice"] = "exception",
    phase: Phase = "any",
    frames: str | None = None,
    when: Callable[[Values], bool] | None = None,
    derive: Callable[[Values], Values] | None = None,
    healed: str | None = None,
) -> Pattern:
    """A Pattern, written shorter: without ``regex`` the needle itself is looked for."""
    return Pattern(
        kind=kind,
        needle=needle,
        regex=re.compile(re.escape(needle) if regex is None else regex),
        permanent=permanent,
        summary=(summary,) if isinstance(summary, str) else tuple(summary),
        advice=(advice,) if isinstance(advice, str) else tuple(advice),
        busy=busy,
        rank=rank,
        where=where,
        phase=phase,
        frames=None if frames is None else re.compile(frames),
        when=when,
        derive=derive,
        healed=None if healed is None else re.compile(healed),
    )


def filled(templates: Sequence[str], values: Values) -> list[str]:
    """The templates whose fields are all known, filled in."""
    done = []
    for template in templates:
        try:
            done.append(template.format_map(values))
        except KeyError:
            continue
    return done


def number(text: str | None) -> float:
    """A number of a log; 0 for what only looks like one, as in a line that was cut."""
    try:
        return float(text or "")
    except ValueError:
        return 0.0
