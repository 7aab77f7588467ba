"""The env file: ``NAME=value`` lines, as systemd and docker read them; ``export`` and quotes are optional.

It holds keys, so no value of it is ever in a message, and a file that others can read is reported.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from llm_supervisor.config.document import Document, Problem, Where
from llm_supervisor.config.text_file import NotText, similar_name, text_of, unreadable
from llm_supervisor.config.variables import fill_in

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read(path: Path, document: Document, environ: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """The values of the env file that the configuration at ``path`` names, and the problems found on the way.

    It is read before anything is checked, as its values may be used anywhere in the configuration. So its own name may
    hold variables of ``environ`` only, and a name that is no text is left for the schema to report."""
    named = Document(document.file, {"env_file": document.data.get("env_file")})
    fill_in(named, environ)
    name = named.data["env_file"]
    if not isinstance(name, str) or named.unread:
        return {}, []
    file = path.parent / os.path.expanduser(name)
    where: Where = ("env_file",)
    try:
        mode = file.stat().st_mode
        text = text_of(file)
    except NotText as error:
        return {}, [Problem(str(file), error.line, "", str(error), "save it as UTF-8")]
    except (OSError, ValueError) as error:
        return {}, [document.problem(where, f"{file}: {unreadable(error)}", similar_name(str(file)))]
    values, problems = parse(str(file), text)
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        problems.append(document.problem(where, f"others can read {file}", f"chmod 600 {file}"))
    return values, problems


def parse(file: str, text: str) -> tuple[dict[str, str], list[Problem]]:
    """The values by their names, and a problem for each line that is wrong or doubtful. Pure."""
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    for number, raw in enumerate(text.split("\n"), 1):

        def say(message: str, advice: str = "", *, warning: bool = False, line: int = number) -> None:
            problems.append(Problem(file, line, "", message, advice, warning))

        line = re.sub(r"^export\s+", "", raw.strip())
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not _NAME.fullmatch(name):
            say("is no NAME=value")
            continue
        if "\0" in value:
            say(f"the value of {name} holds a NUL")
            continue
        if name in values:
            say(f"{name} is written twice, and this value is used; the first is in line {lines[name]}", warning=True)
        if value[:1] in ("'", '"'):
            quoted, quote, rest = value[1:].partition(value[0])
            if quote and (not rest.strip() or rest.strip().startswith("#")):
                value = quoted
            else:
                advice = "close it at the end, or drop it"
                say(f"the quote at the beginning is taken for a part of {name}", advice, warning=True)
        elif re.search(r"\s#", value):
            advice = "put the comment into a line of its own, or the value into quotes"
            say(f"the # and what follows is taken for a part of {name}", advice, warning=True)
        values[name] = value
        lines.setdefault(name, number)
    return values, problems
