"""Reading YAML so that every value remembers where it stands, and the problems that can be said about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Where = tuple[str | int, ...]
# How messages begin that are about the file as such
UNREADABLE = ("no such file", "cannot be read")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong, with its place. ``line`` counts from 1; 0 is the file as a whole."""

    file: str
    line: int
    path: str
    message: str
    advice: str = ""
    warning: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        path = f"{self.path}: " if self.path else ""
        advice = f" ({self.advice})" if self.advice else ""
        return f"{place}: {path}{self.message}{advice}"


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` are all that were found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def path_words(where: Where) -> str:
    """``models.glm.gpus[0]``"""
    words = ""
    for part in where:
        words += f"[{part}]" if isinstance(part, int) else f".{part}" if words else str(part)
    return words


@dataclass
class Document:
    """A YAML file: its data, and the line of every key and item."""

    file: str
    data: Any = None
    lines: dict[Where, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unread: set[Where] = field(default_factory=set)  # places whose value could not be made; they have their problem
    files: dict[Where, str] = field(default_factory=dict)  # of several files, the one that says what is there

    def line(self, where: Where) -> int:
        """The line of that place, or of the nearest place around it that exists."""
        return self.lines.get(self._nearest(where), 0)

    def _nearest(self, where: Where) -> Where:
        while where and where not in self.lines:
            where = where[:-1]
        return where

    def problem(self, where: Where, message: str, advice: str = "", *, warning: bool = False) -> Problem:
        """A problem at that place."""
        near = self._nearest(where)
        file = self.files.get(near, self.file)
        return Problem(file, self.lines.get(near, 0), path_words(where), message, advice, warning)


def read(path: Path) -> Document:
    """Read one YAML file with a mapping at its top. Never raises for what is in the file: see ``problems``."""
    document = Document(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        document.problems.append(Problem(str(path), 0, "", "no such file"))
        return document
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        document.problems.append(Problem(str(path), 0, "", f"cannot be read: {reason}"))
        return document
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            document.data = _construct(node, (), document, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        document.problems.append(
            Problem(str(path), mark.line + 1 if mark else 0, "", f"is not valid YAML: {what}", _yaml_advice(what))
        )
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        document.problems.append(Problem(str(path), 0, "", f"is not valid YAML: {what}"))
    if not document.problems and document.data is None:
        document.problems.append(Problem(str(path), 0, "", "is empty"))
    elif document.data is not None and not isinstance(document.data, dict):
        document.problems.append(Problem(str(path), 1, "", "must be a mapping (`key: value` lines) at its top"))
        document.data = None
    return document


def layered(paths: Sequence[Path]) -> Document:
    """Several files as one: what a later one says holds, mappings are merged key by key, anything else is replaced as a
    whole, and a key without a value (``null``) takes out what was said before."""
    first, *others = [read(path) for path in paths]
    for other in others:
        first.problems += other.problems
        first.unread |= other.unread
        if not isinstance(other.data, dict):
            continue
        if not isinstance(first.data, dict):
            first.data = {}
        _lay(first, other, first.data, other.data, ())
    return first


def _lay(under: Document, over: Document, into: dict[str, Any], data: dict[str, Any], where: Where) -> None:
    for key, value in data.items():
        here = (*where, key)
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _lay(under, over, into[key], value, here)
            continue
        for known in (under.lines, under.files):
            for place in [place for place in known if place[: len(here)] == here]:
                del known[place]
        if value is None and key in into:
            del into[key]
            continue
        into[key] = value
        for place, line in over.lines.items():
            if place[: len(here)] == here:
                under.lines[place], under.files[place] = line, over.file


_VARIABLE = re.compile(r"\$(?:\$(?=\{)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")


def expand(document: Document, environ: Mapping[str, str], *, but: Callable[[Where], bool]) -> None:
    """Put the environment's values for ``${NAME}`` and ``${NAME:-default}`` into texts; ``$${`` is ``${``. A text
    that is nothing else becomes what YAML makes of the value (a number, for one). Places for which ``but`` is true are
    left as they are."""

    def fill(value: Any, where: Where) -> Any:
        if isinstance(value, dict):
            return {key: fill(item, (*where, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item, (*where, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value or but(where):
            return value

        def found(match: re.Match[str]) -> str:
            name, default = match[1], match[2]
            if name is None:
                return "$"
            if (given := environ.get(name)) or default is not None:
                return given or default
            advice = f"export {name}, put it into env_file, or write ${{{name}:-a default}}"
            document.problems.append(document.problem(where, f"${{{name}}} is not set", advice))
            document.unread.add(where)
            return ""

        text = _VARIABLE.sub(found, value)
        if _VARIABLE.fullmatch(value) and not value.startswith("$$"):
            try:
                plain = yaml.safe_load(text)
            except yaml.YAMLError:
                return text
            return plain if isinstance(plain, (int, float, bool)) else text
        return text

    document.data = fill(document.data, ())


def _yaml_advice(what: str) -> str:
    return "indent with spaces" if "\\t" in what else ""


# More places than any configuration has: aliases of aliases of aliases would fill the memory
_MOST = 50_000


def _construct(node: yaml.Node, where: Where, document: Document, above: tuple[yaml.Node, ...]) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(where, line)
    if len(above) > 50 or len(document.lines) > _MOST:
        raise ValueError(f"too deep or too large at line {line}")
    if any(node is one for one in above):
        return _unread(document, where, line, "contains itself")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, where, document, (*above, node))
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*where, n), document, (*above, node)) for n, item in enumerate(node.value)]
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except yaml.MarkedYAMLError as error:
        return _unread(document, where, line, f"is not valid YAML: {error.problem}")
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
        # PyYAML checks no more than the looks of a value
        kind = node.tag.rpartition(":")[2]
        return _unread(document, where, line, f"is not valid YAML: {str(node.value)[:60]!r} is no {kind}")


def _unread(document: Document, where: Where, line: int, message: str) -> None:
    document.problems.append(Problem(document.file, line, path_words(where), message))
    document.unread.add(where)


def _mapping(node: yaml.MappingNode, where: Where, document: Document, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    own: dict[str, int] = {}  # what is merged in (<<) may be written again here: that is what it is for
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.problems.append(Problem(document.file, line, path_words(where), "a key must be a plain word"))
            continue
        key = str(key_node.value)
        if key_node.tag == "tag:yaml.org,2002:merge":
            before = dict(document.lines)
            merged = _construct(value_node, where, document, above)
            document.lines.update(before)
            for part in merged if isinstance(merged, list) else [merged]:
                if isinstance(part, dict):
                    result = {**part, **result}
            continue
        here = (*where, key)
        if key in own:
            document.problems.append(
                Problem(document.file, line, path_words(here), f"is written twice; the first is in line {own[key]}")
            )
        own.setdefault(key, line)
        document.lines[here] = line
        result[key] = _construct(value_node, here, document, above)
    return result
