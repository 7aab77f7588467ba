"""Whose listening sockets there are on a program's port, and what that means for its probes. Pure.

vLLM listens with SO_REUSEPORT, so that a second process of the same user can listen on the same port: it takes half of
the requests, and nobody gets an error. A probe that is answered says nothing about the program then.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from enum import StrEnum

from llm_supervisor.core.health import Answer, ProbeResult


class PortUse(StrEnum):
    """Who listens on the port of a program."""

    OURS = "ours"  # the program alone, or nobody
    SHARED = "shared"  # the program and another process
    OTHERS = "others"  # another process, and not the program
    UNKNOWN = "unknown"

    @property
    def by_others(self) -> bool:
        """Whether another process certainly listens there."""
        return self in (PortUse.SHARED, PortUse.OTHERS)


def port_use(listening: AbstractSet[int], ours: AbstractSet[int], *, visible: bool) -> PortUse:
    """``listening``: the inodes of all sockets that listen on the port; ``ours``: those that the program has open.

    ``visible`` is false where the descriptors of the program cannot be read, so that ``ours`` may be incomplete."""
    if listening <= ours:
        return PortUse.OURS
    if not visible:
        return PortUse.UNKNOWN
    return PortUse.SHARED if ours else PortUse.OTHERS


def judge_port(use: PortUse, port: int, name: str, holder: str) -> ProbeResult | None:
    """What the port's use says about an answer from it; None when the answer is the program's own, or nobody knows.

    ``holder`` names the other process. The answer of a shared port is WRONG, that of another process is INVALID."""
    match use:
        case PortUse.SHARED:
            detail = f"port {port} is shared: {holder} listens on it too and takes requests"
            return ProbeResult(Answer.WRONG, detail)
        case PortUse.OTHERS:
            return ProbeResult(Answer.INVALID, f"port {port} is answered by {holder}, not by {name}")
        case _:
            return None
