"""``explain`` shows the incidents of the daemon that one's environment leads to, and of no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm_supervisor import paths
from llm_supervisor.cli import main
from llm_supervisor.host import incident

FACTS = {"kind": "k", "permanent": None, "left": "it left", "advice": "", "tree": [], "gpus": [], "evidence": []}


def note(folder: Path, program: str, summary: str) -> None:
    incident.write(folder, program, {**FACTS, "summary": summary}, b"")


@pytest.fixture
def runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two daemons of one user, each with an incident of a program of the same name."""
    monkeypatch.setenv("LLM_SUPERVISOR_HOME", str(tmp_path / "home"))
    found = [tmp_path / "one", tmp_path / "two"]
    for runtime in found:
        note(paths.incident_dir(os.environ, runtime), "glm", f"of {runtime.name}")
    return found


def explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], runtime: Path, name: str) -> str:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(runtime))
    main.main(["explain", name])
    said = capsys.readouterr()
    return said.out + said.err


def test_each_daemon_has_its_own_incidents(
    runtimes: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for runtime in runtimes:
        assert f"glm: of {runtime.name}" in explained(monkeypatch, capsys, runtime, "glm")
    assert "no such program: glm" in explained(monkeypatch, capsys, runtimes[0].with_name("three"), "glm")


def test_those_of_an_older_version_are_still_found(
    runtimes: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    note(tmp_path / "home" / "incidents", "old", "of an older version")
    note(tmp_path / "home" / "incidents", "glm", "of an older version")
    assert "old: of an older version" in explained(monkeypatch, capsys, runtimes[0], "old")
    assert "glm: of one" in explained(monkeypatch, capsys, runtimes[0], "glm")
    assert "%" not in explained(monkeypatch, capsys, runtimes[0], "%2").replace("%2", "", 1)


def test_a_long_path_is_a_name_all_the_same(tmp_path: Path) -> None:
    environ = {"LLM_SUPERVISOR_HOME": str(tmp_path)}
    long = [Path("/" + "x" * 150 + f"/{n}/" + "y" * 90) for n in range(2)]
    names = {paths.incident_dir(environ, one).name for one in long}
    assert len(names) == 2 and all(len(name) < 100 for name in names)
    assert paths.incident_dir(environ, Path("/run/llm-supervisor")).name == "%2Frun%2Fllm-supervisor"
