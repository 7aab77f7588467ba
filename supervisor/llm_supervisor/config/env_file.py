"""``NAME=value`` lines, as systemd and docker read them: with ``export`` or without, values in quotes or not. Pure."""

from __future__ import annotations

import re

from llm_supervisor.config.source import Problem

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse(file: str, text: str) -> tuple[dict[str, str], list[Problem]]:
    """The values by name, and what is wrong with which line. No value is ever said: they are keys."""
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
            say(f"{name} is written twice, and this one holds; the first is in line {lines[name]}", warning=True)
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
