"""The matcher on logs in the exact form of the installed engines' source, for what no machine can provoke at will."""

from __future__ import annotations

import pytest

from llm_supervisor.diagnosis import diagnose
from tests.diagnosis.cases import SPECS, Spec

SEEDS = range(3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("spec", [pytest.param(spec, id=f"{spec.component}-{spec.name}") for spec in SPECS])
def test_a_failure_is_named(spec: Spec, seed: int) -> None:
    case = spec.build(seed)
    found = diagnose(
        case.log.encode(),
        spec.component,
        exit_code=case.exit_code,
        exit_signal=case.exit_signal,
        was_ready=case.was_ready,
    )
    assert (found.kind, found.permanent, found.busy) == (spec.kind, spec.permanent, spec.busy), found
    for value in case.told:
        assert value in f"{found.summary} {found.advice}", found
    assert any(case.root in line for line in found.evidence), found
    assert found.summary
    assert "\n" not in found.summary
    assert found.advice
    assert "{" not in found.summary.replace("{'", "").replace("{}", "").replace("{model", ""), "an unfilled template"


@pytest.mark.parametrize("spec", [pytest.param(spec, id=f"{spec.component}-{spec.name}") for spec in SPECS])
def test_without_an_exit_status_the_log_says_the_same(spec: Spec) -> None:
    """``llm-supervisor diagnose < log`` knows no exit status."""
    case = spec.build(1)
    assert diagnose(case.log, spec.component).kind == spec.kind
