"""How replicas of the gateway are restarted so that clients are served all the time: one after the other, and an only
replica behind a spare one. Pure.

It is decided here once. The command, the HTTP API, a reload and the daemon itself (for a replica that has grown too
much) mean the same by the restart of a replica.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from llm_supervisor.core.request import RequestOutcome
from llm_supervisor.core.spec import Kind, ProgramSpec
from llm_supervisor.core.state import Phase, State, Wanted

# What a request may name beside single programs: all replicas of the gateway, and all programs
GATEWAY = "gateway"
ALL = "all"


# What a request is about ------------------------------------------------------------------------------------


def addressed(
    action: str, names: Sequence[str], specs: Mapping[str, ProgramSpec], spares: Collection[str] = ()
) -> list[str]:
    """The programs that a request for ``action`` (start, stop or restart) means by these names, each one once. A name
    that no program has is returned as it is.

    ``gateway`` means every replica, ``all`` every program (unless a program has that name). ``spares`` are the replicas
    that serve only while another one is replaced: they are stopped with the gateway, but a start or a restart of the
    gateway is none of theirs.
    """
    named = list(specs) if ALL in names and ALL not in specs else list(names)
    replicas = [name for name, spec in specs.items() if spec.kind is Kind.LITELLM]
    found: list[str] = []
    for name in named:
        found += replicas if name == GATEWAY and name in replicas else [name]
    whole = ALL in names or GATEWAY in names
    left_out = [name for name in spares if action != "stop" and whole and name not in names]
    return [name for name in dict.fromkeys(found) if name not in left_out]


def one_by_one(action: str, names: Iterable[str], specs: Mapping[str, ProgramSpec]) -> list[str]:
    """Those of the named programs that are restarted one after the other, when all the others have been: the replicas.
    Requests that wait for a restarting engine wait in a replica, which would cut them when it leaves."""
    return [name for name in names if action == "restart" and specs[name].kind is Kind.LITELLM]


# One replica ------------------------------------------------------------------------------------------------


class Turn(StrEnum):
    """What happens to a replica when its turn has come."""

    REFUSED = "refused"  # the daemon is about to end, or the replica is no longer configured
    PUT_OFF = "put off"  # the daemon is about to become another version, which does it
    STAYS_DOWN = "stays down"  # somebody stopped it while it waited for its turn
    IS_NEW = "is new"  # its process was started with the present configuration
    RESTART = "restart"  # another one serves, or nobody is served by this one
    BEHIND_SPARE = "behind a spare one"  # it alone serves: a spare one must be ready before it leaves


# The answers where nothing is left to do
ANSWERS: Mapping[Turn, RequestOutcome] = {
    Turn.REFUSED: RequestOutcome(False, "not restarted: the daemon is about to end, or it is no longer configured"),
    Turn.PUT_OFF: RequestOutcome(True, "asked"),
    Turn.STAYS_DOWN: RequestOutcome(False, "not restarted: was stopped meanwhile"),
    Turn.IS_NEW: RequestOutcome(True, "is new already"),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true when the turn of a replica has come.

    ``state`` is None when it is no longer configured; ``is_new``: its process was started with the present
    configuration; ``others_serve``: another replica does; ``may_spare``: a spare replica can be started.
    ``ending`` and ``handing_over`` are about the daemon: it was told to end, or to become another version.
    """

    state: State | None
    is_new: bool = False
    others_serve: bool = False
    may_spare: bool = False
    ending: bool = False
    handing_over: bool = False


def turn(facts: Facts, *, changed: bool, was_down: bool) -> Turn:
    """What happens to a replica now. ``changed``: it is restarted because its configuration changed, so only if its
    process is not new yet. ``was_down``: it had been told to stay down when the restart was asked for. An explicit
    request starts such a replica; a change does not, and neither starts one that was stopped since."""
    if facts.ending or facts.state is None:
        return Turn.REFUSED
    if facts.handing_over:
        return Turn.PUT_OFF
    if stays_down(facts.state) and (changed or not was_down):
        return Turn.STAYS_DOWN
    serves = facts.state.phase is Phase.RUNNING
    if changed and serves and facts.is_new:
        return Turn.IS_NEW
    if serves and facts.may_spare and not facts.others_serve:
        return Turn.BEHIND_SPARE
    return Turn.RESTART


def behind(spare: RequestOutcome, state: State) -> RequestOutcome | None:
    """Why a replica is not restarted though its spare one was started; None when it is restarted. ``spare`` is what
    became of the spare one, ``state`` is the replica's."""
    if stays_down(state):
        return ANSWERS[Turn.STAYS_DOWN]
    if not spare.done:
        return RequestOutcome(False, f"left as it is, as a new one did not get ready: {spare.words}")
    return None


def left_behind(name: str) -> RequestOutcome:
    """What becomes of the replicas whose turn has not come when ``name`` did not get ready: they serve on."""
    return RequestOutcome(False, f"left as it is, as {name} did not get ready")


# Whether somebody serves ------------------------------------------------------------------------------------


def stays_down(state: State) -> bool:
    """Whether it was told to stop, and nothing else since."""
    return state.wanted is Wanted.DOWN


def serving(states: Iterable[State]) -> bool:
    """Whether one of these serves, and was not told to leave."""
    return any(state.phase is Phase.RUNNING and not stays_down(state) for state in states)


def may_leave(others: Iterable[State], configured: Iterable[State]) -> bool:
    """Whether a spare replica may go: one of the ``others`` serves, or nobody is to serve, as all the ``configured``
    replicas were told to stay down."""
    return serving(others) or all(stays_down(state) for state in configured)
