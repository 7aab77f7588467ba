"""Whose processes are these: each trace alone finds what every other one has lost, and nobody else is ever included."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import pytest

from llm_supervisor.host.output.pump import make_fifo
from llm_supervisor.host.process import (
    ALL_SOURCES,
    COOKIE,
    Child,
    Source,
    Tree,
    find,
    read_row,
    read_rows,
    reap_strangers,
    signal_process,
    spawn,
)
from llm_supervisor.host.process import tree as module
from tests.support.programs import MARK, Lines, alive, command, gone, pipe, until
from tests.support.stage import Stage


def pids(tree: Tree, sources: frozenset[Source] = ALL_SOURCES) -> set[int]:
    """What a sweep would end."""
    return {row.pid for row in find(tree, sources)}


def only(source: Source) -> frozenset[Source]:
    return frozenset({source})


def strayed(stage: Stage, *flags: str, seen: bool = False, name: str = "stray") -> tuple[Tree, int]:
    """A leader that died and left a descendant which shook off what ``flags`` say; its tree and the descendant's pid.

    ``seen``: the daemon looked while the leader lived.
    """
    with pipe() as (report, told), pipe() as (linger, end):
        leader = stage.spawn(name, "--report", 3, "--linger", 4, *flags, "--tag", stage.mark, pass_fds=(told, linger))
        stray = Lines(report).pid("stray")
        tree = stage.tree(leader)
        if seen:
            assert {row.pid for row in tree.look(read_rows())} == {leader.pid, stray}
        os.write(end, b"x")
        gone(leader.pid)
    assert alive(stray)
    return tree, stray


# One row a trace: what the descendant shakes off, and the one source that still finds it
ALONE = [
    (Source.DESCENDANTS, ("--setsid", "--wipe", "--redirect"), True),
    (Source.SESSION, ("--wipe", "--redirect"), False),
    (Source.COOKIE, ("--setsid", "--double", "--redirect"), False),
    (Source.FIFO, ("--setsid", "--double", "--wipe"), False),
]


@pytest.mark.parametrize(("source", "flags", "seen"), ALONE, ids=[row[0].value for row in ALONE])
def test_each_source_finds_what_no_other_does(stage: Stage, source: Source, flags: tuple[str, ...], seen: bool) -> None:
    tree, stray = strayed(stage, *flags, seen=seen)
    assert pids(tree, only(source)) == {stray}
    assert pids(tree, ALL_SOURCES - {source}) == set(), "no other trace is left of it"
    assert pids(tree) == {stray}


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("forker", {Source.SESSION, Source.COOKIE, Source.FIFO}),
        ("daemoniser", {Source.COOKIE, Source.FIFO}),
        ("leaver", {Source.FIFO}),
    ],
)
def test_the_usual_suspects(stage: Stage, name: str, sources: set[Source]) -> None:
    tree, stray = strayed(stage, name=name)
    assert {source for source in Source if pids(tree, only(source))} == sources
    assert pids(tree) == {stray}


def test_who_hides_everything_is_not_found(stage: Stage) -> None:
    """So the limits are known: unseen, setsid, an environment of its own, and output elsewhere."""
    tree, stray = strayed(stage, "--setsid", "--double", "--wipe", "--redirect")
    assert pids(tree) == set()
    os.kill(stray, signal.SIGKILL)


def test_the_union(stage: Stage) -> None:
    """Several strays of one leader, each found by another trace."""
    leader = stage.spawn("obedient")
    stage.lines.pid("ready")
    tree = stage.tree(leader)
    cousin = stage.spawn("obedient")  # shares nothing with the leader but the cookie and the FIFO
    stage.lines.pid("ready")
    child = strayed(stage, "--setsid", "--double", "--redirect")[1]
    fifo_only = strayed(stage, "--setsid", "--double", "--wipe")[1]
    assert pids(tree) == {leader.pid, cousin.pid, child, fifo_only}
    assert pids(tree, only(Source.SESSION)) == {leader.pid}
    assert pids(tree, only(Source.DESCENDANTS)) == {leader.pid}


def test_children_of_what_is_found_belong_to_it(stage: Stage) -> None:
    """The environment of a grandchild is wiped, and its output elsewhere: but its parent has the cookie."""
    with pipe() as (report, told):
        leader = stage.spawn("daemoniser", "--report", 3, pass_fds=(told,))
        parent = Lines(report).pid("stray")
        gone(leader.pid)
        tree = stage.tree(leader)
        assert pids(tree) == {parent}
        # what it would be like if that one forked: a child of it with no trace of its own
        stray = strayed(stage, "--setsid", "--double", "--wipe", "--redirect")[1]
    rows = read_rows()
    mine = {parent: rows[parent]}
    module._add_descendants(mine, {**rows, stray: replace(rows[stray], ppid=parent)})
    assert set(mine) == {parent, stray}
    os.kill(stray, signal.SIGKILL)


def test_the_living_tree_is_looked_at_while_its_leader_lives(stage: Stage) -> None:
    with pipe() as (report, told):
        leader = stage.spawn("stray", "--stay", "--setsid", "--wipe", "--redirect", "--report", 3, pass_fds=(told,))
        stray = Lines(report).pid("stray")
    tree = stage.tree(leader)
    assert {row.pid for row in tree.known()} == {leader.pid}, "of the other it was not told yet"
    assert {row.pid for row in tree.look(read_rows())} == {leader.pid, stray}
    assert {row.pid for row in tree.known()} == {leader.pid, stray}
    leader.signal(signal.SIGKILL)
    gone(leader.pid)
    row = read_row(stray)
    assert row is not None
    assert row.ppid == os.getpid(), "re-parented to us, the subreaper"
    assert {row.pid for row in tree.look(read_rows())} == {stray}, "remembered, and the dead leader is not shown"
    assert {row.pid for row in tree.known()} == {stray}
    assert pids(tree) == {stray}
    os.kill(stray, signal.SIGKILL)
    gone(stray)
    assert tree.known() == []
    assert tree.look(read_rows()) == []
    assert pids(tree) == set(), "a zombie is nobody"


def test_what_has_gone_is_remembered_for_a_while() -> None:
    """So that a line of the kernel about a dead process is known to be about ours. Not for ever: a script may start a
    process every second."""
    tree = Tree("program/1", leader=(10, 1))
    for pid in range(100, 3100):
        tree.seen = {(pid, 2)}
        tree.look({})
    assert not tree.seen
    assert list(tree.gone) == [(pid, 2) for pid in range(2100, 3100)]


def test_another_programs_tree_is_never_included(stage: Stage) -> None:
    """Both are our children, have our mark and our FIFO's folder; only the traces themselves differ."""
    leader = stage.spawn("obedient")
    stage.lines.pid("ready")
    tree = stage.tree(leader)
    path = stage.folder / "other"
    other_pipe = make_fifo(path, 4096)
    try:
        env = {**stage.env, COOKIE: f"other/{stage.mark}"}
        other = Child.open(spawn(command("obedient"), env, output=path))
        assert other is not None
        stage.children.append(other)
        Lines(other_pipe).pid("ready")
        at = os.fstat(other_pipe)
        key = (other.pid, other.identity.started)
        other_tree = Tree(env[COOKIE], key, (at.st_dev, at.st_ino), {key})
        assert pids(tree) == {leader.pid}
        assert pids(other_tree) == {other.pid}
        assert os.getpid() not in pids(tree) | pids(other_tree)
    finally:
        os.close(other_pipe)


@pytest.mark.parametrize("cookie", ["program/another", "program/{mark}0", "program", "", "other/{mark}"])
def test_a_cookie_of_another_incarnation_is_another(stage: Stage, cookie: str) -> None:
    leader = stage.spawn("exiter")
    gone(leader.pid)
    tree = replace(stage.tree(leader), fifo=None)
    env = {**stage.env, COOKIE: cookie.format(mark=stage.mark), "DECOY": f"{COOKIE}={stage.cookie}"}
    # the decoy: another variable whose value looks like ours
    env[f"NOT_{COOKIE}"] = stage.cookie
    stranger = Child.open(spawn(command("obedient"), env, output=stage.fifo))
    assert stranger is not None
    stage.children.append(stranger)
    stage.lines.pid("ready")
    assert pids(tree) == set()
    wanted = {stranger.pid} if cookie else set()  # a tree without a cookie is nobody's, not everybody's
    assert pids(replace(tree, cookie=env[COOKIE])) == wanted


def test_a_cookie_at_the_end_or_the_beginning_of_the_environment(stage: Stage) -> None:
    for env in ({COOKIE: stage.cookie, MARK: stage.mark}, {MARK: stage.mark, COOKIE: stage.cookie}):
        child = Child.open(spawn(command("obedient"), env, output=stage.fifo))
        assert child is not None
        stage.children.append(child)
        stage.lines.pid("ready")
        assert child.pid in pids(Tree(stage.cookie), only(Source.COOKIE))


def test_a_process_that_is_executing_something_else_is_not_forgotten(stage: Stage) -> None:
    """In the middle of an exec the kernel shows an empty environment; that must not be remembered for good."""
    script = stage.folder / "loop.sh"
    script.write_text(f"#!/bin/sh\nexec /bin/sh {script}\n")
    child = Child.open(spawn(["/bin/sh", str(script)], stage.env, output=stage.fifo))
    assert child is not None
    stage.children.append(child)
    tree = Tree(stage.cookie)
    for _ in range(60):
        module._cookies.clear()
        find(tree, only(Source.COOKIE))
        assert until(lambda: pids(tree, only(Source.COOKIE)) == {child.pid}, "found by its cookie", patience=2)


def test_a_reused_number_of_a_process_that_was_seen_is_not_ours(stage: Stage) -> None:
    """What was seen is (pid, start time): an older start time was another process."""
    stranger = stage.spawn("obedient")
    stage.lines.pid("ready")
    older = (stranger.pid, stranger.identity.started - 1)
    tree = Tree("program/none", leader=older, seen={older})
    assert find(tree, frozenset({Source.DESCENDANTS})) == []


def test_nothing_older_than_the_leader_is_ours(stage: Stage) -> None:
    """A process that holds our FIFO but began before: a reader, a shell's redirection."""
    older = stage.spawn("obedient")
    stage.lines.pid("ready")
    began = older.identity.started
    until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") > began + 1)
    leader = stage.spawn("obedient")
    stage.lines.pid("ready")
    assert pids(stage.tree(leader)) == {leader.pid}


def test_signals_to_what_was_found(stage: Stage) -> None:
    """The whole of a sweep by hand: TERM is ignored, KILL is not, and the dead are reaped."""
    tree, stray = strayed(stage, "--setsid", "--double", "--stubborn")
    (row,) = find(tree)
    assert signal_process(row.pid, row.started, signal.SIGTERM)
    assert pids(tree) == {stray}
    assert signal_process(row.pid, row.started, signal.SIGKILL)
    gone(stray)
    assert pids(tree) == set()
    assert stray in reap_strangers({tree.leader[0] if tree.leader else 0})


def test_a_tree_of_which_only_the_cookie_is_known(stage: Stage) -> None:
    """What a daemon that was killed leaves: the next one knows the cookie, and maybe the FIFO."""
    tree, stray = strayed(stage, "--setsid", "--double", "--redirect")
    assert pids(Tree(tree.cookie)) == {stray}
