"""When a fork server is made, when it is believed, and when it is dropped: a table of rules over plain values. Pure.

A fork server has imported an engine, and forks it in a fraction of the time that a start takes. It must never be a new
way to fail: whatever raises doubt about it drops it, and the next start is cold while another one is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

MAX_FORKS = 100  # forks after which another fork server takes its place
START_ROOM = 3 * 1024**3  # bytes of memory that must be available to make one
LEAST_ROOM = 1024**3  # bytes of available memory below which all are dropped
DISTRUST = 3  # failed starts in a row after which none is made until the packages of its environment change
IMPORT_PAUSE, IMPORT_PAUSE_CAP = 15.0, 1800.0  # seconds after an import that failed; doubled with each, up to the cap
HOLD_OFF = 300.0  # seconds for which the making waits, at most, for programs that start: imports would slow them down


class Life(StrEnum):
    """Where the process of a fork server is."""

    NONE = "none"
    IMPORTING = "importing"
    READY = "ready"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Seen:
    """One kind of fork server and the host, as they are at one moment.

    ``now`` is in monotonic seconds, ``available`` memory in bytes. ``death`` says how the process ended. ``forks`` are
    those of the present process. ``starting`` names the programs that are starting just now. ``packages`` stands for
    the packages in its environment; it is compared only when it is given up.
    """

    now: float
    life: Life
    available: int
    forks: int = 0
    death: str = ""
    starting: frozenset[str] = frozenset()
    packages: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Trust:
    """What is remembered of one kind of fork server, whichever process it was. Moments are monotonic seconds."""

    failures: int = 0  # starts from it that failed, in a row
    distrusted: tuple[object, ...] = ()  # the packages of its environment when it was given up
    imports_failed: int = 0  # in a row
    not_before: float = float("-inf")  # when it may import again
    held_off_since: float | None = None  # since when it waits for programs that start

    @property
    def given_up(self) -> bool:
        """Whether too many starts failed in a row: only other packages can change that."""
        return self.failures >= DISTRUST


NO_EXPERIENCE = Trust()


class Choice(StrEnum):
    """What to do about a fork server that is not there."""

    LEAVE = "leave"  # nothing, and what people are told stays
    WAIT = "wait"  # nothing yet, for a reason that people are told
    MAKE = "make"


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice with its reason for people (of WAIT), and what is to be remembered from now on."""

    choice: Choice
    trust: Trust
    reason: str = ""


Condition = Callable[[Trust, Seen], bool]
Words = Callable[[Trust, Seen], str]


@dataclass(frozen=True, slots=True)
class DropRule:
    """Drop the fork server where ``holds``; ``reason`` says why to people."""

    name: str
    holds: Callable[[Seen], bool]
    reason: Callable[[Seen], str]


# The first rule that holds decides; where none does, the fork server stays.
DROP: tuple[DropRule, ...] = (
    DropRule("dead", lambda s: s.life is Life.DEAD, lambda s: f"it {s.death}"),
    DropRule(
        "used up",
        lambda s: s.life is Life.READY and s.forks >= MAX_FORKS,
        lambda s: f"it has forked {s.forks} times",
    ),
    DropRule("memory", lambda s: s.life is not Life.NONE and s.available < LEAST_ROOM, lambda s: "memory is short"),
)


def _others_start(trust: Trust, seen: Seen) -> bool:
    since = seen.now if trust.held_off_since is None else trust.held_off_since
    return bool(seen.starting) and seen.now < since + HOLD_OFF


def _hold_off(trust: Trust, seen: Seen) -> Trust:
    return trust if trust.held_off_since is not None else replace(trust, held_off_since=seen.now)


def _hold_off_no_longer(trust: Trust, seen: Seen) -> Trust:
    return replace(trust, held_off_since=None)


def _unchanged(trust: Trust, seen: Seen) -> Trust:
    return trust


@dataclass(frozen=True, slots=True)
class MakeRule:
    """The choice where ``holds``, its reason for people, and how it changes what is remembered."""

    name: str
    choice: Choice
    holds: Condition
    reason: Words = lambda trust, seen: ""
    remember: Callable[[Trust, Seen], Trust] = _unchanged


# The first rule that holds decides; the last one always does.
MAKE: tuple[MakeRule, ...] = (
    MakeRule("there already", Choice.LEAVE, lambda t, s: s.life in (Life.IMPORTING, Life.READY)),
    MakeRule("given up", Choice.LEAVE, lambda t, s: t.given_up),
    MakeRule("pause after a failed import", Choice.LEAVE, lambda t, s: s.now < t.not_before),
    MakeRule(
        "others start",
        Choice.WAIT,
        _others_start,
        lambda t, s: f"waits until {', '.join(sorted(s.starting))} has started",
        _hold_off,
    ),
    MakeRule(
        "memory",
        Choice.WAIT,
        lambda t, s: s.available < START_ROOM,
        lambda t, s: f"{s.available // 2**20} MiB of memory are available, less than {START_ROOM // 2**20}",
        _hold_off_no_longer,
    ),
    MakeRule("make", Choice.MAKE, lambda t, s: True, remember=_hold_off_no_longer),
)


def why_drop(seen: Seen) -> str | None:
    """Why the fork server is to be dropped now, for people; None when it stays."""
    return next((rule.reason(seen) for rule in DROP if rule.holds(seen)), None)


def decide(trust: Trust, seen: Seen) -> Decision:
    """Whether a fork server is to be made now."""
    if trust.given_up and seen.packages != trust.distrusted:
        trust = replace(trust, failures=0, distrusted=())  # another installation, which has failed in nothing yet
    rule = next(rule for rule in MAKE if rule.holds(trust, seen))
    return Decision(rule.choice, rule.remember(trust, seen), rule.reason(trust, seen))


def start_succeeded(trust: Trust) -> Trust:
    """A program that was forked from it became ready."""
    return replace(trust, failures=0)


def start_failed(trust: Trust, packages: tuple[object, ...], *, counts: bool) -> Trust:
    """A start from it failed. ``counts`` is false where the fork server had only become stale."""
    after = replace(trust, failures=trust.failures + counts)
    return replace(after, distrusted=packages) if after.given_up else after


def why_failed(trust: Trust, why: str) -> str:
    """The reason for people, after ``start_failed``: it names the number of failures once it is given up."""
    return f"{trust.failures} starts from it failed: {why}" if trust.given_up else why


def import_succeeded(trust: Trust) -> Trust:
    """It has imported the engine."""
    return replace(trust, imports_failed=0)


def import_failed(trust: Trust, now: float) -> Trust:
    """It could not import the engine: the next try waits, twice as long with each failure."""
    pause = min(IMPORT_PAUSE * 2**trust.imports_failed, IMPORT_PAUSE_CAP)
    return replace(trust, imports_failed=trust.imports_failed + 1, not_before=now + pause)
