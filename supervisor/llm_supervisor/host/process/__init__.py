"""Processes: the kernel's table of them, starting one, watching it, and sweeping what it leaves.

Linux only: pidfds (5.3), ``/proc``, child subreaper.
"""

from llm_supervisor.host.process.child import (
    Child,
    SpawnError,
    become_subreaper,
    disinherit_descriptors,
    raise_descriptor_limit,
    reap_strangers,
    signal_process,
    spawn,
)
from llm_supervisor.host.process.forkserver import PATIENCE, ForkError, ForkServer
from llm_supervisor.host.process.proc import (
    COOKIE,
    Identity,
    Row,
    boot_id,
    identify,
    read_row,
    read_rows,
    transferred,
    read_cookie,
)
from llm_supervisor.host.process.tree import ALL_SOURCES, Source, Tree, find

__all__ = [
    "ALL_SOURCES",
    "COOKIE",
    "PATIENCE",
    "Child",
    "ForkError",
    "ForkServer",
    "Identity",
    "Row",
    "Source",
    "SpawnError",
    "Tree",
    "become_subreaper",
    "boot_id",
    "disinherit_descriptors",
    "find",
    "identify",
    "raise_descriptor_limit",
    "read_row",
    "read_rows",
    "reap_strangers",
    "signal_process",
    "read_cookie",
    "spawn",
    "transferred",
]
