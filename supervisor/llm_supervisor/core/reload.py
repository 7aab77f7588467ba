"""What a new configuration means for the programs that run: only those that it changes are touched. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

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
