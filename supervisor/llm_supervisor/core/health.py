"""From observations to a verdict: is the program ready, busy, degraded, doubtful, hung or dead, and why.

Pure: each signal (tree, liveness, catalogue, progress, canary) is folded into a small state by ``observe``, reduced
to one word by ``signs``, and fused by the first row of ``RULES`` that matches. A row is data, so the table can be
read, printed and tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from llm_supervisor.core.spec import HealthSpec


class Answer(StrEnum):
    """What came back from one question."""

    OK = "ok"
    WRONG = "wrong"  # a valid answer with the wrong content
    INVALID = "invalid"  # an answer that is none: a status or a body nobody should send
    SILENT = "silent"  # nothing within the time-out; may only be busy
    REFUSED = "refused"  # nobody listens
    DEAD = "dead"  # the program itself says that its engine is dead


@dataclass(frozen=True, slots=True)
class Probe:
    """One question's result: the answer, in words what was seen, and how long it took (seconds)."""

    answer: Answer
    detail: str = ""
    took: float = 0.0


@dataclass(frozen=True, slots=True)
class Counters:
    """What an engine counts. ``work`` only grows while it works (tokens and iterations); a smaller value than
    before is a restart of the counting, which is no progress and no stall. ``finished`` counts requests that have
    ended; None where the engine does not say."""

    work: tuple[float, ...]
    running: int = 0
    waiting: int = 0
    finished: float | None = None


ROUTE = "route "
# Tokens and iterations that canaries alone may account for between two readings, where finished requests are not
# counted. More is somebody's work, though none is pending at the moment of reading: a saturated server answers when it
# has just finished a batch.
CANARY_WORK = 2000.0


@dataclass(frozen=True, slots=True)
class Observation:
    """What one round of looking found; None where that signal was not looked at."""

    liveness: Probe | None = None
    catalogue: Probe | None = None
    metrics: Probe | None = None  # the reading of the counters, as a question and its answer
    counters: Counters | None = None
    own: int = 0  # with counters: requests of ours that may have ended since the reading before
    canary: Probe | None = None
    stopped: tuple[str, ...] | None = None  # members in state T or D, named
    routes: Mapping[str, Probe] = field(default_factory=dict)  # a gateway's groups, each asked for a completion

    @property
    def probes(self) -> Mapping[str, Probe]:
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
    """Health as people read it."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class Action(StrEnum):
    """What a verdict asks for."""

    KEEP = "keep"
    DOUBT = "doubt"  # keep, and look closer (a canary)
    LEAVE = "leave"  # it will not come back by itself: replace it
    KILL = "kill"  # it is dead, or hung with nothing to save: replace it without a grace


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fused judgement, with the name of the rule that made it and its reason in words."""

    rule: str
    word: Word
    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class Health:
    """Everything folded so far about one incarnation. Times are monotonic seconds.

    ``failures`` counts consecutive failed answers by signal. ``compared``: the last reading of the counters could be
    compared with one before it; ``moved``: and they differed; ``served``: others' requests that ended in between (or,
    where these are not counted, 1 when more was done than canaries do). ``suspect_since`` is when
    work was first seen to stand still while there was some to do (or the canary got no answer, or a member is stopped);
    None while there is nothing to suspect. ``proved_at`` is when the last canary was answered.
    """

    probes: Mapping[str, Probe] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    counters: Counters | None = None
    compared: bool = False
    moved: bool = False
    served: float = 0.0
    suspect_since: float | None = None
    stopped: tuple[str, ...] = ()
    proved_at: float | None = None
    verdict: Verdict = Verdict("new", Word.STARTING, Action.KEEP, "not asked yet")

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
    if seen.counters is not None:
        compared = counters is not None and _comparable(counters.work, seen.counters.work)
        moved = compared and counters is not None and counters.work != seen.counters.work
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
    )
    unanswered = failures.get("canary", 0) > 0 and probes["canary"].answer is Answer.SILENT
    standing = folded.pending and compared
    # without counters a stall cannot be told from rest: there the liveness of a stopped program falls silent soon
    frozen = bool(folded.stopped) and counters is not None
    if moved or not (standing or unanswered or frozen):
        return replace(folded, suspect_since=None)
    if proved:
        return replace(folded, suspect_since=now)  # it answers, whatever it counts: the grace begins anew
    if health.suspect_since is not None:
        return folded
    # a question that got no answer shows a stall that began when it was sent, at the latest
    asked = seen.canary or seen.metrics
    return replace(folded, suspect_since=now - asked.took if asked is not None else now)


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
    if health.verdict.action is Action.DOUBT:
        return True
    return health.proved_at is None or now - health.proved_at >= spec.canary_interval


# One word a signal ------------------------------------------------------------------------------------------


class Sign(StrEnum):
    """A signal in one word, as the table reads it."""

    NONE = "none"  # this program has no such signal
    UNKNOWN = "unknown"  # not asked yet
    FINE = "fine"
    WRONG = "wrong"  # a valid answer with the wrong content
    SHAKY = "shaky"  # failing, below its threshold
    MUTE = "mute"  # threshold reached, the last time by silence: may only be busy
    FAILING = "failing"  # threshold reached, the last time by an answer that is none
    GONE = "gone"  # refused, or dead by its own word
    # progress
    IDLE = "idle"  # nothing to do
    MOVED = "moved"  # did something, has nothing to do now
    MOVING = "moving"  # does something
    STILL = "still"  # stands still though there is something to do, below the grace
    STALLED = "stalled"  # the same, for longer than the grace
    # tree
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Signs:
    """All signals, one word each: the input of the table."""

    tree: Sign
    liveness: Sign
    progress: Sign
    catalogue: Sign
    canary: Sign
    routes: Sign


def _answered(health: Health, name: str, threshold: int) -> Sign:
    probe = health.probes.get(name)
    if probe is None:
        return Sign.UNKNOWN
    if probe.answer is Answer.WRONG:
        return Sign.WRONG
    failed = health.failures.get(name, 0)
    if probe.answer is Answer.OK or failed == 0:
        return Sign.FINE
    if probe.answer in (Answer.DEAD, Answer.REFUSED) and name == "liveness":
        return Sign.GONE
    if failed < threshold:
        return Sign.SHAKY
    return Sign.MUTE if probe.answer is Answer.SILENT else Sign.FAILING


def _progress(spec: HealthSpec, health: Health, now: float) -> Sign:
    if health.suspect_since is not None:
        # as next_judgement() adds it: a difference would round to the other side
        return Sign.STALLED if now >= health.suspect_since + spec.stall_grace else Sign.STILL
    if health.counters is None:
        return Sign.UNKNOWN
    if not health.moved:
        return Sign.IDLE
    return Sign.MOVING if health.pending or health.served else Sign.MOVED


def signs(spec: HealthSpec, health: Health, now: float) -> Signs:
    """Reduce the folded state to one word a signal."""
    routes = [probe for name, probe in health.probes.items() if name.startswith(ROUTE)]
    return Signs(
        tree=Sign.STOPPED if health.stopped else Sign.FINE,
        liveness=_answered(health, "liveness", spec.failure_threshold),
        progress=_progress(spec, health, now),
        catalogue=_answered(health, "catalogue", spec.readiness_threshold),
        canary=_answered(health, "canary", spec.failure_threshold) if spec.canary else Sign.NONE,
        routes=Sign.FINE if all(probe.answer is Answer.OK for probe in routes) else Sign.WRONG,
    )


# The table --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: it matches when every named signal shows one of the words given (None: any)."""

    name: str
    word: Word
    action: Action
    reason: str
    tree: tuple[Sign, ...] | None = None
    liveness: tuple[Sign, ...] | None = None
    progress: tuple[Sign, ...] | None = None
    catalogue: tuple[Sign, ...] | None = None
    canary: tuple[Sign, ...] | None = None
    routes: tuple[Sign, ...] | None = None

    def matches(self, seen: Signs) -> bool:
        """True when no named signal disagrees."""
        pairs = (
            (self.tree, seen.tree),
            (self.liveness, seen.liveness),
            (self.progress, seen.progress),
            (self.catalogue, seen.catalogue),
            (self.canary, seen.canary),
            (self.routes, seen.routes),
        )
        return all(wanted is None or shown in wanted for wanted, shown in pairs)


_S, _W, _A = Sign, Word, Action
_STILL = "no progress for {still:.0f} s while {why}"
_LIVENESS = "{liveness} ({liveness_failures} times in a row)"
_CATALOGUE = "{catalogue} ({catalogue_failures} times in a row)"
_CANARY = "{canary} ({canary_failures} times in a row)"
# The first matching row decides. Reasons are filled from ``Health`` by ``fuse``.
# fmt: off
RULES: tuple[Rule, ...] = (
    # what is dead or hung for good
    Rule("gone", _W.UNHEALTHY, _A.KILL, "{liveness}", liveness=(_S.GONE,)),
    Rule("stalled", _W.UNHEALTHY, _A.KILL, _STILL, progress=(_S.STALLED,)),
    # what works, whatever a probe says
    Rule("working on the wrong", _W.DEGRADED, _A.KEEP, "{catalogue}; {load}",
         progress=(_S.MOVING,), catalogue=(_S.WRONG,)),
    Rule("working, but", _W.DEGRADED, _A.KEEP, "{canary}; {load}",
         progress=(_S.MOVING,), canary=(_S.WRONG, _S.SHAKY, _S.FAILING)),
    Rule("working", _W.BUSY, _A.KEEP, "{load}", progress=(_S.MOVING,)),
    # no valid answer for its threshold; where a canary can be sent, silence is only doubt
    Rule("failing", _W.UNHEALTHY, _A.LEAVE, _LIVENESS, liveness=(_S.FAILING,)),
    Rule("silent", _W.UNHEALTHY, _A.LEAVE, _LIVENESS,
         liveness=(_S.MUTE,), canary=(_S.NONE,), progress=(_S.UNKNOWN, _S.IDLE, _S.MOVED)),
    Rule("catalogue failing", _W.UNHEALTHY, _A.LEAVE, _CATALOGUE, catalogue=(_S.FAILING,)),
    Rule("catalogue silent", _W.UNHEALTHY, _A.LEAVE, _CATALOGUE,
         catalogue=(_S.MUTE,), canary=(_S.NONE,), progress=(_S.UNKNOWN, _S.IDLE, _S.MOVED)),
    # doubt: a canary will tell, or the grace will pass
    Rule("frozen", _W.UNHEALTHY, _A.DOUBT, "{stopped}", tree=(_S.STOPPED,)),
    Rule("waiting", _W.BUSY, _A.DOUBT, _STILL, progress=(_S.STILL,), canary=(_S.FINE,)),
    Rule("standing", _W.UNHEALTHY, _A.DOUBT, _STILL, progress=(_S.STILL,)),
    Rule("mute", _W.UNHEALTHY, _A.DOUBT, _LIVENESS, liveness=(_S.MUTE,)),
    Rule("catalogue mute", _W.UNHEALTHY, _A.DOUBT, _CATALOGUE, catalogue=(_S.MUTE,)),
    Rule("canary failing", _W.UNHEALTHY, _A.LEAVE, _CANARY, canary=(_S.FAILING,)),
    Rule("canary shaky", _W.UNHEALTHY, _A.DOUBT, _CANARY, canary=(_S.SHAKY, _S.MUTE)),
    # it answers, but not as it should
    Rule("wrong catalogue", _W.DEGRADED, _A.KEEP, "{catalogue}", catalogue=(_S.WRONG,)),
    Rule("wrong answer", _W.DEGRADED, _A.KEEP, "{canary}", canary=(_S.WRONG,)),
    Rule("wrong route", _W.DEGRADED, _A.KEEP, "{routes}", routes=(_S.WRONG,)),
    # one failure is none yet
    Rule("shaky", _W.READY, _A.DOUBT, "{liveness}", liveness=(_S.SHAKY,)),
    Rule("catalogue shaky", _W.READY, _A.DOUBT, "{catalogue}", catalogue=(_S.SHAKY,)),
    Rule("not asked", _W.UNKNOWN, _A.KEEP, "not asked yet", liveness=(_S.UNKNOWN,)),
    Rule("fine", _W.READY, _A.KEEP, "answers"),
)
# fmt: on


def fuse(spec: HealthSpec, health: Health, now: float) -> Verdict:
    """The verdict on a program that was ready once. Total: the last row of ``RULES`` matches everything."""
    seen = signs(spec, health, now)
    rule = next(rule for rule in RULES if rule.matches(seen))
    return Verdict(rule.name, rule.word, rule.action, _reason(rule.reason, health, now))


def _reason(template: str, health: Health, now: float) -> str:
    load = health.counters or Counters(())
    return template.format(
        liveness=_words(health, "liveness"),
        catalogue=_words(health, "catalogue"),
        canary=_words(health, "canary"),
        canary_failures=health.failures.get("canary", 0),
        routes="; ".join(
            _words(health, name)
            for name, probe in health.probes.items()
            if name.startswith(ROUTE) and probe.answer is not Answer.OK
        ),
        liveness_failures=health.failures.get("liveness", 0),
        catalogue_failures=health.failures.get("catalogue", 0),
        still=now - health.suspect_since if health.suspect_since is not None else 0.0,
        why=_why(health),
        load=f"{load.running} running, {load.waiting} waiting"
        + (f", {health.served:.0f} answered since the last look" if health.served and not health.pending else ""),
        stopped=", ".join(health.stopped),
    )


def _why(health: Health) -> str:
    if health.stopped:
        return ", ".join(health.stopped)
    if health.failures.get("canary", 0) > 0:
        return "the canary gets no answer"
    load = health.counters or Counters(())
    return f"{load.running} running and {load.waiting} waiting"


def _words(health: Health, name: str) -> str:
    probe = health.probes.get(name)
    return f"{name}: {probe.detail or probe.answer}" if probe is not None else f"{name}: not asked"


def readiness(spec: HealthSpec, health: Health) -> Verdict:
    """The verdict on a program that was never ready: ready when every needed question has its right answer.

    A valid answer with the wrong content will not become right by waiting, nor by a restart: it makes the program
    degraded, once everything else is fine.
    """
    needed = ("liveness", "catalogue", "canary") if spec.canary else ("liveness", "catalogue")
    for name in needed:
        if name not in health.probes or health.probes[name].answer in FAILED:
            return Verdict("starting", Word.STARTING, Action.KEEP, _words(health, name))
    for name in needed:
        if health.probes[name].answer is Answer.WRONG:
            return Verdict(f"wrong {name}", Word.DEGRADED, Action.KEEP, _words(health, name))
    return Verdict("ready", Word.READY, Action.KEEP, "answers")


def next_judgement(spec: HealthSpec, health: Health) -> float | None:
    """When the verdict changes though nothing is observed: the end of the stall grace. None: never."""
    return None if health.suspect_since is None else health.suspect_since + spec.stall_grace
