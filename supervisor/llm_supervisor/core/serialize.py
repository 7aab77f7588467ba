"""A state as plain values and back: what the next daemon needs to go on where this one stopped. Pure.

Health is left out, as the next daemon probes again. A record is flat: the fields of ``Startup`` stand beside those of
``State``, so that daemons of all versions read each other's records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.health import NEW
from llm_supervisor.core.restart import History
from llm_supervisor.core.state import Cause, Departure, Loading, Phase, Startup, State, Wanted

_LEFT_OUT = frozenset({"health", "startup"})  # health is asked anew; the fields of startup stand beside the others
_OF_STARTUP = frozenset(field.name for field in fields(Startup))
_OF_STATE = frozenset(field.name for field in fields(State)) - _LEFT_OUT


def to_record(state: State) -> dict[str, Any]:
    """The state as strings, numbers, lists and mappings only."""
    seen = asdict(replace(state, health=NEW))
    return {name: value for name, value in (seen | seen["startup"]).items() if name not in _LEFT_OUT}


def from_record(record: Mapping[str, Any]) -> State:
    """The state that was recorded, by this version or another one: a field that the record lacks is as in a new
    state, and one that is unknown here is left out. Raises ValueError, TypeError or KeyError for another thing."""
    values = {name: value for name, value in record.items() if name in _OF_STATE}
    startup = {name: value for name, value in record.items() if name in _OF_STARTUP}
    values["phase"] = Phase(values["phase"])
    values["wanted"] = Wanted(values["wanted"])
    if (loading := startup.get("loading")) is not None:
        startup["loading"] = Loading(**loading)
    if (exited := values.get("exited")) is not None:
        values["exited"] = ExitStatus(**exited)
    if (failure := values.get("failure")) is not None:
        values["failure"] = Failure(**failure)
    if (history := values.get("history")) is not None:
        values["history"] = History(
            tuple(float(at) for at in history["failures"]),
            bool(history["free"]),
            # former versions did not have these
            tuple(float(at) for at in history.get("permanent", ())),
            str(history.get("unexplained", "")),
            int(history.get("in_a_row", 0)),
        )
    if (leaving := values.get("leaving")) is not None:
        values["leaving"] = _departure(leaving)
    return State(startup=Startup(**startup), **values)


def _departure(record: Mapping[str, Any]) -> Departure:
    status, failure = record.get("status"), record.get("failure")
    return Departure(
        Cause(record["cause"]),
        str(record["summary"]),
        bool(record["was_ready"]),
        None if status is None else ExitStatus(**status),
        None if failure is None else Failure(**failure),
    )
