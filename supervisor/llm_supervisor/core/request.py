"""What a request to start, stop or restart waits for, and what came of it. The command and the API share it. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from llm_supervisor.core.state import Phase, State

RequestAction = Literal["start", "stop", "restart"]


class RequestOutcome(NamedTuple):
    """Whether a request has come about, and what to tell the client that made it."""

    done: bool
    words: str


def settled(action: str, state: State, since: int) -> bool:
    """Whether what ``action`` asked for has come about, or cannot any more. ``since`` is the incarnation at the time of
    asking."""
    if action == "stop":  # or somebody else has started it again
        return state.phase in (Phase.STOPPED, Phase.FATAL) or state.incarnation > since
    if state.phase in (Phase.STOPPED, Phase.FATAL):
        return True
    if state.phase is Phase.BACKOFF:
        return state.incarnation > since  # the start that was asked for has failed; it tries again by itself
    return state.phase is Phase.RUNNING and (state.incarnation > since or action == "start")


_UNENDED = ("unkillable", "not_permitted", "sweep_overdue")  # the failures that say that processes live on
_WATCHED = "It is watched, and counts as stopped when it is gone"


def still_alive(state: State) -> str | None:
    """What of a program that should be down is alive all the same, and why; None where nothing is."""
    if not state.orphaned:
        return None
    failure = state.failure
    if failure is not None and failure.kind == "not_permitted":
        return f"still alive: {failure.summary}. {_WATCHED}; end it as that user or as root"
    # else it was given up for something else before a start made one more process
    why = failure.summary if failure and failure.kind in _UNENDED else "what a start has made that answered too late"
    return (
        f"still alive: {why}. The kernel does not let go of it (a GPU driver, a dead network file system). {_WATCHED}. "
        "If that does not happen, reset the GPU or reboot"
    )


def outcome(action: str, state: State) -> RequestOutcome:
    """What came of a settled request, judged by the state that it ended in."""
    if action == "stop":
        if state.phase in (Phase.STOPPED, Phase.FATAL) and (alive := still_alive(state)) is not None:
            return RequestOutcome(False, alive)
        stopped = state.phase in (Phase.STOPPED, Phase.FATAL)
        return RequestOutcome(stopped, "stopped" if stopped else "was started again by somebody else")
    if state.phase is Phase.RUNNING:
        return RequestOutcome(True, "started" if action == "start" else "restarted")
    why = state.failure.summary if state.failure else state.reason
    return RequestOutcome(False, f"{state.word}: {why}")
