"""Waiting for GPU memory, on a stand-in for NVML behind the same interface and on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest

from llm_supervisor.core import gpu_memory
from llm_supervisor.core.gpu_memory import MIB, Ended, Held, Memory
from llm_supervisor.core.spec import Kind, Launch, ProgramSpec
from llm_supervisor.host import bounded
from llm_supervisor.host.gpu import Judge, NoGpus, wait_for_memory
from llm_supervisor.supervision.local.gpu_turns import GpuTurns
from llm_supervisor.supervision.world import SpawnRefused
from tests.support.virtual_time import VirtualLoop

GIB = 1024 * MIB


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is waited for on virtual time: what is asked answers at once."""

    async def ask(thing: str, function: Any, *arguments: Any, within: float) -> Any:
        if thing in silent:
            raise bounded.NoAnswer(thing)
        return function(*arguments)

    silent.clear()
    monkeypatch.setattr(bounded, "ask", ask)


silent: set[str] = set()  # things that do not answer


class Script:
    """GPUs whose memory in use is a function of time."""

    def __init__(self, **used: Any) -> None:
        self.used = {int(name.removeprefix("gpu")): of for name, of in used.items()}

    def memory(self, index: int) -> Memory | None:
        of = self.used.get(index)
        if of is None:
            return None
        used = of(asyncio.get_running_loop().time())
        return Memory(used, 80 * GIB)


def play(work: Coroutine[Any, Any, list[Held]]) -> tuple[list[Held], float]:
    """Run on virtual time; the result, and how long it took there."""
    loop = VirtualLoop()
    try:
        began = loop.time()
        return loop.run_until_complete(work), loop.time() - began
    finally:
        loop.close()


def back(*befores: int, own: int = 0) -> dict[int, Judge]:
    """GPUs that have what they had before the start, and nothing that the dead process ``own`` still holds."""
    ended = [Ended(before, frozenset({own})) for before in befores]
    return {index: partial(gpu_memory.held, index, ended=one) for index, one in enumerate(ended)}


def test_no_gpu_no_wait() -> None:
    assert play(wait_for_memory(NoGpus(), back(0))) == ([], 0.0)
    assert play(wait_for_memory(Script(gpu0=lambda t: 0), {})) == ([], 0.0)


def test_memory_that_is_back_is_watched_until_it_is_flat() -> None:
    held, took = play(wait_for_memory(Script(gpu0=lambda t: 3 * MIB), back(0), period=0.5, flat=4))
    assert held == []
    assert took == 1.5, "four readings, half a second apart"


def test_memory_that_comes_back_late_and_in_steps() -> None:
    def used(t: float) -> int:
        return max(int(40 - t) * GIB, 0) if t < 20 else 0

    held, took = play(wait_for_memory(Script(gpu0=used, gpu1=lambda t: 5 * GIB), back(0, 5 * GIB)))
    assert held == []
    assert took >= 20


def test_memory_that_never_comes_back_is_named() -> None:
    held, took = play(wait_for_memory(Script(gpu0=lambda t: 30 * GIB), back(GIB), patience=60))
    assert held == [Held(0, 29 * GIB)]
    assert 60 <= took <= 61
    assert "29696 MiB more in use than before its start, and NVML names no process" in str(held[0])


def test_memory_that_jitters_is_not_free() -> None:
    def used(t: float) -> int:
        return 100 * MIB if int(t * 2) % 2 and t < 10 else 0

    _, took = play(wait_for_memory(Script(gpu0=used), back(0)))
    assert took >= 10, "the driver lets memory go while we look: not flat"


def test_a_gpu_that_cannot_be_asked_holds_nobody_up() -> None:
    assert play(wait_for_memory(Script(gpu0=None), back(0))) == ([], 0.0)


def test_a_gpu_that_does_not_answer_is_not_waited_for() -> None:
    silent.add("GPU 0")
    with pytest.raises(bounded.NoAnswer, match="GPU 0 does not answer"):
        play(wait_for_memory(Script(gpu0=lambda t: 0), back(0)))


class Standing:
    """Two GPUs that do not change; there is no third."""

    def memory(self, index: int) -> Memory | None:
        return Memory(30 * GIB, 80 * GIB, ((4711, 29 * GIB),)) if index < 2 else None


def test_an_incident_shows_how_the_gpus_were() -> None:
    turns = GpuTurns(Standing())

    async def scene() -> list[dict[str, Any]]:
        return [await turns.facts(index, [(0, GIB)]) for index in (0, 2)]

    assert asyncio.run(scene()) == [
        {
            "index": 0,
            "nobodys_before_start": GIB,
            "used": 30 * GIB,
            "total": 80 * GIB,
            "processes": {"4711": 29 * GIB},
            "programs": {},
        },
        {"index": 2, "nobodys_before_start": None, "used": None, "total": None, "processes": None, "programs": {}},
    ]


def spec(name: str, *gpus: int) -> ProgramSpec:
    return ProgramSpec(name, Kind.VLLM, Launch(("vllm",)), gpus=gpus)


def test_one_start_per_gpu_at_a_time() -> None:
    turns = GpuTurns(NoGpus())
    turns.begin(spec("glm", 0, 1))
    turns.begin(spec("glm", 0, 1))
    turns.begin(spec("other", 2))
    with pytest.raises(SpawnRefused, match="waits for GPU 1: glm starts on it") as refused:
        turns.begin(spec("qwen", 1))
    assert refused.value.failure.busy
    turns.end("glm")
    turns.begin(spec("qwen", 1))


class Card:
    """GPU 0 in a play: who uses how much of it, by pid. ``names``: NVML names the processes, as it does outside of
    containers."""

    def __init__(self, *, names: bool) -> None:
        self.uses: dict[int, int] = {}
        self.names = names
        self.undead = 0  # what the driver has not given back yet

    def memory(self, index: int) -> Memory | None:
        holders = tuple(self.uses.items()) if self.names else ()
        return Memory(GIB + self.undead + sum(self.uses.values()), 80 * GIB, holders)


class Models:
    """Our models on that card, each with one process."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.pids: dict[str, int] = {}
        self.turns = GpuTurns(card, lambda name: {self.pids[name]} if name in self.pids else ())

    async def start(self, name: str, pid: int, size: int) -> None:
        """Start it as far as it takes memory."""
        self.turns.begin(spec(name, 0))
        await self.turns.check_memory(spec(name, 0))
        await self.turns.baselines(spec(name, 0))
        self.pids[name] = pid
        self.card.uses[pid] = size

    async def ready(self, name: str) -> None:
        self.turns.ready(name)
        await asyncio.sleep(0.1)

    async def end(self, name: str, *, undead: int = 0) -> float:
        """Its process dies; how long its memory was waited for, in seconds."""
        began = asyncio.get_running_loop().time()
        pid = self.pids.pop(name)
        del self.card.uses[pid]
        self.card.undead = undead
        await self.turns.await_memory(name, {pid})
        return asyncio.get_running_loop().time() - began


A, B, FOREIGN = 2**22 + 1, 2**22 + 2, 2**22 + 3  # pids that no process can have


@pytest.mark.parametrize("names", [True, False], ids=["NVML names processes", "in a container"])
@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
def test_two_models_on_one_gpu_and_the_first_comes_back(names: bool, again: bool) -> None:
    """The second started later, so that its memory was not there before the first started."""

    async def scene() -> list[Held]:
        models = Models(Card(names=names))
        await models.start("a", A, 30 * GIB)
        await models.ready("a")
        await models.start("b", B, 40 * GIB)
        await models.ready("b")
        for _ in range(3 if again else 1):
            assert await models.end("a") < 5
            await models.start("a", A, 30 * GIB)
            await models.ready("a")
            if again:
                assert await models.end("b") < 5
                await models.start("b", B, 40 * GIB)
                await models.ready("b")
        return []

    assert play(scene())[0] == []


@pytest.mark.parametrize("names", [True, False], ids=["NVML names processes", "in a container"])
def test_the_first_dies_while_the_second_starts(names: bool) -> None:
    """What it gives back hides what the second takes."""

    async def scene() -> list[Held]:
        models = Models(Card(names=names))
        await models.start("a", A, 30 * GIB)
        await models.ready("a")
        await models.start("b", B, 40 * GIB)
        assert await models.end("a") < 5
        with pytest.raises(SpawnRefused, match="b starts on it"):
            models.turns.begin(spec("a", 0))
        await models.ready("b")
        await models.start("a", A, 30 * GIB)
        await models.ready("a")
        assert await models.end("a") < 5, "how much b uses could not be measured: it is not held against a"
        return []

    assert play(scene())[0] == []


@pytest.mark.parametrize("names", [True, False], ids=["NVML names processes", "in a container"])
def test_memory_that_the_driver_does_not_give_back_is_waited_for_beside_another_model(names: bool) -> None:
    async def scene() -> list[Held]:
        models = Models(Card(names=names))
        await models.start("a", A, 45 * GIB)
        await models.ready("a")
        await models.start("b", B, 20 * GIB)
        await models.ready("b")
        assert await models.end("a", undead=45 * GIB) > 50
        with pytest.raises(SpawnRefused, match="NVML names no process that has them") as refused:
            await models.turns.check_memory(spec("a", 0))
        assert refused.value.failure.kind == "gpu_memory_held"
        models.card.undead = 0
        await models.turns.check_memory(spec("a", 0))
        return []

    assert play(scene())[0] == []


def test_a_foreign_tenant_is_none_of_our_memory() -> None:
    """Where NVML names it; and where it does not, as long as there is room."""

    async def scene() -> list[Held]:
        for names in (True, False):
            models = Models(Card(names=names))
            await models.start("a", A, 30 * GIB)
            await models.ready("a")
            models.card.uses[FOREIGN] = 40 * GIB
            assert await models.end("a") < 5
            await models.start("a", A, 30 * GIB)
        return []

    assert play(scene())[0] == []


def test_an_adopted_model_is_not_waited_for_on_a_guess() -> None:
    """What it uses was measured by nobody that still lives."""

    async def scene() -> list[Held]:
        models = Models(Card(names=False))
        for name, pid in (("a", A), ("b", B)):
            models.turns.inherit(name, [(0, GIB)])
            models.pids[name] = pid
            models.card.uses[pid] = 30 * GIB
        assert await models.end("a") < 5
        return []

    assert play(scene())[0] == []


def test_no_start_on_a_gpu_that_does_not_answer() -> None:
    async def scene() -> list[Held]:
        models = Models(Card(names=True))
        await models.start("a", A, 30 * GIB)
        await models.ready("a")
        silent.add("GPU 0")
        assert await models.end("a") == 0
        for _ in range(2):
            with pytest.raises(SpawnRefused, match="GPU 0 does not answer") as refused:
                await models.turns.check_memory(spec("a", 0))
            assert (refused.value.failure.kind, refused.value.failure.busy) == ("gpu_silent", True)
        with pytest.raises(SpawnRefused, match="GPU 0 does not answer"):
            await models.turns.baselines(spec("other", 0))
        silent.clear()
        await models.start("a", A, 30 * GIB)
        return []

    assert play(scene())[0] == []
