"""The verdict on the real engines: a hang is found, a busy engine is left alone, a wrong set-up is named."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llm_supervisor.config.specs import key_variable
from tests.engines.conftest import ALIAS, Engines, Shared, chat
from tests.support import load
from tests.support.harness import Daemon

PERIOD, GRACE, CANARY = 1.0, 6.0, 5.0
# Far below the latency of a saturated engine
TIMEOUT = 0.1
SERVED = "GLM-4.1V-9B-Thinking"
HEALTH = {
    "period": PERIOD,
    "timeout": TIMEOUT,
    "startup_timeout": 10,
    "failure_threshold": 3,
    "stall_grace": GRACE,
    "canary_timeout": CANARY,
}


@pytest.fixture(scope="module")
def nervous(shared: Shared) -> Iterator[Shared]:
    """A daemon whose probes are as impatient as those that kill saturated engines elsewhere."""
    settings = shared.config()
    settings["models"][ALIAS]["health"] = HEALTH
    del settings["models"][ALIAS]["stop"]  # an engine that hangs is ended as it is by default
    settings["gateway"]["health"] = {"timeout": 10}
    with shared.using_config(settings):
        yield shared


def worker(daemon: Daemon) -> int:
    return next(pid for pid, name in daemon.tree(ALIAS).items() if name == "VLLM::Worker")


def engine(daemon: Daemon) -> str:
    """The engine itself, beside the gateway."""
    return f"http://127.0.0.1:{daemon.ports[1]}"


def endless(prompt: str, tokens: int = 1900) -> dict[str, object]:
    """A request that generates as many tokens as it may."""
    message = {"role": "user", "content": prompt}
    return {"model": SERVED, "max_tokens": tokens, "ignore_eos": True, "messages": [message]}


def verdicts(daemon: Daemon) -> list[dict[str, object]]:
    lines = (json.loads(line) for line in daemon.stderr().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == "state" and line["program"] == ALIAS]


def found_within(daemon: Daemon, began: float, limit: float) -> float:
    """Seconds until the daemon gave the incarnation up."""
    before = daemon.program(ALIAS)["restarts"]
    while daemon.program(ALIAS)["restarts"] == before:
        assert time.monotonic() - began < limit + 5, daemon.status()
        time.sleep(0.05)
    return time.monotonic() - began


# Reading status by a command takes a moment, and other tests run beside this one; it is no part of what is promised
SLACK = 10.0


# First those with a configuration of their own: the shared daemon has one at a time


def test_a_missing_chat_template_is_named(engines: Engines, shared: Shared, tmp_path: Path) -> None:
    model = tmp_path / "no-template"
    shutil.copytree(engines.model, model, ignore=shutil.ignore_patterns("chat_template.jinja"))
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    tokenizer.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    settings = shared.config()
    settings["models"][ALIAS]["vision"] = False
    with shared.using_config(settings, model, ready=False):
        seen = shared.wait(ALIAS, timeout=180, state="RUNNING")
        assert seen["health"] == "degraded"
        assert "chat template" in seen["reason"].lower()
        assert seen["restarts"] == 0
        done = shared.cli("status")
        assert done.returncode == 3
        assert "chat template" in done.stdout.lower()


def test_a_wrong_key_at_the_gateway_is_named(shared: Shared) -> None:
    settings = shared.config()
    settings["models"][ALIAS]["env"] |= {"VLLM_API_KEY": "the-engine's-own-key"}
    settings["gateway"]["env"] = {key_variable(ALIAS): "another-key"}
    with shared.using_config(settings, ready=False):
        seen = shared.wait("gateway", timeout=180, state="RUNNING", health="degraded")
        assert ALIAS in seen["reason"] and "401" in seen["reason"]
        assert shared.program(ALIAS)["health"] == "ready", "the engine itself took its key from the canary"
        model = next(one for one in shared.status()["models"] if one["name"] == ALIAS)
        assert not model["ready"] and "401" in model["reason"]
        assert shared.program("gateway")["failure"] is None


def test_a_worker_stopped_while_idle_is_found_and_replaced(nervous: Daemon) -> None:
    old = nervous.program(ALIAS)
    began = time.monotonic()
    os.kill(worker(nervous), signal.SIGSTOP)
    seen = nervous.wait(ALIAS, timeout=PERIOD + SLACK, health="unhealthy")
    assert "VLLM::Worker" in seen["reason"] and "stopped" in seen["reason"], "a stopped process is doubt at once"
    took = found_within(nervous, began, GRACE + CANARY + PERIOD)
    assert took <= GRACE + CANARY + PERIOD + SLACK
    nervous.wait_ready(timeout=120)
    assert not nervous.tree(ALIAS, old["incarnation"])
    assert chat(nervous)["usage"]["completion_tokens"] > 0
    why = [line["reason"] for line in verdicts(nervous) if line["state"] == "STOPPING"]
    assert "no progress for" in str(why[-1]), why
    explained = nervous.cli("explain", ALIAS).stdout
    stacks = Path(explained.partition("Where its processes stood: ")[2].splitlines()[0]).read_text()
    assert "worker_busy_loop" in stacks, "the incident shows in which function the stopped worker stands"


def test_a_worker_stopped_with_requests_in_flight_is_found_and_replaced(nervous: Daemon) -> None:
    generating, ended = threading.Event(), threading.Event()

    def ask() -> None:
        """A stream, so that it is certain that the engine works on it; again, should it end: a tiny model is quick."""
        body = endless("go on") | {"stream": True}
        try:
            with httpx.Client(trust_env=False, timeout=120) as http:
                while True:
                    with http.stream("POST", f"{engine(nervous)}/v1/chat/completions", json=body) as answer:
                        for _ in answer.iter_lines():
                            generating.set()
        except httpx.HTTPError:
            ended.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert generating.wait(60)
    began = time.monotonic()
    os.kill(worker(nervous), signal.SIGSTOP)
    took = found_within(nervous, began, GRACE + CANARY + PERIOD)
    assert took <= GRACE + CANARY + PERIOD + SLACK
    assert ended.wait(30), "the request ends with an error; it does not hang with the engine"
    nervous.wait_ready(timeout=120)


def check_saturation(daemon: Daemon, seconds: float, longest: float) -> None:
    """Load the engine for so long: it is busy, says so, and is left alone."""
    before, began = daemon.wait_ready(timeout=60)["programs"], len(verdicts(daemon))

    def said(what: str) -> set[str]:
        """Every health word, or reason, that the daemon said meanwhile."""
        return {str(line[what]) for line in verdicts(daemon)[began:]}

    def told(it: load.Load) -> bool:
        running = any("running" in reason for reason in said("reason"))
        return it.slowest > 20 * TIMEOUT and "busy" in said("health") and running

    body = endless("describe the image " * 150, tokens=400)
    url = engine(daemon)
    result = asyncio.run(load.run(url, body, clients=96, seconds=seconds, longest=longest, enough=told))
    after = daemon.status()["programs"]
    assert result.slowest > 20 * TIMEOUT, "it was saturated: answers took far longer than the probes' patience"
    assert [one["incarnation"] for one in after] == [one["incarnation"] for one in before], said("reason")
    assert told(result), "and it says how much it has to do"
    assert set(result.answers) == {200}, (result.answers, result.errors)
    words = sorted(said("health"))
    print(f"{result.answers[200]} answers in {seconds:g} s, the slowest after {result.slowest:.1f} s; {words}")
    assert daemon.wait_ready(timeout=30)


def test_a_saturated_engine_is_busy_and_never_restarted(nervous: Daemon) -> None:
    """For twice as long as it takes to find a hang, and until all of it was seen."""
    check_saturation(nervous, 2 * (GRACE + CANARY + PERIOD), 90)


@pytest.mark.soak
def test_ten_minutes_of_saturation(nervous: Daemon) -> None:
    check_saturation(nervous, 600, 600)
