"""Reading YAML so that every value remembers where it stands, and the problems that can be said about it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Where = tuple[str | int, ...]
# How messages begin that are about the file as such
UNREADABLE = ("no such file", "cannot be read")
EMPTY = "is empty"
COMMENTS = "is empty but for comments"


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


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
        # one line, and nothing that a terminal obeys, whatever was written
        return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], f"{place}: {path}{self.message}{advice}")


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
    odd: dict[Where, tuple[str, Any]] = field(
        default_factory=dict
    )  # numbers that look like others: as written, and what

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


# More than any configuration has. Reading that much takes a second or two, and a file may be anything
_MOST_BYTES = 1024 * 1024


def text_of(path: Path, most: int = _MOST_BYTES) -> str:
    """The text of a file of at most so many bytes. Raises OSError, or ValueError which says in its words what it is
    instead: a pipe or a device would make us wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise ValueError("it is no file, but a pipe, a socket or a device")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most >> 20} MiB, which no configuration is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotText(data.count(b"\n", 0, error.start) + 1) from error


class NotText(ValueError):
    """What is in the file is no UTF-8, first in that line."""

    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__("it is not text in UTF-8")


def unreadable(error: OSError | ValueError) -> str:
    """Why ``text_of`` could not, in words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "its name holds a NUL" if "null" in str(error) else str(error)


Verbatim = Callable[[Where, str], bool]


def never(where: Where, kind: str) -> bool:
    """What YAML takes a word for, it is."""
    return False


def read(path: Path, verbatim: Verbatim = never) -> Document:
    """Read one YAML file with a mapping at its top. Never raises for what is in the file: see ``problems``. Where
    ``verbatim`` is true a word is a text, whatever kind of value YAML takes it for (``0755`` is an int of eight there,
    and ``no`` a bool)."""
    document = Document(str(path))
    try:
        text = text_of(path)
    except FileNotFoundError:
        document.problems.append(Problem(str(path), 0, "", "no such file"))
        return document
    except NotText as error:
        advice = "save it as UTF-8"
        document.problems.append(Problem(str(path), error.line, "", f"cannot be read: {error}", advice))
        return document
    except (OSError, ValueError) as error:
        document.problems.append(Problem(str(path), 0, "", f"cannot be read: {unreadable(error)}"))
        return document
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            document.data = _Construction(document, verbatim).made(node, (), ())
    except yaml.MarkedYAMLError as error:
        document.problems.append(_malformed(str(path), error))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        sign = f"the control character {chr(error.character)!a}"
        document.problems.append(Problem(str(path), line, "", f"is not valid YAML: {sign}", "take it out"))
    except _TooLarge as error:
        document.problems.append(Problem(str(path), error.args[0], "", "is too deep or too large, here and below"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = "too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        document.problems.append(Problem(str(path), 0, "", f"is not valid YAML: {what}"))
    if not document.problems and document.data is None:
        document.problems.append(Problem(str(path), 0, "", COMMENTS if "#" in text else EMPTY))
    elif document.data is not None and not isinstance(document.data, dict):
        document.problems.append(Problem(str(path), 1, "", "must be a mapping (`key: value` lines) at its top"))
        document.data = None
    return document


def _malformed(file: str, error: yaml.MarkedYAMLError) -> Problem:
    """Where it stops making sense; where that is only the end of the file, where it began."""
    begun, met = error.context_mark, error.problem_mark
    line = met.line + 1 if met else 0
    context = error.context or ""
    if begun is not None and met is not None and begun.line < met.line:
        if met.buffer is None or met.pointer >= len(met.buffer.rstrip("\0").rstrip()):
            line = begun.line + 1
        else:
            context += f" that began in line {begun.line + 1}"
    what = ", ".join(part for part in (context, error.problem) if part)
    advice = next((advice for words, advice in _ADVICE.items() if words in what), "")
    return Problem(file, line, "", f"is not valid YAML: {what}", advice)


# What PyYAML says, and what to do then
_ADVICE = {
    "\\t": "indent with spaces",
    "another document": "write one file for each, and name them with -c one after the other",
    "quoted scalar": "is a quote not closed?",
    "mapping values are not allowed": "quote a value with a colon and a space in it, write a space after each other "
    "colon, and look at how the line above is indented",
    "flow ": "is a bracket or a brace not closed?",
    "scanning an alias": "a value that begins with * needs quotes",
    "could not find expected ':'": "write `key: value`, with a space after the colon",
    "expected <block end>": "what belongs together begins in the same column",
    "undefined alias": "a value that begins with * needs quotes",
    "'@'": "a value that begins with @ needs quotes",
    "'`'": "a value that begins with a backquote needs quotes",
    "'%'": "a value that begins with % needs quotes",
}


def layered(paths: Sequence[Path], verbatim: Verbatim = never) -> Document:
    """Several files as one: what a later one says holds, mappings are merged key by key, anything else is replaced as a
    whole, and a key without a value (``null``) takes out what was said before."""
    first, *others = [read(path, verbatim) for path in paths]
    for other in others:
        first.problems += other.problems
        first.unread |= other.unread
        if not isinstance(other.data, dict):
            continue
        if not isinstance(first.data, dict):
            first.data = {}
        replaced: set[Where] = set()
        _lay(first.data, other.data, (), replaced)
        for known in (first.lines, first.files, first.odd):
            for place in [place for place in known if _is_in(place, replaced)]:
                del known[place]
        first.odd |= other.odd
        for place, line in other.lines.items():
            if _is_in(place, replaced):
                first.lines[place], first.files[place] = line, other.file
    return first


def _lay(into: dict[str, Any], data: dict[str, Any], where: Where, replaced: set[Where]) -> None:
    for key, value in data.items():
        here = (*where, key)
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _lay(into[key], value, here, replaced)
            continue
        replaced.add(here)
        if value is None and key in into:
            del into[key]
        else:
            into[key] = value


def _is_in(place: Where, places: set[Where]) -> bool:
    """Whether it is one of them, or in one of them."""
    return any(place[:length] in places for length in range(1, len(place) + 1))


_VARIABLE = re.compile(r"\$(?:\$(?=\{)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")
_LITELLMS = re.compile(r"\s*os\.environ/([A-Za-z_][A-Za-z0-9_]*)\s*")
_SHELLS = re.compile(r"(?<!\$)\$([A-Z_][A-Z0-9_]*)")


def expand(
    document: Document,
    environ: Mapping[str, str],
    *,
    but: Callable[[Where], bool],
    litellms: Callable[[Where], bool] = lambda where: False,
    made: Callable[[Where, str], object] = lambda where, text: text,
) -> None:
    """Put the environment's values for ``${NAME}`` and ``${NAME:-default}`` into texts; ``$${`` is ``${``. A text
    that is nothing else becomes what is ``made`` of the value at that place (a number, for one).
    ``os.environ/NAME``, as LiteLLM has it, is ``${NAME}`` where it is a whole text and not in one of ``litellms``
    places, who reads it there. Places for which ``but`` is true are left as they are."""

    def fill(value: Any, where: Where) -> Any:
        if isinstance(value, dict):
            return {key: fill(item, (*where, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item, (*where, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or but(where):
            return value
        if (reference := _LITELLMS.fullmatch(value)) and not litellms(where):
            value = f"${{{reference[1]}}}"
        if "$" not in value:
            return value

        def found(match: re.Match[str]) -> str:
            name, default = match[1], match[2]
            if name is None:
                return "$"
            if (given := environ.get(name)) or default is not None:
                return given or default
            there = "" if where == ("env_file",) else " put it into env_file,"
            advice = f"export {name},{there} or write ${{{name}:-a default}}"
            said = reference[0].strip() if reference else match[0]
            document.problems.append(document.problem(where, f"{said} is not set", advice))
            document.unread.add(where)
            return ""

        rest = _VARIABLE.sub("", value)
        if "${" in rest:
            advice = "a default is ${NAME:-text}; write $${ for a plain ${"
            document.problems.append(document.problem(where, "holds a ${ that begins no ${NAME}", advice))
            document.unread.add(where)
            return value
        if shells := _SHELLS.search(rest):
            message, advice = f"${shells[1]} is left as it is", f"write ${{{shells[1]}}} for the variable's value"
            document.problems.append(document.problem(where, message, advice, warning=True))
        text = _VARIABLE.sub(found, value)
        alone = _VARIABLE.fullmatch(value) and not value.startswith("$$")
        return made(where, text) if alone else text

    document.data = fill(document.data, ())


_FLAGS = {**dict.fromkeys(("true", "yes", "on"), True), **dict.fromkeys(("false", "no", "off"), False)}
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,18})")
_BROKEN = re.compile(r"-?(0|[1-9]\d*)?(\.\d+)?([eE][-+]?\d{1,3})?(?<=\d)")


def flag(text: str) -> bool | str:
    """The flag that a word is, as YAML has it; else the word."""
    return _FLAGS.get(text.lower(), text)


def number(text: str) -> int | float | str:
    """The number that is written there in decimal, and in no other way; else the text."""
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if len(text) < 40 and _BROKEN.fullmatch(text) else text


# More places than any configuration has: aliases of aliases of aliases would fill the memory
_MOST = 50_000
_DEEPEST = 50
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_WORDS = tuple(f"tag:yaml.org,2002:{kind}" for kind in "null bool int float timestamp str binary".split())
_LARGEST = 1 << 63  # of whole numbers: nothing that is counted or sent has more


class _TooLarge(Exception):
    """Too deep or too large, from that line on."""


class _Construction:
    """Values from nodes, with the line of each in ``document``."""

    def __init__(self, document: Document, verbatim: Verbatim) -> None:
        self._document = document
        self._verbatim = verbatim
        self._made = 0

    def made(self, node: yaml.Node, where: Where, above: tuple[yaml.Node, ...]) -> Any:
        """The value of a node, which is inside of those ``above``."""
        line = node.start_mark.line + 1
        self._document.lines.setdefault(where, line)
        self._made += 1  # not the number of places: what is merged or written twice is made again at the same one
        if len(above) > _DEEPEST or self._made > _MOST:
            raise _TooLarge(line)
        if any(node is one for one in above):
            return self._unread(where, line, "contains itself")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
            return self._unread(where, line, f"{_words(node.tag)} is no tag that is known here")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where, (*above, node))
        if isinstance(node, yaml.SequenceNode):
            return [self.made(item, (*where, n), (*above, node)) for n, item in enumerate(node.value)]
        return self._scalar(node, where, line)

    def _scalar(self, node: yaml.Node, where: Where, line: int) -> Any:
        kind = node.tag.rpartition(":")[2]
        if kind in ("bool", "int", "float", "timestamp") and self._verbatim(where, kind):
            return str(node.value)
        if kind in ("value", "merge"):  # = and << where they mean nothing
            return str(node.value)
        if node.tag not in _WORDS:
            advice = "a value that begins with ! needs quotes"
            return self._unread(where, line, f"{_words(node.tag)} is no tag that is known here", advice)
        try:
            value = yaml.constructor.SafeConstructor().construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            # PyYAML checks no more than the looks of a value
            return self._unread(where, line, f"is not valid YAML: {_words(node.value)} is no {kind}")
        if isinstance(value, bytes):
            return self._unread(where, line, "is binary; write text")
        if kind in ("int", "float") and _ODD.fullmatch(str(node.value)) and value != _decimal(str(node.value)):
            self._document.odd[where] = (str(node.value), value)
        if isinstance(value, int) and abs(value) > _LARGEST:
            return self._unread(where, line, "is too large a number")
        if isinstance(value, str) and (odd := _odd(value)):
            return self._unread(where, line, odd)
        return value

    def _mapping(self, node: yaml.MappingNode, where: Where, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        own: dict[str, int] = {}  # what is merged in (<<) may be written again here: that is what it is for
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                advice = "a value that begins with { or [ needs quotes"
                self._say(where, line, "a key must be a plain word", advice)
                continue
            key = str(key_node.value)
            if odd := _odd(key):
                self._say(where, line, f"a key {odd}")
                continue
            if key_node.tag == "tag:yaml.org,2002:merge":
                result = {**self._merged(value_node, where, line, above), **result}
                continue
            here = (*where, key)
            if key in own:
                self._say(here, line, f"is written twice; the first is in line {own[key]}")
            own.setdefault(key, line)
            self._document.lines[here] = line
            result[key] = self.made(value_node, here, above)
        return result

    def _merged(self, node: yaml.Node, where: Where, line: int, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        """What ``<<`` brings. Where something of it stands is only known where this mapping does not say it itself."""
        before = dict(self._document.lines)
        merged = self.made(node, where, above)
        self._document.lines.update(before)
        result: dict[str, Any] = {}
        for part in merged if isinstance(merged, list) else [merged]:
            if isinstance(part, dict):
                result = {**part, **result}
            elif where not in self._document.unread:
                self._say(where, line, f"`<<` takes in a mapping, not {_words(part)}", "write `<<: *NAME`")
        return result

    def _unread(self, where: Where, line: int, message: str, advice: str = "") -> None:
        self._say(where, line, message, advice)
        self._document.unread.add(where)

    def _say(self, where: Where, line: int, message: str, advice: str = "") -> None:
        document = self._document
        document.problems.append(Problem(document.file, line, path_words(where), message, advice))


# 66:40 is 4000 to YAML, which counts in sixties there, and 010 is 8
_ODD = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")


def _decimal(text: str) -> int | None:
    return int(text) if text.lstrip("-+").isdecimal() and len(text) < 1000 else None


def _words(value: object) -> str:
    return repr(str(value).replace("tag:yaml.org,2002:", "!!")[:60])


def _odd(text: str) -> str | None:
    """What is wrong with a text that no program, file or address can be given."""
    if "\0" in text:
        return "holds a NUL"
    return None if text.isascii() or _PAIRED.search(text) is None else "holds half of a character"


_PAIRED = re.compile("[\ud800-\udfff]")
