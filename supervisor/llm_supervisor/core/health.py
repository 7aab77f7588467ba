"""What was observed of a program, folded into a small state: one part for each signal. Pure.

The signals are tree, liveness, catalogue, progress and canary. ``verdict`` judges what is folded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from llm_supervisor.core.spec import HealthSpec


class Answer(StrEnum):
    """How a probe was answered."""

    OK = "ok"
    WRONG = "wrong"  # a valid answer with the wrong content
    INVALID = "invalid"  # a status or a body that nobody should send
    SILENT = "silent"  # nothing within the time-out; may only be busy
    REFUSED = "refused"  # no process listens
    DEAD = "dead"  # the program itself says that its engine is dead


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of one probe: the answer, in words what was seen, and how long it took (seconds)."""

    answer: Answer
    detail: str = ""
    took: float = 0.0


@dataclass(frozen=True, slots=True)
class Rank:
    """What one of several engines behind one API server counts (vLLM's data-parallel ranks); see ``Counters``."""

    work: tuple[float, ...]
    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """What an engine counts. ``work`` only grows while it works (tokens and iterations); a smaller value than
    before is a restart of the counting, which is no progress and no stall. ``finished`` counts requests that have
    ended; None where the engine does not say. ``ranks``: where there are several engines, each by its name; the rest is
    their sum."""

    work: tuple[float, ...]
    running: int = 0
    waiting: int = 0
    finished: float | None = None
    ranks: Mapping[str, Rank] = field(default_factory=dict)


ROUTE = "route "
# Tokens and iterations that canaries alone may account for between two readings, where finished requests are not
# counted. More is somebody's work, though none is pending at the moment of reading: a saturated server answers when it
# has just finished a batch.
CANARY_WORK = 2000.0


@dataclass(frozen=True, slots=True)
class Observation:
    """What one round of looking found; None where that signal was not looked at."""

    liveness: ProbeResult | None = None
    catalogue: ProbeResult | None = None
    metrics: ProbeResult | None = None  # the reading of the counters, as a question and its answer
    counters: Counters | None = None
    own: int = 0  # with counters: requests of ours that may have ended since the reading before
    canary: ProbeResult | None = None
    stopped: tuple[str, ...] | None = None  # members in state T or D, named
    routes: Mapping[str, ProbeResult] = field(default_factory=dict)  # a gateway's groups, each asked for a completion

    @property
    def probes(self) -> Mapping[str, ProbeResult]:
        """Those signals that are a question and its answer, by name."""
        pairs = (
            ("liveness", self.liveness),
            ("catalogue", self.catalogue),
            ("metrics", self.metrics),
            ("canary", self.canary),
        )
        named = {name: probe for name, probe in pairs if probe is not None}
        return named | {f"{ROUTE}{group}": probe for group, probe in self.routes.items()}


class Word(StrEnum):
    """The health of a program in one word, as people read it."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class Reaction(StrEnum):
    """What the supervisor does about a verdict."""

    KEEP = "keep"
    DOUBT = "doubt"  # keep, and look closer (a canary)
    LEAVE = "leave"  # it will not come back by itself: replace it
    KILL = "kill"  # it is dead, or hung with nothing to save: replace it without a grace


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fused judgement, with the name of the rule that made it and its reason in words."""

    rule: str
    word: Word
    action: Reaction
    reason: str


@dataclass(frozen=True, slots=True)
class Health:
    """Everything folded so far about one incarnation. Times are monotonic seconds.

    ``failures`` counts consecutive failed answers by signal. ``compared``: the last reading of the counters could be
    compared with one before it; ``moved``: and they differed; ``served``: others' requests that ended in between (or,
    where these are not counted, 1 when more was done than canaries do). ``suspect_since`` is when
    work was first seen to stand still while there was some to do (or the canary got no answer, or a member is stopped);
    None while there is nothing to suspect. ``proved_at`` is when the last canary was answered. ``standing``: of several
    engines those that do nothing though they have something to do, each with the time since when; the sums of all, and
    canaries, which reach one of them, say nothing of these.
    """

    probes: Mapping[str, ProbeResult] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    counters: Counters | None = None
    compared: bool = False
    moved: bool = False
    served: float = 0.0
    suspect_since: float | None = None
    stopped: tuple[str, ...] = ()
    proved_at: float | None = None
    standing: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict = Verdict("new", Word.STARTING, Reaction.KEEP, "not asked yet")

    @property
    def pending(self) -> bool:
        """Whether there is work to do, by the engine's own count."""
        return self.counters is not None and self.counters.running + self.counters.waiting > 0


NEW = Health()
FAILED = (Answer.INVALID, Answer.SILENT, Answer.REFUSED, Answer.DEAD)


def observe(health: Health, seen: Observation, now: float) -> Health:
    """Fold one observation into the state. Does not judge."""
    probes, failures = dict(health.probes), dict(health.failures)
    for name, probe in seen.probes.items():
        probes[name] = probe
        failures[name] = failures.get(name, 0) + 1 if probe.answer in FAILED else 0
    counters, compared, moved, served = health.counters, health.compared, health.moved, health.served
    standing = health.standing
    if seen.counters is not None:
        standing = _standing(health, seen.counters, now)
        compared = counters is not None and _comparable(counters.work, seen.counters.work)
        moved = compared and counters is not None and counters.work != seen.counters.work and not standing
        served = _served(counters, seen.counters, seen.own) if moved and counters is not None else 0.0
        counters = seen.counters
    elif seen.metrics is not None and seen.metrics.answer in FAILED:
        moved, served = False, 0.0  # not read is not seen to move; nor is it idle: what was pending still is
    if moved and "canary" in probes and probes["canary"].answer is Answer.SILENT:
        failures["canary"] = 0  # it waited behind the work that is being done
    if moved and counters is not None and counters.running + counters.waiting > 0:
        # so did they; when the work is gone, they are asked anew
        for name in ("liveness", "catalogue"):
            if name in probes and probes[name].answer is Answer.SILENT:
                failures[name] = 0
    answered = seen.canary is not None and seen.canary.answer not in FAILED
    # a refusal is the API server's own: it says nothing of the engine behind it
    proved = seen.canary is not None and seen.canary.answer is Answer.OK
    folded = replace(
        health,
        probes=probes,
        failures=failures,
        counters=counters,
        compared=compared,
        moved=moved,
        served=served,
        stopped=health.stopped if seen.stopped is None else seen.stopped,
        proved_at=now if answered else health.proved_at,
        standing=standing,
    )
    if standing:
        return replace(folded, suspect_since=min(standing.values()))
    unanswered = failures.get("canary", 0) > 0 and probes["canary"].answer is Answer.SILENT
    still = folded.pending and compared
    # without counters a stall cannot be told from rest: there the liveness of a stopped program falls silent soon
    frozen = bool(folded.stopped) and counters is not None
    if moved or not (still or unanswered or frozen):
        return replace(folded, suspect_since=None)
    if proved:
        return replace(folded, suspect_since=now)  # it answers, whatever it counts: the grace begins anew
    if health.suspect_since is not None:
        return folded
    # a question that got no answer shows a stall that began when it was sent, at the latest
    asked = seen.canary or seen.metrics
    return replace(folded, suspect_since=now - asked.took if asked is not None else now)


def _standing(health: Health, seen: Counters, now: float) -> dict[str, float]:
    """The engines that have something to do and have done nothing since the last reading, with the time since when."""
    known = health.counters.ranks if health.counters is not None else {}
    found = {}
    for name, rank in seen.ranks.items():
        before = known.get(name)
        if before is not None and rank.running + rank.waiting > 0 and rank.work == before.work:
            found[name] = health.standing.get(name, now)
    return found


def _comparable(before: tuple[float, ...], after: tuple[float, ...]) -> bool:
    """Whether two readings are of the same counting. A count that is smaller than before was restarted: that is neither
    progress nor a stall."""
    return len(before) == len(after) and all(new >= old for new, old in zip(after, before, strict=True))


def _served(before: Counters, after: Counters, own: int) -> float:
    """How many requests of others have ended between two comparable readings, of which ``own`` may have been ours."""
    if before.finished is None or after.finished is None:
        return 1.0 if sum(after.work) - sum(before.work) > CANARY_WORK else 0.0
    return max(0.0, after.finished - before.finished - own)


def wants_canary(spec: HealthSpec, health: Health, now: float) -> bool:
    """Whether to send a canary now: in doubt, or idle for the interval since the last proof. Never while work is seen
    to advance, which proves more than a canary does."""
    if not spec.canary or (health.moved and health.pending):
        return False
    if health.verdict.action is Reaction.DOUBT:
        return True
    return health.proved_at is None or now - health.proved_at >= spec.canary_interval
