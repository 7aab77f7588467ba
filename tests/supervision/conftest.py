"""The fixture `stage`: a place where real child processes are started, and of which nothing is left."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.support.stage import stage

__all__ = ["stage"]


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[EventDict]]:
    """What is logged, as values: to draw hundreds of tracebacks takes long."""
    with capture_logs() as lines:
        yield lines
