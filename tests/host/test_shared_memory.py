"""What a dead tree leaves in /dev/shm is removed, unless a living process has it mapped."""

from __future__ import annotations

import mmap
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_supervisor.host import bounded
from llm_supervisor.host.process import shared_memory
from tests.support.programs import until


@pytest.fixture
def segment() -> Iterator[Path]:
    path = Path("/dev/shm") / f"test-{uuid.uuid4().hex}"
    path.write_bytes(bytes(4096))
    yield path
    path.unlink(missing_ok=True)


def inode(path: Path) -> dict[str, int]:
    """How it is noted."""
    return {path.name: path.stat().st_ino}


def test_mapped_segments_stay(segment: Path) -> None:
    with open(segment, "r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert segment.name in shared_memory.mapped(os.getpid())
        shared_memory.remove_unmapped(inode(segment))
        assert segment.exists()
    assert segment.name not in shared_memory.mapped(os.getpid())
    shared_memory.remove_unmapped({**inode(segment), "test-that-is-not-there": 1})
    assert not segment.exists()
    assert shared_memory.mapped(2**22 + 1) == set(), "a process that is gone has nothing mapped"


def test_what_an_incarnation_has_made(segment: Path) -> None:
    """Mapped by its processes, not there before its start, and our user's."""
    us = [os.getpid()]
    with open(segment, "r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert shared_memory.made_by(us, ()) == inode(segment)
        assert shared_memory.made_by(us, shared_memory.names()) == {}, "it was there before"
        assert shared_memory.made_by([1], ()).get(segment.name) is None, "another process has it mapped, not ours"
        if os.geteuid() == 0:
            os.chown(segment, 12345, -1)
            assert shared_memory.made_by(us, ()) == {}, "it is another user's"
    assert shared_memory.made_by(us, ()) == {}, "nobody of ours has it mapped"


def test_another_object_of_the_same_name_stays(segment: Path) -> None:
    noted = inode(segment)
    other = segment.with_name(f"{segment.name}-other")
    other.write_bytes(b"x")
    other.replace(segment)
    shared_memory.remove_unmapped(noted)
    assert segment.exists()


@pytest.mark.parametrize("prefix", ["sem.mp-", "psm_"])
def test_what_nobody_is_known_to_have_made_stays(prefix: str) -> None:
    """With --ipc=host it may be another container's, whose processes are not seen from here."""
    path = Path("/dev/shm") / f"{prefix}{uuid.uuid4().hex}"
    path.write_bytes(b"")
    try:
        shared_memory.remove_unmapped(shared_memory.made_by([os.getpid()], ()))
        assert path.exists()
    finally:
        path.unlink()


def test_nothing_is_removed_while_a_process_does_not_answer(segment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the one that has it mapped."""
    gate = threading.Event()
    real = shared_memory.mapped

    def mapped(pid: int) -> set[str]:
        if pid == os.getpid():
            gate.wait()
        return real(pid)

    monkeypatch.setattr(shared_memory, "mapped", mapped)
    monkeypatch.setattr(shared_memory, "WITHIN", 0.05)
    try:
        shared_memory.remove_unmapped(inode(segment))
        assert segment.exists()
    finally:
        gate.set()
        until(lambda: not bounded.not_answering(), "it answers again")
    shared_memory.remove_unmapped(inode(segment))
    assert not segment.exists()
