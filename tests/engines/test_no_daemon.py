"""The daemon is killed, started again and upgraded under the real engines, which serve all the while."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from llm_supervisor.host.net import ports as net_ports
from tests.engines.conftest import ALIAS, Engines, config
from tests.engines.test_hold import QUESTION, client, pending
from tests.support.harness import Daemon, name_of
from tests.support.load import keep_chatting
from tests.support.programs import alive, gone, until

CLIENTS = 6
REPLICAS = ("gateway", "gateway-2")
LINES = 100_000
# Numbered lines, begun when it is told to and slow until it is told that all is over; it says when it has said them all
COUNTER = f"""
import os, sys, time
while not os.path.exists(sys.argv[1] + "/begun"):
    time.sleep(0.05)
for number in range({LINES}):
    print(number)
    if number % 100 == 99:
        sys.stdout.flush()
        if not os.path.exists(sys.argv[1] + "/over"):
            time.sleep(0.2)
print("end", flush=True)
time.sleep(100000)
"""


@pytest.fixture(scope="module")
def daemon(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    settings = config(engines)
    settings["gateway"]["replicas"] = len(REPLICAS)
    settings["models"][ALIAS]["warm"] = "off"  # a fork server ends with each daemon here, before it is of use
    folder = tmp_path_factory.mktemp("nodaemon")
    command = [sys.executable, "-c", COUNTER, str(folder)]
    settings["programs"] = {"counter": {"command": command, "ready": {"after": 0.1}}}
    with Daemon(folder, settings) as running:
        running.wait_ready(timeout=300)
        yield running


async def under_load(daemon: Daemon, meanwhile: Callable[[], None]) -> Counter[str]:
    """How the requests of clients without retries end that ask all the time."""
    return await keep_chatting(daemon, ALIAS, meanwhile, clients=CLIENTS, max_tokens=4)


def kill(daemon: Daemon) -> None:
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()


def test_killed_started_upgraded_and_a_rolling_restart(daemon: Daemon) -> None:
    names = (*REPLICAS, ALIAS, "counter")
    pids = {name: daemon.program(name)["pid"] for name in names}

    def written() -> int:
        """How much it has said, which must grow at each step; it has more to say after the last."""
        said = daemon.log("counter")
        assert not said.endswith(b"end\n")
        return len(said)

    def everything() -> None:
        (daemon.folder / "begun").touch()
        until(written, "the first line")
        said = [written()]
        kill(daemon)
        time.sleep(3.0)
        assert daemon.call("status").returncode == 4
        daemon.start()
        daemon.wait_ready(timeout=60)
        assert {name: daemon.program(name)["pid"] for name in names} == pids
        port = int(daemon.status()["endpoint"].rpartition(":")[2])
        assert daemon.process is not None
        assert net_ports.held(net_ports.listening(port), [daemon.process.pid]), "a replica has handed the socket out"
        said.append(written())
        done = daemon.cli("upgrade")
        assert done.returncode == 0, done
        daemon.wait_ready(timeout=60)
        assert {name: daemon.program(name)["pid"] for name in names} == pids
        said.append(written())
        done = daemon.cli("restart", "gateway")
        assert done.returncode == 0, done
        said.append(written())
        kill(daemon)
        daemon.start()
        daemon.wait_ready(timeout=60)
        said.append(written())
        assert said == sorted(set(said)), "it has spoken all the while"
        (daemon.folder / "over").touch()

    answers = asyncio.run(under_load(daemon, everything))
    print(f"killed, started, upgraded, rolling restart, killed, started: {dict(answers)}")
    assert set(answers) == {"ok"}
    assert answers["ok"] > 50
    after = {name: daemon.program(name) for name in names}
    assert {name for name in names if after[name]["pid"] != pids[name]} == set(REPLICAS)
    assert {name: after[name]["restarts"] for name in names} == {ALIAS: 0, "counter": 0} | dict.fromkeys(REPLICAS, 1)

    until(lambda: daemon.log("counter").endswith(b"end\n"), "the last line", patience=120)
    assert daemon.log("counter") == b"".join(b"%d\n" % number for number in range(LINES)) + b"end\n"


def test_a_changed_cloud_model_costs_nobody_anything(daemon: Daemon) -> None:
    """The gateway's replicas are new, one after the other; vLLM is not touched."""
    before = {name: daemon.program(name)["incarnation"] for name in (*REPLICAS, ALIAS)}
    settings = yaml.safe_load(daemon.config_file.read_text())
    settings["gateway"]["litellm_config"] = "litellm.yaml"
    params = {"model": "openai/m", "api_key": "sk-secret-of-a-cloud", "mock_response": "from the cloud"}
    native = {"model_list": [{"model_name": "cloud", "litellm_params": params}]}
    (daemon.folder / "litellm.yaml").write_text(yaml.safe_dump(native))
    (daemon.folder / "litellm.yaml").chmod(0o600)
    ports = daemon.ports
    daemon.write(settings)
    daemon.ports = ports

    def change() -> None:
        done = daemon.cli("reload", "--json")
        assert done.returncode == 0, done
        plan = {one["program"]: one["action"] for one in json.loads(done.stdout)["changes"]}
        assert plan == {ALIAS: "nothing", "counter": "nothing"} | dict.fromkeys(REPLICAS, "rolling")

    answers = asyncio.run(under_load(daemon, change))
    print(f"a reload with another cloud model: {dict(answers)}")
    assert set(answers) == {"ok"}
    after = {name: daemon.program(name)["incarnation"] for name in (*REPLICAS, ALIAS)}
    assert {name for name in before if before[name] != after[name]} == set(REPLICAS)
    daemon.wait_ready(timeout=60)
    assert {model["name"] for model in daemon.status()["models"]} == {ALIAS, "cloud"}
    made = (daemon.runtime / "litellm_config.yaml").read_text()
    assert "sk-secret-of-a-cloud" not in made, "LiteLLM gets it by its environment"
    verified = daemon.cli("verify", "--cloud", "--json", timeout=300)
    rows = json.loads(verified.stdout)["rows"]
    print("\n".join(f"{one['group']} {one['check']} {one['took_s']} {one['detail']}" for one in rows))
    assert verified.returncode == 0, verified
    assert {one["check"] for one in rows if one["group"] == ALIAS} == {
        "listed", "supports_vision", "chat", "stream", "completions", "image (base64)", "image (URL)", "two images",
        "video",
    }  # fmt: skip


def test_an_adopted_engine_that_loses_its_head(daemon: Daemon) -> None:
    """Its EngineCore and Worker go to init: they are found and ended all the same, before the next start."""
    kill(daemon)
    daemon.start()
    before = daemon.wait(ALIAS, state="RUNNING", health="ready")
    tree = daemon.tree(ALIAS)
    assert len(tree) >= 2
    for pid, name in tree.items():
        if not name.startswith("VLLM::Worker"):
            os.kill(pid, signal.SIGSTOP)  # so that a headless one cannot see that, and leave by itself
    os.kill(before["pid"], signal.SIGKILL)
    daemon.wait_for(lambda: daemon.program(ALIAS)["restarts"] == 1, "another start")
    daemon.wait_for(lambda: not [pid for pid in tree if alive(pid)], "the old one's end")
    daemon.wait_ready(timeout=120)
    assert daemon.program(ALIAS)["incarnation"] != before["incarnation"]


@pytest.mark.soak
@pytest.mark.parametrize("lost", ["worker", "head"])
def test_an_engine_that_loses_a_process_while_no_daemon_lives(daemon: Daemon, lost: str) -> None:
    """With processes that are no engine's: see tests/daemon/test_adoption.py."""
    before = daemon.program(ALIAS)
    tree = daemon.tree(ALIAS)
    victim = before["pid"]
    if lost == "worker":
        victim = next(pid for pid in tree if name_of(pid).startswith("VLLM::Worker"))
    time.sleep(0.2)
    kill(daemon)
    if lost == "head":  # the others must be there still when somebody looks, as a GPU's are that the driver holds
        for pid in tree.keys() - {victim}:
            os.kill(pid, signal.SIGSTOP)
    os.kill(victim, signal.SIGKILL)
    gone(victim)
    if lost == "head":
        left = [pid for pid in tree if alive(pid)]
        assert left
        without = daemon.call("status")
        assert without.returncode == 4 and ALIAS in without.stderr, "it is said that something is left of it"
    daemon.start()
    daemon.wait_up()
    daemon.wait_for(lambda: daemon.program(ALIAS)["restarts"] > before["restarts"], "another one")
    daemon.wait_ready(timeout=120)
    assert not [pid for pid in tree if alive(pid)]


def test_a_shutdown_answers_what_is_in_hand(daemon: Daemon) -> None:
    """The gateway leaves first, when it has answered; who comes meanwhile is refused, and the engines go after it.

    Last in this module: the daemon's own fixture then asserts that nothing is left."""
    daemon.wait_ready(timeout=120)
    asyncio.run(_shut_down_under(daemon))
    assert daemon.wait_ended() == 0


async def _shut_down_under(daemon: Daemon) -> None:
    body: dict[str, Any] = {
        "model": ALIAS,
        "messages": QUESTION,
        "max_tokens": 1900,
        "extra_body": {"ignore_eos": True},
    }
    async with client(daemon) as it:
        in_hand = [asyncio.create_task(it.chat.completions.create(**body)) for _ in range(24)]
        metrics, in_hands = f"http://127.0.0.1:{daemon.ports[1]}/metrics", 0.0
        async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(30):
            # every one has reached the engine, and some are in its hands
            while not in_hands or in_hands + sum(task.done() for task in in_hand) < len(in_hand):
                in_hands = pending((await http.get(metrics)).text)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        # whom it still accepts is served; soon it accepts nobody
        await asyncio.to_thread(daemon.wait_for, lambda: not net_ports.listening(daemon.ports[0]), "a closed door")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", daemon.ports[0]))
        for answer in await asyncio.gather(*in_hand):
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 1900
