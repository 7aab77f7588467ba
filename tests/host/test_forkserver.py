"""A fork server's children are like those of an exec: the daemon could not tell, and nothing of the parent leaks.

The real script, under this Python; what it imports are stand-ins for LiteLLM. The real engines: ``tests.engines``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llm_supervisor.core.failure import ExitStatus
from llm_supervisor.engines.litellm import process as litellm_process
from llm_supervisor.host.process import (
    Child,
    ForkError,
    ForkServer,
    Tree,
    find,
    make_files_private,
    read_row,
    set_umask_of_children,
)
from llm_supervisor.host.process.proc import read_cookie
from tests.support.programs import MARK, gone, until
from tests.support.stage import Stage

# What the stand-in for an engine is told to run: it shows everything about itself
SHOWS = """
import gc, json, os, signal, sys, threading
import litellm
print(json.dumps({
    "argv": sys.argv, "name": __name__, "environ": dict(os.environ), "cwd": os.getcwd(), "pid": os.getpid(),
    "sid": os.getsid(0), "ppid": os.getppid(), "threads": len(os.listdir("/proc/self/task")),
    "fds": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
    "ignored": [s for s in range(1, 32) if signal.getsignal(s) is signal.SIG_IGN and s not in (13, 25)],
    "blocked": [int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    "imported_by": litellm.PID, "comm": open("/proc/self/comm").read().strip(),
}), flush=True)
if "--stay" in sys.argv:
    if os.fork() == 0:
        os.setsid()
    signal.pause()
sys.exit(int(os.environ.get("STATUS", "0")))
"""


def litellm_modules() -> list[str]:
    """Those that a fork server cannot do without."""
    script = Path(litellm_process.fork_server(sys.executable)[1]).read_text()
    return re.findall(r'"([\w.]+\.[\w.]+)"', script.partition("LITELLM = (")[2].partition(")")[0])


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with what stands in for uvicorn and litellm."""
    folder = tmp_path / "packages"
    for name in litellm_modules():
        file = folder / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        for parent in file.parents:
            if parent == folder:
                break
            (parent / "__init__.py").touch()
    (folder / "litellm/__init__.py").write_text("import os\nPID = os.getpid()\n")
    (tmp_path / "shows.py").write_text(SHOWS)
    return folder


def environ(stage: Stage, packages: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), MARK: stage.mark}


@asynccontextmanager
async def serving(stage: Stage, packages: Path) -> AsyncIterator[ForkServer]:
    """A fork server that has imported everything."""
    server = ForkServer.start(
        litellm_process.fork_server(sys.executable), environ(stage, packages), stage.folder / "fork.log"
    )
    try:
        await server.ready()
        yield server
    finally:
        server.close()


async def forked(server: ForkServer, stage: Stage, *arguments: str, fds: tuple[int, ...] = (), **env: str) -> Child:
    """One program that shows itself."""
    pid = await server.fork(
        [sys.executable, str(stage.folder / "shows.py"), *arguments],
        {"PATH": os.environ["PATH"], MARK: stage.mark, **env},
        cookie=stage.cookie,
        output=stage.fifo,
        cwd="/",
        pass_fds=fds,
    )
    child = Child.open(pid)
    assert child is not None
    stage.children.append(child)
    return child


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scene()

    asyncio.run(bounded())


def test_it_is_like_a_start_of_its_own(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        async with serving(stage, packages) as server:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                child = await forked(server, stage, "--stay", "x y", fds=(listener.fileno(),), ONLY="this")
            seen = json.loads(stage.lines.next())
            assert seen["imported_by"] == server.pid, "it was not imported again"
            assert seen["pid"] == seen["sid"] == child.pid
            assert seen["ppid"] == os.getpid(), "it is our child: we are the subreaper"
            assert seen["argv"] == [str(stage.folder / "shows.py"), "--stay", "x y"]
            assert (seen["name"], seen["cwd"], seen["threads"]) == ("__main__", "/", 1)
            assert seen["environ"] == {"PATH": os.environ["PATH"], MARK: stage.mark, "ONLY": "this"}
            assert seen["fds"] == [0, 1, 2, 3], "what it is given, and nothing of the fork server's"
            assert (seen["ignored"], seen["blocked"]) == ([], [])
            assert seen["comm"] == Path(sys.executable).name[:15]

    play(scene)


def test_its_tree_is_found_by_its_environment_alone(stage: Stage, packages: Path) -> None:
    """Though /proc/PID/environ is the fork server's own: the cookie is written into it."""

    async def scene() -> None:
        async with serving(stage, packages) as server:
            child = await forked(server, stage, "--stay")
            stage.lines.next()
            assert read_cookie(child.pid) == stage.cookie
            tree = Tree(stage.cookie)
            pids = until(lambda: len(found := find(tree)) == 2 and {row.pid for row in found}, "both are found")
            assert child.pid in pids, "and the one that has left its session"
            assert server.pid not in pids
            assert find(Tree("program/another")) == []

    play(scene)


def test_how_it_ends_is_known(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        async with serving(stage, packages) as server:
            ended: asyncio.Queue[ExitStatus] = asyncio.Queue()
            for status in (0, 7):
                (await forked(server, stage, STATUS=str(status))).watch(ended.put_nowait)
                assert await ended.get() == ExitStatus(code=status)
            child = await forked(server, stage, "--stay")
            child.watch(ended.put_nowait)
            child.signal(signal.SIGTERM)
            assert await ended.get() == ExitStatus(signal=signal.SIGTERM)
            assert server.forks == 3

    play(scene)


async def refused(server: ForkServer, stage: Stage, why: str) -> None:
    with pytest.raises(ForkError, match=why):
        await forked(server, stage)


def test_a_file_that_has_changed_is_seen(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        async with serving(stage, packages) as server:
            await forked(server, stage)
            file = packages / "litellm/proxy/proxy_server.py"
            file.write_text("# upgraded\n")
            await refused(server, stage, f"{file} has changed")
            file.unlink()
            await refused(server, stage, f"{file} is gone")

    play(scene)


def test_a_package_that_comes_or_goes_is_seen(stage: Stage, packages: Path, tmp_path: Path) -> None:
    """Though nothing of it was imported: by the fork's own imports it would be mixed with what was."""
    there = tmp_path / "site-packages"
    (there / "plugin-1.0.dist-info").mkdir(parents=True)

    async def scene() -> None:
        env = environ(stage, packages)
        env["PYTHONPATH"] += f":{there}"
        server = ForkServer.start(litellm_process.fork_server(sys.executable), env, stage.folder / "fork.log")
        try:
            await server.ready()
            (there / "__pycache__").mkdir()
            await forked(server, stage)
            (there / "plugin-1.0.dist-info").rename(there / "plugin-1.1.dist-info")
            with pytest.raises(ForkError, match=r"packages in .* have changed") as refusal:
                await forked(server, stage)
            assert refusal.value.stale
        finally:
            server.close()

    play(scene)


def test_what_is_imported_later_is_found_where_a_start_of_its_own_finds_it(
    stage: Stage, packages: Path, tmp_path: Path
) -> None:
    """In the folder of what is started; and never in ours, whose files have names like `options`."""
    (packages / "shows_path.py").write_text("import json, sys\nprint(json.dumps(sys.path), flush=True)\n")

    async def scene() -> None:
        async with serving(stage, packages) as server:
            argv = [sys.executable, str(packages / "shows_path.py")]
            env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), MARK: stage.mark}
            pid = await server.fork(argv, env, cookie=stage.cookie, output=stage.fifo, cwd="/")
            child = Child.open(pid)
            assert child is not None
            stage.children.append(child)
            path = json.loads(stage.lines.next())
            assert path[0] == str(packages)
            assert not [folder for folder in path if folder.endswith("engines/inside")]
            cold = await asyncio.to_thread(subprocess.check_output, argv, cwd="/", env=env)
            assert path == json.loads(cold)

    play(scene)


@pytest.mark.parametrize("umask", [0o002, 0o027])
def test_it_has_the_umask_of_a_start_of_its_own(stage: Stage, packages: Path, umask: int) -> None:
    """Whatever the engine's code does while it is imported, and whatever the daemon's own umask is."""
    (packages / "litellm/proxy/proxy_server.py").write_text("import os\nos.umask(0o066)\n")
    (stage.folder / "shows.py").write_text("import os\nprint(os.umask(0), flush=True)\n")
    before = os.umask(umask)

    async def scene() -> None:
        async with serving(stage, packages) as server:
            await forked(server, stage)
            assert stage.lines.next() == str(umask)

    try:
        make_files_private()
        play(scene)
        assert os.umask(0o077) == 0o077, "ours is private all the time"
    finally:
        os.umask(before)
        set_umask_of_children(before)


THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"


@pytest.mark.parametrize(("code", "why"), [(THREAD, "2 threads"), ("import nothing_of_the_kind", "ModuleNotFound")])
def test_what_cannot_be_forked_says_so(stage: Stage, packages: Path, code: str, why: str) -> None:
    (packages / "litellm/proxy/proxy_server.py").write_text(code)

    async def scene() -> None:
        with pytest.raises(ForkError, match=why):
            async with serving(stage, packages):
                pass

    play(scene)


def test_one_that_hangs_or_dies_gives_an_error(stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_supervisor.host.process.forkserver.PATIENCE", 0.3)

    async def scene() -> None:
        async with serving(stage, packages) as server:
            os.kill(server.pid, signal.SIGSTOP)
            until(lambda: (row := read_row(server.pid)) is not None and row.state == "T", "it is stopped")
            began = time.monotonic()
            await refused(server, stage, "no answer within")
            assert time.monotonic() - began < 5
        async with serving(stage, packages) as server:
            os.kill(server.pid, signal.SIGKILL)
            gone(server.pid)
            await refused(server, stage, "fork server")
            while server.dead is None:
                await asyncio.sleep(0.01)
            assert server.dead == ExitStatus(signal=9)

    play(scene)


def test_a_fork_that_the_kernel_refuses_is_an_error(stage: Stage, packages: Path) -> None:
    """As when memory or processes run out."""
    (packages / "litellm/proxy/proxy_server.py").write_text(
        "import os\ndef no(): raise OSError(12, 'Cannot allocate memory')\nos.fork = no\n"
    )

    async def scene() -> None:
        async with serving(stage, packages) as server:
            await refused(server, stage, "Cannot allocate memory")

    play(scene)


def test_it_ends_with_us(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        async with serving(stage, packages) as server:
            pid = server.pid
            os.kill(pid, signal.SIGSTOP)
        gone(pid)

    play(scene)
