"""What a person sees while `install` works: a live line on a terminal, plain lines in a pipe."""

from __future__ import annotations

import io
import re

import pytest

from llm_supervisor.oneshot.progress import Downloads, Lines

from .conftest import Said


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_uvs_words_become_a_count_of_packages_and_mebibytes(said: Said) -> None:
    downloads = Downloads("vllm", said)
    for line in (
        "Resolved 151 packages in 754ms",
        "Downloading torch (182.9MiB)",
        "Downloading triton (1.5GiB)",
        "Downloading pillow (512.0KiB)",
        " Downloaded pillow",
        "",
        " Downloaded triton",
        " Downloaded torch",
        "Prepared 88 packages in 11.68s",
        "Installed 151 packages in 1.09s",
    ):
        downloads.hear(line)
    shown = list(dict.fromkeys(re.sub(r" \(\d+ s\)", "", text) for _, text in said.now))
    assert shown == [
        "looking for its packages",
        "0 of 1 large packages downloaded, 0 of 183 MiB: torch",
        "0 of 2 large packages downloaded, 0 of 1719 MiB: triton, torch",
        "0 of 3 large packages downloaded, 0 of 1719 MiB: triton, torch, pillow",
        "1 of 3 large packages downloaded, 0 of 1719 MiB: triton, torch",
        "2 of 3 large packages downloaded, 1536 of 1719 MiB: torch",
        "installing",
    ]


def test_in_a_pipe_there_are_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    lines = Lines(stream := io.StringIO())
    for step in range(5):
        lines.doing("vllm", f"step {step}")
        lines.doing("litellm", f"step {step}")
        clock += 1.5
    lines.doing("vllm", "")
    lines.say("ready")
    shown = [f"{name}: step {step}" for step in (0, 2, 4) for name in ("vllm", "litellm")]
    assert stream.getvalue().splitlines() == [*shown, "ready"]


def test_on_a_terminal_one_line_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = Lines(stream := Terminal())
    lines.doing("a", "one")
    lines.doing("b", "two")
    lines.say("it is ready")
    lines.doing("a", "x" * 80)
    lines.doing("a", "")
    lines.doing("b", "")
    screens = stream.getvalue().split("\r\x1b[K")
    assert screens[1:4] == ["a: one", "a: one   b: two", "it is ready\n"]
    assert screens[4] == "a: one   b: two"
    assert len(screens[5]) == 39 and screens[5].endswith("…")
    assert screens[-1] == ""
