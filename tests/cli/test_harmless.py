"""What engines and files have written, as each command shows it: a terminal obeys nothing of it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from llm_supervisor.cli import main
from llm_supervisor.cli.output import WRONG, print_problems
from llm_supervisor.config import ConfigError, Problem
from llm_supervisor.host import incident, log
from tests.cli.conftest import FakeDaemon, program

EVIL = "\x1b]0;title\x07\x1b[2Jgone\r\u202e\x9b1A\x1b[31mred\nfake  RUNNING"
SHOWN = "\\x1b]0;title\\x07\\x1b[2Jgone\\r\\u202e\\x9b1Ared\\nfake  RUNNING"
LONG = "<|video|>" * 1000


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command prints, to either stream."""
    main.main(words)
    out, err = capsys.readouterr()
    return out + err


def test_status(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.status["programs"] = [
        program("one", state="BACKOFF", reason=EVIL),
        program("two", state="FATAL", reason=LONG),
    ]
    daemon.status["supervisor"]["config_problems"] = [EVIL]
    text = said(capsys, "status")
    assert text.count(SHOWN) == 2 and "\x1b" not in text and "\r" not in text
    assert len(text.splitlines()) == 3
    assert "characters left out" in text and len(text) < 3000
    answer = json.loads(said(capsys, "status", "--json"))
    assert [one["reason"] for one in answer["programs"]] == [EVIL, LONG], "for programs it is what it is"


@pytest.fixture
def incidents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of incidents, one of them of an engine that writes such things."""
    from llm_supervisor import paths

    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("LLM_SUPERVISOR_HOME", str(tmp_path / "home"))
    folder = paths.incident_dir(os.environ, tmp_path / "run")
    facts = {"summary": EVIL, "kind": "k", "permanent": None, "left": EVIL, "advice": EVIL, "tree": [EVIL], "gpus": []}
    incident.write(folder, "evidence", {**facts, "evidence": [EVIL, LONG]}, b"")
    incident.write(folder, "lines", {**facts, "evidence": []}, EVIL.replace("\n", " ").encode() + b"\x9b\x00\n")
    return folder


@pytest.mark.usefixtures("incidents")
def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "explain", "evidence")
    assert text.count(SHOWN) == 4 and "\x1b" not in text and "\r" not in text
    assert "characters left out" in text and len(text) < 4000
    text = said(capsys, "explain", "lines")
    assert "  \\u202e\\x9b1Ared fake  RUNNING\\x9b\\x00\n" in text.replace("\ufffd", "\\x9b")
    assert not {"\x1b", "\x9b", "\0", "\r"} & set(text)
    assert json.loads(said(capsys, "explain", "evidence", "--json"))["summary"] == EVIL


def test_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "supervisor.yaml"
    file.write_text('gateway: {}\nmodels: {a: {model: o/a, port: 1, "x\\e[2J": 1}}\n')
    text = said(capsys, "check", "-c", str(file))
    assert "x\\x1b[2J" in text and "\x1b" not in text
    assert print_problems(ConfigError([Problem("file", 1, "path", LONG)])) == WRONG
    text = capsys.readouterr().err
    assert text.startswith("file:1: path: <|video|>") and "characters left out" in text and len(text) < 1200


def on_a_terminal(*words: str, **environ: str) -> bytes:
    """What a command writes there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "llm_supervisor.cli", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **environ},
    )
    os.close(theirs)
    written = b""
    try:
        while True:
            written += os.read(ours, 1 << 16)
    except OSError:  # EIO: the other end is closed, and everything was read
        pass
    finally:
        os.close(ours)
        process.wait(30)
    return written


LINES = b"\x1b[36m(EngineCore)\x1b[0m fine\n\x1b[2J\x1b]0;t\x07\x9b\xff\x00\xe2\x80\xae\n\x1b[8mhidden\n"


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of one program, without a daemon."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("LOGS_DIRECTORY", str(tmp_path / "logs"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    (tmp_path / "logs/one").mkdir(parents=True)
    (tmp_path / "logs/one/00000000.log").write_bytes(LINES)


@pytest.mark.usefixtures("logs")
def test_logs_on_a_terminal() -> None:
    colour = b"\x1b[36m(EngineCore)\x1b[0m fine\r\n"
    rest = b"\\x1b[2J\\x1b]0;t\\x07\\x9b\\xff\\x00\\u202e\r\nhidden\r\n"
    assert on_a_terminal("logs", PYTHONUTF8="1") == colour + rest
    assert on_a_terminal("logs", PYTHONUTF8="1", NO_COLOR="1") == b"(EngineCore) fine\r\n" + rest


@pytest.mark.usefixtures("logs")
def test_logs_into_a_pipe_are_what_was_written() -> None:
    done = subprocess.run([sys.executable, "-m", "llm_supervisor.cli", "logs"], capture_output=True, check=True)
    assert done.stdout == LINES


def test_the_daemons_own_log(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        log.configure(json=False)
        log.get().warning("an engine ended", reason=EVIL, lines=[EVIL])
        text = capsys.readouterr().err
    finally:
        log.configure()
    assert (
        "title" in text and "\x1b]0" not in text and "\x1b[2J" not in text and "\r" not in text and "\x9b" not in text
    )
