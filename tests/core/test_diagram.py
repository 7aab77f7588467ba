"""The state diagram in docs/how-it-decides.md is what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llm_supervisor.core.state import Phase

from . import diagram

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "how-it-decides.md"
REGENERATE = "draw it again: make docs"


def test_the_document_shows_what_the_code_does() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.count(diagram.BEGIN) == text.count(diagram.END) == 1, (
        f"{DOCUMENT.name} needs {diagram.BEGIN} and {diagram.END}, once each; then {REGENERATE}"
    )
    assert diagram.read(text) == diagram.block(), f"{DOCUMENT.name} shows an old diagram; {REGENERATE}"


def test_every_phase_can_be_entered_and_left() -> None:
    pairs = diagram.transitions()
    assert {before for before, _ in pairs} == set(Phase)
    assert {after for _, after in pairs} == set(Phase)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Phase.STOPPED, Phase.RUNNING),  # nothing runs that was not started
        (Phase.STARTING, Phase.STARTING),
        (Phase.STARTING, Phase.BACKOFF),  # the sweep is never left out
        (Phase.STARTING, Phase.STOPPED),
        (Phase.RUNNING, Phase.STARTING),
        (Phase.RUNNING, Phase.STOPPED),
        (Phase.TERMINATING, Phase.STARTING),
        (Phase.TERMINATING, Phase.STOPPED),
        (Phase.KILLING, Phase.STARTING),
        (Phase.KILLING, Phase.STOPPED),
        (Phase.SWEEPING, Phase.RUNNING),
        (Phase.BACKOFF, Phase.RUNNING),
        (Phase.FATAL, Phase.RUNNING),
    ],
)
def test_there_is_no_such_transition(before: Phase, after: Phase) -> None:
    assert (before, after) not in diagram.transitions()


def test_the_drawing_is_mermaid_and_always_the_same() -> None:
    drawn = diagram.draw()
    assert drawn.startswith("stateDiagram-v2\n")
    assert "    STOPPED --> STARTING: StartRequested, RestartRequested\n" in drawn
    assert diagram.draw() == drawn


def test_write_replaces_what_is_between_the_markers_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"before\n{diagram.BEGIN}\nold\n{diagram.END}\nafter\n", encoding="utf-8")
    assert diagram.write(file)
    assert file.read_text(encoding="utf-8") == f"before\n{diagram.BEGIN}{diagram.block()}{diagram.END}\nafter\n"
    assert not diagram.write(file)


def test_write_refuses_a_file_without_markers(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("nothing here\n", encoding="utf-8")
    with pytest.raises(ValueError, match="diagram:begin"):
        diagram.write(file)
    assert file.read_text(encoding="utf-8") == "nothing here\n"


def test_the_command_writes(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"{diagram.BEGIN}{diagram.END}", encoding="utf-8")
    command = [sys.executable, str(ROOT / "tests" / "core" / "diagram.py"), "--write", str(file)]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE)
    assert diagram.read(file.read_text(encoding="utf-8")) == diagram.block()
