"""Merging the files that LiteLLM's own file includes, as LiteLLM does: lists are continued, the rest is replaced.

LiteLLM cannot do it: it would look for them beside the file that is generated for it, which is in another folder. And
their groups, keys and names must be known here as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llm_supervisor.config import yaml_reader
from llm_supervisor.config.document import COMMENTS, Document, Problem, Where


def put_in(native: Document) -> list[Problem]:
    """Merge the included files into ``native``; every place remembers the file it is from. Returns the problems."""
    problems: list[Problem] = []
    if not isinstance(native.data, dict):
        return problems
    root = os.path.abspath(native.file)
    read = {root}
    pending = _entries(native, root, problems)
    while pending:
        name, declared, problem = pending.pop(0)
        file = _found(name, declared, root)
        if file in read:
            continue
        read.add(file)
        if not os.path.exists(file):
            problems.append(Problem(problem.file, problem.line, problem.path, f"no such file: {file}"))
            continue
        more = yaml_reader.read(Path(file))
        problems += [one for one in more.problems if one.message != COMMENTS]
        if isinstance(more.data, dict):
            pending += _entries(more, file, problems)
            _merge(native, more)
    return problems


def _entries(document: Document, file: str, problems: list[Problem]) -> list[tuple[str, str, Problem]]:
    """The files that a file includes: the name, the including file, and a problem of that place without a message yet.
    The ``include`` block itself is removed."""
    if "include" not in document.data:
        return []
    names: Any = document.data.pop("include")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problems.append(document.problem(("include",), "must be a list of files", "write [FILE]"))
        names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return [(name, file, document.problem(("include", index), "")) for index, name in enumerate(names)]


def _found(name: str, declared: str, root: str) -> str:
    """The path of an included file: beside the including file; where that does not exist, beside the first one."""
    beside, first = (os.path.abspath(os.path.join(os.path.dirname(file), name)) for file in (declared, root))
    return first if not os.path.exists(beside) and os.path.exists(first) else beside


def _merge(into: Document, more: Document) -> None:
    """Merge the data and the places of one included file."""
    for key, value in more.data.items():
        before = into.data.get(key)
        longer = len(before) if isinstance(before, list) and isinstance(value, list) else None
        into.data[key] = value if longer is None else [*before, *value]
        if longer is None:
            for known in (into.lines, into.files):
                for place in [place for place in known if place[:1] == (key,)]:
                    del known[place]
            into.unread = {place for place in into.unread if place[:1] != (key,)}

        def moved(place: Where, longer: int | None = longer) -> Where:
            if longer is None or len(place) < 2 or not isinstance(place[1], int):
                return place
            return (place[0], place[1] + longer, *place[2:])

        for place, line in more.lines.items():
            if place[:1] == (key,) and (longer is None or len(place) > 1):
                into.lines[moved(place)], into.files[moved(place)] = line, more.file
        into.unread |= {moved(place) for place in more.unread if place[:1] == (key,)}
