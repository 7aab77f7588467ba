"""The daemon's own log: structlog to standard error, for people on a terminal, JSON elsewhere.

Wall clock is allowed here and only here: people read it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO, cast

import structlog

from llm_supervisor.terminal import harmless

_Renderer = Callable[[Any, str, Any], str]


class Forgiving:
    """A stream whose reader, terminal or disk may go away: what cannot be written is lost, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, and drop what cannot be written."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        """Flush, and ignore a failure."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def forgive() -> None:
    """From now on no write to standard output or error raises: `llm-supervisor run | head` must not end an engine."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), Forgiving):
            setattr(sys, name, Forgiving(getattr(sys, name)))


def configure(*, json: bool | None = None, level: str = "info") -> None:
    """Set up structlog, and make both standard streams forgiving. ``json`` None: decided by whether standard error is a
    terminal."""
    forgive()
    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
    ]
    if as_json:
        shared += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # rich's traceback, which is the default, shows the values of all variables: they may be keys
        plain = structlog.dev.plain_traceback
        shared += [_harmless, structlog.dev.ConsoleRenderer(pad_event_to=0, exception_formatter=plain)]
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, sys.stderr)),
        cache_logger_on_first_use=True,
    )


def _harmless(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The same event, of which a terminal obeys nothing: it may quote what an engine has written."""
    return {name: _shown(value) for name, value in event.items()}


def _shown(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_shown(item) for item in value]
    return harmless(value) if isinstance(value, str) else value


def get(**fields: object) -> Any:
    """A logger with these fields on every line."""
    return structlog.get_logger(**fields)
