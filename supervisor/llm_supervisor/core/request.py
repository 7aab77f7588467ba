"""What a request of somebody waits for, and what came of it: rules that the command and the API share. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from llm_supervisor.core.state import Phase, State

RequestAction = Literal["start", "stop", "restart"]


class RequestOutcome(NamedTuple):
    """Whether a request has come about, and what to tell whoever made it."""

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


def outcome(action: str, state: State) -> RequestOutcome:
    """What came of a settled request, judged by the state that it ended in."""
    if action == "stop":
        stopped = state.phase in (Phase.STOPPED, Phase.FATAL)
        return RequestOutcome(stopped, "stopped" if stopped else "was started again by somebody else")
    if state.phase is Phase.RUNNING:
        return RequestOutcome(True, "started" if action == "start" else "restarted")
    why = state.failure.summary if state.failure else state.reason
    return RequestOutcome(False, f"{state.word}: {why}")
