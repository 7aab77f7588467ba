"""The daemon over imitations of engines (``tests.support.fakes``): what each fault is called, and what follows.

One daemon and one gateway stand over all of these engines, each with its own fault; the tests share them and leave
those of others alone. Periods are short, so that what takes minutes by default takes seconds.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from llm_supervisor.config.specs import key_variable
from llm_supervisor.engines.canary import USER
from tests.support.fakes import VLLM, litellm_python, scenario, tell, told
from tests.support.harness import Daemon
from tests.support.programs import free_port

pytestmark = pytest.mark.slow

PERIOD, GRACE, CANARY = 0.4, 2.0, 1.0
# For what the machine does meanwhile; reaching it is a failure, never a way to wait
PATIENCE = 90.0
T = TypeVar("T")


def model(health: dict[str, Any] | None = None, env: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """A model's block. ``more`` is the fake's scenario, but for what the configuration knows."""
    known = {name: more.pop(name) for name in ("vision", "chat_template", "vllm") if name in more}
    if "chat_template" in known:
        known["chat"] = known.pop("chat_template")
    usual = {
        "period": PERIOD,
        "timeout": 2,
        "startup_period": 0.1,
        "stall_grace": GRACE,
        "canary_timeout": CANARY,
        "canary_interval": 60,
    }
    return {
        "model": "nobody/nothing",
        "port": free_port(),
        "health": usual | (health or {}),
        "env": {"FAKE_VLLM": scenario(**more), **(env or {})},
        **known,
    }


def models() -> dict[str, dict[str, Any]]:
    """All engines, by what is the matter with them."""
    often = {"canary_interval": 0.2}
    return {
        "fine": model(often, vision=True),
        "held": model({"canary_timeout": 0.5}, chat="hang"),
        "blind": model(vision=True, image=500),
        "empty": model(chat="empty"),
        "untaught": model(chat="no template"),
        "misnamed": model(served=["another"]),
        "wordy": model({"expect": "elephant"}),
        "locked": model(env={"VLLM_API_KEY": "the engine's own"}),
        "numbers": model(vllm={"runner": "pooling"}),
        "plain": model(chat_template=False),
        "unasked": model({"canary": False}),
        "goes-blind": model(often, vision=True),
        "freezes": model(),
        "freezes-at-work": model(token=0.01),
        "bereft": model(core_outlives_worker=60),
        "crowded": model({**often, "timeout": 0.2}, token=0.01),
    }


class Zoo:
    """The daemon, and where its engines are."""

    def __init__(self, daemon: Daemon, config: dict[str, Any]) -> None:
        self.daemon = daemon
        self.ports = {name: block["port"] for name, block in config["models"].items()}
        self.gateway = config["gateway"]["port"]

    def __str__(self) -> str:
        programs = self.daemon.status()["programs"]
        return "\n".join(f"{one['name']} {one['state']} {one['health']} {one['reason']}" for one in programs)

    def until(self, look: Callable[[], T | None], what: str) -> T:
        """What ``look`` returns as soon as it is true."""
        ends = time.monotonic() + PATIENCE
        while not (seen := look()):
            assert time.monotonic() < ends, f"not within {PATIENCE:g} s: {what}\n{self}"
            time.sleep(0.05)
        return seen

    def shows(self, name: str, **wanted: Any) -> dict[str, Any]:
        """A program's status as soon as it shows these values."""

        def look() -> dict[str, Any] | None:
            seen = self.daemon.program(name)
            return seen if all(seen.get(key) == value for key, value in wanted.items()) else None

        return self.until(look, f"{name} {wanted}")

    def answers(self, name: str) -> bool:
        """Whether its liveness probe was answered."""
        return (self.daemon.program(name)["probes"].get("liveness") or {}).get("answer") == "ok"

    def group(self, name: str) -> dict[str, Any]:
        """How the gateway's clients see it."""
        return next(one for one in self.daemon.status()["models"] if one["name"] == name)

    def canaries(self, name: str) -> list[dict[str, Any]]:
        """The canaries that an engine got so far."""
        return [one for one in told(self.ports[name]) if one["body"].get("user") == USER]

    def through_gateway(self, name: str) -> int:
        """How many canaries for a group the gateway got so far."""
        return sum(1 for one in told(self.gateway) if one["body"]["model"] == name)

    def proved(self, name: str, times: int) -> None:
        """Wait until the present gateway got that many canaries for a group, and the last was answered."""

        def look() -> bool:
            route = self.daemon.program("gateway")["probes"].get(f"route {name}")
            return self.through_gateway(name) >= times and route is not None and route["answer"] == "ok"

        self.until(look, f"canary {times} through the gateway to {name}")

    def verdicts(self, name: str) -> list[dict[str, Any]]:
        """Its changes of state, from the log."""
        return [one for one in self.daemon.events() if one.get("event") == "state" and one["program"] == name]

    def worker(self, name: str) -> int:
        """The pid of an engine's Worker."""
        return next(pid for pid, comm in self.daemon.tree(name).items() if comm == "VLLM::Worker")

    @contextmanager
    def work(self, name: str, parallel: int) -> Iterator[None]:
        """So many requests that take until the end."""
        body = json.dumps({"model": name, "max_tokens": 100_000, "messages": [{"role": "user", "content": "go on"}]})

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.ports[name], timeout=PATIENCE)
            try:
                connection.request("POST", "/v1/chat/completions", body)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                pass  # its engine was replaced

        with ThreadPoolExecutor(parallel) as pool:
            for _ in range(parallel):
                pool.submit(ask)
            try:
                yield
            finally:
                tell(self.ports[name], finish=True)
        tell(self.ports[name], finish=False)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    folder = tmp_path_factory.mktemp("zoo")
    config = {
        "gateway": {
            "port": free_port(),
            "env": {key_variable("locked"): "another"},
            "health": {"period": PERIOD, "startup_period": 0.1},
        },
        "engines": {"vllm": {"python": str(VLLM)}, "litellm": {"python": str(litellm_python(folder))}},
        "models": models(),
    }
    with Daemon(folder, config) as daemon:
        zoo = Zoo(daemon, config)
        zoo.shows("gateway", state="RUNNING")
        yield zoo


def test_nothing_is_ready_before_its_canary_was_answered(zoo: Zoo) -> None:
    zoo.until(lambda: zoo.answers("held"), "it listens")
    zoo.until(lambda: len(zoo.canaries("held")) > 1, "a second canary after an unanswered one")
    seen = zoo.shows("held", state="STARTING")
    assert seen["probes"]["liveness"]["answer"] == seen["probes"]["catalogue"]["answer"] == "ok"
    assert not zoo.group("held")["ready"]
    tell(zoo.ports["held"], chat=200)
    zoo.shows("held", state="RUNNING", health="ready", restarts=0)
    zoo.proved("held", 1)
    assert zoo.group("held")["ready"]


@pytest.mark.parametrize(("name", "why"), [("blind", "Failed to apply Glm4vProcessor"), ("empty", "an empty answer")])
def test_an_engine_whose_first_canaries_fail_is_not_ready_and_says_why(zoo: Zoo, name: str, why: str) -> None:
    seen = zoo.until(
        lambda: (now := zoo.daemon.program(name)).get("probes", {}).get("canary") and now, "the canary's answer"
    )
    assert (seen["state"], seen["health"]) == ("STARTING", "starting")
    assert (seen["probes"]["canary"]["answer"], seen["probes"]["liveness"]["answer"]) == ("invalid", "ok")
    assert why in seen["probes"]["canary"]["detail"]
    assert not zoo.group(name)["ready"]


def test_the_reason_of_a_start_that_is_not_ready_is_its_verdicts(zoo: Zoo) -> None:
    zoo.until(lambda: zoo.daemon.program("blind").get("probes", {}).get("canary"), "the canary's answer")
    assert "Failed to apply Glm4vProcessor" in zoo.daemon.program("blind")["reason"]


def test_an_engine_that_goes_blind_is_found_and_replaced(zoo: Zoo) -> None:
    """It answers text, and images no more."""
    before = zoo.shows("goes-blind", state="RUNNING", health="ready")
    tell(zoo.ports["goes-blind"], image=500)
    after = zoo.shows("goes-blind", state="RUNNING", health="ready", restarts=1)
    assert after["incarnation"] != before["incarnation"]
    leaving = next(one for one in zoo.verdicts("goes-blind") if one["state"] == "STOPPING")
    assert "Failed to apply Glm4vProcessor" in leaving["reason"]
    assert "3 times in a row" in leaving["reason"]


WRONG = [
    ("untaught", "As of transformers v4.44, default chat template is no longer allowed"),
    ("misnamed", "/v1/models lists another, not misnamed"),
    ("wordy", "does not match 'elephant'"),
]


@pytest.mark.parametrize(("name", "why"), WRONG)
def test_what_a_restart_does_not_mend_is_named_and_left_alone(zoo: Zoo, name: str, why: str) -> None:
    seen = zoo.shows(name, state="RUNNING", health="degraded")
    assert why in seen["reason"]
    group = zoo.group(name)
    assert not group["ready"]
    assert why in group["reason"]


def test_a_wrong_key_at_the_gateway_is_named(zoo: Zoo) -> None:
    zoo.shows("locked", state="RUNNING", health="ready")
    seen = zoo.until(
        lambda: (now := zoo.daemon.program("gateway"))["probes"].get("route locked") and now, "the route's canary"
    )
    assert (seen["state"], seen["health"], seen["restarts"]) == ("RUNNING", "degraded", 0)
    assert re.search(r"route locked: .*\(401: .*Unauthorized", seen["reason"])
    group = zoo.group("locked")
    assert not group["ready"]
    assert "401" in group["reason"]
    assert zoo.daemon.program("locked")["health"] == "ready", "the engine itself took its key from its own canary"


def test_a_route_that_works_is_ready_beside_one_that_does_not(zoo: Zoo) -> None:
    zoo.proved("fine", 1)
    assert zoo.group("fine")["ready"]


def test_the_canary_is_a_picture_with_a_name_and_never_the_same_twice(zoo: Zoo) -> None:
    canaries = zoo.until(lambda: (got := zoo.canaries("fine"))[4:] and got, "some canaries")
    texts = []
    for one in canaries:
        assert one["path"] == "/v1/chat/completions"
        (message,) = one["body"]["messages"]
        text, image = message["content"]
        assert image["image_url"]["url"].startswith("data:image/png;base64,")
        assert one["body"]["max_tokens"] <= 8
        texts.append(text["text"])
    assert len({text.split()[0] for text in texts}) == len(texts), "its first word defeats prefix caching"
    own = [one["headers"].get("X-Request-Id") for one in canaries]
    assert {USER in name for name in own if name is not None} == {True}
    assert sum(name is not None for name in own) >= len(own) - 1, "all but the one through the gateway"


def test_each_sort_of_model_gets_its_sort_of_canary(zoo: Zoo) -> None:
    for name, path in (
        ("numbers", "/v1/embeddings"),
        ("plain", "/v1/completions"),
        ("freezes-at-work", "/v1/chat/completions"),
    ):
        zoo.shows(name, state="RUNNING", health="ready")
        zoo.proved(name, 1)
        canaries = zoo.canaries(name)
        assert {one["path"] for one in canaries} == {path}
        assert len(canaries) == 2, "its own, and one through the gateway"
        assert "image" not in json.dumps([one["body"] for one in canaries]), "only a vision model is shown a picture"


def test_one_canary_through_the_gateway_after_either_side_changed(zoo: Zoo) -> None:
    """The last test of this module counts them all."""
    zoo.proved("plain", 1)
    zoo.proved("numbers", 1)
    assert zoo.daemon.cli("restart", "plain").returncode == 0
    zoo.proved("plain", 2)
    assert zoo.through_gateway("numbers") == 1

    old = zoo.shows("gateway", state="RUNNING")
    os.kill(old["pid"], signal.SIGKILL)
    zoo.shows("gateway", state="RUNNING", restarts=old["restarts"] + 1)
    zoo.proved("plain", 1)
    zoo.proved("numbers", 1)
    assert zoo.daemon.program("plain")["restarts"] == 1, "the gateway's death is none of its business"


def found(zoo: Zoo, name: str, began: float) -> float:
    """Seconds until a hung engine was given up; it is ready again then."""
    leaving = zoo.until(lambda: zoo.daemon.program(name)["state"] != "RUNNING" or None, f"{name} is given up")
    assert leaving
    took = time.monotonic() - began
    zoo.shows(name, state="RUNNING", health="ready", restarts=1)
    return took


def test_a_stopped_worker_is_doubted_at_once_found_swept_and_replaced(zoo: Zoo) -> None:
    old = zoo.shows("freezes", state="RUNNING", health="ready")
    tree = zoo.daemon.tree("freezes")
    assert sorted(tree.values()) == ["VLLM::EngineCor", "VLLM::Worker", "python3"]
    began = time.monotonic()
    os.kill(zoo.worker("freezes"), signal.SIGSTOP)
    doubted = zoo.shows("freezes", health="unhealthy")
    assert re.fullmatch(r"VLLM::Worker \(pid \d+\) is stopped", doubted["reason"])
    assert doubted["state"] == "RUNNING"
    assert found(zoo, "freezes", began) <= GRACE + CANARY + PERIOD + 3.0
    assert not zoo.daemon.tree("freezes", old["incarnation"]), "a stopped process is swept as well"
    reasons = [one["reason"] for one in zoo.verdicts("freezes") if one["state"] == "STOPPING"]
    assert re.match(r"no progress for 2 s while", reasons[0])


def test_a_worker_stopped_at_work_is_found_and_replaced(zoo: Zoo) -> None:
    zoo.shows("freezes-at-work", state="RUNNING", health="ready")
    with zoo.work("freezes-at-work", 2):
        zoo.shows("freezes-at-work", health="busy")
        began = time.monotonic()
        os.kill(zoo.worker("freezes-at-work"), signal.SIGSTOP)
        assert found(zoo, "freezes-at-work", began) <= GRACE + CANARY + PERIOD + 3.0


def test_a_dead_worker_is_noticed_at_once(zoo: Zoo) -> None:
    """Its EngineCore and its API server live on, and say 200."""
    zoo.shows("bereft", state="RUNNING", health="ready")
    began = time.monotonic()
    os.kill(zoo.worker("bereft"), signal.SIGKILL)
    zoo.until(lambda: zoo.daemon.program("bereft")["state"] != "RUNNING" or None, "the loss")
    assert time.monotonic() - began < GRACE, "by the kernel's word: nobody has waited for its progress"
    zoo.shows("bereft", state="RUNNING", health="ready", restarts=1)
    assert any("its process VLLM::Worker" in one["reason"] for one in zoo.verdicts("bereft"))


def test_a_busy_engine_is_called_busy_and_left_alone_whatever_a_probe_says(zoo: Zoo) -> None:
    zoo.shows("crowded", state="RUNNING", health="ready")
    zoo.until(lambda: len(zoo.canaries("crowded")) > 3, "canaries while it is idle")
    with zoo.work("crowded", 5):
        zoo.until(lambda: "5 running" in zoo.daemon.program("crowded")["reason"] or None, "five requests")
        sent = len(zoo.canaries("crowded"))
        tell(zoo.ports["crowded"], health="hang", models="hang")

        silences = set()

        def silent() -> bool:
            seen = zoo.daemon.program("crowded")
            assert (seen["state"], seen["health"]) == ("RUNNING", "busy")
            assert re.fullmatch(r"[1-5] running, 0 waiting", seen["reason"])
            if seen["probes"]["liveness"]["answer"] == "silent":
                silences.add(seen["probes"]["liveness"]["took_s"])
            return len(silences) >= 5

        zoo.until(silent, "five silences")
        assert len(zoo.canaries("crowded")) == sent, "no canary while it works"
        tell(zoo.ports["crowded"], health=200, models=200)
    zoo.until(lambda: len(zoo.canaries("crowded")) > sent, "canaries when it is idle again")
    zoo.shows("crowded", state="RUNNING", health="ready", restarts=0)


def test_without_a_canary_nothing_is_sent(zoo: Zoo) -> None:
    """It is ready by its list, and nobody proves its route."""
    zoo.shows("unasked", state="RUNNING", health="ready", restarts=0)
    assert told(zoo.ports["unasked"]) == []
    assert zoo.through_gateway("unasked") == 0
    assert zoo.group("unasked")["ready"]
    assert "canary" not in zoo.daemon.program("unasked")["probes"]


def test_in_the_end_only_who_was_to_be_replaced_has_been(zoo: Zoo) -> None:
    """Last in this module."""
    restarts = {one["name"]: one["restarts"] for one in zoo.daemon.status()["programs"]}
    replaced = {"plain", "gateway", "goes-blind", "freezes", "freezes-at-work", "bereft"}
    assert {name for name, count in restarts.items() if count} == replaced
    # the present gateway has seen these engines come and go; a route that is wrong is tried again now and then
    changes = {"plain": 1, "numbers": 1, "held": 1, "fine": 1, "crowded": 1, "goes-blind": 1, "unasked": 0}
    changes |= {"freezes": 2, "freezes-at-work": 2, "bereft": 2}
    for name, times in changes.items():
        if times:
            zoo.proved(name, times)
    assert {name: zoo.through_gateway(name) for name in changes} == changes
