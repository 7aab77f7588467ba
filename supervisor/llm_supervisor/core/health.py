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
    before is a restart of the counting, which is no progress and no stall."""

    work: tuple[float, ...]
    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """What one round of looking found; None where that signal was not looked at."""

    liveness: Probe | None = None
    catalogue: Probe | None = None
    counters: Counters | None = None
    canary: Probe | None = None
    stopped: tuple[str, ...] | None = None  # members in state T or D, named

    @property
    def probes(self) -> Mapping[str, Probe]:
        """Those signals that are a question and its answer, by name."""
        pairs = (("liveness", self.liveness), ("catalogue", self.catalogue), ("canary", self.canary))
        return {name: probe for name, probe in pairs if probe is not None}


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

    ``failures`` counts consecutive failed answers by signal. ``suspect_since`` is when work was first seen to stand
    still while there was some to do (or the canary failed); None while there is nothing to suspect.
    """

    probes: Mapping[str, Probe] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    counters: Counters | None = None
    moved: bool = False
    suspect_since: float | None = None
    stopped: tuple[str, ...] = ()
    verdict: Verdict = Verdict("new", Word.STARTING, Action.KEEP, "not asked yet")


NEW = Health()
FAILED = (Answer.INVALID, Answer.SILENT, Answer.REFUSED, Answer.DEAD)


def observe(health: Health, seen: Observation, now: float) -> Health:
    """Fold one observation into the state. Does not judge."""
    probes, failures = dict(health.probes), dict(health.failures)
    for name, probe in seen.probes.items():
        probes[name] = probe
        failures[name] = failures.get(name, 0) + 1 if probe.answer in FAILED else 0
    counters, moved = health.counters, health.moved
    if seen.counters is not None:
        before = health.counters
        moved = before is not None and any(new > old for new, old in zip(seen.counters.work, before.work, strict=True))
        counters = seen.counters
    elif seen.liveness is not None:
        moved = False  # a round without counters proves no progress
    stopped = health.stopped if seen.stopped is None else seen.stopped
    pending = counters is not None and counters.running + counters.waiting > 0
    canary_failing = failures.get("canary", 0) > 0
    canary_answered = seen.canary is not None and seen.canary.answer not in FAILED
    suspect = (pending or canary_failing) and not moved and not canary_answered
    since = (health.suspect_since if health.suspect_since is not None else now) if suspect else None
    return replace(
        health, probes=probes, failures=failures, counters=counters, moved=moved, suspect_since=since, stopped=stopped
    )


# One word a signal ------------------------------------------------------------------------------------------


class Sign(StrEnum):
    """A signal in one word, as the table reads it."""

    FINE = "fine"
    WRONG = "wrong"
    SHAKY = "shaky"  # failing, below its threshold
    FAILING = "failing"  # failing, threshold reached
    GONE = "gone"  # refused, or dead by its own word
    UNKNOWN = "unknown"
    MOVING = "moving"
    IDLE = "idle"
    STILL = "still"  # standing still though there is something to do, below the grace
    STALLED = "stalled"  # the same, for longer than the grace
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Signs:
    """All signals, one word each: the input of the table."""

    tree: Sign
    liveness: Sign
    progress: Sign
    catalogue: Sign
    canary: Sign


def _answered(health: Health, name: str, spec: HealthSpec) -> Sign:
    probe = health.probes.get(name)
    if probe is None:
        return Sign.UNKNOWN
    match probe.answer:
        case Answer.OK:
            return Sign.FINE
        case Answer.WRONG:
            return Sign.WRONG
        case Answer.DEAD | Answer.REFUSED:
            return Sign.GONE
        case _:
            threshold = spec.readiness_threshold if name == "catalogue" else spec.failure_threshold
            return Sign.FAILING if health.failures.get(name, 0) >= threshold else Sign.SHAKY


def signs(spec: HealthSpec, health: Health, now: float) -> Signs:
    """Reduce the folded state to one word a signal."""
    if health.suspect_since is not None:
        progress = Sign.STALLED if now - health.suspect_since >= spec.stall_grace else Sign.STILL
    elif health.counters is None:
        progress = Sign.UNKNOWN
    else:
        progress = Sign.MOVING if health.moved else Sign.IDLE
    canary = _answered(health, "canary", spec)
    if canary in (Sign.GONE, Sign.SHAKY):
        canary = Sign.FAILING  # a canary is only sent when idle or in doubt: one failure is a failure
    return Signs(
        tree=Sign.STOPPED if health.stopped else Sign.FINE,
        liveness=_answered(health, "liveness", spec),
        progress=progress,
        catalogue=_answered(health, "catalogue", spec),
        canary=canary,
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

    def matches(self, seen: Signs) -> bool:
        """True when no named signal disagrees."""
        return all(
            wanted is None or getattr(seen, signal) in wanted
            for signal, wanted in (
                ("tree", self.tree),
                ("liveness", self.liveness),
                ("progress", self.progress),
                ("catalogue", self.catalogue),
                ("canary", self.canary),
            )
        )


_S = Sign
# The first matching row decides. Reasons are filled from ``Health`` by ``fuse``.
RULES: tuple[Rule, ...] = (
    Rule("gone", Word.UNHEALTHY, Action.KILL, "{liveness}", liveness=(_S.GONE,)),
    Rule("stalled", Word.UNHEALTHY, Action.KILL, "no progress for {still:.0f} s while {why}", progress=(_S.STALLED,)),
    Rule(
        "working",
        Word.BUSY,
        Action.KEEP,
        "{load}",
        progress=(_S.MOVING,),
        catalogue=(_S.FINE, _S.SHAKY, _S.FAILING, _S.GONE, _S.UNKNOWN),
    ),
    Rule("frozen", Word.UNHEALTHY, Action.DOUBT, "{stopped}", tree=(_S.STOPPED,)),
    Rule("standing", Word.UNHEALTHY, Action.DOUBT, "no progress for {still:.0f} s while {why}", progress=(_S.STILL,)),
    Rule(
        "silent",
        Word.UNHEALTHY,
        Action.LEAVE,
        "{liveness} ({liveness_failures} times in a row)",
        liveness=(_S.FAILING,),
        progress=(_S.UNKNOWN,),
    ),
    Rule(
        "mute", Word.UNHEALTHY, Action.DOUBT, "{liveness} ({liveness_failures} times in a row)", liveness=(_S.FAILING,)
    ),
    Rule("canary failing", Word.UNHEALTHY, Action.DOUBT, "{canary}", canary=(_S.FAILING,)),
    Rule(
        "no catalogue",
        Word.UNHEALTHY,
        Action.LEAVE,
        "{catalogue} ({catalogue_failures} times in a row)",
        catalogue=(_S.FAILING,),
    ),
    Rule("wrong catalogue", Word.DEGRADED, Action.KEEP, "{catalogue}", catalogue=(_S.WRONG,)),
    Rule("wrong answer", Word.DEGRADED, Action.KEEP, "{canary}", canary=(_S.WRONG,)),
    Rule("shaky", Word.READY, Action.DOUBT, "{liveness}", liveness=(_S.SHAKY,)),
    Rule("shaky catalogue", Word.READY, Action.DOUBT, "{catalogue}", catalogue=(_S.SHAKY, _S.GONE)),
    Rule("not asked", Word.UNKNOWN, Action.KEEP, "not asked yet", liveness=(_S.UNKNOWN,)),
    Rule("fine", Word.READY, Action.KEEP, "answers"),
)


def fuse(spec: HealthSpec, health: Health, now: float) -> Verdict:
    """The verdict on a program that was ready once. Total: the last row of ``RULES`` matches everything."""
    seen = signs(spec, health, now)
    rule = next(rule for rule in RULES if rule.matches(seen))
    return Verdict(rule.name, rule.word, rule.action, _reason(rule.reason, health, now))


def _reason(template: str, health: Health, now: float) -> str:
    load = health.counters or Counters(())
    failing_canary = health.failures.get("canary", 0) > 0
    return template.format(
        liveness=_words(health, "liveness"),
        catalogue=_words(health, "catalogue"),
        canary=_words(health, "canary"),
        liveness_failures=health.failures.get("liveness", 0),
        catalogue_failures=health.failures.get("catalogue", 0),
        still=now - health.suspect_since if health.suspect_since is not None else 0.0,
        why="the canary fails" if failing_canary else f"{load.running} running and {load.waiting} waiting",
        load=f"{load.running} running, {load.waiting} waiting",
        stopped=", ".join(health.stopped),
    )


def _words(health: Health, name: str) -> str:
    probe = health.probes.get(name)
    return f"{name}: {probe.detail or probe.answer}" if probe is not None else f"{name}: not asked"


def readiness(spec: HealthSpec, health: Health, needed: tuple[str, ...]) -> Verdict:
    """The verdict on a program that was never ready: ready when every needed question has its right answer.

    A right list with wrong content is worth waiting for only as long as the start may last, and the program works:
    so ``wrong`` makes it degraded, not unready, once everything else is fine.
    """
    missing = [name for name in needed if name not in health.probes]
    if missing:
        return Verdict("starting", Word.STARTING, Action.KEEP, f"{missing[0]}: not asked yet")
    for name in needed:
        answer = health.probes[name].answer
        if answer not in (Answer.OK, Answer.WRONG):
            return Verdict("starting", Word.STARTING, Action.KEEP, _words(health, name))
    for name in needed:
        if health.probes[name].answer is Answer.WRONG:
            return Verdict("wrong catalogue", Word.DEGRADED, Action.KEEP, _words(health, name))
    return Verdict("ready", Word.READY, Action.KEEP, "answers")


def next_judgement(spec: HealthSpec, health: Health) -> float | None:
    """When the verdict changes though nothing is observed: the end of the stall grace. None: never."""
    return None if health.suspect_since is None else health.suspect_since + spec.stall_grace
