"""Texts of engines, files and hubs on a terminal: control sequences are shown instead of obeyed, and a very long text
is shortened. Pure.

Imports little: every command imports it, and ``status`` must be quick.
"""

from __future__ import annotations

import re

LONGEST = 1000  # characters of a line that is shown whole

# What a terminal obeys (C0 without the tab, DEL, C1, among them ESC and CSI), what ends a line, what turns the
# direction of writing, and halves of characters, which cannot be written
_OBEYED = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOUR = re.compile(r"\x1b\[([0-9;]{0,40})m")
_EXTENDED = re.compile(r"(?:38|48);(?:5;\d{1,3}|2;\d{1,3};\d{1,3};\d{1,3})(?=;|$)")
_HIDING = frozenset({"5", "6", "8"})  # blinking, and invisible


def harmless(text: str) -> str:
    """One line that a terminal only shows: without colours, and with an escape in the place of every other control
    character, as Python writes it (``\\x1b``, ``\\n``, ``\\u202e``)."""
    return _escaped(_COLOUR.sub("", text))


def harmless_lines(text: str) -> str:
    """The same for a text of several lines, which stay lines."""
    return "\n".join(harmless(line) for line in text.split("\n"))


def coloured(line: str) -> str:
    """One line like ``harmless``, but in its colours, which end with it."""
    parts, at, last = [], 0, ""
    for found in _COLOUR.finditer(line):
        parts.append(_escaped(line[at : found.start()]))
        if _is_visible(found[1]):
            last = found[0]
            parts.append(last)
        at = found.end()
    parts.append(_escaped(line[at:]))
    return "".join(parts) + ("" if last in ("", "\x1b[0m", "\x1b[m") else "\x1b[0m")


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text, where it is longer than that without its middle, and with a word about how much was left out."""
    if len(text) <= longest:
        return text
    head, tail = longest * 7 // 10, longest // 5
    return f"{text[:head]} ... ({len(text) - head - tail} characters left out) ... {text[-tail:]}"


def _is_visible(codes: str) -> bool:
    """Whether text with these codes of a colour sequence can still be read."""
    return _HIDING.isdisjoint(code.lstrip("0") for code in _EXTENDED.sub("", codes).split(";"))


def _escaped(text: str) -> str:
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)
