"""Whoever waits on published snapshots is woken by every change, and never stranded. On virtual time."""

from __future__ import annotations

import asyncio

import pytest

from llm_supervisor.supervision.snapshots import Snapshots
from tests.support.virtual_time import Stranded, play


class Counter:
    """A number that somebody counts up, one a virtual second."""

    def __init__(self) -> None:
        self.value = 0
        self.snapshots = Snapshots()

    async def count(self, to: int) -> None:
        while self.value < to:
            await asyncio.sleep(1)
            self.value += 1
            self.snapshots.publish()


def test_what_is_true_already_is_not_waited_for() -> None:
    async def scene() -> float:
        counter = Counter()
        await counter.snapshots.until(lambda: counter.value == 0)
        return asyncio.get_running_loop().time()

    assert play(scene()) == 0


def test_everybody_is_woken_when_what_he_waits_for_has_come() -> None:
    async def scene() -> list[tuple[int, float]]:
        counter, seen = Counter(), []

        async def wait(value: int) -> None:
            await counter.snapshots.until(lambda: counter.value >= value)
            seen.append((value, asyncio.get_running_loop().time()))

        async with asyncio.TaskGroup() as group:
            for value in (3, 1, 2, 3):
                group.create_task(wait(value))
            group.create_task(counter.count(3))
        return seen

    assert play(scene()) == [(1, 1.0), (2, 2.0), (3, 3.0), (3, 3.0)]


def test_a_change_between_two_looks_is_not_missed() -> None:
    """The waiter is busy while the state changes for the last time: an edge would be gone, the state is not."""

    async def scene() -> float:
        counter = Counter()
        counting = asyncio.create_task(counter.count(1))
        await counter.snapshots.until(lambda: True)
        await asyncio.sleep(10)
        await counter.snapshots.until(lambda: counter.value == 1)
        await counting
        return asyncio.get_running_loop().time()

    assert play(scene()) == 10


def test_several_changes_at_once_wake_a_waiter_once() -> None:
    """It looks at the last of them."""

    async def scene() -> list[int]:
        counter, looks = Counter(), []

        def look() -> bool:
            looks.append(counter.value)
            return counter.value >= 3

        waiting = asyncio.create_task(counter.snapshots.until(look))
        await asyncio.sleep(1)
        for _ in range(3):
            counter.value += 1
            counter.snapshots.publish()
        await waiting
        return looks

    assert play(scene()) == [0, 3]


@pytest.mark.parametrize("look_takes", [0.0, 0.5, 5.0])
def test_a_change_during_a_long_look_is_not_missed(look_takes: float) -> None:
    """The waiter takes the number of the state first, and looks at the state then."""

    async def scene() -> tuple[int, float]:
        counter = Counter()
        counting = asyncio.create_task(counter.count(1))
        seen = counter.snapshots.number
        await asyncio.sleep(look_takes)
        await counter.snapshots.after(seen)
        await counting
        return counter.snapshots.number, asyncio.get_running_loop().time()

    assert play(scene()) == (1, max(look_takes, 1.0))


def test_a_state_that_was_seen_already_is_not_news() -> None:
    async def scene() -> None:
        snapshots = Snapshots()
        snapshots.publish()
        await snapshots.after(snapshots.number)

    with pytest.raises(Stranded):
        play(scene())


def test_a_change_that_is_not_published_strands_its_waiters() -> None:
    """So virtual time would notice one that is forgotten."""

    async def scene() -> None:
        counter = Counter()
        waiting = asyncio.create_task(counter.snapshots.until(lambda: counter.value == 1))
        await asyncio.sleep(1)
        counter.value = 1
        await waiting

    with pytest.raises(Stranded):
        play(scene())


def test_a_waiter_that_gives_up_disturbs_nobody() -> None:
    async def scene() -> float:
        counter = Counter()
        impatient = asyncio.create_task(counter.snapshots.after(counter.snapshots.number))
        patient = asyncio.create_task(counter.snapshots.until(lambda: counter.value == 1))
        await asyncio.sleep(0.5)
        impatient.cancel()
        await counter.count(1)
        await patient
        return asyncio.get_running_loop().time()

    assert play(scene()) == 1.5
