"""Whether an ended incarnation still holds memory of its GPU: one case a line."""

from __future__ import annotations

import pytest

from llm_supervisor.core.gpu_memory import MIB, Ended, Held, Memory, Share, held, others_use

GIB = 1024 * MIB
DEAD, OURS, THEIRS = 11, 22, 33  # pids: of the incarnation that has ended, of another program of ours, of a stranger
USED = Share(named=30 * GIB)
UNNAMED = Share(unnamed=30 * GIB)


def gpu(used: int, **holders: int) -> Memory:
    """80 GiB, of which so many GiB are in use; and who has them, by pid."""
    return Memory(used * GIB, 80 * GIB, tuple((int(pid[1:]), size * GIB) for pid, size in holders.items()))


def ended(before: int = 1, *, share: Share | None = None, others: int | None = 0) -> Ended:
    """It had the process 11; before its start so many GiB were nobody's."""
    return Ended(before * GIB, frozenset({DEAD}), share, None if others is None else others * GIB)


CASES = [
    ("all is back", gpu(1), ended(), None),
    ("a little more than before is the driver's", Memory(GIB + 200 * MIB, 80 * GIB), ended(), None),
    ("less than before", gpu(1), ended(before=9), None),
    ("NVML names a dead process of it", gpu(31, p11=30), ended(), 30),
    ("and what of it is a rest", Memory(GIB + 100 * MIB, 80 * GIB, ((DEAD, 100 * MIB),)), ended(), None),
    ("a dead process of it, and others beside", gpu(71, p11=30, p22=40), ended(share=USED), 30),
    ("another program of ours started since", gpu(41, p22=40), ended(), None),
    ("a stranger started since", gpu(41, p33=40), ended(), None),
    ("the driver has not given it back", gpu(31), ended(), 30),
    ("the same, beside another program", gpu(71, p22=40), ended(), 30),
    ("in a container another program explains it", gpu(41), ended(others=40), None),
    ("in a container another program explains a part", gpu(71), ended(share=UNNAMED, others=40), 30),
    ("what the other program uses cannot be told", gpu(71), ended(share=UNNAMED, others=None), None),
    ("somebody took memory, but there is room", gpu(41), ended(share=UNNAMED), None),
    ("and what it had is dead memory, but there is room", gpu(31), ended(share=UNNAMED), None),
    ("somebody took memory, and there is no room", gpu(61), ended(share=UNNAMED), 60),
    ("a dead process holds it, though there is room", gpu(31, p11=30), ended(share=USED), 30),
]


@pytest.mark.parametrize(("memory", "one", "size"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_held(memory: Memory, one: Ended, size: int | None) -> None:
    found = held(0, memory, one)
    assert (found.size if found is not None else None) == (None if size is None else size * GIB)


def test_what_is_said() -> None:
    own = held(1, gpu(31, p11=30), ended())
    assert str(own) == "GPU 1 has not given back what its dead processes had: pid 11 (30720 MiB)"
    assert own == Held(1, 30 * GIB, ((DEAD, 30 * GIB),))
    assert "30720 MiB more in use than before its start, and NVML names no process" in str(held(0, gpu(31), ended()))


@pytest.mark.parametrize(
    ("programs", "found"),
    [
        ([], 0),
        ([(frozenset({OURS}), None)], 0),  # NVML names it
        ([(frozenset({THEIRS + 1}), Share(unnamed=3))], 3),
        ([(frozenset({OURS}), Share(unnamed=5)), (frozenset(), Share(unnamed=3))], 3),
        ([(frozenset({THEIRS + 1}), None)], None),
        ([(frozenset({THEIRS + 1}), None), (frozenset({OURS}), None)], None),
    ],
)
def test_what_others_use(programs: list[tuple[frozenset[int], Share | None]], found: int | None) -> None:
    assert others_use(gpu(41, p22=40), programs) == found
