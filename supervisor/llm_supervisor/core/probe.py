"""How a program is probed: which requests, where, and what an answer means.

Values and pure functions only; ``host.http`` sends the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llm_supervisor.core.health import Counters, ProbeResult

Judge = Callable[[int, bytes], ProbeResult]


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """One HTTP GET and the meaning of (status, body). ``signal`` is ``liveness`` or ``catalogue``."""

    signal: str
    path: str
    judge: Judge


@dataclass(frozen=True, slots=True)
class MetricsProbe:
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
class ProbePlan:
    """All probes of one program. ``address`` is (host, port), or the path of a unix socket; without ``probes``, a TCP
    connection to it is the only one. ``headers`` may hold a key, so it is kept out of ``repr``. ``routes`` are a
    gateway's canaries, by group; ``needs`` what it cannot do all of its work without, by name: (host, port). With
    ``tls`` it speaks https."""

    address: tuple[str, int] | str
    probes: tuple[HttpProbe, ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    metrics: MetricsProbe | None = None
    canary: Canary | None = None
    routes: Mapping[str, Canary] = field(default_factory=dict)
    needs: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A step of loading that a line of output shows."""

    doing: str
    done: int | None = None
    total: int | None = None


Reader = Callable[[bytes], Step | None]
