"""Reports in the words of many versions: each is named, with the right permanence; and whatever kept the log, the
answer is the same."""

from __future__ import annotations

import pytest

from llm_supervisor.diagnosis import Diagnosis, diagnose
from tests.diagnosis.reports import Report, reports

REPORTS = list(reports())


def found(report: Report) -> Diagnosis:
    return diagnose(
        report.log.encode(),
        report.component,
        exit_code=report.exit_code,
        exit_signal=report.exit_signal,
        was_ready=report.was_ready,
    )


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.name)
def test_a_report_is_named(report: Report) -> None:
    diagnosis = found(report)
    assert diagnosis.kind in report.kinds, diagnosis
    assert diagnosis.permanent is report.permanent, diagnosis
    for words in report.told:
        assert words in f"{diagnosis.summary} {diagnosis.advice} {diagnosis.evidence}", diagnosis
    assert "\n" not in diagnosis.summary


def test_there_are_enough_reports() -> None:
    assert len({report.name for report in REPORTS}) == len(REPORTS) > 150
