"""Starting, watching, signalling and reaping real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from llm_supervisor.core.event import ExitStatus
from llm_supervisor.host.process import (
    COOKIE,
    Child,
    SpawnError,
    boot_id,
    identify,
    read_row,
    reap_strangers,
    signal_process,
    spawn,
)
from llm_supervisor.host.process.proc import read_cookie
from tests.support.programs import CHILDREN, MARK, alive, command, gone, pipe, until
from tests.support.stage import Stage


def ask(stage: Stage, *arguments: str, **options: object) -> dict:  # type: ignore[type-arg]
    """What a child sees of itself."""
    pid = spawn(command("introspect", *arguments), stage.env, output=stage.fifo, **options)  # type: ignore[arg-type]
    child = Child.open(pid)
    assert child is not None
    stage.children.append(child)
    said: dict = json.loads(stage.lines.next())  # type: ignore[type-arg]
    assert said["pid"] == pid
    return said


async def death(child: Child) -> ExitStatus:
    """The one call of ``watch``."""
    died: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
    child.watch(died.set_result)
    return await asyncio.wait_for(died, 20)


# Starting ---------------------------------------------------------------------------------------------------


def test_the_child_leads_a_session_of_its_own(stage: Stage) -> None:
    said = ask(stage)
    assert said["sid"] == said["pgid"] == said["pid"]
    assert os.getsid(0) != said["sid"]


@pytest.mark.parametrize("folder", [None, "elsewhere"])
def test_arguments_never_meet_a_shell(stage: Stage, folder: str | None) -> None:
    """With a working folder of its own, too: it goes another way then."""
    words = [
        "two words",
        "'single'",
        '"double"',
        "new\nline",
        "$HOME `id` $(id) ; & | > *",
        "",
        "\\",
        "A=B",
        "ü€",
        "-c",
    ]
    cwd = None
    if folder is not None:
        (stage.folder / folder).mkdir()
        cwd = str(stage.folder / folder)
    said = ask(stage, "--", *words, cwd=cwd)
    assert said["argv"] == [str(CHILDREN), "introspect", "--", *words]
    assert said["cwd"] == (cwd or os.getcwd())


def test_the_environment_is_exactly_what_was_given(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT_FOR_CHILDREN", "1")
    said = ask(stage)
    assert dict(item.split("=", 1) for item in said["environ"]) == stage.env


def test_descriptors(stage: Stage) -> None:
    """Standard input is empty, output and error are the FIFO, what is passed begins at 3, and nothing else arrives."""
    with open(stage.folder / "one", "w") as one, open(stage.folder / "two", "w") as two:
        # passed in an order in which a naive dup2 would overwrite the second by the first
        names = {one.fileno(): one.name, two.fileno(): two.name}
        fds = sorted(names, reverse=True)
        said = ask(stage, pass_fds=fds)
    fifo = str(stage.fifo)
    # what whoever runs the tests left open for everybody is not spawn's: see the next test
    left_open = {str(fd) for fd in range(5, 1024) if os.path.exists(f"/proc/self/fd/{fd}") and os.get_inheritable(fd)}
    seen = {fd: name for fd, name in said["fds"].items() if fd not in left_open}
    assert seen == {"0": "/dev/null", "1": fifo, "2": fifo, "3": names[fds[0]], "4": names[fds[1]]}


def test_what_our_parent_left_open_is_kept_from_children(stage: Stage) -> None:
    script = f"""
import os
from pathlib import Path
from llm_supervisor.host.process import disinherit_descriptors, spawn
disinherit_descriptors()
os.waitpid(spawn({command("introspect")!r}, {stage.env!r}, output=Path({str(stage.fifo)!r})), 0)
"""
    with pipe() as ends:
        subprocess.run([sys.executable, "-c", script], pass_fds=ends, check=True, timeout=30)
    assert sorted(json.loads(stage.lines.next())["fds"]) == ["0", "1", "2"]


def test_passed_descriptors_may_have_the_numbers_of_their_targets(stage: Stage) -> None:
    """3 and 4 are to arrive as 4 and 3."""
    script = f"""
import os, sys
from pathlib import Path
from llm_supervisor.host.process import spawn
def put(fd, name):
    opened = os.open(name, os.O_WRONLY | os.O_CREAT)
    os.dup2(opened, fd)
    if opened != fd:
        os.close(opened)
fifo, folder = Path(sys.argv[1]), sys.argv[2]
put(3, folder + "/three"); put(4, folder + "/four")
pid = spawn({command("introspect")!r}, {stage.env!r}, output=fifo, pass_fds=[4, 3])
os.waitpid(pid, 0)
"""
    subprocess.run([sys.executable, "-c", script, str(stage.fifo), str(stage.folder)], check=True, timeout=30)
    fds = json.loads(stage.lines.next())["fds"]
    assert (fds["3"], fds["4"]) == (str(stage.folder / "four"), str(stage.folder / "three"))
    assert set(fds) == {"0", "1", "2", "3", "4"}


@contextmanager
def harsh_signals() -> Iterator[None]:
    """A parent that blocks and ignores what a child must not inherit."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
    before = {signum: signal.signal(signum, signal.SIG_IGN) for signum in (signal.SIGHUP, signal.SIGUSR1)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_no_signal_stays_blocked_or_ignored(stage: Stage) -> None:
    with harsh_signals():
        said = ask(stage)
    assert int(said["SigBlk"], 16) == 0
    # what the child's own Python ignores at its start
    python = (1 << signal.SIGPIPE - 1) | (1 << signal.SIGXFSZ - 1)
    assert int(said["SigIgn"], 16) & ~python & ~GLIBC == 0


# glibc's posix_spawn leaves its two internal signals (32, 33) ignored; its own pthread functions set them when needed
GLIBC = 0b11 << 31


def test_sigpipe_is_not_inherited_as_ignored(stage: Stage) -> None:
    """Our own Python ignores it, so a child that is not Python would see EPIPE instead of dying in a shell's pipe."""
    argv = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    child = Child.open(spawn(argv, stage.env, output=stage.fifo))
    assert child is not None
    stage.children.append(child)
    blocked, ignored = (int(stage.lines.next().split()[1], 16) for _ in range(2))
    assert (blocked, ignored & ~GLIBC) == (0, 0)


def test_the_cookie_is_readable(stage: Stage) -> None:
    child = stage.spawn("obedient")
    assert stage.lines.pid("ready") == child.pid
    assert read_cookie(child.pid) == stage.cookie
    assert stage.env[COOKIE] == stage.cookie


def test_a_command_is_looked_for_on_the_childs_path(stage: Stage) -> None:
    folder = stage.folder / "bin"
    folder.mkdir()
    tool = folder / "sometool"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    env = {**stage.env, "PATH": f"{folder}:{os.environ['PATH']}"}
    child = Child.open(spawn(["sometool"], env, output=stage.fifo))
    assert child is not None
    stage.children.append(child)
    assert stage.lines.next() == "found"
    with pytest.raises(SpawnError, match="no such command on PATH: sometool"):
        spawn(["sometool"], stage.env, output=stage.fifo)


def test_refused_starts_say_why(stage: Stage) -> None:
    plain = stage.folder / "plain"
    plain.write_text("no program")
    garbage = stage.folder / "garbage"
    garbage.write_bytes(b"\x7fELF garbage")
    garbage.chmod(0o755)
    lost = stage.folder / "lost"
    lost.write_text("#!/no/such/interpreter\n")
    lost.chmod(0o755)

    def refused(argv: list[str], env: dict[str, str] | None = None, **options: object) -> str:
        with pytest.raises(SpawnError) as error:
            spawn(argv, stage.env | (env or {}), output=stage.fifo, **options)  # type: ignore[arg-type]
        return str(error.value)

    folder = str(stage.folder)
    assert refused(["no-such-command"]) == "no such command on PATH: no-such-command"
    assert refused(["/no/such/file"]) == "no such file: /no/such/file"
    assert refused(["true"], cwd="/no/such/folder") == "no such folder: /no/such/folder"
    assert refused(["true"], cwd=str(plain)) == f"no such folder: {plain}"
    # whether or not it goes by way of env(1) for its working folder
    for cwd in (None, folder):
        assert refused([str(plain)], cwd=cwd) == f"{plain}: Permission denied"
        assert refused([folder], cwd=cwd) == f"{folder}: Permission denied"
    assert refused([str(garbage)]) == f"{garbage}: Exec format error"
    assert refused([str(lost)]) == f"{lost}: No such file or directory"
    # what the kernel cannot take at all
    assert "null" in refused(["true", "a\0b"])
    assert "null" in refused(["true"], {"NAME": "a\0b"})
    assert "environment" in refused(["true"], {"NA=ME": "x"})
    assert "Argument list too long" in refused(["true", "x" * (1 << 21)])


def test_a_program_with_an_equals_sign_in_its_path(stage: Stage) -> None:
    """env(1), by which a working folder is reached, would take it for an assignment."""
    folder = stage.folder / "a=b"
    folder.mkdir()
    tool = folder / "tool"
    tool.write_text("#!/bin/sh\necho ran $0\n")
    tool.chmod(0o755)
    child = Child.open(spawn([str(tool)], stage.env, output=stage.fifo))
    assert child is not None
    stage.children.append(child)
    assert stage.lines.next() == f"ran {tool}"
    with pytest.raises(SpawnError, match="with = in its path"):
        spawn([str(tool)], stage.env, output=stage.fifo, cwd="/")


def test_a_failed_start_leaks_no_descriptor(stage: Stage) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(SpawnError):
            spawn(["/no/such/file"], stage.env, output=stage.fifo, pass_fds=[0])
        with pytest.raises(SpawnError):
            spawn([str(stage.folder)], stage.env, output=stage.fifo, pass_fds=[0, 1])
    assert os.listdir("/proc/self/fd") == before


# Watching ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--status", 0), ExitStatus(code=0), "exited with status 0"),
        (("--status", 7), ExitStatus(code=7), "exited with status 7"),
        (("--signal", 15), ExitStatus(signal=15), "was killed by signal 15"),
        (("--signal", 9), ExitStatus(signal=9), "was killed by signal 9"),
    ],
)
def test_the_exit_status(stage: Stage, arguments: tuple[object, ...], status: ExitStatus, words: str) -> None:
    child = stage.spawn("exiter", *arguments)
    assert asyncio.run(death(child)) == status
    assert str(status) == words
    row = read_row(child.pid)
    assert row is not None, "the dead leader keeps its pid until it is reaped"
    assert row.dead
    assert child.status() == status, "asking does not reap"
    child.reap()
    assert read_row(child.pid) is None


def test_a_dumped_core_is_a_signal_too(stage: Stage) -> None:
    assert asyncio.run(death(stage.spawn("exiter", "--signal", signal.SIGABRT))) == ExitStatus(signal=signal.SIGABRT)


def test_a_death_before_the_watch_is_seen(stage: Stage) -> None:
    child = stage.spawn("exiter", "--status", 3)
    gone(child.pid)
    assert asyncio.run(death(child)) == ExitStatus(code=3)


def test_an_unwatched_death_calls_nobody(stage: Stage) -> None:
    async def go() -> list[ExitStatus]:
        calls: list[ExitStatus] = []
        child = stage.spawn("obedient")
        stage.lines.pid("ready")
        child.watch(calls.append)
        child.unwatch()
        child.signal(signal.SIGKILL)
        gone(child.pid)
        await asyncio.sleep(0)
        child.reap()
        return calls

    assert asyncio.run(go()) == []


def test_each_death_is_told_once(stage: Stage) -> None:
    async def go() -> list[ExitStatus]:
        calls: list[ExitStatus] = []
        told = asyncio.Event()

        def died(status: ExitStatus) -> None:
            calls.append(status)
            told.set()

        child = stage.spawn("exiter")
        child.watch(died)
        await asyncio.wait_for(told.wait(), 20)
        for _ in range(5):
            await asyncio.sleep(0)
        return calls

    assert asyncio.run(go()) == [ExitStatus(code=0)]


def test_a_living_process_has_no_status_and_is_not_reaped(stage: Stage) -> None:
    child = stage.spawn("obedient")
    stage.lines.pid("ready")
    assert child.status() == ExitStatus()
    child.reap()
    assert alive(child.pid)
    child.reap()


def test_somebody_elses_child_has_an_unknown_status(stage: Stage) -> None:
    """An adopted engine: its parent is init, or somebody else."""
    done = subprocess.Popen(command("obedient"), env=stage.env, stdout=subprocess.PIPE)
    assert done.stdout is not None
    script = f"""
import asyncio, signal, sys
from llm_supervisor.host.process import Child, identify
async def main():
    died = asyncio.get_running_loop().create_future()
    child = Child.open({done.pid}, identify({done.pid}))
    child.watch(died.set_result)
    child.signal(signal.SIGTERM)
    print(await asyncio.wait_for(died, 20))
    child.reap()
asyncio.run(main())
"""
    assert done.stdout.readline().startswith(b"ready")
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert said.stdout == "ended (status unknown)\n"
    assert done.wait(20) == 0, "its own parent still gets the status"
    done.stdout.close()


def test_python_gets_no_popen_object(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else may wait for our children: neither subprocess nor asyncio's child watcher takes part."""

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("waited for behind our back")

    monkeypatch.setattr(subprocess, "Popen", never)
    monkeypatch.setattr(asyncio.events.AbstractEventLoop, "subprocess_exec", never)
    monkeypatch.setattr(os, "waitpid", never)
    assert asyncio.run(death(stage.spawn("exiter", "--status", 4))) == ExitStatus(code=4)


# Identity ---------------------------------------------------------------------------------------------------


def test_open_refuses_another_process_of_the_same_pid(stage: Stage) -> None:
    child = stage.spawn("obedient")
    stage.lines.pid("ready")
    identity = child.identity
    assert identity == identify(child.pid)
    assert identity.boot == boot_id()
    same = Child.open(child.pid, identity)
    assert same is not None
    same.reap()
    before = len(os.listdir("/proc/self/fd"))
    assert Child.open(child.pid, replace(identity, started=identity.started - 1)) is None
    assert Child.open(child.pid, replace(identity, boot="another")) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_open_of_a_pid_that_is_gone(stage: Stage) -> None:
    child = stage.spawn("exiter")
    gone(child.pid)
    zombie = Child.open(child.pid)
    assert zombie is not None, "a zombie still has its pid"
    zombie.reap()
    assert Child.open(child.pid) is None
    assert identify(child.pid) is None


def test_a_signal_is_for_one_identity_only(stage: Stage) -> None:
    child = stage.spawn("obedient")
    stage.lines.pid("ready")
    started = child.identity.started
    assert not signal_process(child.pid, started - 1, signal.SIGKILL), "an older process of that pid"
    assert not signal_process(child.pid, started + 1, signal.SIGKILL)
    assert alive(child.pid)
    assert signal_process(child.pid, started, signal.SIGTERM)
    assert stage.lines.next().startswith("bye")
    gone(child.pid)
    child.reap()
    assert not signal_process(child.pid, started, signal.SIGTERM)


def test_a_signal_to_the_dead_hits_nobody(stage: Stage) -> None:
    """Through the pidfd: whoever has the pid by then is safe."""
    child = stage.spawn("exiter")
    gone(child.pid)
    assert child.signal(signal.SIGTERM) in (True, False)  # a zombie takes it, and nothing happens
    os.waitid(os.P_PID, child.pid, os.WEXITED)
    assert child.signal(signal.SIGTERM) is False


def test_comm_may_contain_anything(stage: Stage) -> None:
    """The kernel's line has it unquoted, between parentheses."""
    tool = stage.folder / "a) R 1 (b"
    tool.symlink_to(sys.executable)
    argv = [str(tool), *command("obedient")[1:]]
    child = Child.open(spawn(argv, stage.env, output=stage.fifo))
    assert child is not None
    stage.children.append(child)
    stage.lines.pid("ready")
    row = read_row(child.pid)
    assert row is not None
    assert (row.comm, row.ppid, row.session) == ("a) R 1 (b", os.getpid(), child.pid)


# Reaping ----------------------------------------------------------------------------------------------------


def test_orphans_come_to_us_and_are_reaped_but_the_watched_are_left_alone(stage: Stage) -> None:
    """The subreaper is the test process itself (see the fixture)."""
    watched = stage.spawn("exiter", "--status", 9)
    gone(watched.pid)
    leader = stage.spawn("daemoniser")
    orphan = stage.lines.pid("stray")
    gone(leader.pid)
    row = read_row(orphan)
    assert row is not None
    assert row.ppid == os.getpid()
    assert orphan not in reap_strangers({watched.pid, leader.pid}), "it lives"
    os.kill(orphan, signal.SIGKILL)
    gone(orphan)
    assert orphan in reap_strangers({watched.pid, leader.pid})
    assert not Path(f"/proc/{orphan}").exists()
    assert watched.status() == ExitStatus(code=9), "nobody stole it"
    assert reap_strangers({watched.pid, leader.pid}) == []


def test_orphans_of_another_thread_are_found(stage: Stage) -> None:
    """A child belongs to the thread that made it; the kernel lists it there."""
    import threading

    made: list[Child] = []
    stay = threading.Event()

    def make() -> None:
        made.append(stage.spawn("exiter"))
        stay.wait(20)

    thread = threading.Thread(target=make)
    thread.start()
    try:
        child = until(lambda: made[0] if made else None)
        gone(child.pid)
        assert child.pid in reap_strangers(())
    finally:
        stay.set()
        thread.join()


def test_without_a_subreaper_orphans_go_to_init() -> None:
    """What ``become_subreaper`` is for."""
    script = """
import os, sys
from llm_supervisor.host.process import become_subreaper
if sys.argv[1] == "yes":
    become_subreaper()
read, write = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.close(write)
        os.read(read, 1)  # until our parent is gone, and with it the other end
        os._exit(0)
    os._exit(0)
os.wait()
with open(f"/proc/self/task/{os.getpid()}/children") as file:
    print(len(file.read().split()))
"""
    for subreaper, children in (("no", "0\n"), ("yes", "1\n")):
        said = subprocess.run([sys.executable, "-c", script, subreaper], capture_output=True, text=True, timeout=30)
        assert said.stdout == children, said.stderr


def test_the_mark_is_in_every_child(stage: Stage) -> None:
    """The fixture's own promise: what is left over can be found."""
    child = stage.spawn("obedient")
    stage.lines.pid("ready")
    assert stage.env[MARK].encode() in Path(f"/proc/{child.pid}/environ").read_bytes()
