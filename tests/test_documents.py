"""The documents: their commands, links, paths and configurations are right, and what is generated in them is in step.

Nothing is started. Commands are only parsed, by the parser of the real command line.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml

import llm_supervisor
from llm_supervisor.cli import main
from llm_supervisor.config import load
from llm_supervisor.config.show import json_schema
from llm_supervisor.control import server
from llm_supervisor.control.protocol import program_message
from llm_supervisor.core.spec import Kind, Launch, ProgramSpec
from llm_supervisor.core.state import State
from llm_supervisor.diagnosis.matcher import BOOKS
from llm_supervisor.engines import canary
from tests.support import make_docs

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "supervisor" / "llm_supervisor"
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
EACH = pytest.mark.parametrize("document", [pytest.param(file, id=file.stem) for file in DOCUMENTS])

WHOLE = "<!-- whole configuration -->"
# Commands of others that the documents may name. What follows them is not looked at, except for make and paths.
OTHERS = frozenset(
    "cd chown cp curl eval journalctl loginctl make pip python3 python systemctl systemd-sysusers".split()
)
# Words that begin a path in these documents, when a slash follows
FOLDERS = frozenset(
    """.ci cli config configs control core daemon diagnosis docs engines host oneshot supervision supervisor systemd
    tests""".split()
)


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Each fenced block: the line before it, its language, and what is in it."""
    for found in re.finditer(r"^([^\n]*)\n```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield found[1].strip(), found[2], found[3]


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in the blocks for a shell."""
    for _, language, block in blocks(text):
        if language in ("sh", "console"):
            for line in block.splitlines():
                lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
                lexer.commenters, lexer.whitespace_split = "#", True
                words: list[str] = []
                for word in [*lexer, ";"]:
                    if word in (";", "&&", "|"):
                        if words:
                            yield words
                        words = []
                    else:
                        words.append(word)


def inner(words: list[str]) -> list[str]:
    """The command within ``eval "$(...)"`` or behind ``sudo -u USER [env NAME=VALUE...]``, else the command itself."""
    if words[:2] == ["sudo", "-u"]:
        return [word for word in words[3:] if word != "env" and "=" not in word]
    if words[0] == "eval" and (found := re.fullmatch(r"\$\((.*)\)", words[1])):
        return shlex.split(found[1])
    return words


@cache
def subcommands() -> frozenset[str]:
    """The commands that the command line has."""
    actions = main.parser()._actions
    return frozenset(next(one for one in actions if isinstance(one, argparse._SubParsersAction)).choices)


@cache
def anchors(document: Path) -> frozenset[str]:
    """What a link may name behind ``#``, as GitHub makes it of headings."""
    titles = re.findall(r"^#+ (.*)$", prose(document.read_text()), re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles)


# Commands


@EACH
def test_every_command_is_one(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in map(inner, commands(document.read_text())):
        name = Path(words[0]).name
        if name == "llm-supervisor":
            given = words[1 : words.index("<")] if "<" in words else words[1:]
            try:
                main.parser().parse_args(given)
            except SystemExit as error:
                pytest.fail(f"{document.name}: {shlex.join(words)}: not a command line (exit status {error.code})")
        elif name == "make":
            assert words[1] in targets, f"{document.name}: the Makefile has no target {words[1]}"
        else:
            assert name in OTHERS, f"{document.name}: {shlex.join(words)}"


@EACH
def test_every_command_in_the_text_is_one(document: Path) -> None:
    text = prose(document.read_text())
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in re.findall(r"`llm-supervisor ([a-z]+)[^`]*`", text):
        assert command in subcommands(), f"{document.name}: llm-supervisor {command}"
    for target in re.findall(r"`make ([\w-]+)[^`]*`", text):
        assert target in targets, f"{document.name}: make {target}"


def test_every_command_is_in_the_table() -> None:
    rows = re.findall(r"^\| (`.*?) \| ", (ROOT / "docs/operating.md").read_text(), re.MULTILINE)
    named = {word for row in rows for word in re.findall(r"`([a-z]+)", row)}
    assert sorted(subcommands() - named) == []


def test_the_request_in_the_readme_is_the_one_that_run_prints() -> None:
    wanted = canary.chat("glm-4.1v", "Describe this image.", vision=True, max_tokens=32)
    bodies = [words[words.index("-d") + 1] for words in commands((ROOT / "README.md").read_text()) if "-d" in words]
    assert [json.loads(body) for body in bodies] == [wanted]


# Links and paths


@EACH
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text())):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), f"{document.name}: {target}: there is no such file"
        assert not anchor or anchor in anchors(file), f"{document.name}: {target}: there is no such heading"


@EACH
def test_every_path_in_the_text_exists(document: Path) -> None:
    for word in re.findall(r"`([\w./-]+/[\w./-]*)`", prose(document.read_text())):
        if word.partition("/")[0] in FOLDERS and "NAME" not in word:
            assert any((place / word).exists() for place in (ROOT, PACKAGE)), f"{document.name}: {word}"


def test_every_document_is_named_in_the_readme() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text()))
    assert [file.name for file in DOCUMENTS[1:] if str(file.relative_to(ROOT)) not in linked] == []


# Configurations


@EACH
def test_every_configuration_is_right(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for before, language, block in blocks(document.read_text()):
        if language != "yaml":
            continue
        data = yaml.safe_load(block)
        if data is not None:
            jsonschema.validate(data, json_schema())
        if before == WHOLE:
            file, keys, program = tmp_path / "supervisor.yaml", tmp_path / "keys.env", tmp_path / "redis-server"
            file.write_text(block)
            (tmp_path / "litellm_config.yaml").write_text("litellm_settings: {drop_params: true}\n")
            for made, mode in ((keys, 0o600), (program, 0o755)):
                made.touch(mode=mode)
            monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
            assert load(file, {}).warnings == ()


def test_there_are_whole_configurations() -> None:
    marked = {file.name for file in DOCUMENTS if WHOLE in file.read_text()}
    assert marked == {"README.md", "configuration.md"}


# What is generated, and what must be complete


# The diagram takes seconds to draw; tests/core/test_diagram.py compares it
@pytest.mark.parametrize(("document", "name", "made"), [one for one in make_docs.GENERATED if one[1] != "diagram"])
def test_what_is_generated_is_in_step(document: str, name: str, made: object) -> None:
    assert callable(made)
    now = make_docs.between((ROOT / document).read_text(), name)
    assert now == make_docs.content(name, made), f"{document} is out of step; write it again: make docs"


def test_every_key_of_the_configuration_has_a_description() -> None:
    schema = json_schema()
    for name, block in {"Root": schema, **schema["$defs"]}.items():
        for key, said in block.get("properties", {}).items():
            assert len(said.get("description", "")) > 15, f"{name}.{key}"


def test_every_kind_of_failure_is_in_troubleshooting() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text()
    kinds = {pattern.kind for book in BOOKS.values() for pattern in book.rows}
    assert sorted(kind for kind in kinds if f"| `{kind}` |" not in text) == []


def test_every_route_is_in_the_document_of_the_control_api() -> None:
    text = (ROOT / "docs/control-api.md").read_text()
    routes = re.findall(r'Route\("([^"]+)"', Path(server.__file__).read_text())
    assert routes
    assert [route for route in routes if f"{route}`" not in text] == []


def test_every_key_of_the_status_is_in_the_document() -> None:
    text = (ROOT / "docs/operating.md").read_text()
    spec = ProgramSpec("redis", Kind.COMMAND, Launch(("redis-server",)))
    assert [key for key in program_message(spec, State(), 0.0, None) if f'"{key}"' not in text] == []


def test_markers_that_are_missing_are_noticed() -> None:
    with pytest.raises(ValueError, match="once each"):
        make_docs.between("nothing here", "rules")
    assert make_docs.replaced("a<!-- x:begin -->b<!-- x:end -->c", "x", "\nd\n") == (
        "a<!-- x:begin -->\nd\n<!-- x:end -->c"
    )


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == llm_supervisor.__version__
    newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == project["version"]


def test_every_block_is_seen() -> None:
    """Else the tests above would check nothing."""
    assert len(list(commands((ROOT / "docs/operating.md").read_text()))) > 30
    assert sum(len(list(commands(file.read_text()))) for file in DOCUMENTS) > 60
