"""How a program is asked how it is: which questions, where, and what an answer means.

Values and pure functions only; the asking is ``host.probe``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llm_supervisor.core.health import Counters, Probe

Judge = Callable[[int, bytes], Probe]


@dataclass(frozen=True, slots=True)
class Question:
    """One HTTP GET and the meaning of (status, body). ``signal`` is ``liveness`` or ``catalogue``."""

    signal: str
    path: str
    judge: Judge


@dataclass(frozen=True, slots=True)
class Reading:
    """Where an engine shows its counters, and how they are read: None when the page does not show them."""

    path: str
    read: Callable[[bytes], Counters | None]


@dataclass(frozen=True, slots=True)
class Canary:
    """A real request. ``body`` makes the JSON from a nonce, which keeps prefix caches from answering."""

    path: str
    body: Callable[[str], dict[str, object]]
    judge: Judge


@dataclass(frozen=True, slots=True)
class Asking:
    """All questions to one program. ``address`` is (host, port), or the path of a unix socket; without questions, a TCP
    connection to it is the question. ``headers`` may hold a key, so it is kept out of ``repr``. ``routes`` are a
    gateway's canaries, by group; ``needs`` what it cannot do all of its work without, by name: (host, port)."""

    address: tuple[str, int] | str
    questions: tuple[Question, ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    reading: Reading | None = None
    canary: Canary | None = None
    routes: Mapping[str, Canary] = field(default_factory=dict)
    needs: Mapping[str, tuple[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of loading that a line of output shows."""

    doing: str
    done: int | None = None
    total: int | None = None


Reader = Callable[[bytes], Step | None]
