"""Whose port it is, and what that says about an answer from it: one row a case."""

from __future__ import annotations

import pytest

from llm_supervisor.core.health import Answer
from llm_supervisor.core.port_use import PortUse, judge_port, port_use


@pytest.mark.parametrize(
    ("listening", "ours", "visible", "use"),
    [
        (set(), set(), True, PortUse.OURS),
        ({1}, {1}, True, PortUse.OURS),
        ({1}, {1}, False, PortUse.OURS),
        ({1, 2}, {1}, True, PortUse.SHARED),
        ({2}, set(), True, PortUse.OTHERS),
        ({1, 2}, {1}, False, PortUse.UNKNOWN),
        ({2}, set(), False, PortUse.UNKNOWN),
    ],
)
def test_whose_port_it_is(listening: set[int], ours: set[int], visible: bool, use: PortUse) -> None:
    assert port_use(listening, ours, visible=visible) is use


@pytest.mark.parametrize(
    ("use", "answer", "detail"),
    [
        (PortUse.OURS, None, ""),
        (PortUse.UNKNOWN, None, ""),
        (PortUse.SHARED, Answer.WRONG, "port 8000 is shared: pid 7 (nc) listens on it too and takes requests"),
        (PortUse.OTHERS, Answer.INVALID, "port 8000 is answered by pid 7 (nc), not by glm"),
    ],
)
def test_what_it_says_about_an_answer(use: PortUse, answer: Answer | None, detail: str) -> None:
    probe = judge_port(use, 8000, "glm", "pid 7 (nc)")
    assert (probe and probe.answer, probe.detail if probe else "") == (answer, detail)
    assert use.by_others == (answer is not None)
