"""Whether an incarnation that has ended still holds memory of a GPU. Pure. Memory is in bytes.

What a GPU has in use as a whole says little: other models and other people use it as well, and may have started since.
So what NVML attributes to living processes is left out. The rest is compared with what it was before the start. In a
container NVML often names no process; there the rest holds what our other programs use, which was measured when each of
them became ready.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MIB = 1024 * 1024
SLACK = 256 * MIB  # what the driver itself may use more or less


@dataclass(frozen=True, slots=True)
class Memory:
    """A GPU's memory: ``used`` of ``total`` bytes, and what each compute process has of it, by pid."""

    used: int
    total: int
    holders: tuple[tuple[int, int], ...] = ()

    def of(self, pids: Iterable[int]) -> int:
        """What these processes have, as far as NVML names them."""
        wanted = set(pids)
        return sum(size for pid, size in self.holders if pid in wanted)

    def nobodys(self, dead: Iterable[int] = ()) -> int:
        """What is in use and attributed to no living process. ``dead`` are pids that NVML may still name."""
        gone = set(dead)
        return max(self.used - sum(size for pid, size in self.holders if pid not in gone), 0)


@dataclass(frozen=True, slots=True)
class Share:
    """What a program used when it became ready: what NVML attributed to its processes (``named``), and by how much the
    rest had grown during its start (``unnamed``)."""

    named: int = 0
    unnamed: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """An incarnation that has ended, and one of its GPUs.

    ``before``: what was nobody's there before its start. ``dead``: the pids of its processes. ``share``: what it used,
    None where that was not measured. ``others``: what of our other programs that started since is attributed to no
    process, None where that cannot be told.
    """

    before: int
    dead: frozenset[int] = frozenset()
    share: Share | None = None
    others: int | None = 0


@dataclass(frozen=True, slots=True)
class Held:
    """Memory that did not come back: ``size`` bytes, of which NVML attributes ``by`` to dead processes of ours."""

    index: int
    size: int
    by: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        if self.by:
            who = ", ".join(f"pid {pid} ({size // MIB} MiB)" for pid, size in self.by)
            return f"GPU {self.index} has not given back what its dead processes had: {who}"
        return (
            f"GPU {self.index} has {self.size // MIB} MiB more in use than before its start, and NVML names no process "
            "that has them: the driver has not given them back, or somebody outside of this container uses them"
        )


def held(index: int, memory: Memory, ended: Ended) -> Held | None:
    """What the incarnation still holds of a GPU; None when nothing keeps it from a new start.

    1. NVML names dead processes of it: they hold their memory.
    2. What is nobody's has not grown, or our other programs explain it: it is free.
    3. What our other programs use cannot be told: it must not wait for ever on a guess, so it is free.
    4. As much as it used is free again, whoever uses the rest: it has room.
    5. Otherwise what is nobody's is its own.
    """
    by = tuple((pid, size) for pid, size in memory.holders if pid in ended.dead)
    if memory.of(ended.dead) > SLACK:
        return Held(index, memory.of(ended.dead), by)
    if ended.others is None:
        return None
    grown = memory.nobodys(ended.dead) - ended.before - ended.others
    if grown <= SLACK:
        return None
    if ended.share is not None and memory.total - memory.used >= ended.share.named + ended.share.unnamed + SLACK:
        return None
    return Held(index, grown)


def others_use(memory: Memory, programs: Iterable[tuple[frozenset[int], Share | None]]) -> int | None:
    """What these living programs use of a GPU and NVML attributes to no process; None where that cannot be told. Each
    is its pids, and what it used when it became ready (None where that was not measured)."""
    total = 0
    for pids, share in programs:
        if memory.of(pids):
            continue  # NVML names them
        if share is None:
            return None
        total += share.unnamed
    return total
