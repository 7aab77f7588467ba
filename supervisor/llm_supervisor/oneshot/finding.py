"""What a look at the host finds, good or bad, and how much it means for the start. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What a finding means for the start, from the mildest to the worst."""

    FINE = "fine"
    WARNING = "warning"  # it may go wrong
    ERROR = "error"  # it will not start


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``parts`` are the figures of an estimate, bytes (``tokens``: a number)."""

    check: str
    subject: str
    verdict: Verdict
    detail: str
    advice: str = ""
    parts: Mapping[str, int] = field(default_factory=dict)


def fine(check: str, subject: str, detail: str) -> Finding:
    """Something that is as it should be."""
    return Finding(check, subject, Verdict.FINE, detail)


def worst(findings: list[Finding]) -> Verdict:
    """The worst verdict of all findings; FINE when there are none."""
    order = list(Verdict)
    return max((finding.verdict for finding in findings), key=order.index, default=Verdict.FINE)
