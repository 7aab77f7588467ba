"""May it come back, and when: backoff and intensity, as functions of timestamps.

Pure; the vocabulary and the shape of ``record`` (timestamps, now, period) are Erlang/OTP's.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_supervisor.core.spec import RestartPolicy, RestartSpec


@dataclass(frozen=True, slots=True)
class History:
    """Failures since the last proven readiness.

    ``failures`` are their times (monotonic seconds, oldest first, within the window). ``free``: the first of them was
    of an incarnation that had been ready, whose successor starts at once.
    """

    failures: tuple[float, ...] = ()
    free: bool = False


FRESH = History()


def record(spec: RestartSpec, history: History, now: float, *, was_ready: bool) -> History:
    """One more failure. Those older than the window are forgotten."""
    recent = tuple(at for at in history.failures if now - at < spec.window)
    return History((*recent, now), free=history.free if recent else was_ready)


def exhausted(spec: RestartSpec, history: History) -> bool:
    """True when there were ``intensity`` failures within the window: coming back once more would be a loop."""
    return len(history.failures) >= spec.intensity


def delay(spec: RestartSpec, history: History) -> float:
    """Seconds to wait before the next start. The first one after proven readiness is immediate."""
    paid = len(history.failures) - (1 if history.free else 0)
    if paid <= 0:
        return 0.0
    # 2.0 ** 1100 overflows a float; the cap is reached long before
    return min(spec.backoff * spec.backoff_factor ** min(paid - 1, 64), spec.backoff_cap)


def probation(spec: RestartSpec, ready_after: float) -> float:
    """How long (seconds) a program without a readiness check must live before its failures are forgiven: being alive
    proves little, so longer than a backoff. Without a backoff nobody wants to wait for a proof."""
    return max(ready_after, 2 * spec.backoff)


def wanted_back(policy: RestartPolicy, *, failed: bool) -> bool:
    """Whether the policy brings back a program that ended by itself."""
    return policy is RestartPolicy.ALWAYS or (policy is RestartPolicy.ON_FAILURE and failed)
