"""Calls that never come back: who asks learns it in time, one thread is left behind, and the process can end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from llm_supervisor.host import bounded
from tests.support.programs import until


class Stuck:
    """Calls that hang until ``free``; every thread that hangs in one is counted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate = threading.Event()
        self.inside = 0

    def look(self, number: int = 0) -> int:
        """The number, once the gate is open."""
        self.inside += 1
        self.gate.wait()
        return number

    def free(self) -> None:
        """Open the gate, and wait until nobody is behind it."""
        self.gate.set()
        until(lambda: self.name not in dict(bounded.not_answering()), "it answers again")


@pytest.fixture
def stuck(request: pytest.FixtureRequest) -> Iterator[Stuck]:
    one = Stuck(f"the thing of {request.node.name}")
    yield one
    one.free()


def asked(function: Callable[..., int], *arguments: int, thing: str, within: float) -> int:
    return asyncio.run(bounded.ask(thing, function, *arguments, within=within))


def test_an_answer_is_the_answer() -> None:
    assert bounded.call("a sum", sum, (1, 2), within=5) == 3
    assert asyncio.run(bounded.ask("a sum", sum, (1, 2), within=5)) == 3
    assert bounded.each(lambda n: 2 * n, {n: f"number {n}" for n in range(1000)}, within=5)[999] == 1998
    assert bounded.each(abs, {}, within=5) == {}


def test_an_error_is_raised_where_the_answer_is_awaited() -> None:
    with pytest.raises(ZeroDivisionError):
        bounded.call("a quotient", lambda: 1 // 0, within=5)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(bounded.ask("a quotient", lambda: 1 // 0, within=5))
    with pytest.raises(ZeroDivisionError):
        bounded.each(lambda n: 1 // n, {0: "nothing"}, within=5)


def test_what_hangs_costs_its_caller_the_time_limit_and_later_callers_nothing(stuck: Stuck) -> None:
    with pytest.raises(bounded.NoAnswer, match=f"{stuck.name} does not answer"):
        bounded.call(stuck.name, stuck.look, within=0.05)
    (mine,) = [seconds for name, seconds in bounded.not_answering() if name == stuck.name]
    assert mine >= 0.05
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(bounded.NoAnswer):
            bounded.call(stuck.name, stuck.look, 1, within=60)
        with pytest.raises(bounded.NoAnswer):
            asked(stuck.look, 2, thing=stuck.name, within=60)
    assert time.monotonic() - began < 10
    assert stuck.inside == 1, "one thread is left behind, whatever is asked how often"
    assert bounded.call("another thing", int, within=5) == 0, "everything else answers"
    stuck.free()
    assert bounded.call(stuck.name, stuck.look, 7, within=5) == 7, "it is asked again once it has answered"


def test_the_loop_goes_on_while_something_hangs(stuck: Stuck) -> None:
    async def scene() -> int:
        waiting = asyncio.create_task(bounded.ask(stuck.name, stuck.look, within=0.2))
        turns = 0
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0.01)
        with pytest.raises(bounded.NoAnswer):
            await waiting
        return turns

    assert asyncio.run(scene()) > 5


def test_who_asks_the_same_at_once_shares_the_thread(stuck: Stuck) -> None:
    async def scene() -> list[int | BaseException]:
        questions = [bounded.ask(stuck.name, stuck.look, 5, within=5) for _ in range(20)]
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, stuck.gate.set)
        return await asyncio.gather(*questions, return_exceptions=True)

    assert asyncio.run(scene()) == [5] * 20
    assert stuck.inside == 1


def test_of_many_things_those_that_hang_are_left_out(stuck: Stuck) -> None:
    def look(number: int) -> int:
        return stuck.look(number) if number in (3, 5) else number

    things = {n: f"{stuck.name} {n}" for n in range(10)}
    try:
        assert bounded.each(look, things, within=0.05) == {n: n for n in range(10) if n not in (3, 5)}
        began = time.monotonic()
        assert len(bounded.each(look, things, within=60)) == 8, "the two are not asked again"
        assert time.monotonic() - began < 5
        assert {name for name, _ in bounded.not_answering()} >= {things[3], things[5]}
        assert stuck.inside == 2
    finally:
        stuck.gate.set()
        until(lambda: not {things[3], things[5]} & {name for name, _ in bounded.not_answering()})
    assert len(bounded.each(look, things, within=5)) == 10


def test_after_a_few_that_hang_the_rest_is_left_alone(stuck: Stuck) -> None:
    things = {n: f"{stuck.name} {n}" for n in range(50)}
    began = time.monotonic()
    try:
        assert bounded.each(stuck.look, things, within=0.05) == {}
        assert time.monotonic() - began < 5
        assert stuck.inside == bounded.MOST_LEFT
    finally:
        stuck.gate.set()
        until(lambda: not set(things.values()) & {name for name, _ in bounded.not_answering()})


def test_threads_are_used_again() -> None:
    before = threading.active_count()
    for n in range(200):
        bounded.call(f"thing {n}", int, within=5)
    assert threading.active_count() <= before + bounded.MOST_IDLE


@pytest.mark.parametrize("how", ["call", "ask"])
def test_a_call_that_hangs_does_not_keep_the_process_from_ending(how: str) -> None:
    """asyncio's own executor would: its threads are waited for at the end."""
    script = f"""
import asyncio, threading
from llm_supervisor.host import bounded
try:
    if {how!r} == "call":
        bounded.call("it", threading.Event().wait, within=0.05)
    else:
        asyncio.run(bounded.ask("it", threading.Event().wait, within=0.05))
except bounded.NoAnswer as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "it does not answer\n"), done.stderr
