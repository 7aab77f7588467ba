"""A crash of vLLM costs its clients latency, never an error: requests wait in the gateway, on the real engines."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from tests.daemon.test_adoption import knocking
from tests.engines.conftest import ALIAS, KEEPER, Engines, Shared
from tests.support.harness import Daemon

CLIENTS = 8
STREAMS = 4
QUESTION: list[Any] = [{"role": "user", "content": "go on"}]


@dataclass
class Seen:
    """What the clients saw."""

    answers: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    usual: float = 0.0  # the longest while all was well


def client(daemon: Daemon) -> openai.AsyncOpenAI:
    """A client that never tries again by itself."""
    key = (daemon.home / "master_key").read_text().strip()
    return openai.AsyncOpenAI(base_url=f"{daemon.status()['endpoint']}/v1", api_key=key, max_retries=0, timeout=120)


async def under_load(daemon: Daemon, meanwhile: Callable[[], None]) -> Seen:
    """Requests all the time: before, while and after something is done to the engines."""
    seen, done, crashed = Seen(), asyncio.Event(), False

    async def ask(it: openai.AsyncOpenAI) -> None:
        await it.chat.completions.create(model=ALIAS, messages=QUESTION, max_tokens=50, extra_body={"ignore_eos": True})

    async def keep_asking() -> None:
        async with client(daemon) as it:
            while not done.is_set():
                began = time.monotonic()
                try:
                    await ask(it)
                    seen.answers["ok"] += 1
                except (openai.OpenAIError, openai.APIError) as error:
                    seen.answers[f"{type(error).__name__}: {str(error)[:200]}"] += 1
                took = time.monotonic() - began
                seen.longest = max(seen.longest, took)
                seen.usual = seen.usual if crashed else max(seen.usual, took)

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(keep_asking())
        await asyncio.sleep(2.0)
        crashed = True
        await asyncio.to_thread(meanwhile)
        await asyncio.sleep(1.0)
        done.set()
    return seen


# First what has a configuration of its own: the shared daemon has one at a time


async def asked(daemon: Daemon, name: str) -> tuple[str, float, str | None]:
    """What is answered, after how many seconds, and the Retry-After of an error."""
    began = time.monotonic()
    async with client(daemon) as it:
        try:
            answer = await it.chat.completions.create(model=name, messages=QUESTION, max_tokens=4)
            return str(answer.choices[0].message.content), time.monotonic() - began, None
        except openai.APIStatusError as error:
            after = error.response.headers.get("retry-after")
            return f"{error.status_code} {error.message}", time.monotonic() - began, after


def test_an_engine_that_stays_away_is_said_so(engines: Engines, shared: Shared, tmp_path: Path) -> None:
    """503 and Retry-After at once when nothing is to be waited for, within the hold otherwise; the fallback's answer
    where there is a fallback."""
    model = tmp_path / "model"
    shutil.copytree(engines.model, model)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "architectures": ["NobodyKnowsForCausalLM"]}))
    made = shared.config()
    made["models"][ALIAS] |= {"model": str(model), "warm": "off", "autostart": False}
    made["gateway"] |= {"hold": 4, "litellm_config": "litellm.yaml"}
    fallback = {"model": "openai/other", "api_key": "none", "mock_response": "from elsewhere"}
    engine = f"http://127.0.0.1:{made['models'][ALIAS]['port']}/v1"
    params = {"model": "hosted_vllm/GLM-4.1V-9B-Thinking", "api_base": engine, "api_key": "none"}
    native = {
        "model_list": [
            {"model_name": "other", "litellm_params": fallback},
            {"model_name": "with-fallback", "litellm_params": params},
        ],
        "router_settings": {"fallbacks": [{"with-fallback": ["other"]}]},
    }
    (shared.current / "litellm.yaml").write_text(yaml.safe_dump(native))
    with shared.using_config(made, ready=False):
        shared.cli("start", ALIAS, "--no-wait")
        pid = shared.wait(ALIAS, timeout=30, state="STARTING")["pid"]
        os.kill(pid, signal.SIGSTOP)  # so that it takes as long as these questions
        shared.wait("gateway", timeout=30, state="RUNNING")
        said, took, after = asyncio.run(asked(shared, ALIAS))
        assert said.startswith("503") and after is not None, said
        assert 2.0 < took < 8.0, "it waited as long as it may, and no longer"
        answer, took, _ = asyncio.run(asked(shared, "with-fallback"))
        assert answer == "from elsewhere"
        assert took < 2.0, "nobody waits who has somewhere else to go"
        os.kill(pid, signal.SIGCONT)
        shared.wait(ALIAS, timeout=120, state="FATAL")
        said, took, after = asyncio.run(asked(shared, ALIAS))
        assert said.startswith("503") and after is not None
        assert "is not started again until the operator has mended it" in said
        assert took < 1.5, "at once"


@pytest.fixture(scope="module")
def daemon(shared: Shared) -> Iterator[Shared]:
    with shared.using_config(shared.config()):
        yield shared


def victims(daemon: Daemon, which: str) -> list[int]:
    """Processes of the engine by what they are."""
    tree = daemon.tree(ALIAS)
    if which == "all":
        return list(tree)
    if which == "API server":
        return [daemon.program(ALIAS)["pid"]]
    return [pid for pid, name in tree.items() if name.startswith(f"VLLM::{which}"[:15])]


# The gateway sees the same of each; which death is noticed how is looked at in the demo
EACH = [*(pytest.param(one, marks=pytest.mark.soak) for one in ("API server", "EngineCore")), "Worker", "all"]


@pytest.mark.parametrize("which", EACH)
def test_nobody_sees_that_vllm_is_killed(daemon: Daemon, which: str) -> None:
    before = daemon.wait_ready(60)
    restarts = daemon.program(ALIAS)["restarts"]
    took = 0.0

    def crash() -> None:
        nonlocal took
        began = time.monotonic()
        for pid in victims(daemon, which):
            os.kill(pid, signal.SIGKILL)
        daemon.wait_for(lambda: daemon.program(ALIAS)["restarts"] > restarts, "its end")
        daemon.wait(ALIAS, timeout=120, state="RUNNING")
        took = time.monotonic() - began

    seen = asyncio.run(under_load(daemon, crash))
    said = f"the longest {seen.longest:.1f} s (usually {seen.usual:.1f}), vLLM back after {took:.1f} s"
    print(f"{which}: {dict(seen.answers)}, {said}")
    assert set(seen.answers) == {"ok"}, seen.answers
    # what it had to do itself, before and after, is no wait
    assert seen.longest <= 1.1 * took + 2 * seen.usual + 1.0
    gateway = {one["name"]: one["incarnation"] for one in before["programs"]}["gateway"]
    assert daemon.program("gateway")["incarnation"] == gateway


async def streams_cut(daemon: Daemon) -> list[str]:
    """How streams end that have said something, and have more to say, when the engine dies."""
    begun: set[int] = set()

    async def one(number: int) -> str:
        async with client(daemon) as it:
            tokens = 0
            try:
                stream = await it.chat.completions.create(
                    model=ALIAS,
                    messages=QUESTION,
                    max_tokens=1900,
                    stream=True,
                    stream_options={"include_usage": True},
                    extra_body={"ignore_eos": True},
                )
                async for chunk in stream:
                    if chunk.choices and chunk.choices[0].delta.content:
                        begun.add(number)
                    tokens = chunk.usage.completion_tokens if chunk.usage else tokens
            except (openai.OpenAIError, httpx.HTTPError) as error:
                return f"error: {type(error).__name__}"
            return "whole" if tokens == 1900 else f"cut without a word: {tokens} tokens"

    tree, (worker,) = victims(daemon, "all"), victims(daemon, "Worker")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{daemon.ports[1]}", trust_env=False) as engine:
        for _ in range(5):
            begun.clear()
            asking = [asyncio.create_task(one(number)) for number in range(STREAMS)]
            # a tiny model is done before its first word has come through the gateway: it works in small steps here
            while len(begun) < STREAMS and not any(task.done() for task in asking):
                await asyncio.to_thread(step, worker)
                await asyncio.sleep(0.2)
            if pending((await engine.get("/metrics")).text):
                break
            os.kill(worker, signal.SIGCONT)  # on a slow machine its words may all have been on their way by then
            await asyncio.gather(*asking)
        else:
            pytest.fail("the engine had done its work before its clients had heard of it, five times")
    for pid in tree:
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(90):
        return list(await asyncio.gather(*asking))


def step(pid: int) -> None:
    """Let a stopped process do a few milliseconds of its work. Not in an event loop, which may be busy."""
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.005)
    os.kill(pid, signal.SIGSTOP)


def test_a_stream_that_had_begun_ends_with_an_error(daemon: Daemon) -> None:
    daemon.wait_ready(60)
    ends = Counter(asyncio.run(streams_cut(daemon)))
    print(f"streams: {dict(ends)}")
    # what was done when the engine died may still come whole; the others are told: nobody takes a part for the whole
    assert not [what for what in ends if what.startswith("cut")]
    assert any(what.startswith("error") for what in ends)
    daemon.wait(ALIAS, timeout=120, state="RUNNING")


def test_an_only_replica_that_is_killed_refuses_nobody(daemon: Daemon) -> None:
    """Who connects while there is none waits in the socket, and is answered by its successor."""
    before = daemon.program("gateway")["restarts"]
    for restarts in range(before + 1, before + 4):
        with knocking(daemon.ports[0]) as wrong:
            os.kill(daemon.program("gateway")["pid"], signal.SIGKILL)
            daemon.wait_for(lambda n=restarts: daemon.program("gateway")["restarts"] == n, "its end")
            daemon.wait("gateway", timeout=60, state="RUNNING")
        assert wrong == []


def test_an_only_replica_is_replaced_and_nobody_notices(daemon: Daemon) -> None:
    """A spare one serves meanwhile: without it those that the old one drained would have been all."""
    before = daemon.program("gateway")

    def restart() -> None:
        done = daemon.cli("restart", "gateway")
        assert (done.returncode, done.stdout) == (0, "gateway: restarted\n"), done

    seen = asyncio.run(under_load(daemon, restart))
    print(
        f"an only replica replaced: {dict(seen.answers)}, the longest {seen.longest:.1f} s (usually {seen.usual:.1f})"
    )
    assert set(seen.answers) == {"ok"}
    assert daemon.program("gateway")["incarnation"] != before["incarnation"]
    assert {one["name"] for one in daemon.status()["programs"]} == {ALIAS, KEEPER, "gateway"}


def pending(page: str) -> float:
    """How many requests an engine has in hand, by its /metrics."""
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting{")
    lines = [line for line in page.splitlines() if line.startswith(names)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
