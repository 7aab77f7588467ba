"""What a dead tree leaves in /dev/shm is removed, unless a living process has it mapped."""

from __future__ import annotations

import mmap
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_supervisor.host.process import shared_memory


@pytest.fixture
def segment() -> Iterator[Path]:
    path = Path("/dev/shm") / f"test-{uuid.uuid4().hex}"
    path.write_bytes(bytes(4096))
    yield path
    path.unlink(missing_ok=True)


def test_mapped_segments_stay(segment: Path) -> None:
    with open(segment, "r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert segment.name in shared_memory.mapped(os.getpid())
        shared_memory.remove_unmapped({segment.name})
        assert segment.exists()
    assert segment.name not in shared_memory.mapped(os.getpid())
    shared_memory.remove_unmapped({segment.name, "test-that-is-not-there"})
    assert not segment.exists()


def test_semaphores_of_multiprocessing_by_their_age() -> None:
    path = Path("/dev/shm") / f"sem.mp-{uuid.uuid4().hex}"
    path.write_bytes(b"")
    try:
        assert path.name in shared_memory.semaphores_since(time.time() - 60)
        assert path.name not in shared_memory.semaphores_since(time.time() + 60)
    finally:
        path.unlink()
    assert shared_memory.mapped(2**22 + 1) == set(), "a process that is gone has nothing mapped"
