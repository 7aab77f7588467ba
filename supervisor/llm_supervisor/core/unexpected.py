"""What an error that nobody foresaw means for the program that it happened to. Pure.

The operating system can refuse anything at any time: no room, no memory, no descriptors, a file system that is gone.
That is the host's trouble and not the program's, so the program waits for its end without a strike. Every other error
is a defect of the supervisor: it counts as a failure of that program, and of no other one.
"""

from __future__ import annotations

from llm_supervisor.core.failure import Failure

# The kinds of failure, as ``status --json``, incidents and ``explain`` show them
HOST, DEFECT = "host", "supervisor_defect"


def root_of(error: BaseException) -> BaseException:
    """The first error that is no group of others: task groups wrap what happened in them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_hosts(error: BaseException) -> bool:
    """Whether the machine refused something, which says nothing of the program nor of our code."""
    error = root_of(error)
    # threading.Thread.start raises a RuntimeError where the limit of processes is reached
    return isinstance(error, (OSError, MemoryError)) or "can't start new thread" in str(error)


def failure_of(error: BaseException, doing: str) -> Failure:
    """The failure that an error means which came up while ``doing`` something for a program (``starting it``)."""
    error = root_of(error)
    text = (str(error) or type(error).__name__).splitlines()[0][:300]
    if is_hosts(error):
        what = f"{text} (while {doing})"
        advice = "The machine refused this. It is tried again until it works; see the daemon's log for the place."
        return Failure(HOST, what, advice, permanent=False, busy=True)
    summary = f"a defect of llm-supervisor, please report it: {type(error).__name__} while {doing}: {text}"
    advice = "The daemon's log shows where it happened. The other programs are not affected."
    return Failure(DEFECT, summary, advice)
