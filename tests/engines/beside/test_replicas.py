"""Several replicas of the real LiteLLM on one socket: what the crash of one, and a restart of all, cost clients."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import openai
import pytest
import yaml

from llm_supervisor.host.net import ports as net_ports
from tests.engines.conftest import Engines, config
from tests.support.harness import Daemon
from tests.support.load import keep_chatting

CLIENTS = 8
REPLICAS = ("gateway", "gateway-2")
KILLS = 4
MANY_KILLS = 10


@pytest.fixture(scope="module")
def daemon(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A gateway alone, whose model answers from a script after 50 ms: no engine is needed for what is looked at."""
    folder = tmp_path_factory.mktemp("replicas")
    settings = config(engines)
    del settings["models"]
    settings["gateway"] |= {"replicas": len(REPLICAS), "litellm_config": "litellm.yaml"}
    params = {"model": "openai/m", "api_key": "none", "mock_response": "hello", "mock_delay": 0.05}
    native = {"model_list": [{"model_name": "m", "litellm_params": params}]}
    (folder / "litellm.yaml").write_text(yaml.safe_dump(native))
    with Daemon(folder, settings) as running:
        running.wait_ready(timeout=120)
        for name in REPLICAS:
            running.wait_for(
                lambda name=name: (running.program(name)["fork_server"] or {}).get("state") == "ready", "a fork server"
            )
        yield running


async def under_load(daemon: Daemon, retries: int, meanwhile: Callable[[], None]) -> Counter[str]:
    """How requests end, of clients that ask all the time."""
    return await keep_chatting(daemon, "m", meanwhile, clients=CLIENTS, retries=retries)


def ready(daemon: Daemon) -> None:
    daemon.wait_for(lambda: all(daemon.program(name)["state"] == "RUNNING" for name in REPLICAS), "both are there")


def kill_one_after_the_other(daemon: Daemon, kills: int) -> None:
    for number in range(kills):
        name = REPLICAS[number % len(REPLICAS)]
        before = daemon.program(name)
        os.kill(before["pid"], signal.SIGKILL)
        daemon.wait_for(lambda name=name, n=before["restarts"]: daemon.program(name)["restarts"] > n, "its end")
        ready(daemon)
        time.sleep(1.5)  # a client with two retries must not meet three deaths in a row: that would be bad luck


HOW_MANY = pytest.mark.parametrize("kills", [KILLS, pytest.param(MANY_KILLS, marks=pytest.mark.soak)])


@HOW_MANY
def test_a_dead_replica_costs_clients_with_retries_nothing(daemon: Daemon, kills: int) -> None:
    meanwhile = partial(kill_one_after_the_other, daemon, kills)
    answers = asyncio.run(under_load(daemon, openai.DEFAULT_MAX_RETRIES, meanwhile))
    print(f"{kills} kills of one of two: {dict(answers)}")
    assert set(answers) == {"ok"}


@HOW_MANY
def test_a_dead_replica_costs_others_what_it_had_in_hand(daemon: Daemon, kills: int) -> None:
    answers = asyncio.run(under_load(daemon, 0, partial(kill_one_after_the_other, daemon, kills)))
    lost = sum(answers.values()) - answers["ok"]
    print(f"{kills} kills of one of two, no retries: {dict(answers)}")
    assert lost <= kills * CLIENTS
    assert not any("refused" in what.lower() for what in answers)


def test_a_rolling_restart_costs_nobody_anything(daemon: Daemon) -> None:
    before = {name: daemon.program(name)["incarnation"] for name in REPLICAS}

    def restart() -> None:
        done = daemon.cli("restart", "gateway")
        assert done.returncode == 0, done.stderr
        assert [line.partition(":")[0] for line in done.stdout.splitlines()] == list(REPLICAS), "one after the other"

    answers = asyncio.run(under_load(daemon, 0, restart))
    print(f"rolling restart, no retries: {dict(answers)}")
    assert set(answers) == {"ok"}
    assert all(daemon.program(name)["incarnation"] != before[name] for name in REPLICAS)


def test_they_share_a_fork_server(daemon: Daemon) -> None:
    assert len({daemon.program(name)["fork_server"]["pid"] for name in REPLICAS}) == 1


def test_the_last_one_that_stops_closes_the_door(daemon: Daemon) -> None:
    port = int(daemon.status()["endpoint"].rpartition(":")[2])
    assert daemon.cli("stop", "gateway-2").returncode == 0
    assert net_ports.listening(port)
    assert daemon.cli("stop", "gateway").returncode == 0
    assert not net_ports.listening(port), "clients are refused, and do not wait for nobody"
    assert daemon.cli("start", "gateway").returncode == 0
    ready(daemon)


def test_replicas_that_have_grown_are_replaced_one_after_the_other(engines: Engines, tmp_path: Path) -> None:
    """A limit below what LiteLLM has from its first moment: so each is replaced, again and again."""
    settings = config(engines)
    del settings["models"]
    settings["gateway"] |= {"replicas": 2, "max_rss": "100MB"}
    with Daemon(tmp_path, settings) as daemon:
        daemon.wait_ready(timeout=120)
        daemon.wait_for(lambda: all(daemon.program(name)["restarts"] for name in REPLICAS), "both are", timeout=90)
        events = [one for one in daemon.events() if one.get("event") == "state" and one["program"] in REPLICAS]
        up = dict.fromkeys(REPLICAS, False)
        served = False
        for one in events:
            up[one["program"]] = one["state"] == "RUNNING"
            served = served or all(up.values())
            assert any(up.values()) or not served, "never both at once"
