"""The making of the demo's tiny model, with vLLM's Python played by a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_supervisor.engines.environment import INSIDE, InstallError
from llm_supervisor.host import command
from llm_supervisor.oneshot.install import make_tiny_model

from .conftest import Said


def test_a_tiny_model_that_is_there_is_left_alone(tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    monkeypatch.setattr(command, "run", pytest.fail)
    assert make_tiny_model(Path("python"), tmp_path, report=said) == tmp_path
    assert said.lines == []


def test_a_tiny_model_is_made_by_vllms_python(tmp_path: Path, said: Said) -> None:
    python, target = tmp_path / "python", tmp_path / "models" / "tiny"
    python.write_text('#!/bin/sh\nmkdir "$3" && echo "$2" > "$3/made_by"')
    python.chmod(0o755)
    assert make_tiny_model(python, target, report=said) == target
    assert (target / "made_by").read_text() == f"{INSIDE / 'tiny_glm41v.py'}\n"
    assert not (tmp_path / "models" / "tiny.log").exists()


def test_a_tiny_model_that_cannot_be_made_says_why(tmp_path: Path, said: Said) -> None:
    python = tmp_path / "python"
    with pytest.raises(InstallError, match=r"could not be made: .*No such file or directory"):
        make_tiny_model(python, tmp_path / "tiny", report=said)
    python.write_text("#!/bin/sh\necho ModuleNotFoundError: torch\nexit 1")
    python.chmod(0o755)
    with pytest.raises(
        InstallError, match=r"could not be made \(exit status 1\)\. The last lines:\n    ModuleNotFound"
    ):
        make_tiny_model(python, tmp_path / "tiny", report=said)
