"""Which fork servers there are, and when one is no longer trusted. What they import are stand-ins."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llm_supervisor.core import fork_policy
from llm_supervisor.core.spec import Launch
from llm_supervisor.engines.litellm import process as litellm_process
from llm_supervisor.host import memory
from llm_supervisor.host.process import Child, ForkError, spawn
from llm_supervisor.host.process.proc import read_cookie
from llm_supervisor.supervision.local import fork_servers
from llm_supervisor.supervision.local.fork_servers import ForkServerPool
from tests.host.test_forkserver import environ, packages, play
from tests.support.programs import MARK, gone
from tests.support.stage import Stage

__all__ = ["packages"]  # a fixture


def launch(stage: Stage, **more: object) -> Launch:
    argv = (sys.executable, str(stage.folder / "shows.py"))
    return Launch(argv, warm=litellm_process.fork_server(sys.executable), late=frozenset({"KEY"}), **more)  # type: ignore[arg-type]


@asynccontextmanager
async def pool(stage: Stage, starting: Callable[[], list[str]] = list) -> AsyncIterator[ForkServerPool]:
    made = ForkServerPool(stage.folder, starting)
    try:
        yield made
    finally:
        await made.close()


async def ready(made: ForkServerPool, name: str = "p") -> int:
    """The pid of its fork server, as soon as it is ready."""
    while (seen := made.status(name)) is None or seen["state"] != "ready":
        await asyncio.sleep(0.01)
    assert isinstance(seen["pid"], int)
    return seen["pid"]


async def forked(made: ForkServerPool, stage: Stage, env: dict[str, str], name: str = "p") -> int | None:
    pid = await made.fork(name, launch(stage), env, cookie=stage.cookie, output=stage.fifo, pass_fds=())
    if pid is not None:
        child = Child.open(pid)
        assert child is not None
        stage.children.append(child)
    return pid


def test_there_is_none_before_the_program_was_ready(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        env = environ(stage, packages)
        async with pool(stage) as made:
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
        async with pool(stage) as made:
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
        async with pool(stage) as made:
            made.want("p", Launch((sys.executable,)), environ(stage, packages))
            made.maintain()
            assert made.status("p") is None

    play(scene)


def test_a_dead_one_is_replaced(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        async with pool(stage) as made:
            env = environ(stage, packages)
            made.want("p", launch(stage), env)
            pid = await ready(made)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(ForkError):
                await forked(made, stage, env)
            assert await forked(made, stage, env) is None
            made.maintain()
            assert await ready(made) != pid

    play(scene)


def test_one_that_has_forked_often_is_replaced(stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_policy, "MAX_FORKS", 2)

    async def scene() -> None:
        async with pool(stage) as made:
            env = environ(stage, packages)
            made.want("p", launch(stage), env)
            pid = await ready(made)
            for _ in range(2):
                made.maintain()
                assert await ready(made) == pid
                await forked(made, stage, env)
            made.maintain()
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

        async with pool(stage) as made:
            env = environ(stage, packages)
            made.want("p", launch(stage), env)
            first = await ready(made)
            assert await held() == 12345
            os.kill(first, signal.SIGKILL)
            while (seen := made.status("p") or {})["pid"] == first:
                await asyncio.sleep(0.01)
            made.maintain()
            assert seen["memory_bytes"] is None, "not what the one before it held"
            second = await ready(made)
            assert await held() == 12345
            assert list(dict.fromkeys(weighed)) == [(first, False), (second, False)]

    play(scene)


def test_when_memory_is_short_there_is_none(stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        room = 100 * 2**30
        monkeypatch.setattr(memory, "available", lambda: room)
        async with pool(stage) as made:
            env = environ(stage, packages)
            made.want("p", launch(stage), env)
            pid = await ready(made)
            room = fork_policy.LEAST_ROOM - 1
            made.maintain()
            gone(pid)
            seen = made.status("p")
            assert seen is not None and (seen["state"], seen["reason"]) == ("off", "memory is short")
            room = fork_policy.START_ROOM - 1  # enough to keep one, not to make one
            made.maintain()
            seen = made.status("p")
            assert seen is not None and "memory are available" in str(seen["reason"])
            room = fork_policy.START_ROOM
            made.maintain()
            await ready(made)

    play(scene)


def test_after_three_failed_starts_it_is_given_up_until_its_packages_change(
    stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: tuple[object, ...] = ("one",)
    monkeypatch.setattr(fork_servers, "_packages", lambda python: there)

    async def scene() -> None:
        nonlocal there
        async with pool(stage) as made:
            env = environ(stage, packages)
            made.want("p", launch(stage), env)
            for number in range(fork_policy.DISTRUST):
                await ready(made)
                made.distrust("p", f"start {number}")
                made.maintain()
            for _ in range(3):
                made.maintain()
                seen = made.status("p")
                assert seen is not None
                assert (seen["state"], seen["reason"]) == (
                    "off",
                    f"3 starts from it failed: a start from it failed: start {number}",
                )
            there = ("one", "another")
            made.maintain()
            await ready(made)

    play(scene)


def test_two_that_fork_at_once_get_their_own(stage: Stage, packages: Path) -> None:
    """Replicas share one."""

    async def scene() -> None:
        env = environ(stage, packages)
        async with pool(stage) as made:
            made.want("p", launch(stage), env)
            made.want("q", launch(stage), env | {"KEY": "another"})
            await ready(made)
            names = [f"{name}/{number}" for number in range(6) for name in "pq"]
            argv = (sys.executable, str(stage.folder / "shows.py"), "--stay")
            launches = [Launch(argv, warm=launch(stage).warm, late=launch(stage).late) for _ in names]
            asked = [
                made.fork(name[0], one, env, cookie=name, output=stage.fifo, pass_fds=())
                for name, one in zip(names, launches, strict=True)
            ]
            pids = await asyncio.gather(*asked)
            for pid in pids:
                assert pid is not None
                child = Child.open(pid)
                assert child is not None
                stage.children.append(child)
            assert [read_cookie(pid) for pid in pids if pid is not None] == names

    play(scene)


def test_one_that_is_ended_while_it_imports_is_forgotten(
    stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor's number is the next one's: who watches that is told of it."""
    hold = stage.folder / "hold"
    (packages / "litellm/proxy/proxy_server.py").write_text(
        f"import os, time\nwhile os.path.exists({str(hold)!r}):\n    time.sleep(0.01)\n"
    )

    async def scene() -> None:
        room = 100 * 2**30
        monkeypatch.setattr(memory, "available", lambda: room)
        async with pool(stage) as made:
            env = environ(stage, packages)
            for end in ("memory", "distrust", "another"):
                hold.touch()
                made.want("p", launch(stage), env)
                while (seen := made.status("p")) is None or seen["pid"] is None:
                    await asyncio.sleep(0.01)
                first = seen["pid"]
                assert isinstance(first, int)
                await asyncio.sleep(0.05)  # it is being waited for
                match end:
                    case "memory":
                        room = fork_policy.LEAST_ROOM - 1
                        made.maintain()
                    case "distrust":
                        made.distrust("p", "it died")
                    case "another":
                        env = env | {"IMPORT": "differs"}
                        made.want("p", launch(stage), env)
                gone(first)
                hold.unlink()
                died = asyncio.Event()
                pid = spawn([sys.executable, "-c", "input()"], env, output=stage.fifo)
                child = Child.open(pid)
                assert child is not None
                stage.children.append(child)
                child.watch(lambda status, died=died: died.set())  # type: ignore[misc]
                child.signal(signal.SIGKILL)
                async with asyncio.timeout(5):
                    await died.wait()
                room = 100 * 2**30
                made.maintain()
                assert await ready(made) != first
                made.forget("p")

    play(scene)


def test_it_waits_for_programs_that_start(stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing takes a core, and theirs is the start that somebody waits for."""

    async def scene() -> None:
        env = environ(stage, packages)
        starting = ["p", "q"]
        async with pool(stage, lambda: starting) as made:
            made.want("p", launch(stage), env)
            seen = made.status("p")
            assert seen is not None and seen["reason"] == "waits until q has started"
            starting = ["q"]
            made.maintain()
            seen = made.status("p")
            assert seen is not None and seen["state"] == "off"
            made.want("q", Launch((sys.executable,)), env)  # it is ready: what has waited for it goes on
            starting = []
            made.maintain()
            first = await ready(made)
            os.kill(first, signal.SIGKILL)
            gone(first)
            starting = ["p"]
            while (seen := made.status("p")) is None or seen["reason"] != "waits until p has started":
                made.maintain()
                await asyncio.sleep(0.01)
            monkeypatch.setattr(fork_policy, "HOLD_OFF", 0.0)  # one that never gets up holds off nobody for ever
            made.maintain()
            await ready(made)

    play(scene)


def test_one_that_hangs_when_it_forks_is_given_up(
    stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        env = environ(stage, packages)
        async with pool(stage) as made:
            made.want("p", launch(stage), env)
            for _ in range(fork_policy.DISTRUST):
                os.kill(await ready(made), signal.SIGSTOP)
                with pytest.raises(ForkError, match="no answer"):
                    await made.fork(
                        "p", launch(stage), env, cookie=stage.cookie, output=stage.fifo, pass_fds=(), patience=0.1
                    )
                made.maintain()
            seen = made.status("p")
            assert seen is not None and "3 starts from it failed" in str(seen["reason"])

    play(scene)


def test_a_success_forgives(stage: Stage, packages: Path) -> None:
    async def scene() -> None:
        async with pool(stage) as made:
            made.want("p", launch(stage), environ(stage, packages))
            for number in range(fork_policy.DISTRUST + 1):
                await ready(made)
                made.distrust("p", f"start {number}")
                made.succeeded("p")
                made.maintain()
            await ready(made)

    play(scene)


def test_what_cannot_be_imported_is_tried_again_later_and_later(
    stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an upgrade of its packages, say: when that is done, it goes on."""
    monkeypatch.setattr(fork_policy, "IMPORT_PAUSE", 0.05)
    file = packages / "litellm/proxy/proxy_server.py"
    file.write_text("import nothing_of_the_kind\n")

    async def scene() -> None:
        async with pool(stage) as made:
            made.want("p", launch(stage), environ(stage, packages))
            began: list[float] = []
            last: object = None
            while len(began) < 5:
                made.maintain()
                seen = made.status("p")
                assert seen is not None
                if seen["state"] == "starting" and seen["pid"] not in (None, last):
                    began.append(asyncio.get_running_loop().time())
                    last = seen["pid"]
                await asyncio.sleep(0.002)
            while (seen := made.status("p")) is None or seen["state"] != "off":
                await asyncio.sleep(0.01)
            assert "it could not import" in str(seen["reason"]) and "nothing_of_the_kind" in str(seen["reason"])
            assert began[4] - began[3] >= 8 * 0.05, "twice as long after each"
            file.write_text("")
            while (seen := made.status("p")) is None or seen["state"] != "ready":
                made.maintain()
                await asyncio.sleep(0.01)

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
from llm_supervisor.engines.litellm import process as litellm_process
from llm_supervisor.host.process import ForkServer
async def main():
    env = dict(os.environ, PYTHONPATH=sys.argv[1])
    server = ForkServer.start(litellm_process.fork_server(sys.executable), env, Path(sys.argv[2]))
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
        async with pool(stage) as made:
            made.want("p", launch(stage), environ(stage, packages))
            pid = await ready(made)
        assert not Path(f"/proc/{pid}").exists()

    play(scene)
