"""The last of the incarnations that one log holds: what an earlier one died of explains nothing about it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PREAMBLE = 60  # lines before the first word of an incarnation that may be its own
# What Python, torch and vLLM's imports write before an engine's first word
_IMPORTS = re.compile(
    r"\S{0,300}(?::\d{1,6}: \w{0,40})?Warning: |\s|$|(?:\([^)\n]{1,60}\) )?(?:INFO|WARNING) [^\]\n]{1,100}\] ?"
    r"(?:\s{0,40}$|[^\n]{0,40}[█▄▀]|[^\n]{0,40}(?:Automatically detected platform|Importing|Triton))"
)
_ENDED = "Finished server process ["
_USAGE = "usage: "
_TRACEBACK = "Traceback (most recent call last):"
# With one of these the server did not end in order, and what follows is what its engine's death led to
_DIED = re.compile(r"EngineDeadError|encountered a fatal error|is already dead|died unexpectedly")
# The first frame of a program that has just been started
_STARTED = re.compile(r'  File "(?:\S{0,200}/bin/\S{1,40}|<frozen runpy>|\S{0,300}/(?:proxy_cli|cli/main)\.py)"')


def last_incarnation(lines: list[str], begins: Sequence[re.Pattern[str]]) -> list[str]:
    """The lines of the last incarnation. ``begins``: what each incarnation says once, early; the first of these that
    the log has decides."""
    for begin in begins:
        found = [number for number, line in enumerate(lines) if begin.match(line)]
        if found:
            start = _with_imports(lines, found[-1]) if len(found) > 1 else 0
            return lines[max(start, _failed_at_once(lines)) :]
    return lines[_failed_at_once(lines) :]


def _with_imports(lines: list[str], start: int) -> int:
    earliest = max(start - _PREAMBLE, 0)
    while start > earliest and _IMPORTS.match(lines[start - 1]):
        start -= 1
    return start


def _failed_at_once(lines: list[str]) -> int:
    """Where an incarnation begins that failed before it said who it is, after another one had ended in order; 0 where
    there is none."""
    ended = next((number for number in range(len(lines) - 1, -1, -1) if _ENDED in lines[number]), len(lines))
    if any(_DIED.search(line) for line in lines[:ended][-200:]):
        return 0
    for number in range(ended + 1, len(lines) - 1):
        if lines[number].startswith(_USAGE):
            return number
        if lines[number] == _TRACEBACK and _STARTED.match(lines[number + 1]):
            return number
    return 0
