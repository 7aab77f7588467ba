"""What is shown on a terminal: nothing in it is obeyed, and a long text is shortened."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_supervisor.terminal import LONGEST, coloured, harmless, harmless_lines, shortened

CASES = {
    "plain": ("plain\twörter 🦊 日本", "plain\twörter 🦊 日本"),
    "colours go": ("\x1b[31mred\x1b[0m and \x1b[1;38;5;200mmore\x1b[m", "red and more"),
    "clear": ("\x1b[2J\x1b[Hgone", "\\x1b[2J\\x1b[Hgone"),
    "title": ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
    "link": ("\x1b]8;;http://x\x1b\\y", "\\x1b]8;;http://x\\x1b\\y"),
    "C1": ("\x9b2J\x9d0;t\x9c\x90q", "\\x9b2J\\x9d0;t\\x9c\\x90q"),
    "written over": ("RUNNING\rFATAL\b\b", "RUNNING\\rFATAL\\x08\\x08"),
    "another line": ("a\ngateway RUNNING\x0bb\x0cc\u2028d", "a\\ngateway RUNNING\\x0bb\\x0cc\\u2028d"),
    "NUL": ("a\0b\x7f", "a\\x00b\\x7f"),
    "turned": ("\u202egnp\u2066x\u2069\u200f", "\\u202egnp\\u2066x\\u2069\\u200f"),
    "half": ("\ud83d", "\\ud83d"),
    "a colour inside": ("\x1b\x1b[0m[2J", "\\x1b[2J"),
}


@pytest.mark.parametrize("what", CASES)
def test_what_is_shown(what: str) -> None:
    text, expected = CASES[what]
    assert harmless(text) == expected


def obeyed(text: str) -> list[str]:
    """The characters that do something to a terminal."""
    strange = "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return [one for one in text if (unicodedata.category(one) in ("Cc", "Cs") and one != "\t") or one in strange]


@given(st.text(st.one_of(st.characters(), st.sampled_from("\x1b[0;38m\x9b\r\n\u202e]\x07"))))
def test_nothing_is_obeyed(text: str) -> None:
    assert obeyed(harmless(text)) == []
    assert harmless(harmless(text)) == harmless(text)
    assert harmless_lines(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[31mred", "\x1b[31mred\x1b[0m"),
        ("\x1b[1;97;48;5;8mx\x1b[m", "\x1b[1;97;48;5;8mx\x1b[m"),
        ("\x1b[38;2;8;8;8mx", "\x1b[38;2;8;8;8mx\x1b[0m"),
        ("\x1b[8mhidden", "hidden"),
        ("\x1b[31;008;1mhidden", "hidden"),
        ("\x1b[5mblinks\x1b[31m\x1b[2J", "blinks\x1b[31m\\x1b[2J\x1b[0m"),
        ("plain\r", "plain\\r"),
    ],
)
def test_colours_that_stay(line: str, expected: str) -> None:
    assert coloured(line) == expected


@given(st.text(st.sampled_from("\x1b[0;38m5\x9b\r\n\u202e]\x07ab")))
def test_only_colours_stay(line: str) -> None:
    shown = coloured(line)
    assert obeyed(harmless(shown)) == []
    rest = shown.split("\x1b")[1:]
    assert all(part.startswith("[") and part.lstrip("[0123456789;").startswith("m") for part in rest), shown


def test_a_long_text_is_shortened() -> None:
    assert shortened("x" * LONGEST) == "x" * LONGEST
    seen = shortened("begin " + "<|video|>" * 1000 + " end")
    assert len(seen) < LONGEST
    assert seen.startswith("begin <|video|>") and seen.endswith("<|video|> end")
    assert " ... (8110 characters left out) ... " in seen
