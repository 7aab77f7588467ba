"""The table of commands, their help, and what a quick command imports."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module

import pytest

from llm_supervisor.cli import arguments, main
from llm_supervisor.cli.output import may_colour
from tests.cli.conftest import FakeDaemon, program


def test_the_table_of_commands_is_that_of_the_arguments() -> None:
    assert list(main.COMMANDS) == list(arguments.COMMANDS)


@pytest.mark.parametrize("command", main.COMMANDS)
def test_each_command_has_its_function(command: str) -> None:
    module, function = main.COMMANDS[command]
    assert callable(getattr(import_module(f"llm_supervisor.cli.{module}"), function))


@pytest.mark.parametrize("command", main.COMMANDS)
def test_each_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser for this command alone prints the same as that for all commands."""
    with pytest.raises(SystemExit) as ended:
        main.main([command, "--help"])
    assert ended.value.code == 0
    alone = capsys.readouterr().out
    assert alone.startswith(f"usage: llm-supervisor {command} ")
    with pytest.raises(SystemExit):
        arguments.parser().parse_args([command, "--help"])
    assert capsys.readouterr().out == alone


def test_every_argument_has_a_help() -> None:
    for command in arguments.COMMANDS:
        parser = arguments.Parser(prog=command)
        arguments.COMMANDS[command][1](parser)
        assert all(action.help for action in parser._actions), command


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["--help"])
    shown = re.findall(r"^    (\S+)", capsys.readouterr().out, re.MULTILINE)
    assert shown == list(main.COMMANDS)


def test_a_wrong_command_names_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["stats"], ["-c", "status", "stats"]):
        with pytest.raises(SystemExit) as ended:
            main.main(words)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert "'stats'" in said and "diagnose" in said and "error: " not in said


def test_status_imports_only_what_it_needs(daemon: FakeDaemon) -> None:
    """It is called often, and must start quickly."""
    daemon.status["programs"] = [program("calm")]
    code = "import sys; from llm_supervisor.cli import main; main.main(['status']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    line, modules = done.stdout.splitlines()
    assert line.split() == ["calm", "RUNNING", "ready", "pid", "77,", "uptime", "1:01:01"]
    loaded = modules.split()
    parts = {name.split(".")[2] for name in loaded if name.startswith("llm_supervisor.cli.")}
    assert parts == {"main", "arguments", "output", "connection", "status"}
    others = {name.split(".")[1] for name in loaded if name.startswith("llm_supervisor.")}
    assert others.isdisjoint({"config", "core", "daemon", "diagnosis", "engines", "host", "oneshot", "supervision"})
    heavy = {
        "asyncio",
        "dataclasses",
        "httpx",
        "psutil",
        "pydantic",
        "rich",
        "shtab",
        "starlette",
        "subprocess",
        "yaml",
    }
    assert heavy.isdisjoint(loaded)


class Stream:
    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "value", "expected"),
    [
        (True, None, True),
        (True, "", True),
        (True, "1", False),
        (True, "0", False),
        (False, None, False),
        (False, "", False),
    ],
)
def test_colours(monkeypatch: pytest.MonkeyPatch, terminal: bool, value: str | None, expected: bool) -> None:
    """On a terminal, unless NO_COLOR is set to anything but the empty string."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    assert may_colour(Stream(terminal)) is expected  # type: ignore[arg-type]
