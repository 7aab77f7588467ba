"""The daemon's own log: structlog to standard error, for people on a terminal, JSON elsewhere.

Wall clock is allowed here and only here: people read it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import structlog

_Renderer = Callable[[Any, str, Any], str]


def configure(*, json: bool | None = None, level: str = "info") -> None:
    """Set up structlog. ``json`` None: decided by whether standard error is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
    ]
    if as_json:
        shared += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        shared += [structlog.dev.ConsoleRenderer(pad_event_to=0)]
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def get(**fields: object) -> Any:
    """A logger with these fields on every line."""
    return structlog.get_logger(**fields)
