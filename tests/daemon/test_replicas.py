"""Whoever asks for the restart of a replica, by the command, over HTTP or by a reload: the same comes about.

The parts of the daemon over worlds without a process, on virtual time; the control API is asked without a socket.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest

from llm_supervisor.config.plan import Planned
from llm_supervisor.control.server import Fleet, application
from llm_supervisor.core.event import Event
from llm_supervisor.core.request import RequestOutcome
from llm_supervisor.core.spec import Kind, ProgramSpec, RestartSpec
from llm_supervisor.core.state import Phase, State
from llm_supervisor.daemon.actions import Actions
from llm_supervisor.daemon.lifecycle import Lifecycle
from llm_supervisor.daemon.rolling import Rolling
from llm_supervisor.daemon.runners import Runners
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.snapshots import Snapshots
from llm_supervisor.supervision.troubles import Troubles
from tests.core.fake_world import ASKING, FakeWorld
from tests.core.makers import CHECKED, SOME
from tests.support.virtual_time import play

Words = Mapping[str, RequestOutcome]


class Worlds:
    """A fake world for each program, as one."""

    def __init__(self) -> None:
        self.of: dict[str, FakeWorld] = {}
        self.incarnations: dict[str, Any] = {}
        self.digests: dict[str, str] = {}

    def __getattr__(self, what: str) -> Callable[..., Any]:
        def call(about: str | ProgramSpec, *rest: Any, **more: Any) -> Any:
            name = about if isinstance(about, str) else about.name
            return getattr(self.of.setdefault(name, FakeWorld()), what)(about, *rest, **more)

        return call

    async def spawn(self, spec: ProgramSpec, *rest: Any, **more: Any) -> tuple[int, bool]:
        started = await self.of.setdefault(spec.name, FakeWorld()).spawn(spec, *rest, **more)
        self.digests[spec.name] = spec.digest
        return started

    def running(self) -> dict[str, str]:
        return dict(self.digests)

    def nothing(self, *about: Any) -> None:
        """Nobody stores anything here."""

    note_stop = let_go_of_listener = flush = forget = nothing


class Place:
    """An engine, a plain program and replicas of the gateway; ``seen`` are all changes of a phase."""

    def __init__(self, replicas: int) -> None:
        kinds = {"tunnel": Kind.COMMAND, "glm": Kind.VLLM}
        kinds |= dict.fromkeys(("gateway", "gateway-2", "gateway-3")[:replicas], Kind.LITELLM)
        again = RestartSpec(backoff=3600)
        specs = {
            name: replace(CHECKED, name=name, kind=kind, digest="1", restart=again) for name, kind in kinds.items()
        }
        self.configured = {name: Planned(spec, ASKING) for name, spec in specs.items()}
        self.spare = Planned(replace(specs["gateway"], name=f"gateway-{replicas + 1}", autostart=False), ASKING)
        self.worlds = Worlds()
        self.seen: list[tuple[str, str]] = []
        self.snapshots = Snapshots()
        self.lifecycle = Lifecycle(self.snapshots, Troubles())
        self.runners = Runners(
            cast(LocalWorld, self.worlds), self.lifecycle, self.snapshots,
            publish=self.publish, configured=lambda: self.configured,
        )  # fmt: skip
        self.replacing = asyncio.Lock()
        self.rolling = Rolling(self.runners, self.lifecycle, self.replacing, lambda: self.spare)
        self.actions = Actions(self.runners, self.rolling, self.lifecycle)

    def publish(self, name: str, before: State, state: State, event: Event) -> None:
        self.snapshots.publish()
        if before.phase is not state.phase and state.phase in (Phase.STOPPED, Phase.STARTING, Phase.RUNNING):
            self.seen.append((name, state.phase.value))

    def are(self, phase: Phase, *names: str) -> Callable[[], bool]:
        return lambda: all(name in self.runners and self.runners[name].state.phase is phase for name in names)

    # As the control server sees it (control.server.Fleet)

    @property
    def specs(self) -> Mapping[str, ProgramSpec]:
        return self.runners.specs

    @property
    def states(self) -> Mapping[str, State]:
        return self.runners.states

    def incarnation(self, name: str) -> str | None:
        return None

    def addressed(self, action: str, names: Sequence[str]) -> list[str]:
        return self.actions.addressed(action, names)

    async def act(self, action: str, names: Sequence[str], *, wait: bool) -> AsyncIterator[tuple[str, RequestOutcome]]:
        for name, answer in self.actions.begin(action, names, wait=wait).items():
            yield name, await answer

    async def post(self, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(application(cast(Fleet, self)))
        async with httpx.AsyncClient(transport=transport, base_url="http://daemon", timeout=None) as client:
            return await client.post(path)


async def by_command(place: Place, name: str) -> Words:
    """What ``llm-supervisor restart NAME`` asks for."""
    said = await place.post(f"/v1/programs/restart?name={name}&wait=1")
    *lines, last = [json.loads(line) for line in said.text.splitlines()]
    assert last == {"ok": all(line["ok"] for line in lines)}
    return {line["program"]: RequestOutcome(line["ok"], line["outcome"]) for line in lines}


async def by_http(place: Place, name: str) -> Words:
    said = (await place.post(f"/v1/programs/{name}/restart")).json()
    return {name: RequestOutcome(said["ok"], said["outcome"])}


async def by_reload(place: Place, name: str) -> Words:
    """With another configuration of the replicas."""
    names = place.actions.addressed("restart", [name])
    for one in names:
        planned = place.configured[one]
        place.configured[one] = replace(planned, spec=replace(planned.spec, digest="2"))
        place.runners.renew(one, place.configured[one])
    return await place.rolling.roll(names, changed=True)


Way = Callable[[Place, str], Awaitable[Words]]
WAYS = pytest.mark.parametrize("way", [by_command, by_http, by_reload])
REQUESTS = pytest.mark.parametrize("way", [by_command, by_http])


def acted(scene: Callable[[Place], Awaitable[Words]], replicas: int = 2) -> tuple[Place, Words]:
    """The place after the scene, which begins when everything runs, and what the scene was told."""

    async def whole() -> tuple[Place, Words]:
        place = Place(replicas)
        async with place.lifecycle.tasks:
            for name, planned in place.configured.items():
                place.runners.start(name, planned)
            await place.snapshots.until(place.are(Phase.RUNNING, *place.configured))
            place.seen.clear()
            words = await scene(place)
            for runner in place.runners.values():
                runner.finish()
        return place, words

    return play(whole())


def restarted(*names: str) -> list[tuple[str, str]]:
    return [(name, phase) for name in names for phase in ("starting", "running")]


@WAYS
def test_replicas_are_restarted_one_after_the_other(way: Way) -> None:
    place, words = acted(lambda place: way(place, "gateway"))
    assert place.seen == restarted("gateway", "gateway-2")
    assert set(words.values()) == {RequestOutcome(True, "restarted")}


@WAYS
def test_an_only_replica_is_restarted_behind_a_spare_one(way: Way) -> None:
    place, words = acted(lambda place: way(place, "gateway"), replicas=1)
    assert place.seen == [*restarted("gateway-2", "gateway"), ("gateway-2", "stopped")]
    assert words == {"gateway": RequestOutcome(True, "restarted")}
    assert set(place.runners) == set(place.configured), "and the spare one is gone"


@WAYS
def test_when_one_does_not_get_ready_the_rest_serves_on(way: Way) -> None:
    async def scene(place: Place) -> Words:
        place.worlds.of["gateway-2"].refusals.append(SOME)
        return await way(place, "gateway")

    place, words = acted(scene, replicas=3)
    assert place.seen == [*restarted("gateway"), ("gateway-2", "starting")]
    said = "; ".join(result.words for result in words.values())
    assert "left as it is, as gateway-2 did not get ready" in said
    assert not all(result.done for result in words.values())


@WAYS
def test_one_that_is_stopped_before_its_turn_stays_down(way: Way) -> None:
    async def scene(place: Place) -> Words:
        place.worlds.of["gateway"].spawn_takes = 10
        asked = asyncio.ensure_future(way(place, "gateway"))
        await place.snapshots.until(place.are(Phase.STARTING, "gateway"))
        stop = await place.post("/v1/programs/gateway-2/stop")
        assert stop.json()["ok"]
        return await asked

    place, words = acted(scene)
    assert place.seen == [("gateway", "starting"), ("gateway-2", "stopped"), ("gateway", "running")]
    assert "not restarted: was stopped meanwhile" in str(words)


@REQUESTS
def test_an_explicit_request_starts_a_replica_that_was_stopped(way: Way) -> None:
    async def scene(place: Place) -> Words:
        await place.post("/v1/programs/gateway-2/stop")
        place.seen.clear()
        return await way(place, "gateway")

    place, words = acted(scene)
    assert [one for one in place.seen if one[0] == "gateway-2"] == restarted("gateway-2")
    assert all(result.done for result in words.values())


def test_a_change_does_not() -> None:
    async def scene(place: Place) -> Words:
        await place.post("/v1/programs/gateway-2/stop")
        place.seen.clear()
        return await by_reload(place, "gateway")

    place, words = acted(scene)
    assert {name for name, _ in place.seen} == {"gateway", "gateway-3"}, "behind a spare one: it serves alone"
    assert words["gateway-2"] == RequestOutcome(False, "not restarted: was stopped meanwhile")


@REQUESTS
def test_engines_are_back_before_the_first_replica_leaves(way: Way) -> None:
    """Requests that wait for an engine wait in a replica."""

    async def scene(place: Place) -> Words:
        place.worlds.of["glm"].spawn_takes = 60
        return await way(place, "all")

    place, _ = acted(scene)
    assert place.seen[-4:] == restarted("gateway", "gateway-2")
    assert {name for name, _ in place.seen[:-4]} == {"tunnel", "glm"}


@pytest.mark.parametrize("path", ["/v1/programs/gateway/restart?wait=0", "/v1/programs/restart?name=gateway&wait=0"])
def test_who_does_not_wait_is_answered_at_once_and_the_same_comes_about(path: str) -> None:
    async def scene(place: Place) -> Words:
        said = await place.post(path)
        assert place.seen == []
        assert '"outcome":"asked"' in said.text.replace(" ", "")
        await place.snapshots.until(lambda: place.runners["gateway-2"].state.restarts == 1)
        await place.snapshots.until(place.are(Phase.RUNNING, "gateway", "gateway-2"))
        return {}

    place, _ = acted(scene)
    assert place.seen == restarted("gateway", "gateway-2")


@REQUESTS
def test_while_the_daemon_becomes_another_version_it_is_put_off(way: Way) -> None:
    async def scene(place: Place) -> Words:
        async with place.replacing:
            asked = asyncio.ensure_future(way(place, "gateway"))
            await asyncio.sleep(1)
            place.lifecycle.hand_over()
        return await asked

    place, words = acted(scene)
    assert place.seen == []
    assert set(words.values()) == {RequestOutcome(True, "asked")}
    assert sorted(place.rolling.put_off) == ["gateway", "gateway-2"]


@REQUESTS
def test_what_was_put_off_is_done_when_there_is_no_other_version(way: Way) -> None:
    async def scene(place: Place) -> Words:
        place.lifecycle.hand_over()
        await way(place, "gateway")
        place.lifecycle.go_on()
        place.rolling.resume()
        await place.snapshots.until(lambda: all(place.states[one].restarts for one in ("gateway", "gateway-2")))
        await place.snapshots.until(place.are(Phase.RUNNING, "gateway", "gateway-2"))
        return {}

    place, _ = acted(scene)
    assert sorted(place.seen) == sorted(restarted("gateway", "gateway-2"))
    assert place.rolling.put_off == []


@REQUESTS
def test_nothing_is_restarted_when_the_daemon_ends(way: Way) -> None:
    async def scene(place: Place) -> Words:
        place.lifecycle.end()
        return await way(place, "gateway")

    place, words = acted(scene)
    assert place.seen == []
    assert not any(result.done for result in words.values())


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v1/programs/restart", "which program? name it: /v1/programs/restart?name=NAME"),
        ("/v1/programs/gatewy/restart", "no such program: gatewy (did you mean gateway?)"),
        ("/v1/programs/restart?name=glm&name=gatewy", "no such program: gatewy (did you mean gateway?)"),
        ("/v1/programs/glm/explode", "no such action: explode; there are: start, stop, restart"),
        ("/v1/programs/explode?name=glm", "no such action: explode; there are: start, stop, restart"),
    ],
)
def test_where_one_name_is_wrong_nothing_is_done(path: str, error: str) -> None:
    async def scene(place: Place) -> Words:
        said = await place.post(path)
        assert (said.status_code // 100, said.json()) == (4, {"error": error})
        await asyncio.sleep(60)
        return {}

    place, _ = acted(scene)
    assert place.seen == []


def test_a_request_that_changes_nothing_is_answered() -> None:
    """No state changes, so nothing is published of it: who waits for it must be woken all the same."""

    async def scene(place: Place) -> Words:
        for _ in range(2):
            said = await place.post("/v1/programs/glm/start")
            assert said.json()["outcome"] == "started"
        for _ in range(2):
            said = await place.post("/v1/programs/glm/stop")
            assert said.json()["outcome"] == "stopped"
        return {}

    place, _ = acted(scene)
    assert place.seen == [("glm", "stopped")]
