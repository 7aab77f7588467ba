"""Reading YAML files so that every value remembers its line, and several files as one.

Nothing is raised for the content of a file: a document that could not be read says so in its ``problems``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from llm_supervisor.config.document import COMMENTS, EMPTY, Document, Problem, Where, path_words
from llm_supervisor.config.text_file import NotText, text_of, unreadable

# Whether the word at a place stays the text that was written, though YAML takes it for a value of that kind
Verbatim = Callable[[Where, str], bool]


def never(where: Where, kind: str) -> bool:
    """A ``Verbatim`` that takes every value as YAML does."""
    return False


def read(path: Path, verbatim: Verbatim = never) -> Document:
    """Read one YAML file with a mapping at its top. Never raises for the content of the file: see ``problems``. Where
    ``verbatim`` is true a word is a text, whatever kind of value YAML takes it for (``0755`` is an octal int there,
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
        document.problems.append(Problem(str(path), error.args[0], "", "is too deep or too large, from this line on"))
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
    """The problem at the line where YAML gave up. Where that is only the end of the file, at the line where the
    construct began that was never closed."""
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


# A part of PyYAML's message, and the advice for it
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
    """Several files as one document. A later file overrides an earlier one: mappings are merged key by key, any other
    value is replaced as a whole, and a key without a value (``null``) removes the earlier value."""
    first, *others = [read(path, verbatim) for path in paths]
    for other in others:
        first.problems += other.problems
        first.unread |= other.unread
        if not isinstance(other.data, dict):
            continue
        if not isinstance(first.data, dict):
            first.data = {}
        replaced: set[Where] = set()
        _overlay(first.data, other.data, (), replaced)
        for known in (first.lines, first.files, first.ambiguous):
            for place in [place for place in known if _is_within(place, replaced)]:
                del known[place]
        first.ambiguous |= other.ambiguous
        for place, line in other.lines.items():
            if _is_within(place, replaced):
                first.lines[place], first.files[place] = line, other.file
    return first


def _overlay(into: dict[str, Any], data: dict[str, Any], where: Where, replaced: set[Where]) -> None:
    """Merge ``data`` into ``into``; the places that it replaces are added to ``replaced``."""
    for key, value in data.items():
        here = (*where, key)
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _overlay(into[key], value, here, replaced)
            continue
        replaced.add(here)
        if value is None and key in into:
            del into[key]
        else:
            into[key] = value


def _is_within(place: Where, places: set[Where]) -> bool:
    """Whether the place is one of ``places``, or inside one of them."""
    return any(place[:length] in places for length in range(1, len(place) + 1))


# More places than any configuration has: aliases of aliases of aliases would fill the memory
_MOST = 50_000
_DEEPEST = 50
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_SCALARS = tuple(f"tag:yaml.org,2002:{kind}" for kind in "null bool int float timestamp str binary".split())
_LARGEST = 1 << 63  # of whole numbers: nothing that is counted or sent has more


class _TooLarge(Exception):
    """The file is too deep or too large; the argument is the line from which on."""


class _Construction:
    """Makes Python values of YAML's nodes, and notes the line of each in the document."""

    def __init__(self, document: Document, verbatim: Verbatim) -> None:
        self._document = document
        self._verbatim = verbatim
        self._made = 0

    def made(self, node: yaml.Node, where: Where, above: tuple[yaml.Node, ...]) -> Any:
        """The value of a node. ``above`` are the nodes around it, by which a node that contains itself is found."""
        line = node.start_mark.line + 1
        self._document.lines.setdefault(where, line)
        # Counted by nodes, not by places: a node that is merged or aliased twice is made again at the same place
        self._made += 1
        if len(above) > _DEEPEST or self._made > _MOST:
            raise _TooLarge(line)
        if any(node is one for one in above):
            return self._unread(where, line, "contains itself")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
            return self._unread(where, line, f"{_shown(node.tag)} is no tag that is known here")
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
        if node.tag not in _SCALARS:
            advice = "a value that begins with ! needs quotes"
            return self._unread(where, line, f"{_shown(node.tag)} is no tag that is known here", advice)
        try:
            value = yaml.constructor.SafeConstructor().construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            # PyYAML decides the type by a pattern, and only then tries to make the value
            return self._unread(where, line, f"is not valid YAML: {_shown(node.value)} is no {kind}")
        if isinstance(value, bytes):
            return self._unread(where, line, "is binary; write text")
        if kind in ("int", "float") and _AMBIGUOUS.fullmatch(str(node.value)) and value != _decimal(str(node.value)):
            self._document.ambiguous[where] = (str(node.value), value)
        if isinstance(value, int) and abs(value) > _LARGEST:
            return self._unread(where, line, "is too large a number")
        if isinstance(value, str) and (wrong := _unusable(value)):
            return self._unread(where, line, wrong)
        return value

    def _mapping(self, node: yaml.MappingNode, where: Where, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        # The keys that this mapping writes itself. One that `<<` brings in may be written again: that is its purpose
        own: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                advice = "a value that begins with { or [ needs quotes"
                self._say(where, line, "a key must be a plain word", advice)
                continue
            key = str(key_node.value)
            if wrong := _unusable(key):
                self._say(where, line, f"a key {wrong}")
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
        """The keys that ``<<`` brings in. Lines that are known already win: they are of this mapping's own keys."""
        before = dict(self._document.lines)
        merged = self.made(node, where, above)
        self._document.lines.update(before)
        result: dict[str, Any] = {}
        for part in merged if isinstance(merged, list) else [merged]:
            if isinstance(part, dict):
                result = {**part, **result}
            elif where not in self._document.unread:
                self._say(where, line, f"`<<` takes in a mapping, not {_shown(part)}", "write `<<: *NAME`")
        return result

    def _unread(self, where: Where, line: int, message: str, advice: str = "") -> None:
        """Report a value that cannot be made; None stands in its place."""
        self._say(where, line, message, advice)
        self._document.unread.add(where)

    def _say(self, where: Where, line: int, message: str, advice: str = "") -> None:
        document = self._document
        document.problems.append(Problem(document.file, line, path_words(where), message, advice))


# Numbers that YAML 1.1 reads in base 60 (66:40 is 4000) or in octal (010 is 8)
_AMBIGUOUS = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")


def _decimal(text: str) -> int | None:
    return int(text) if text.lstrip("-+").isdecimal() and len(text) < 1000 else None


def _shown(value: object) -> str:
    """A value or a tag as a message shows it, at most 60 characters."""
    return repr(str(value).replace("tag:yaml.org,2002:", "!!")[:60])


def _unusable(text: str) -> str | None:
    """Why a text cannot be given to a program, or be a name of a file; None where it can."""
    if "\0" in text:
        return "holds a NUL"
    return None if text.isascii() or _HALVES.search(text) is None else "holds half of a character"


_HALVES = re.compile("[\ud800-\udfff]")
