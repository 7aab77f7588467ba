"""``completion``: the scripts, and what bash offers with its script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from llm_supervisor.cli import arguments, main

SHELLS = ("bash", "zsh", "tcsh")


@pytest.fixture
def script(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Path:
    """The file with the script for the shell that the test names."""
    assert main.main(["completion", request.param]) == 0
    file = tmp_path / f"completion.{request.param}"
    file.write_text(capsys.readouterr().out)
    return file


@pytest.mark.parametrize("script", SHELLS, indirect=True)
def test_the_script_names_every_command(script: Path) -> None:
    text = script.read_text()
    assert all(command in text for command in arguments.COMMANDS)
    assert "--rehearse" not in text, "it is not for people"


@pytest.mark.parametrize("script", ["bash", "zsh"], indirect=True)
def test_the_shell_can_read_it(script: Path) -> None:
    shell = script.suffix[1:]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(script)], check=True)


def offered(script: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    code = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '$(complete -p llm-supervisor | sed "s/.*-F \\([^ ]*\\) .*/\\1/") '
        '"$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "-c", code, "bash", str(script), "llm-supervisor", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=script.parent, timeout=60)
    return done.stdout.split()


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_what_bash_offers(script: Path) -> None:
    (script.parent / "mine.yaml").write_text("")
    (script.parent / "mine").mkdir()
    assert offered(script, "sta") == ["status", "start"]
    assert offered(script, "status", "--w") == ["--watch"]
    assert offered(script, "env", "c") == ["claude-code", "codex"]
    assert offered(script, "completion", "") == list(SHELLS)
    assert offered(script, "pull", "--source", "m") == ["modelscope"]
    assert sorted(offered(script, "check", "-c", "mi")) == ["mine", "mine.yaml"]
    assert offered(script, "install", "--tiny-model", "mi") == ["mine"]


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["completion", "csh"])
    assert ended.value.code == 2
    assert "bash" in capsys.readouterr().err
