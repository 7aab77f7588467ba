"""A control group of its own for each incarnation: what hides from every other trace is found in it, and dies
with it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_supervisor.host.process import Source, cgroup, find
from tests.daemon.conftest import Make, make, program
from tests.daemon.test_trees import strays
from tests.support.harness import marked
from tests.support.programs import Lines, alive, gone, pipe
from tests.support.stage import Stage

__all__ = ["make"]  # a fixture


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group that is delegated, as systemd's are with ``Delegate=yes``; empty afterwards."""
    mount = cgroup._mount()
    if mount is None or not os.access(mount[1], os.W_OK):
        pytest.skip("control groups (v2) cannot be written here")
    folder = mount[1] / f"llm-supervisor-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        os.setxattr(folder, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield folder
        assert not cgroup.members(folder), "somebody is left in it"
    finally:
        cgroup.kill(folder)
        cgroup.remove(folder)


def enclosed(group: Path) -> list[str]:
    """A prefix that starts a command in the group."""
    return ["/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]


SEEN = "from llm_supervisor.host.process import cgroup; print(cgroup.delegated())"


def test_only_what_was_delegated_is_used(group: Path) -> None:
    asked = [*enclosed(group), sys.executable, "-c", SEEN]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == str(group)
    os.removexattr(group, "user.delegate")
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == "None"


def test_who_hides_everything_is_found_and_killed(stage: Stage, group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descendant that was seen, no session, no cookie, no FIFO: the group alone has it."""
    monkeypatch.setattr(cgroup, "delegated", lambda: group)
    with pipe() as (report, told), pipe() as (linger, end), pipe() as (gate, go):
        flags = ("--setsid", "--double", "--wipe", "--redirect", "--stubborn")
        leader = stage.spawn(
            "stray", "--report", 3, "--linger", 4, "--go", 5, *flags, "--tag", stage.mark, pass_fds=(told, linger, gate)
        )
        tree = stage.tree(leader)
        tree.cgroup = cgroup.enclose(leader.pid, "program.1")
        assert tree.cgroup == group / "program.1"
        os.write(go, b"x")
        stray = Lines(report).pid("stray")
        os.write(end, b"x")
        gone(leader.pid)
    assert {row.pid for row in find(tree)} == {stray}
    assert {row.pid for row in find(tree, frozenset({Source.CGROUP}))} == {stray}
    cgroup.kill(tree.cgroup)
    gone(stray)
    cgroup.remove(tree.cgroup)
    assert not tree.cgroup.exists()


def test_a_group_that_is_gone_is_nobodys(group: Path) -> None:
    gone = group / "gone"
    assert cgroup.members(gone) == set()
    cgroup.kill(gone)
    cgroup.remove(gone)


@pytest.mark.slow
def test_the_daemon_leaves_nothing_of_who_hides_everything(group: Path, make: Make) -> None:
    """And removes the groups that it made."""
    daemon = make({}, start=False, prefix=enclosed(group))
    flags = ("--setsid", "--double", "--wipe", "--redirect", "--stubborn", "--stay", "--tag", daemon.mark)
    hider = program("stray", *flags, stop={"grace": 0.05})
    # not in its very first moment, when it may not be in its group yet
    hider["command"] = ["sh", "-c", f"sleep 1; exec {shlex.join(map(str, hider['command']))}"]
    daemon.write({"programs": {"hider": hider}})
    daemon.start()
    daemon.wait("hider", state="RUNNING")
    (first,) = daemon.wait_for(lambda: strays(daemon, "hider"), "there was a stray")
    os.kill(daemon.program("hider")["pid"], 9)
    daemon.wait("hider", state="RUNNING", restarts=1)
    assert not alive(first)
    groups = [path.name for path in group.iterdir() if path.is_dir()]
    assert len(groups) == 1 and groups[0].startswith("hider."), "one for each living incarnation"
    assert daemon.end() == 0
    assert not [path for path in group.iterdir() if path.is_dir()]
    assert not marked(daemon.mark)
