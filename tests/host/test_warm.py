"""Which fork servers there are, and when one is no longer trusted. What they import are stand-ins."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llm_supervisor import warm
from llm_supervisor.core.spec import Launch
from llm_supervisor.engines import litellm
from llm_supervisor.host import memory
from llm_supervisor.host.process import Child, ForkError
from llm_supervisor.warm import Nurseries
from tests.host.conftest import Stage
from tests.host.test_forkserver import environ, packages, play
from tests.programs import MARK, gone

__all__ = ["packages"]  # a fixture


def launch(stage: Stage, **more: object) -> Launch:
    argv = (sys.executable, str(stage.folder / "shows.py"))
    return Launch(argv, warm=litellm.fork_server(sys.executable), late=frozenset({"KEY"}), **more)  # type: ignore[arg-type]


@asynccontextmanager
async def nurseries(stage: Stage) -> AsyncIterator[Nurseries]:
    made = Nurseries(stage.folder)
    try:
        yield made
    finally:
        await made.close()


async def ready(made: Nurseries, name: str = "p") -> int:
    """The pid of its fork server, as soon as it is ready."""
    while (seen := made.status(name)) is None or seen["state"] != "ready":
        await asyncio.sleep(0.01)
    assert isinstance(seen["pid"], int)
    return seen["pid"]


async def forked(made: Nurseries, stage: Stage, env: dict[str, str], name: str = "p") -> int | None:
    pid = await made.fork(name, launch(stage), env, cookie=stage.cookie, output=stage.fifo, pass_fds=())
    if pid is not None:
        child = Child.open(pid)
        assert child is not None
        stage.children.append(child)
    return pid


def test_there_is_none_before_the_program_was_ready(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        env = environ(stage, packages)
        async with nurseries(stage) as made:
            assert await forked(made, stage, env) is None
            assert made.status("p") is None
            made.want("p", launch(stage), env)
            assert await forked(made, stage, env) is None, "nor while it imports: that would be a wait"
            await ready(made)
            assert await forked(made, stage, env) is not None

    play(scene)


def test_one_for_each_environment_in_which_is_imported(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        env = environ(stage, packages)
        async with nurseries(stage) as made:
            made.want("p", launch(stage), env)
            made.want("q", launch(stage), env | {"KEY": "another"})
            pid = await ready(made)
            assert await ready(made, "q") == pid, "a variable that is read late makes no difference"
            assert await forked(made, stage, env | {"KEY": "third"}) is not None
            assert await forked(made, stage, env | {"IMPORT": "differs"}) is None, "any other does"
            made.want("p", launch(stage), env | {"IMPORT": "differs"})
            assert await ready(made) != pid
            made.want("q", launch(stage), env | {"IMPORT": "differs"})
            gone(pid)

    play(scene)


def test_who_is_always_cold_has_none(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        async with nurseries(stage) as made:
            made.want("p", Launch((sys.executable,)), environ(stage, packages))
            made.tend()
            assert made.status("p") is None

    play(scene)


def test_a_dead_one_is_replaced(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        async with nurseries(stage) as made:
            env = environ(stage, packages)
            made.want("p", launch(stage), env)
            pid = await ready(made)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(ForkError):
                await forked(made, stage, env)
            assert await forked(made, stage, env) is None
            made.tend()
            assert await ready(made) != pid

    play(scene)


def test_one_that_has_forked_often_is_replaced(stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "MAX_FORKS", 2)

    async def scene() -> None:
        async with nurseries(stage) as made:
            env = environ(stage, packages)
            made.want("p", launch(stage), env)
            pid = await ready(made)
            for _ in range(2):
                made.tend()
                assert await ready(made) == pid
                await forked(made, stage, env)
            made.tend()
            assert await ready(made) != pid
            seen = made.status("p")
            assert seen is not None and seen["forks"] == 2

    play(scene)


def test_what_it_holds_is_weighed_while_nobody_waits(
    stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, weighed = threading.get_ident(), []
    monkeypatch.setattr(memory, "share", lambda pid: weighed.append((pid, threading.get_ident() == main)) or 12345)

    async def scene() -> None:
        async def held() -> int:
            while not (size := (made.status("p") or {}).get("memory_bytes")):
                await asyncio.sleep(0.01)
            assert isinstance(size, int)
            return size

        async with nurseries(stage) as made:
            env = environ(stage, packages)
            made.want("p", launch(stage), env)
            first = await ready(made)
            assert await held() == 12345
            os.kill(first, signal.SIGKILL)
            while (seen := made.status("p") or {})["pid"] == first:
                made.tend()
                await asyncio.sleep(0.01)
            assert seen["memory_bytes"] is None, "not what the one before it held"
            second = await ready(made)
            assert await held() == 12345
            assert weighed == [(first, False), (second, False)]

    play(scene)


def test_when_memory_is_short_there_is_none(stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        room = 100 * 2**30
        monkeypatch.setattr(memory, "available", lambda: room)
        async with nurseries(stage) as made:
            env = environ(stage, packages)
            made.want("p", launch(stage), env)
            pid = await ready(made)
            room = warm.LEAST_ROOM - 1
            made.tend()
            gone(pid)
            seen = made.status("p")
            assert seen is not None and (seen["state"], seen["reason"]) == ("off", "memory is short")
            room = warm.START_ROOM - 1  # enough to keep one, not to make one
            made.tend()
            seen = made.status("p")
            assert seen is not None and "memory are available" in str(seen["reason"])
            room = warm.START_ROOM
            made.tend()
            await ready(made)

    play(scene)


def test_after_three_failed_starts_it_is_given_up(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        async with nurseries(stage) as made:
            env = environ(stage, packages)
            made.want("p", launch(stage), env)
            for number in range(warm.DISTRUST):
                await ready(made)
                made.distrust("p", f"start {number}")
                made.tend()
            seen = made.status("p")
            assert seen is not None and seen["state"] == "off"
            assert "3 starts from it failed" in str(seen["reason"])

    play(scene)


def test_a_success_forgives(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        async with nurseries(stage) as made:
            made.want("p", launch(stage), environ(stage, packages))
            for number in range(warm.DISTRUST + 1):
                await ready(made)
                made.distrust("p", f"start {number}")
                made.succeeded("p")
                made.tend()
            await ready(made)

    play(scene)


def test_what_cannot_be_imported_is_tried_three_times(stage: Stage, packages: Path) -> None:
    (packages / "litellm/proxy/proxy_server.py").write_text("import nothing_of_the_kind\n")

    async def scene() -> None:
        async with nurseries(stage) as made:
            made.want("p", launch(stage), environ(stage, packages))
            while (seen := made.status("p")) is None or "3 starts" not in str(seen["reason"]):
                made.tend()
                await asyncio.sleep(0.01)
            assert "nothing_of_the_kind" in str(seen["reason"])

    play(scene)


def test_the_control_groups_limit_counts(tmp_path: Path) -> None:
    group = tmp_path / "group"
    group.mkdir()
    whole = memory.available(group)
    assert whole > 0, "without a limit it is the machine's"
    (group / "memory.max").write_text(f"{3 * 2**20}\n")
    (group / "memory.current").write_text(f"{2 * 2**20}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {2**19}\n")
    assert memory.available(group) == 3 * 2**20 - (2 * 2**20 - 2**19)
    (group / "memory.max").write_text("max\n")
    assert memory.available(group) > 3 * 2**20


DAEMON = """
import asyncio, os, sys
from pathlib import Path
from llm_supervisor.engines import litellm
from llm_supervisor.host.process import ForkServer
async def main():
    env = dict(os.environ, PYTHONPATH=sys.argv[1])
    server = ForkServer.start(litellm.fork_server(sys.executable), env, Path(sys.argv[2]))
    await server.ready()
    print(server.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_it_does_not_outlive_a_daemon_that_is_killed(stage: Stage, packages: Path, stopped: bool) -> None:
    argv = [sys.executable, "-c", DAEMON, str(packages), str(stage.folder / "log")]
    daemon = subprocess.Popen(argv, stdout=subprocess.PIPE, env=os.environ | {MARK: stage.mark})
    assert daemon.stdout is not None
    pid = int(daemon.stdout.readline())
    if stopped:
        os.kill(pid, signal.SIGSTOP)
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    gone(pid)


def test_its_end_is_waited_for(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        async with nurseries(stage) as made:
            made.want("p", launch(stage), environ(stage, packages))
            pid = await ready(made)
        assert not Path(f"/proc/{pid}").exists()

    play(scene)
