"""Finds a FIFO that has no name any more, as its folder was removed: a process that writes into it still has it."""

from __future__ import annotations

import os
from pathlib import Path

from llm_supervisor.host.output.pump import open_fifo
from llm_supervisor.host.process import find
from llm_supervisor.host.process.tree import Tree


def open_fifo_of(tree: Tree, fifo: Path) -> int:
    """Our end of a FIFO whose folder was removed, by way of a process that writes into it. Raises OSError where none
    has it."""
    for row in find(tree):
        for fd in ("1", "2"):
            path = f"/proc/{row.pid}/fd/{fd}"
            try:
                if Path(os.readlink(path).removesuffix(" (deleted)")).name == fifo.name:
                    return open_fifo(Path(path), link=True)
            except OSError:
                continue
    raise FileNotFoundError(f"no process has {fifo} any more")
