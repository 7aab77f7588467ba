"""Settings for all tests: Hypothesis without a clock (a loaded machine is no bug), and the same examples every time;
what needs what (markers), and which tests run beside which.

``make test`` has two processes for tests (pytest-xdist; a third takes as long on two cores, as the real engines are
slower then). The real vLLM runs one at a time, so all tests that need it are one group, which one process gets at its
start and runs in order. The other process runs everything else meanwhile: first the other groups that take long, then
the modules, each of which is a group. Whoever is done takes what is left.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# A job in the background of a script begins with Ctrl-C ignored, and so would everything that the tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests start hundreds of daemons and commands: each would compile the sources anew, for half a second and more
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

FOLDER = Path(__file__).parent
# All tests of these folders have that marker
MARKERS = {"engines": "real", "systemd": "systemd"}
# The tests of these folders are a group, for one process; what stands first is begun first
GROUPS = ("engines/beside", "engines", "systemd")


def group(nodeid: str) -> str:
    """The tests that one process runs in order: those of a folder of ``GROUPS``, else a module's."""
    file = nodeid.partition("::")[0].removeprefix("tests/")
    return next((folder for folder in GROUPS if file.startswith(f"{folder}/")), file)


class Groups(LoadScopeScheduling):
    """Give each process whole groups. Not xdist's own `loadgroup`: it appends the group to the test's name, and from
    pytest 9.2 on that is without effect (seen with xdist 3.8), so that two sets of engines ran at once."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    """Whatever ``--dist`` says: groups are what makes tests that share something right."""
    return Groups(config, log)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test by its folder."""
    folder = item.path.relative_to(FOLDER).parts[0]
    if folder in MARKERS:
        item.add_marker(getattr(pytest.mark, MARKERS[folder]))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those first that take longest."""
    longest = ("real", "systemd", "slow")
    items.sort(
        key=lambda item: next((n for n, name in enumerate(longest) if item.get_closest_marker(name)), len(longest))
    )
