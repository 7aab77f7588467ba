"""Turns on the GPUs: one start per GPU at a time, and none before the memory of the last incarnation is back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_supervisor.core.failure import Failure
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.host import bounded, gpu
from llm_supervisor.supervision.world import SpawnRefused

Baseline = tuple[int, int]  # a GPU and the bytes that are in use there before the start


class GpuTurns:
    """Who starts on which GPU, and which GPUs have not got their memory back."""

    def __init__(self, gpus: gpu.Gpus) -> None:
        self._gpus = gpus
        self._starting: dict[int, str] = {}  # GPU: the program that starts on it
        self._held: dict[str, Sequence[Baseline]] = {}  # by program: baselines that were not reached again

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

    async def check_memory(self, spec: ProgramSpec) -> None:
        """Raises SpawnRefused where memory that the last incarnation had is still in use."""
        try:
            held = await gpu.wait_for_memory(self._gpus, self._held.get(spec.name, ()), patience=0)
        except bounded.NoAnswer as silent:
            raise gpu_silent(silent) from silent
        if held:
            advice = "It waits until the memory is free, without counting it as a failure. End those processes if they "
            advice += "are not wanted; if NVML names none, reset the GPU (nvidia-smi --gpu-reset) or reboot."
            summary = "; ".join(str(one) for one in held)
            raise SpawnRefused(Failure("gpu_memory_held", summary, advice, permanent=False, busy=True))
        self._held.pop(spec.name, None)

    async def await_memory(self, name: str, baselines: Sequence[Baseline]) -> None:
        """After the end of an incarnation: wait until its GPUs are as they were before its start. Where they are not
        after that time, the next start of the program looks again."""
        try:
            late = await gpu.wait_for_memory(self._gpus, baselines)
        except bounded.NoAnswer:
            self._held[name] = baselines
            return
        if late:
            self._held[name] = baselines

    async def baselines(self, spec: ProgramSpec) -> list[Baseline]:
        """What other processes use on the program's GPUs now; GPUs that cannot be asked are left out. Raises
        SpawnRefused where one does not answer."""
        found = []
        for index in spec.gpus:
            try:
                memory = await gpu.ask(self._gpus, index)
            except bounded.NoAnswer as silent:
                raise gpu_silent(silent) from silent
            if memory is not None:
                found.append((index, memory.used))
        return found

    async def facts(self, index: int, baselines: Sequence[Baseline]) -> dict[str, Any]:
        """One GPU for an incident, in bytes; null where NVML cannot be asked."""
        try:
            memory = await gpu.ask(self._gpus, index)
        except bounded.NoAnswer:
            memory = None
        return {
            "index": index,
            "used_before_start": dict(baselines).get(index),
            "used": memory.used if memory else None,
            "total": memory.total if memory else None,
            "processes": {str(pid): used for pid, used in memory.holders} if memory else None,
        }


def gpu_silent(silent: bounded.NoAnswer) -> SpawnRefused:
    """The refusal of a start on a GPU that does not answer: the engine would hang there as we do."""
    advice = (
        "It waits until the GPU answers, without counting it as a failure. If `nvidia-smi` hangs as well, the GPU or "
        "its driver is in trouble: see `dmesg | grep -i nvrm`; reset the GPU (nvidia-smi --gpu-reset) or reboot."
    )
    return SpawnRefused(Failure("gpu_silent", str(silent), advice, permanent=False, busy=True))
