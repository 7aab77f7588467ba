"""The data of a YAML file with the line of every value, and the problems that can be reported about it.

Pure: nothing here reads a file. ``yaml_reader`` makes documents, the checks yield problems with a document's help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_supervisor.terminal import harmless

Where = tuple[str | int, ...]  # the place of a value in a document: the keys and indices that lead to it
# How messages begin that are about the file as such
UNREADABLE = ("no such file", "cannot be read")
EMPTY = "is empty"
COMMENTS = "is empty but for comments"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong, with its place. ``line`` counts from 1; 0 means the file as a whole."""

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
        # Values of the file may be in it: it must stay one line and hold no control sequence that a terminal obeys
        return harmless(f"{place}: {path}{self.message}{advice}")


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` are all that were found, sorted by their place."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def path_words(where: Where) -> str:
    """A place as people write it: ``models.glm.gpus[0]``."""
    words = ""
    for part in where:
        words += f"[{part}]" if isinstance(part, int) else f".{part}" if words else str(part)
    return words


@dataclass
class Document:
    """A YAML file, or several that were merged: the data, and where each key and item was written.

    ``files`` names the file for places that another file than ``file`` wrote. ``unread`` are places whose value could
    not be made; each has its problem already. ``ambiguous`` are numbers that YAML reads in another way than people do:
    as they were written, and the value that YAML made of them.
    """

    file: str
    data: Any = None
    lines: dict[Where, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unread: set[Where] = field(default_factory=set)
    files: dict[Where, str] = field(default_factory=dict)
    ambiguous: dict[Where, tuple[str, Any]] = field(default_factory=dict)

    def line(self, where: Where) -> int:
        """The line of that place, or of the nearest place around it that has one; 0 where none has."""
        return self.lines.get(self._nearest(where), 0)

    def _nearest(self, where: Where) -> Where:
        while where and where not in self.lines:
            where = where[:-1]
        return where

    def problem(self, where: Where, message: str, advice: str = "", *, warning: bool = False) -> Problem:
        """A problem at that place. It is returned, not added to ``problems``."""
        near = self._nearest(where)
        file = self.files.get(near, self.file)
        return Problem(file, self.lines.get(near, 0), path_words(where), message, advice, warning)
