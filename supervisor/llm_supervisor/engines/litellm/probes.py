"""What LiteLLM's answers mean. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from llm_supervisor.core.health import Answer, ProbeResult
from llm_supervisor.core.probe import Judge, Step

# What a replica prints before LiteLLM serves (``inside/litellm_command.py``)
_MIGRATION = re.compile(rb"llm-supervisor: (migrating the database)(?: (\d{1,5})/(\d{1,5}))?\s*$")
_WAITING = re.compile(
    rb"llm-supervisor: (waiting for the (?:replica that migrates the database|database at \S{1,200}))\s*$"
)


def step(line: bytes) -> Step | None:
    """The step of a start that a line of a replica's output shows."""
    if found := _MIGRATION.match(line):
        done, total = (int(number) if number is not None else None for number in found.groups()[1:])
        return Step(found[1].decode(), done, total)
    return Step(found[1].decode()) if (found := _WAITING.match(line)) else None


# How LiteLLM turns somebody away; an exception of `custom_auth` is a 500
_TURNED_AWAY = (400, 401, 403, 500)


def judge_liveliness(status: int, body: bytes) -> ProbeResult:
    """``/health/liveliness``: its event loop turns. 503 while it drains."""
    if status == 200:
        return ProbeResult(Answer.OK, "/health/liveliness 200")
    return ProbeResult(Answer.INVALID, f"/health/liveliness answers {status}")


def judge_groups(status: int, body: bytes, expected: Mapping[str, bool | None], refusing: str = "") -> ProbeResult:
    """``/model_group/info``: all of the expected groups, each with the expected ``supports_vision``. LiteLLM may list
    more: the models behind a wildcard, those of a database. ``refusing`` is the setting by which the gateway may turn
    the daemon away, which is then no fault: nothing is known."""
    if status in _TURNED_AWAY and refusing:
        return ProbeResult(Answer.OK, f"/model_group/info answers {status}: not looked at, because of {refusing}")
    if status in (400, 401, 403):
        return ProbeResult(Answer.WRONG, f"/model_group/info answers {status}: it does not take the master key")
    if status != 200:
        return ProbeResult(Answer.INVALID, f"/model_group/info answers {status}")
    try:
        shown = {entry["model_group"]: bool(entry.get("supports_vision")) for entry in json.loads(body)["data"]}
        if not all(isinstance(name, str) for name in shown):
            raise TypeError("a name of a group is no text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ProbeResult(Answer.INVALID, "/model_group/info answers something that is not a list of groups")
    problems = [f"{name} is missing" for name in expected if name not in shown]
    for name, vision in expected.items():
        if vision is not None and name in shown and shown[name] != vision:
            problems.append(f"{name} shows supports_vision {str(shown[name]).lower()}, not {str(vision).lower()}")
    if problems:
        return ProbeResult(Answer.WRONG, "/model_group/info: " + "; ".join(problems))
    return ProbeResult(Answer.OK, f"/model_group/info lists {len(shown)} groups")


def judge_route(status: int, body: bytes, judge: Judge, refusing: str) -> ProbeResult:
    """A canary through the gateway, judged by ``judge``; see ``judge_groups`` for ``refusing``."""
    if status in _TURNED_AWAY and refusing:
        return ProbeResult(Answer.OK, f"answers {status}: not looked at, because of {refusing}")
    return judge(status, body)
