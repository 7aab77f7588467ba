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
    not forgive them.
    """

    failures: tuple[float, ...] = ()
    free: bool = False
    permanent: tuple[float, ...] = ()


FRESH = History()
# The shortest probation after an answer, and the longest (seconds); Kubernetes forgives after ten minutes, too
LEAST_PROBATION, MOST_PROBATION = 10.0, 600.0
# So many permanent failures after a readiness, within the window, end in FATAL: one may have been a wrong diagnosis
PERMANENT_AFTER_READY = 2


def record(spec: RestartSpec, history: History, now: float, *, was_ready: bool, permanent: bool = False) -> History:
    """One more failure. Those older than the window are forgotten."""
    recent = tuple(at for at in history.failures if now - at < spec.window)
    lasting = tuple(at for at in history.permanent if now - at < spec.window)
    if permanent and was_ready:
        lasting = (*lasting, now)
    return History((*recent, now), free=history.free if recent else was_ready, permanent=lasting)


def forgiven(history: History) -> History:
    """The history after a readiness that has lasted."""
    return History(permanent=history.permanent)


def is_permanent(history: History) -> bool:
    """Whether what failed after a readiness has been found to be permanent often enough."""
    return len(history.permanent) >= PERMANENT_AFTER_READY


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
