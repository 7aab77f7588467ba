"""Whether something that was asked for came about. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Result(NamedTuple):
    """The answer to a request: whether it worked (``ok``), and what happened in words for people."""

    ok: bool
    words: str
