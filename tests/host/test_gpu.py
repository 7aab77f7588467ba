"""Waiting for GPU memory, on a stand-in for NVML behind the same interface and on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from llm_supervisor.core.spec import Kind, Launch, ProgramSpec
from llm_supervisor.host import bounded
from llm_supervisor.host.gpu import MIB, Held, Memory, NoGpus, wait_for_memory
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
        return Memory(used, 80 * GIB, ((4711, used),) if used else ())


def play(work: Coroutine[Any, Any, list[Held]]) -> tuple[list[Held], float]:
    """Run on virtual time; the result, and how long it took there."""
    loop = VirtualLoop()
    try:
        began = loop.time()
        return loop.run_until_complete(work), loop.time() - began
    finally:
        loop.close()


def test_no_gpu_no_wait() -> None:
    assert play(wait_for_memory(NoGpus(), [(0, 0)])) == ([], 0.0)
    assert play(wait_for_memory(Script(gpu0=lambda t: 0), [])) == ([], 0.0)


def test_memory_that_is_back_is_watched_until_it_is_flat() -> None:
    held, took = play(wait_for_memory(Script(gpu0=lambda t: 3 * MIB), [(0, 0)], period=0.5, flat=4))
    assert held == []
    assert took == 1.5, "four readings, half a second apart"


def test_memory_that_comes_back_late_and_in_steps() -> None:
    def used(t: float) -> int:
        return max(int(40 - t) * GIB, 0) if t < 20 else 0

    held, took = play(wait_for_memory(Script(gpu0=used, gpu1=lambda t: 5 * GIB), [(0, 0), (1, 5 * GIB)]))
    assert held == []
    assert took >= 20


def test_memory_that_never_comes_back_is_named() -> None:
    held, took = play(wait_for_memory(Script(gpu0=lambda t: 30 * GIB), [(0, GIB)], patience=60))
    assert held == [Held(0, 30 * GIB, GIB, ((4711, 30 * GIB),))]
    assert 60 <= took <= 61
    assert "pid 4711 (30720 MiB)" in str(held[0])
    assert "29696 MiB more" in str(held[0])


def test_memory_that_jitters_is_not_free() -> None:
    def used(t: float) -> int:
        return 100 * MIB if int(t * 2) % 2 and t < 10 else 0

    _, took = play(wait_for_memory(Script(gpu0=used), [(0, 0)]))
    assert took >= 10, "another engine lets memory go while we look: not flat"


def test_a_gpu_that_cannot_be_asked_holds_nobody_up() -> None:
    assert play(wait_for_memory(Script(gpu0=None), [(0, 0)])) == ([], 0.0)


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
            "used_before_start": GIB,
            "used": 30 * GIB,
            "total": 80 * GIB,
            "processes": {"4711": 29 * GIB},
        },
        {"index": 2, "used_before_start": None, "used": None, "total": None, "processes": None},
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


def test_no_start_before_the_memory_of_the_last_one_is_back() -> None:
    async def scene() -> list[Held]:
        gpus = Script(gpu0=lambda t: 30 * GIB if t < 3600 else 0)
        turns = GpuTurns(gpus)
        await turns.check_memory(spec("glm", 0))
        await turns.await_memory("glm", [(0, GIB)])
        with pytest.raises(SpawnRefused, match="GPU 0") as refused:
            await turns.check_memory(spec("glm", 0))
        assert refused.value.failure.kind == "gpu_memory_held"
        await asyncio.sleep(3600)
        await turns.check_memory(spec("glm", 0))
        return []

    assert play(scene())[0] == []
