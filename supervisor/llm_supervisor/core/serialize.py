"""A state as plain values and back: what the next daemon needs to go on where this one stopped. Pure.

Health is left out: what was seen by a daemon that is no more is asked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.restart import History
from llm_supervisor.core.state import Cause, Departure, Loading, Phase, State, Wanted

# Of these everything is made anew
_LEFT_OUT = ("health",)


def to_record(state: State) -> dict[str, Any]:
    """Strings, numbers, lists and mappings only."""
    seen = asdict(replace(state, health=State().health))
    for name in _LEFT_OUT:
        del seen[name]
    return seen


def from_record(record: Mapping[str, Any]) -> State:
    """The state that was recorded. What a record does not say is as in a new state, and what we do not know is
    left out: it may be another version's. Raises ValueError, TypeError or KeyError for what is no record."""
    known = {field.name for field in fields(State)} - set(_LEFT_OUT)
    values = {name: value for name, value in record.items() if name in known}
    values["phase"] = Phase(values["phase"])
    values["wanted"] = Wanted(values["wanted"])
    if (loading := values.get("loading")) is not None:
        values["loading"] = Loading(**loading)
    if (exited := values.get("exited")) is not None:
        values["exited"] = ExitStatus(**exited)
    if (failure := values.get("failure")) is not None:
        values["failure"] = Failure(**failure)
    if (history := values.get("history")) is not None:
        values["history"] = History(tuple(float(at) for at in history["failures"]), bool(history["free"]))
    if (leaving := values.get("leaving")) is not None:
        values["leaving"] = _departure(leaving)
    return State(**values)


def _departure(record: Mapping[str, Any]) -> Departure:
    status, failure = record.get("status"), record.get("failure")
    return Departure(
        Cause(record["cause"]),
        str(record["summary"]),
        bool(record["was_ready"]),
        None if status is None else ExitStatus(**status),
        None if failure is None else Failure(**failure),
    )
