"""Processes: the kernel's table of them, starting one, watching it, and sweeping what it leaves.

Linux only: pidfds (5.3), ``/proc``, child subreaper.
"""

from llm_supervisor.host.process.child import (
    Child,
    SpawnError,
    become_subreaper,
    disinherit_descriptors,
    make_files_private,
    raise_descriptor_limit,
    reap_strangers,
    set_umask_of_children,
    signal_process,
    spawn,
    umask_of_children,
)
from llm_supervisor.host.process.forkserver import PATIENCE, ForkError, ForkServer
from llm_supervisor.host.process.proc import (
    COOKIE,
    Identity,
    Row,
    boot_id,
    identify,
    read_cookie,
    read_row,
    read_rows,
    transferred,
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
    "make_files_private",
    "raise_descriptor_limit",
    "read_cookie",
    "read_row",
    "read_rows",
    "reap_strangers",
    "set_umask_of_children",
    "signal_process",
    "spawn",
    "transferred",
    "umask_of_children",
]
