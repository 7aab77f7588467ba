"""What is seen of a program's tree while it lives."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from pathlib import Path

from llm_supervisor.host.process import Tree, read_row
from llm_supervisor.supervision.local.incarnation import Incarnation
from llm_supervisor.supervision.local.watch import TreeWatch

HOLD = """
import mmap, os, sys
file = open(sys.argv[1], "w+b")
file.truncate(4096)
held = mmap.mmap(file.fileno(), 4096)
print("held", flush=True)
sys.stdin.read()
"""


def test_what_an_engine_holds_in_shared_memory_is_noted_while_it_starts() -> None:
    """So that it is removed when all of its processes die at once."""
    segment = Path("/dev/shm") / f"test-{uuid.uuid4().hex}"
    command = [sys.executable, "-c", HOLD, str(segment)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None and engine.stdout.readline() == b"held\n"
        row = read_row(engine.pid)
        assert row is not None

        def noted(before: frozenset[str] | None) -> dict[str, int]:
            living = Incarnation(
                1, "glm/1", Tree("glm/1", row.key, seen={row.key}), Path("/no/fifo"), shm_before=before
            )

            async def look() -> None:
                watch = TreeWatch()
                watch.worked(living)
                async with asyncio.timeout(60):
                    while not living.shared and before is not None:
                        await asyncio.sleep(0.01)

            asyncio.run(look())
            return living.shared

        assert noted(frozenset()) == {segment.name: segment.stat().st_ino}
        assert noted(None) == {}, "other programs remove it themselves"
        engine.communicate()
    segment.unlink()
