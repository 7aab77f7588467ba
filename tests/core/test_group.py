"""What the gateway's clients are told of a model: ready when a request for it can be answered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_supervisor.control.protocol import model_message
from llm_supervisor.core import event as ev
from llm_supervisor.core.group import ModelGroup
from llm_supervisor.core.health import Answer
from llm_supervisor.core.spec import Kind
from llm_supervisor.core.state import Phase

from .makers import CHECKED, at, seen, walk

GATEWAY = replace(CHECKED, name="gateway", kind=Kind.LITELLM)
MODEL = replace(CHECKED, name="glm", kind=Kind.VLLM)
NOT_YET = "no request has gone through the gateway yet"


@pytest.mark.parametrize(
    ("by_canary", "routes", "why"),
    [
        (True, {}, NOT_YET),
        (True, {"another": Answer.OK}, NOT_YET),
        (True, {"glm": Answer.OK}, None),
        (True, {"glm": Answer.SILENT}, "answered silent"),
        (False, {}, None),
        (False, {"glm": Answer.SILENT}, "answered silent"),
    ],
)
def test_a_local_group_is_ready_when_its_route_was_proved(
    by_canary: bool, routes: dict[str, Answer], why: str | None
) -> None:
    gateway = walk(GATEWAY, at(Phase.RUNNING), ev.Observed(1, seen(routes=routes)), now=1.0)
    states = {"gateway": gateway, "glm": at(Phase.RUNNING)}
    proved = frozenset({"glm"} if by_canary else ())
    group = ModelGroup("glm", vision=None, engines=("glm",))
    message = model_message(group, {"gateway": GATEWAY, "glm": MODEL}, states, proved)
    assert (message["ready"], message["reason"]) == (why is None, why)
    alias = ModelGroup("claude-code", vision=None, engines=("glm",))
    assert model_message(alias, {"gateway": GATEWAY, "glm": MODEL}, states, proved) == message | {"name": "claude-code"}


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.FATAL])
def test_a_group_that_is_disabled_says_why_whatever_runs(phase: Phase) -> None:
    group = ModelGroup("claude", vision=None, disabled="KEY is not set")
    message = model_message(group, {"gateway": GATEWAY}, {"gateway": at(phase)})
    assert (message["ready"], message["state"], message["reason"]) == (False, "disabled", "KEY is not set")


def test_a_group_over_several_engines_is_ready_when_one_of_them_is() -> None:
    states = {"gateway": at(Phase.RUNNING), "one": at(Phase.BACKOFF), "two": at(Phase.RUNNING)}
    specs = {"gateway": GATEWAY, "one": MODEL, "two": MODEL}
    group = ModelGroup("both", vision=True, engines=("one", "two"))
    message = model_message(group, specs, states)
    assert (message["local"], message["ready"], message["reason"]) == (True, True, None)
    states["two"] = at(Phase.STARTING)
    message = model_message(group, specs, states)
    assert message["ready"] is False
    assert message["reason"].startswith("one is BACKOFF")
