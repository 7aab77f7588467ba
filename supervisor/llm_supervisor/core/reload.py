"""What another configuration means for the running programs: a plan that touches only what has changed, and the order
in which it is carried out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from llm_supervisor.core.request import RequestOutcome
from llm_supervisor.core.rolling import ANSWERS, Turn, serving
from llm_supervisor.core.spec import Kind, ProgramSpec
from llm_supervisor.core.state import Phase, State, Wanted


class Action(StrEnum):
    """What a reload does with one program."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    ROLLING = "rolling"  # restarted one after the other: meanwhile the others serve
    UPDATE = "update"  # watched in another way from now on; its process stays
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload does with one program, and the reason for people."""

    program: str
    action: Action
    why: str


def changes(
    old: Mapping[str, ProgramSpec],
    new: Mapping[str, ProgramSpec],
    states: Mapping[str, State],
    running: Mapping[str, str],
    leaving: Collection[str] = (),
) -> list[Change]:
    """One for every program, old or new. ``running`` are the digests of what the living were started with, ``leaving``
    those that an earlier plan told to leave, and that are not gone yet."""
    found = [_stop(name) for name in old if name not in new]
    for name, spec in new.items():
        before = old.get(name)
        if before is None:
            found.append(_new(name, spec, "is new"))
        elif name in leaving:  # it is wanted down because of that plan, not because of a request
            found.append(_new(name, spec, "is configured again"))
        else:
            found.append(_change(before, spec, states[name], running.get(name, before.digest)))
    return found


def _stop(name: str) -> Change:
    return Change(name, Action.STOP, "is no longer configured")


def _new(name: str, spec: ProgramSpec, why: str) -> Change:
    if spec.autostart:
        return Change(name, Action.START, why)
    return Change(name, Action.NOTHING, f"{why}, and is not started by itself")


def _change(old: ProgramSpec, new: ProgramSpec, state: State, running: str) -> Change:
    name = new.name
    up = state.wanted is Wanted.UP and state.phase is not Phase.STOPPED
    if old.kind is not new.kind:
        return Change(name, Action.RESTART if up else Action.UPDATE, f"is a {new.kind} now")
    if state.phase is Phase.FATAL and old.digest != new.digest and state.wanted is Wanted.UP:
        return Change(name, Action.START, "was given up, and its configuration has changed")
    if running != new.digest and up and state.phase is not Phase.FATAL:
        rolling = new.kind is Kind.LITELLM
        return Change(
            name, Action.ROLLING if rolling else Action.RESTART, "its process was started with something else"
        )
    if old.digest != new.digest or old.settings != new.settings:
        why = "how it is watched has changed" if old.digest == new.digest else "it is not running"
        return Change(name, Action.UPDATE, why)
    return Change(name, Action.NOTHING, "is unchanged")


# In which order ---------------------------------------------------------------------------------------------

BY_REQUEST = (Action.START, Action.STOP, Action.RESTART)


@dataclass(frozen=True, slots=True)
class Order:
    """The order in which a plan is carried out: ``at_once`` while the ``rolling`` replicas are restarted one after the
    other; then ``surplus``, the replicas that are too many, one after the other; then ``engines``, all at once."""

    at_once: tuple[Change, ...]
    rolling: tuple[str, ...]
    surplus: tuple[Change, ...]
    engines: tuple[Change, ...]


def order(
    todo: Sequence[Change],
    specs: Mapping[str, ProgramSpec],
    states: Mapping[str, State],
    kept: Collection[str],
) -> Order:
    """The order for a plan. ``specs`` and ``states`` are those of all programs, the leaving ones included; ``kept`` are
    the engines that the gateway reaches as before: at the same address, with the same name and key.

    Replicas that are too many leave only when the others are there. Engines that serve and are restarted come last when
    they are ``kept``: while one restarts, requests wait for it in the replicas, and a replica that is told to leave
    cuts them when its drain is over. Where an engine gets another address, name or key, no order loses nothing: a
    replica of the one configuration cannot use an engine of the other. Then both go at once, which is over soonest.
    """
    replicas = [name for name, spec in specs.items() if spec.kind is Kind.LITELLM]
    rolling = tuple(one.program for one in todo if one.action is Action.ROLLING)
    surplus = tuple(one for one in todo if one.action is Action.STOP and one.program in replicas)
    cuts = bool(rolling or surplus) and serving(states[name] for name in replicas)
    engines = tuple(one for one in todo if cuts and one.program in kept and _restarts_an_engine(one, specs, states))
    at_once = tuple(one for one in todo if one.action in BY_REQUEST and one not in surplus and one not in engines)
    return Order(at_once, rolling, surplus, engines)


def _restarts_an_engine(one: Change, specs: Mapping[str, ProgramSpec], states: Mapping[str, State]) -> bool:
    """Whether it is about an engine that serves until it is restarted."""
    spec, state = specs.get(one.program), states.get(one.program)
    serves = state is not None and state.phase is Phase.RUNNING
    return serves and one.action is Action.RESTART and spec is not None and spec.kind is Kind.VLLM


def absent_replica(results: Mapping[str, RequestOutcome], specs: Mapping[str, ProgramSpec]) -> str | None:
    """The first replica that did not get ready, if any: then those that are too many must not leave, as perhaps they
    alone serve."""
    failed = (name for name, result in results.items() if not result.done)
    return next((name for name in failed if name in specs and specs[name].kind is Kind.LITELLM), None)


def due(change: Change, *, configured: bool, told_down: bool, is_new: bool) -> Action | RequestOutcome:
    """What to ask the program for when the turn of its change has come, or why nothing is asked: another request or
    another configuration may have come meanwhile. ``told_down``: somebody has stopped it; ``is_new``: its process was
    started with the present configuration."""
    if change.action is Action.STOP:
        return Action.STOP
    if not configured:
        return RequestOutcome(False, "is no longer configured")
    if change.action is Action.RESTART and told_down:
        return ANSWERS[Turn.STAYS_DOWN]
    if change.action is Action.RESTART and is_new:
        return Action.START  # another reload was quicker: the new process is there, or on its way
    return change.action
