"""GPUs by NVML: how much of their memory is used, and by whom. Where there is no NVML there are no GPUs to wait for.

Indices are NVML's, which are CUDA's under CUDA_DEVICE_ORDER=PCI_BUS_ID. Memory is in bytes.

A GPU that has fallen off the bus answers after half a minute, or never. ``Nvml`` waits for it; who may not wait asks
through ``ask`` or ``Bounded``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from llm_supervisor.core.gpu_memory import MIB, Held, Memory
from llm_supervisor.host import bounded

Judge = Callable[[Memory], Held | None]  # what is still held of a GPU that is like this
WITHIN = 0.8  # seconds that a GPU may take to answer; usually it takes some milliseconds
AT_FIRST = 10.0  # the same for the first question, which may have to wake the driver
DRIVER = "the NVIDIA driver"


class Gpus(Protocol):
    """What is asked of the GPUs; None where one cannot be asked (no such GPU, or the driver fails)."""

    def memory(self, index: int) -> Memory | None:
        """The memory of one GPU now; None when it cannot be asked."""


@dataclass(frozen=True, slots=True)
class Driver:
    """Its ``version``, and the newest ``cuda`` (major, minor) that it can run."""

    version: str
    cuda: tuple[int, int]


class Survey(Gpus, Protocol):
    """What is asked once, before anything is started."""

    def names(self) -> list[str]:
        """What they are, in the order of their indices."""

    def driver(self) -> Driver | None:
        """The NVIDIA driver; None without one."""


class NoGpus:
    """A machine without NVML."""

    def memory(self, index: int) -> Memory | None:
        """Always None: there are no GPUs."""
        return None

    def names(self) -> list[str]:
        """Always empty: there are no GPUs."""
        return []

    def driver(self) -> Driver | None:
        """Always None: there is no driver."""
        return None


class Nvml:
    """The GPUs of this machine, through nvidia-ml-py."""

    def __init__(self) -> None:
        import pynvml

        self._nvml = pynvml
        pynvml.nvmlInit()

    def memory(self, index: int) -> Memory | None:
        """The memory of one GPU now; None when NVML cannot tell."""
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            holders = tuple(
                (one.pid, int(one.usedGpuMemory or 0)) for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            )
        except nvml.NVMLError:
            return None
        return Memory(int(memory.used), int(memory.total), holders)

    def names(self) -> list[str]:
        """What they are, in the order of their indices; one that fails is called by its error."""
        nvml, found = self._nvml, []
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                try:
                    found.append(str(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(index))))
                except nvml.NVMLError as error:
                    found.append(f"({error})")
        except nvml.NVMLError:
            pass
        return found

    def driver(self) -> Driver | None:
        """The NVIDIA driver; None when NVML cannot tell."""
        nvml = self._nvml
        try:
            cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())  # 12080 is 12.8
            return Driver(str(nvml.nvmlSystemGetDriverVersion()), (cuda // 1000, cuda % 1000 // 10))
        except nvml.NVMLError:
            return None


def detect() -> Survey:
    """The GPUs through NVML where that works, else ``NoGpus``. Loads the driver's library, which may hang."""
    try:
        return Nvml()
    except Exception:  # no library, no driver, no permission: NVML's errors are not ours, and it is optional
        return NoGpus()


class WhenAsked:
    """The GPUs of this machine, looked for at the first question, so that a driver that hangs holds up who asks."""

    def __init__(self) -> None:
        self._found: Gpus | None = None
        self._looking = threading.Lock()

    def memory(self, index: int) -> Memory | None:
        """The memory of one GPU now; None where it cannot be asked."""
        with self._looking:
            if self._found is None:
                self._found = detect()
        return self._found.memory(index)


class Bounded:
    """The GPUs of this machine for a command that may not hang with them: each question raises ``bounded.NoAnswer``
    where the driver does not answer it in time."""

    def __init__(self) -> None:
        self._found: Survey | None = None

    def _survey(self) -> Survey:
        if self._found is None:
            self._found = bounded.call(DRIVER, detect, within=AT_FIRST)
        return self._found

    def any(self) -> bool:
        """Whether this machine has GPUs; one whose driver does not answer has."""
        try:
            return not isinstance(self._survey(), NoGpus)
        except bounded.NoAnswer:
            return True

    def memory(self, index: int) -> Memory | None:
        """The memory of one GPU now; None where it cannot be asked."""
        return bounded.call(called(index), self._survey().memory, index, within=AT_FIRST)

    def names(self) -> list[str]:
        """What they are, in the order of their indices."""
        return bounded.call(DRIVER, self._survey().names, within=AT_FIRST)

    def driver(self) -> Driver | None:
        """The NVIDIA driver; None without one."""
        return bounded.call(DRIVER, self._survey().driver, within=AT_FIRST)


def called(index: int) -> str:
    """How a GPU is called where it does not answer."""
    return f"GPU {index}"


async def ask(gpus: Gpus, index: int) -> Memory | None:
    """The memory of one GPU now, without holding up the event loop; None where it cannot be asked. Raises
    ``bounded.NoAnswer`` where it does not answer in time."""
    return await bounded.ask(called(index), gpus.memory, index, within=WITHIN)


async def wait_for_memory(
    gpus: Gpus,
    ended: Mapping[int, Judge],
    *,
    patience: float = 60.0,
    period: float = 0.5,
    flat: int = 4,
) -> list[Held]:
    """Wait until nothing is held on any of these GPUs any more (each with the function that judges its memory), and
    what is nobody's there has been the same for ``flat`` readings: a driver lets go late and in steps, and vLLM
    measures free memory while it starts.

    Returns those that did not come back within ``patience`` seconds. Raises ``bounded.NoAnswer`` for a GPU that does
    not answer: it is not waited for.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    history: dict[int, list[int]] = {index: [] for index in ended}
    while True:
        late: list[Held] = []
        settled = True
        for index, judge in ended.items():
            memory = await ask(gpus, index)
            if memory is None:
                continue
            seen = history[index]
            seen.append(memory.nobodys())
            if (held := judge(memory)) is not None:
                late.append(held)
            settled = settled and len(seen) >= flat and max(seen[-flat:]) - min(seen[-flat:]) <= 16 * MIB
        if settled and not late:
            return []
        if not any(history.values()):
            return []  # nothing can be asked
        if loop.time() >= end:
            return late
        await asyncio.sleep(period)
