"""May it come back, and when: backoff and intensity, as functions of timestamps.

Pure; the vocabulary and the shape of ``record`` (timestamps, now, period) are Erlang/OTP's.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_supervisor.core.spec import RestartPolicy, RestartSpec


@dataclass(frozen=True, slots=True)
class History:
    """Failures that are not forgiven yet.

    ``failures`` are their times (monotonic seconds, oldest first, within the window). ``free``: the first of them was
    of an incarnation that had been ready, whose successor starts at once. ``permanent``: the times of those within the
    window that came after a readiness, and whose diagnosis says that they will come again; a lasting readiness does
    not forgive them. ``unexplained``: the exception without a known cause that the last start died of, empty where it
    died of another failure; ``in_a_row``: how many starts in a row died of that exception.
    """

    failures: tuple[float, ...] = ()
    free: bool = False
    permanent: tuple[float, ...] = ()
    unexplained: str = ""
    in_a_row: int = 0


FRESH = History()
# The shortest probation after an answer, and the longest (seconds); Kubernetes forgives after ten minutes, too
LEAST_PROBATION, MOST_PROBATION = 10.0, 600.0
# So many permanent failures after a readiness, within the window, end in FATAL: one may have been a wrong diagnosis
PERMANENT_AFTER_READY = 2
# So many starts in a row that die of the same exception end in FATAL, although no cause of it is known: the next start
# will die of it, too
SAME_STARTS = 3
_DIGITS = str.maketrans("", "", "0123456789")


def record(
    spec: RestartSpec, history: History, now: float, *, was_ready: bool, permanent: bool = False, unexplained: str = ""
) -> History:
    """One more failure. Those older than the window are forgotten. ``unexplained``: the words of an exception without a
    known cause, where it ended a start."""
    recent = tuple(at for at in history.failures if now - at < spec.window)
    lasting = tuple(at for at in history.permanent if now - at < spec.window)
    if permanent and was_ready:
        lasting = (*lasting, now)
    unexplained = _lasting_part(unexplained)
    in_a_row = history.in_a_row + 1 if unexplained and unexplained == history.unexplained else int(bool(unexplained))
    return History((*recent, now), history.free if recent else was_ready, lasting, unexplained, in_a_row)


def _lasting_part(words: str) -> str:
    """An exception's words without what differs each time: numbers (of processes, ports, times) and addresses."""
    return " ".join(word.translate(_DIGITS) for word in words.split() if "0x" not in word)


def forgiven(history: History) -> History:
    """The history after a readiness that has lasted."""
    return History(permanent=history.permanent)


def is_permanent(history: History) -> bool:
    """Whether what failed after a readiness has been found to be permanent often enough."""
    return len(history.permanent) >= PERMANENT_AFTER_READY


def repeats(history: History) -> bool:
    """True when so many starts in a row died of the same exception that the next one will, too."""
    return history.in_a_row >= SAME_STARTS


def exhausted(spec: RestartSpec, history: History) -> bool:
    """True when there were ``intensity`` failures within the window: coming back once more would be a loop."""
    return len(history.failures) >= spec.intensity


def delay(spec: RestartSpec, history: History) -> float:
    """Seconds to wait before the next start. The first one after a lasting readiness is immediate."""
    paid = len(history.failures) - (1 if history.free else 0)
    if paid <= 0:
        return 0.0
    # 2.0 ** 1100 overflows a float; the cap is reached long before
    return min(spec.backoff * spec.backoff_factor ** min(paid - 1, 64), spec.backoff_cap)


def probation(spec: RestartSpec, history: History, ready_after: float | None) -> float:
    """How long (seconds) a program must stay ready before its failures are forgiven: longer than a backoff, and twice
    as long for each failure that is not forgiven yet.

    ``ready_after`` is the age at which a program without a check counts as ready; None where there is a check. Without
    a check and without a backoff nobody wants to wait for a proof that there is not."""
    first = max(2 * spec.backoff, LEAST_PROBATION) if ready_after is None else max(2 * spec.backoff, ready_after)
    longest = max(first, MOST_PROBATION)
    return min(first * 2.0 ** min(max(len(history.failures) - 1, 0), 64), longest)


def wanted_back(policy: RestartPolicy, *, failed: bool) -> bool:
    """Whether the policy brings back a program that ended by itself."""
    return policy is RestartPolicy.ALWAYS or (policy is RestartPolicy.ON_FAILURE and failed)
