"""How long requests may wait for an engine that is down: what the gateway is told about each engine. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from llm_supervisor.core.state import Cause, Phase, State, Wanted

LONGEST = 600.0  # seconds; what clients wait for by default (the openai library)
LEAST = 10.0
# Seconds after which to ask again for an engine that does not come back by itself
MENDING = 60


class Why(StrEnum):
    """What clients are told. Nothing else reaches them: a reason of the state may hold a file's path, another process's
    command line or a line of a log, and is for the operator (`llm-supervisor status`)."""

    UP = ""
    STARTING = "it is starting"
    RESTARTING = "it is being restarted"
    WAITING = "it failed, and will be started again"
    STOPPED = "it was stopped"
    ENDED = "it has ended, and is not started again"
    GIVEN_UP = "it failed, and is not started again until the operator has mended it"
    ELSEWHERE = "it is at another address"


_WHY = {
    Phase.RUNNING: Why.UP,
    Phase.STARTING: Why.STARTING,
    Phase.TERMINATING: Why.RESTARTING,
    Phase.KILLING: Why.RESTARTING,
    Phase.SWEEPING: Why.RESTARTING,
    Phase.BACKOFF: Why.WAITING,
    Phase.FATAL: Why.GIVEN_UP,
    Phase.STOPPED: Why.ENDED,  # by itself: it is wanted
}


@dataclass(frozen=True, slots=True)
class Hold:
    """One engine, as the gateway sees it. ``until``: monotonic seconds until which a request may wait; ``final``:
    nothing is under way that would bring it back; ``retry_after``: seconds after which a client may ask again."""

    up: bool
    until: float
    final: bool
    retry_after: int
    why: Why


def hold(state: State, limit: float | None, now: float) -> Hold:
    """What requests for this engine should do. ``limit`` is the configured hold in seconds; None: half as much again as
    its last cold start took, at most ``LONGEST``; where a warm start is tried first, the time after which that is
    given up (``moves.warm_budget``) is added, so that a warm start never shortens the wait for the cold one after
    it."""
    up = state.phase is Phase.RUNNING
    # an engine that was asked to stop does not come back: requests must not wait while it leaves
    final = state.phase in (Phase.STOPPED, Phase.FATAL) or (not up and state.wanted is Wanted.DOWN)
    since = now if state.down_since is None else state.down_since
    if limit is None:
        asked = state.leaving is not None and state.leaving.cause is Cause.ASKED
        if state.phase is Phase.TERMINATING and asked and state.deadline is not None:
            since = max(since, state.deadline)  # what it has in hand it may answer until then
        starts = 2 if state.startup.warm or state.cold_next else 1
        limit = LONGEST if state.cold_took is None else min(LONGEST, starts * max(1.5 * state.cold_took, LEAST))
    wait = MENDING if final else math.ceil(state.cold_took or LEAST)
    return Hold(up, since + limit, final, wait, _why(state))


def _why(state: State) -> Why:
    unwanted = state.wanted is Wanted.DOWN and state.phase not in (Phase.RUNNING, Phase.FATAL)
    return Why.STOPPED if unwanted else _WHY[state.phase]


def hold_elsewhere(state: State, limit: float | None, since: float, now: float) -> Hold:
    """What requests should do that look for the engine at an address where it has not been ``since`` (monotonic
    seconds): they wait as for an engine that is down. Either it comes to that address, or the replica that looks there
    is replaced."""
    seen = hold(state, limit, now)
    if not seen.up:
        return seen
    return replace(hold(replace(state, down_since=since), limit, now), up=False, why=Why.ELSEWHERE)


# By address -------------------------------------------------------------------------------------------------

# Where replicas may look for an engine. By address: the monotonic time since when it is not there; None where it is.
Addresses = Mapping[str, float | None]


def addresses(is_at: str, configured: str, before: Addresses, now: float) -> dict[str, float | None]:
    """Where the gateway's replicas may look for an engine that ``is_at`` one address: there, at the ``configured`` one,
    and at those that were known ``before``. Give no former addresses when every replica runs with the present
    configuration: then nobody looks there."""
    elsewhere = [address for address in {**before, configured: None} if address != is_at]
    return {is_at: None, **{address: before.get(address) or now for address in elsewhere}}


def holds(engines: Iterable[tuple[State, Addresses]], limit: float | None, now: float) -> dict[str, Hold]:
    """What requests should do, by the address that they are for. A request for an address where its engine is not any
    more waits, and is not sent there. Where another engine is by now, that one's word holds."""
    there: dict[str, Hold] = {}
    elsewhere: dict[str, Hold] = {}
    for state, known in engines:
        for address, since in known.items():
            if since is None:
                there[address] = hold(state, limit, now)
            else:
                elsewhere[address] = hold_elsewhere(state, limit, since, now)
    return elsewhere | there
