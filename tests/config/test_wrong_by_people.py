"""Configurations as people get them wrong, each with all that is said about it, word for word: ``wrong/*.txt``.

A case is ``=== NAME``, lines ``$ NAME=value`` for the environment, and the file; more files follow ``--- NAME MODE``, a
second layer ``--- + NAME``. What is said stands behind ``>>>``, as ``check`` prints it, relative to the folder.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llm_supervisor.cli import main
from llm_supervisor.config import ConfigError, Problem, load
from llm_supervisor.engines.vllm.installed_options import Option, Options
from llm_supervisor.oneshot import preflight

FOLDER = Path(__file__).parent / "wrong"
MAIN = "supervisor.yaml"

# As vLLM 0.32 has them
OPTIONS: Options = {
    **dict.fromkeys(
        ("enforce-eager", "enable-auto-tool-choice", "enable-log-requests", "trust-remote-code"),
        Option("flag", True, None),
    ),
    "allowed-local-media-path": Option("value", False, None, "text"),
    "allowed-media-domains": Option("values", False, None, "text", optional=True),
    "allowed-origins": Option("value", False, None, "json"),
    "compilation-config": Option("value", False, None, "object"),
    "cudagraph-capture-sizes": Option("values", False, None, "int"),
    "dtype": Option("value", False, ("auto", "bfloat16", "float", "float16", "float32", "half"), "text"),
    "gpu-memory-utilization": Option("value", False, None, "float"),
    "hf-overrides": Option("value", False, None, "mapping or text"),
    "hf-token": Option("maybe", False, None, "text"),
    "limit-mm-per-prompt": Option("value", False, None, "json"),
    "max-model-len": Option("value", False, None, "count or auto"),
    "max-num-batched-tokens": Option("value", False, None, "count"),
    "max-num-seqs": Option("value", False, None, "int"),
    "middleware": Option("each", False, None, "text"),
    "pooler-config": Option("value", False, None, "object", optional=True),
    "reasoning-parser": Option("value", False, None, "text"),
    "runner": Option("value", False, ("auto", "draft", "generate", "pooling"), "text"),
    "tensor-parallel-size": Option("value", False, None, "int"),
    "tokenizer": Option("value", False, None, "text"),
    "tool-call-parser": Option("value", False, None, "text", optional=True),
}


@dataclass
class Case:
    name: str
    environ: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    layers: list[str] = field(default_factory=lambda: [MAIN])
    said: list[str] = field(default_factory=list)


def cases(file: Path) -> list[Case]:
    """The cases of one file."""
    found = []
    for part in re.split(r"^=== ", file.read_text(), flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        case = Case(f"{file.stem[2:]}: {name}")
        current, mode, text = MAIN, 0o644, ""
        for line in rest.rstrip("\n").split("\n"):
            if line.startswith("$ "):
                variable, _, value = line[2:].partition("=")
                case.environ[variable] = value
            elif line.startswith(">>> "):
                case.said.append(line[4:])
            elif line.startswith("--- "):
                case.files[current] = (text, mode)
                *layer, current = line[4:].split() if line[4:6] == "+ " else (line[4:].split()[0],)
                mode, text = int(line.split()[-1], 8) if line[-1].isdecimal() else 0o644, ""
                case.layers += [current] if layer else []
            else:
                text += f"{line}\n"
        case.files[current] = (text.rstrip("\n") + "\n" if text.strip() else "", mode)
        found.append(case)
    return found


CASES = [case for file in sorted(FOLDER.glob("*.txt")) for case in cases(file)]
ALL = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, half of one, none, and an engine's environment."""
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    for name, text in {
        "tiny/config.json": "{}",
        "half/config.json": "{}",
        "half/one.safetensors": "\2" + "\0" * 7 + "{}",
        "half/model.safetensors.index.json": json.dumps(index),
        "env/bin/python": "#!/bin/sh\n",
        "python": "#!/bin/sh\n",
        "keys.env": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "bare").mkdir()
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "keys.env").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(case: Case, folder: Path) -> list[Path]:
    """Its files; which of them are the configuration."""
    for name, (text, mode) in case.files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(mode)
    return [folder / name for name in case.layers]


def printed(problem: Problem, folder: Path) -> str:
    text = ("warning: " if problem.warning else "") + str(problem)
    return text.replace(f"{folder}/", "", 1).replace(str(folder), "{here}")


@ALL
def test_what_is_said(case: Case, folder: Path) -> None:
    try:
        problems = list(load(write(case, folder), case.environ, lambda python: OPTIONS).warnings)
    except ConfigError as error:
        problems = error.problems
        assert any(not problem.warning for problem in problems)
    assert [printed(problem, folder) for problem in problems] == case.said
    for problem in problems:
        assert "\n" not in str(problem)
        lines = Path(problem.file).read_text().count("\n")
        assert 0 <= problem.line <= lines


# No vLLM is asked here
SOME = [case for case in CASES if not case.name.startswith("options") and " vLLM" not in str(case.said)][::10]


@pytest.mark.parametrize("case", SOME, ids=[case.name for case in SOME])
def test_check_says_the_same(
    case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is made or started: there is nothing that was not there before."""
    monkeypatch.setenv("LLM_SUPERVISOR_HOME", str(folder / "data"))
    monkeypatch.setattr(preflight.Preflight, "findings", lambda self: [])  # the host is another matter
    for name, value in case.environ.items():
        monkeypatch.setenv(name, value)
    files = [word for file in write(case, folder) for word in ("-c", str(file))]
    before = sorted(folder.rglob("*"))
    wrong = any(not line.startswith("warning: ") for line in case.said)
    assert main.main(["check", *files]) == (2 if wrong else 1)
    said = capsys.readouterr().err.replace(f"{folder}/", "")
    assert main.main(["check", *files, "--json"]) == (2 if wrong else 1)
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is not wrong
    assert [set(problem) for problem in answer["problems"]] == [
        {"severity", "file", "line", "path", "message", "advice"} for _ in case.said
    ]
    assert said.splitlines() == [line.replace("{here}/", "") for line in case.said]
    assert sorted(folder.rglob("*")) == before


def test_there_are_enough_and_no_two_of_one_name() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) > 150
    assert all(case.said for case in CASES), "each is wrong"


# Files that are no files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["the configuration", "env_file", "litellm_config"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("a pipe", "it is no file, but a pipe, a socket or a device"),
        ("a device", "it is no file, but a pipe, a socket or a device"),
        ("100 MB", "it is larger than 1 MiB, which no configuration is"),
        ("a folder", "Is a directory"),
        ("latin", "it is not text in UTF-8"),
        ("utf-16", "it is not text in UTF-8"),
    ],
)
def test_a_file_that_is_none(folder: Path, place: str, kind: str, words: str) -> None:
    file = folder / ("keys.env" if place == "env_file" else "some.yaml")
    file.unlink(missing_ok=True)
    match kind:
        case "a pipe":
            os.mkfifo(file)
        case "a device":
            file.symlink_to("/dev/zero")
        case "100 MB":
            with file.open("wb") as sparse:
                sparse.truncate(100_000_000)
        case "a folder":
            file.mkdir()
        case "latin":
            file.write_bytes("# one\nA: straße\n".encode("latin-1"))
        case _:
            file.write_bytes("# one\nA: straße\n".encode("utf-16"))
    if kind != "a device":
        file.chmod(0o700)
    texts = {"env_file": "env_file: keys.env\n", "litellm_config": "gateway: {litellm_config: some.yaml}\n"}
    main = file
    if place in texts:
        main = folder / MAIN
        main.write_text(texts[place])
    with pytest.raises(ConfigError) as error:
        load(main, {})
    (problem,) = [one for one in error.value.problems if "others can read" not in one.message]
    assert words in problem.message
    if kind in ("latin", "utf-16"):
        assert (problem.file, problem.line) == (str(file), 2 if kind == "latin" else 1)
    else:
        assert (problem.file, problem.path) == (str(main), "" if main == file else re.sub("^l", "gateway.l", place))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_cannot_be_read(folder: Path) -> None:
    (folder / MAIN).write_text("gateway: {}\n")
    (folder / MAIN).chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load(folder / MAIN, {})


def test_signs_at_the_beginning_of_a_file(folder: Path) -> None:
    """What some editors put there is no part of it."""
    (folder / MAIN).write_bytes(b"\xef\xbb\xbfenv_file: keys.env\r\nprograms: {}\r\n")
    (folder / "keys.env").write_bytes(b"\xef\xbb\xbfA=1\r\nB='2'\r\n")
    assert load(folder / MAIN, {}).env_values == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    ("written", "given"),
    [
        *(("0755", "0755"), ("1_000", "1_000"), ("22:22", "22:22"), ("1.10", "1.10"), ("no", "no"), ("True", "True")),
        *(("2024-01-01", "2024-01-01"), ("0x1F", "0x1F"), ("1e3", "1e3"), ("=", "="), ('"7"', "7"), ('"${N}"', "010")),
    ],
)
def test_a_word_for_a_program_is_what_is_written(folder: Path, written: str, given: str) -> None:
    """Not what YAML takes it for: ``0755`` is a number of eight there, ``22:22`` one of sixty."""
    (folder / MAIN).write_text(f"programs: {{p: {{command: [sh, {written}], env: {{A: {written}}}}}}}\n")
    program = load(folder / MAIN, {"N": "010"}).root.programs["p"]
    assert (program.env["A"], program.command[1]) == (given, "${N}" if "N" in written else given)
