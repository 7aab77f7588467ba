"""Which replica is replaced because it has grown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_supervisor.core.fleet import grown
from llm_supervisor.core.state import Phase, Startup, State

from .makers import CHECKED

SPECS = {name: replace(CHECKED, name=name, max_rss=100) for name in ("one", "two")}
OLDER, YOUNGER = (
    State(Phase.RUNNING, pid=1, startup=Startup(spawned=10.0)),
    State(Phase.RUNNING, pid=2, startup=Startup(spawned=20.0)),
)


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ({"one": 100, "two": 100}, None),
        ({"one": 101, "two": 100}, "one"),
        ({"one": 100, "two": 101}, "two"),
        ({"one": 101, "two": 500}, "one"),
        ({"one": None}, None),
    ],
)
def test_the_oldest_of_those_that_are_too_large(sizes: dict[str, int | None], chosen: str | None) -> None:
    assert grown(SPECS, {"one": OLDER, "two": YOUNGER}, sizes) == chosen
    assert grown(SPECS, {"two": YOUNGER, "one": OLDER}, sizes) == chosen, "whatever comes first"


@pytest.mark.parametrize("phase", list(Phase))
def test_none_while_another_is_on_its_way(phase: Phase) -> None:
    states = {"one": replace(OLDER, phase=phase), "two": YOUNGER}
    settled = phase in (Phase.RUNNING, Phase.STOPPED, Phase.FATAL)
    assert grown(SPECS, states, {"one": 50, "two": 500}) == ("two" if settled else None)
    if phase is not Phase.RUNNING:
        assert grown(SPECS, states, {"one": 500, "two": 50}) is None, "who does not run is not replaced"


def test_without_a_limit_nobody_is() -> None:
    assert grown({"one": replace(CHECKED, max_rss=None)}, {"one": OLDER}, {"one": 10**12}) is None
