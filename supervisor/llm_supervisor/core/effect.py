"""What the core asks of the world: frozen values in the imperative. ``runner`` performs them, in order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start this incarnation; answer with Spawned or SpawnFailed. How (fork+exec, a fork server) is the shell's, but
    without ``warm`` it must be the surest way there is."""

    incarnation: int
    warm: bool = True


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Signal the leader, or with ``tree`` every process known to belong to it."""

    incarnation: int
    signal: int
    tree: bool = False


@dataclass(frozen=True, slots=True)
class Sweep:
    """Find and end what is left of the tree: SIGTERM, ``grace`` seconds, SIGKILL, ``kill_grace`` seconds; wait for
    what it held; find out why it left; answer with SweepFinished or SweepStuck."""

    incarnation: int
    grace: float
    kill_grace: float


@dataclass(frozen=True, slots=True)
class BeginProbing:
    """Ask the program how it is, at the start-up pace until ``TakeBaseline``."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class TakeBaseline:
    """The program is ready: remember its tree as it is now, watch its vital members, probe at the normal pace."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class EndProbing:
    """End the probes of this incarnation."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class CloseListener:
    """Refuse connections from now on: no program will accept them."""


@dataclass(frozen=True, slots=True)
class AwaitOrphans:
    """Answer OrphansGone when nothing of this incarnation's tree is left."""

    incarnation: int


Effect = Spawn | SendSignal | Sweep | BeginProbing | TakeBaseline | EndProbing | CloseListener | AwaitOrphans
