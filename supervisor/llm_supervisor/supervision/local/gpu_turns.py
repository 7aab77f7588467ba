"""Turns on the GPUs: one start per GPU at a time, and none before the memory of the last incarnation is back.

Whether it is back is decided in ``core.gpu_memory``; here is what that has to know of every program on a GPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llm_supervisor.core import gpu_memory
from llm_supervisor.core.failure import Failure
from llm_supervisor.core.gpu_memory import Ended, Held, Memory, Share
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.host import bounded, gpu, log
from llm_supervisor.host.process import read_row
from llm_supervisor.supervision.world import SpawnRefused

Baseline = tuple[int, int]  # a GPU, and the bytes that were in use there by nobody before the start
Pids = Callable[[str], Collection[int]]  # the pids of a living program, as far as they were seen


@dataclass
class _Use:
    """The GPUs of one incarnation. ``number`` counts the starts; those of a former daemon have 0."""

    number: int
    before: dict[int, int]
    shares: dict[int, Share] = field(default_factory=dict)  # by GPU, as measured when it became ready
    spoiled: set[int] = field(default_factory=set)  # GPUs where another of ours ended while it started
    dead: frozenset[int] = frozenset()  # its pids, once it has ended


class GpuTurns:
    """Who starts on which GPU, what each living program uses, and which GPUs have not got their memory back. ``pids``
    returns those of a living program."""

    def __init__(self, gpus: gpu.Gpus, pids: Pids = lambda name: ()) -> None:
        self._gpus, self._pids = gpus, pids
        self._starting: dict[int, str] = {}  # GPU: the program that starts on it
        self._uses: dict[str, _Use] = {}  # of living incarnations, by program
        self._held: dict[str, _Use] = {}  # of ended ones whose memory did not come back, by program
        self._starts = 0
        self._measuring: set[asyncio.Task[None]] = set()

    def detect(self) -> None:
        """Look for GPUs, if none are known yet: a configuration has come that names some."""
        if isinstance(self._gpus, gpu.NoGpus):
            self._gpus = gpu.WhenAsked()

    def begin(self, spec: ProgramSpec) -> None:
        """Take the turn on the program's GPUs: two starts that measure the free memory at once both get it wrong.

        Raises SpawnRefused where another program starts."""
        for index in spec.gpus:
            other = self._starting.get(index, spec.name)
            if other != spec.name:
                summary = f"waits for GPU {index}: {other} starts on it"
                raise SpawnRefused(Failure("gpu_busy_starting", summary, permanent=False, busy=True))
        self._starting |= dict.fromkeys(spec.gpus, spec.name)

    def end(self, name: str) -> None:
        """The program starts no more: it is ready, or it has left."""
        self._starting = {index: who for index, who in self._starting.items() if who != name}

    def forget(self, name: str) -> None:
        """The program is no longer configured."""
        self._held.pop(name, None)
        self._uses.pop(name, None)

    def forget_use(self, name: str) -> None:
        """The start has made no process after all."""
        self._uses.pop(name, None)

    # What a program uses ------------------------------------------------------------------------------------

    def inherit(self, name: str, baselines: Sequence[Baseline]) -> None:
        """A former daemon has started that program. What it uses was not measured by us."""
        self._uses[name] = _Use(0, dict(baselines))

    async def baselines(self, spec: ProgramSpec) -> list[Baseline]:
        """What is in use on the program's GPUs by nobody now, before it starts; GPUs that cannot be asked are left out.
        Raises SpawnRefused where one does not answer."""
        found = {}
        for index in spec.gpus:
            try:
                memory = await gpu.ask(self._gpus, index)
            except bounded.NoAnswer as silent:
                raise gpu_silent(silent) from silent
            if memory is not None:
                found[index] = memory.nobodys()
        self._starts += 1
        self._uses[spec.name] = _Use(self._starts, found)
        return list(found.items())

    def ready(self, name: str) -> None:
        """The program is ready: measure what it uses, in the background."""
        self.end(name)
        use = self._uses.get(name)
        if use is not None and use.before:
            task = asyncio.get_running_loop().create_task(self._measure(use, frozenset(self._pids(name))))
            self._measuring.add(task)
            task.add_done_callback(self._measuring.discard)

    async def _measure(self, use: _Use, pids: frozenset[int]) -> None:
        for index, before in use.before.items():
            try:
                memory = await gpu.ask(self._gpus, index)
            except Exception:  # then it counts as not measured
                log.get().exception("the memory of a GPU cannot be measured", gpu=index)
                continue
            if memory is not None and index not in use.spoiled:
                use.shares[index] = Share(memory.of(pids), max(memory.nobodys() - before, 0))

    # What it has left ---------------------------------------------------------------------------------------

    async def check_memory(self, spec: ProgramSpec) -> None:
        """Raises SpawnRefused where memory that the last incarnation had is still in use."""
        if (use := self._held.get(spec.name)) is None:
            return
        try:
            held = await self._wait(spec.name, use, patience=0)
        except bounded.NoAnswer as silent:
            raise gpu_silent(silent) from silent
        if held:
            advice = (
                "It waits until the memory is free, without counting it as a failure. If nobody uses it, reset the GPU "
            )
            advice += "(nvidia-smi --gpu-reset) or reboot; if somebody outside of this container does, end that."
            summary = "; ".join(str(one) for one in held)
            raise SpawnRefused(Failure("gpu_memory_held", summary, advice, permanent=False, busy=True))
        self._held.pop(spec.name, None)

    async def await_memory(self, name: str, dead: Collection[int]) -> None:
        """After the end of an incarnation, whose pids are ``dead``: wait until its GPUs have got its memory back. Where
        they have not after that time, the next start of the program looks again."""
        self.end(name)
        use = self._uses.pop(name, None)
        if use is None or not use.before:
            return
        use.dead = frozenset(dead)
        for other in self._uses.values():  # what it gave back hides what they took while they started
            other.spoiled |= {index for index in use.before if index in other.before and index not in other.shares}
        try:
            late = await self._wait(name, use)
        except bounded.NoAnswer:
            self._held[name] = use
            return
        if late:
            self._held[name] = use

    async def _wait(self, name: str, use: _Use, patience: float = 60.0) -> list[Held]:
        judges = {index: partial(self._judge, name, use, index) for index in use.before}
        return await gpu.wait_for_memory(self._gpus, judges, patience=patience)

    def _judge(self, name: str, use: _Use, index: int, memory: Memory) -> Held | None:
        since = [
            (frozenset(self._pids(other)), one.shares.get(index))
            for other, one in self._uses.items()
            if other != name and index in one.before and one.number >= use.number
        ]
        dead = frozenset(pid for pid in use.dead if (row := read_row(pid)) is None or row.dead)  # not used again
        others = gpu_memory.others_use(memory, since)
        return gpu_memory.held(index, memory, Ended(use.before[index], dead, use.shares.get(index), others))

    async def facts(self, index: int, baselines: Sequence[Baseline]) -> dict[str, Any]:
        """One GPU for an incident, in bytes; null where NVML cannot be asked. ``programs`` are our own, by pid."""
        try:
            memory = await gpu.ask(self._gpus, index)
        except bounded.NoAnswer:
            memory = None
        ours = {pid: name for name in self._uses for pid in self._pids(name)}
        return {
            "index": index,
            "nobodys_before_start": dict(baselines).get(index),
            "used": memory.used if memory else None,
            "total": memory.total if memory else None,
            "processes": {str(pid): used for pid, used in memory.holders} if memory else None,
            "programs": {str(pid): ours[pid] for pid, _ in memory.holders if pid in ours} if memory else {},
        }


def gpu_silent(silent: bounded.NoAnswer) -> SpawnRefused:
    """The refusal of a start on a GPU that does not answer: the engine would hang there as we do."""
    advice = (
        "It waits until the GPU answers, without counting it as a failure. If `nvidia-smi` hangs as well, the GPU or "
        "its driver is in trouble: see `dmesg | grep -i nvrm`; reset the GPU (nvidia-smi --gpu-reset) or reboot."
    )
    return SpawnRefused(Failure("gpu_silent", str(silent), advice, permanent=False, busy=True))
