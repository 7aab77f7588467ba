"""Settings for all tests: Hypothesis without a clock (a loaded machine is no bug), and the same examples every time;
what needs what (markers), and which tests run beside which.

``make test`` has two processes for tests (pytest-xdist). The real engines run one set at a time, so all tests that need
them are one group, which one process gets at its start and runs in order. The other process runs everything else
meanwhile. A module whose tests share something is a group, too.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# A job in the background of a script begins with Ctrl-C ignored, and so would everything that the tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FOLDER = Path(__file__).parent
# All tests of these folders have that marker
MARKERS = {"engines": "real", "systemd": "systemd"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder, form the groups, and put those first that take longest."""
    for item in items:
        folder = item.path.relative_to(FOLDER).parts[0]
        if folder in MARKERS:
            item.add_marker(getattr(pytest.mark, MARKERS[folder]))
        item.add_marker(pytest.mark.xdist_group(MARKERS.get(folder) or str(item.path.relative_to(FOLDER))))
    longest = ("real", "systemd", "slow")
    items.sort(
        key=lambda item: next((n for n, name in enumerate(longest) if item.get_closest_marker(name)), len(longest))
    )
