"""What happened to the programs, numbered: the last events are kept, so that they can be asked for later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from llm_supervisor.control.protocol import EventBody

# How many events can be asked for later
KEPT = 1000


class EventLog:
    """The last ``KEPT`` events, oldest first. ``former`` are those of the daemon that became this one by exec."""

    def __init__(self, former: Iterable[Mapping[str, Any]] = ()) -> None:
        self._events: deque[EventBody] = deque((cast("EventBody", one) for one in former), maxlen=KEPT)

    def add(self, message: Mapping[str, Any]) -> None:
        """Number an event and keep it, with the time of day in UTC."""
        number = self._events[-1]["id"] + 1 if self._events else 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._events.append(cast("EventBody", {"id": number, "at": now, **message}))

    def after(self, number: int) -> list[EventBody]:
        """The events since that number, oldest first, as far as they are kept."""
        return [event for event in self._events if event["id"] > number]
