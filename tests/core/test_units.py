"""Sizes and durations in words: one definition for everything that people read."""

from __future__ import annotations

import pytest

from llm_supervisor.units import clock_text, duration_text, size, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 KiB"),
        (1 << 20, "1.0 MiB"),
        (150 << 20, "150 MiB"),
        (1010 << 20, "1.0 GiB"),
        (80 << 30, "80.0 GiB"),
        (141 << 30, "141 GiB"),
        (2000 << 40, "2000.0 TiB"),
    ],
)
def test_a_size_in_words(count: float, text: str) -> None:
    assert size_text(count) == text


def test_a_size_that_is_shown_can_be_written_in_a_configuration() -> None:
    assert size(size_text(80 << 30)) == 80 << 30


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.05, "0.05 s"), (0.5, "0.5 s"), (2.0, "2 s"), (9.99, "10 s"), (1800, "1800 s")]
)
def test_a_duration_in_words(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "0:00:00"), (62.9, "0:01:02"), (86399, "23:59:59"), (3 * 86400 + 14706, "3 days, 4:05:06")],
)
def test_an_uptime_as_supervisorctl_shows_it(seconds: float | None, text: str) -> None:
    assert clock_text(seconds) == text
