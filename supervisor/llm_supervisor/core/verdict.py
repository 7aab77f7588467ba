"""The verdict on a program: one word a signal, and the table that fuses them. Pure.

``signs`` reduces what ``health.observe`` has folded to one word a signal, and ``fuse`` takes the first row of
``RULES`` that matches. A row is data, so the table can be read, printed and tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from llm_supervisor.core.health import FAILED, ROUTE, Answer, Counters, Health, Reaction, Verdict, Word
from llm_supervisor.core.spec import HealthSpec


class Sign(StrEnum):
    """A signal in one word, as the table reads it."""

    NONE = "none"  # this program has no such signal
    UNKNOWN = "unknown"  # not asked yet
    FINE = "fine"
    WRONG = "wrong"  # a valid answer with the wrong content
    SHAKY = "shaky"  # failing, below its threshold
    MUTE = "mute"  # threshold reached, the last time by silence: may only be busy
    FAILING = "failing"  # threshold reached, the last time by an invalid answer
    GONE = "gone"  # refused, or it says itself that it is dead
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


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: it matches when every named signal shows one of the words given (None: any)."""

    name: str
    word: Word
    action: Reaction
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


_S, _W, _A = Sign, Word, Reaction
_STILL = "no progress for {still:.0f} s while {why}"
_LIVENESS = "{liveness} ({liveness_failures} times in a row)"
_WRONG_LIST = "{catalogue}{routes_too}"
_CATALOGUE = "{catalogue} ({catalogue_failures} times in a row)"
_CANARY = "{canary} ({canary_failures} times in a row)"
# The first matching row decides. Reasons are filled from ``Health`` by ``fuse``.
# fmt: off
RULES: tuple[Rule, ...] = (
    # what is dead or hung for good
    Rule("gone", _W.UNHEALTHY, _A.KILL, "{liveness}", liveness=(_S.GONE,)),
    Rule("stalled", _W.UNHEALTHY, _A.KILL, _STILL, progress=(_S.STALLED,)),
    # what works, whatever a probe says
    Rule("working on the wrong", _W.DEGRADED, _A.KEEP, f"{_WRONG_LIST}; {{load}}",
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
    Rule("wrong catalogue", _W.DEGRADED, _A.KEEP, _WRONG_LIST, catalogue=(_S.WRONG,)),
    Rule("wrong answer", _W.DEGRADED, _A.KEEP, "{canary}", canary=(_S.WRONG,)),
    Rule("wrong route", _W.DEGRADED, _A.KEEP, "{routes}", routes=(_S.WRONG,)),
    # below the threshold: not yet a failure
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
    routes = _wrong_routes(health)
    return template.format(
        liveness=_words(health, "liveness"),
        catalogue=_words(health, "catalogue"),
        canary=_words(health, "canary"),
        canary_failures=health.failures.get("canary", 0),
        routes=routes,
        routes_too=routes and f"; {routes}",
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
    if health.standing and health.counters is not None:
        ranks = ((name, health.counters.ranks[name]) for name in sorted(health.standing))
        return ", ".join(f"engine {name} has {one.running} running and {one.waiting} waiting" for name, one in ranks)
    if health.failures.get("canary", 0) > 0:
        return "the canary gets no answer"
    load = health.counters or Counters(())
    return f"{load.running} running and {load.waiting} waiting"


def _wrong_routes(health: Health) -> str:
    """What is wrong with the routes of a gateway; empty where nothing is."""
    routes = ((name, probe) for name, probe in health.probes.items() if name.startswith(ROUTE))
    return "; ".join(_words(health, name) for name, probe in routes if probe.answer is not Answer.OK)


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
            return Verdict("starting", Word.STARTING, Reaction.KEEP, _words(health, name))
    for name in needed:
        if health.probes[name].answer is Answer.WRONG:
            reason = "; ".join(filter(None, (_words(health, name), _wrong_routes(health))))
            return Verdict(f"wrong {name}", Word.DEGRADED, Reaction.KEEP, reason)
    return Verdict("ready", Word.READY, Reaction.KEEP, "answers")


def next_judgement(spec: HealthSpec, health: Health) -> float | None:
    """When the verdict changes though nothing is observed: the end of the stall grace. None: never."""
    return None if health.suspect_since is None else health.suspect_since + spec.stall_grace
