"""Another configuration: checked first, then a plan, and nothing but what the plan says."""

from __future__ import annotations

import copy
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.host.net import ports as net_ports
from tests.daemon.conftest import Make, program
from tests.daemon.test_adoption import killed, knocking
from tests.support.fakes import VLLM, litellm_python, scenario
from tests.support.harness import Daemon
from tests.support.programs import free_port

pytestmark = pytest.mark.slow

KEY = "CLOUD_KEY"
Settings = dict[str, Any]
NAMES = ("gateway", "gateway-2", "one", "two", "tunnel")


class Place:
    """A daemon over two played engines, two replicas, a plain program, a native file and a file of keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        health = {"period": 0.3, "readiness_period": 0.3, "startup_period": 0.05, "canary": False}
        quick: Settings = {"health": health, "stop": {"grace": 5}, "restart": {"backoff": 0}, "warm": "off"}
        model = {"model": "nobody/nothing", "env": {"FAKE_VLLM": scenario(start=0)}, **quick}
        self.settings: Settings = {
            "gateway": {"port": free_port(), "replicas": 2, "litellm_config": "litellm.yaml", **quick},
            "env_file": "keys.env",
            "engines": {"vllm": {"python": str(VLLM)}, "litellm": {"python": str(litellm_python(folder))}},
            "models": {"one": {**model, "port": free_port()}, "two": {**model, "port": free_port()}},
            "programs": {"tunnel": program("obedient")},
        }
        self.settings = json.loads(json.dumps(self.settings))  # nothing in it is shared
        params = {"model": "anthropic/claude", "api_key": f"os.environ/{KEY}"}
        self.native: Settings = {"model_list": [{"model_name": "claude", "litellm_params": params}]}
        self.keys = {KEY: "first"}
        self.write_others()
        self.daemon = Daemon(folder, self.settings)

    def write_others(self) -> None:
        (self.folder / "litellm.yaml").write_text(yaml.safe_dump(self.native))
        keys = self.folder / "keys.env"
        keys.write_text("".join(f"{name}={value}\n" for name, value in self.keys.items()))
        keys.chmod(0o600)

    def write(self) -> None:
        """All three files."""
        self.write_others()
        self.daemon.write(self.settings)

    def reload(self, *options: str) -> dict[str, str]:
        """``reload`` must say that it worked; the plan's lines that do something."""
        done = self.daemon.cli("reload", "--json", *options)
        assert done.returncode == 0, done
        answer = json.loads(done.stdout)
        return {one["program"]: one["action"] for one in answer["changes"] if one["action"] != "nothing"}

    def incarnations(self) -> dict[str, str | None]:
        return {one["name"]: one["incarnation"] for one in self.daemon.status()["programs"]}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("reload"))
    with place.daemon as daemon:
        daemon.wait_ready()
        yield place


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    """As it was at first, afterwards too."""
    before = copy.deepcopy((shared.settings, shared.native, shared.keys))
    yield shared
    shared.settings, shared.native, shared.keys = before
    shared.write()
    assert shared.daemon.cli("reload").returncode == 0
    shared.daemon.wait_ready()
    assert tuple(shared.incarnations()) == ("tunnel", "one", "two", "gateway", "gateway-2")


def change(*path: str | int, to: Any) -> Callable[[Place], None]:
    """A change of the configuration at that place; None takes it out."""

    def made(place: Place) -> None:
        at: Any = place.settings
        for part in path[:-1]:
            at = at[part]
        if to is None:
            del at[path[-1]]
        else:
            at[path[-1]] = to

    return made


def cloud(place: Place) -> None:
    place.native["model_list"][0]["litellm_params"]["model"] = "anthropic/claude-2"


def another_cloud(place: Place) -> None:
    params = {"model": "gemini/gemini", "api_key": f"os.environ/{KEY}"}
    place.native["model_list"].append({"model_name": "gemini", "litellm_params": params})


def key(place: Place) -> None:
    place.keys[KEY] = "second"


def no_key(place: Place) -> None:
    place.keys[KEY] = ""


def engines_variable(place: Place) -> None:
    place.keys["VLLM_LOGGING_LEVEL"] = "DEBUG"


ROLLING = {"gateway": "rolling", "gateway-2": "rolling"}
# What is changed, and what the plan must say; whatever is not named there is not touched
CHANGES: dict[str, tuple[Callable[[Place], None], dict[str, str]]] = {
    "nothing": (lambda place: None, {}),
    "a cloud model": (cloud, ROLLING),
    "another cloud model": (another_cloud, ROLLING),
    "a key": (key, ROLLING),
    "a key less": (no_key, ROLLING),
    "a variable that vLLM reads": (engines_variable, {"one": "restart", "two": "restart", **ROLLING}),
    "an option of vLLM": (change("models", "one", "vllm", to={"max-model-len": 512}), {"one": "restart"}),
    "an engine's environment": (change("models", "two", "env", "NEW", to="1"), {"two": "restart"}),
    "a port": (change("models", "one", "port", to=free_port()), {"one": "restart", **ROLLING}),
    "a name": (change("models", "one", "served_model_name", to="uno"), {"one": "restart", **ROLLING}),
    "vision": (change("models", "one", "vision", to=True), {"one": "update", **ROLLING}),
    "limits of a group": (change("models", "one", "litellm", to={"timeout": 5}), {"one": "update", **ROLLING}),
    "patience": (change("models", "one", "health", "period", to=0.4), {"one": "update"}),
    "a grace": (change("programs", "tunnel", "stop", "grace", to=3), {"tunnel": "update"}),
    "a command": (change("programs", "tunnel", to=program("stubborn", stop={"grace": 0.2})), {"tunnel": "restart"}),
    "a program less": (change("programs", to={}), {"tunnel": "stop"}),
    "a program more": (change("programs", "more", to=program("obedient")), {"more": "start"}),
    "one that is not started": (change("programs", "more", to=program("obedient", autostart=False)), {}),
    "a model less": (change("models", "two", to=None), {"two": "stop", **ROLLING}),
    "a replica less": (change("gateway", "replicas", to=1), {"gateway-2": "stop", "gateway": "update"}),
    "a replica more": (change("gateway", "replicas", to=3), {"gateway-3": "start", "gateway": "update",
                                                             "gateway-2": "update"}),
    "the address": (change("gateway", "port", to=free_port()), ROLLING),
    "the logs' limits": (change("logs", to={"max_bytes": "1MB"}), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_each_kind_of_change(place: Place, name: str) -> None:
    make_it, expected = CHANGES[name]
    before = place.incarnations()
    make_it(place)
    place.write()
    assert place.reload("--dry-run") == expected
    assert place.incarnations() == before, "a plan is no deed"
    assert place.reload() == expected
    place.daemon.wait_ready()
    after = place.incarnations()
    replaced = {one for one in before.keys() & after.keys() if before[one] != after[one]}
    assert replaced == {one for one, action in expected.items() if action in ("restart", "rolling")}
    assert before.keys() - after.keys() == {one for one, action in expected.items() if action == "stop"}
    assert {one for one in after.keys() - before.keys() if after[one]} == {
        one for one, action in expected.items() if action == "start"
    }
    assert place.reload() == {}, "and once more, it is done"
    assert set(place.daemon.children().values()) == {f"{one}/{uuid}" for one, uuid in after.items() if uuid}


def test_what_is_wrong_changes_nothing(place: Place) -> None:
    before = place.incarnations()
    place.settings["models"]["one"]["vlm"] = {}
    place.settings["models"]["two"]["port"] = 0
    place.keys = {}
    place.write()
    for options in ((), ("--dry-run",)):
        done = place.daemon.cli("reload", *options)
        assert done.returncode == 2
        said = done.stderr.splitlines()
        assert len(said) == 4, "every problem at once, and what that means"
        assert "models.one.vlm: unknown key (did you mean vllm?)" in done.stderr
        assert f"{KEY} is not set: claude is disabled" in done.stderr
        assert said[-1] == "llm-supervisor: the configuration is wrong; nothing was changed"
    assert place.incarnations() == before


def test_what_litellm_does_not_start_with_changes_nothing(place: Place) -> None:
    before = place.incarnations()
    place.native["router_settings"] = {"routing_strategy": "no-such"}
    place.write()
    done = place.daemon.cli("reload", "--json")
    assert done.returncode != 0
    (problem,) = json.loads(done.stdout)["problems"]
    assert "litellm.yaml:" in problem and "LiteLLM does not start with this: Invalid: 'no-such'" in problem
    assert place.incarnations() == before


def test_a_key_that_goes_and_comes(place: Place) -> None:
    """Its group is disabled, and said to be, wherever somebody may look; nothing else is, and vLLM does not notice."""
    engines = {name: place.incarnations()[name] for name in ("one", "two")}
    place.keys = {}
    place.write()
    done = place.daemon.cli("reload")
    assert done.returncode == 0
    assert f"warning: {place.folder}/litellm.yaml:3: model_list[0].litellm_params.api_key: {KEY} is not" in done.stderr
    status = place.daemon.wait_ready()
    assert status["models"][2:] == [
        {
            "name": "claude",
            "local": False,
            "vision": None,
            "ready": False,
            "state": "disabled",
            "reason": f"{KEY} is not set",
        }
    ]
    assert [model["state"] for model in status["models"][:2]] == ["ready", "ready"]
    assert f"{KEY} is not set: claude is disabled (put {KEY}=... into keys.env)" in place.daemon.stderr()

    words = f"claude is disabled: {KEY} is not set"
    seen = place.daemon.cli("status")
    assert (seen.returncode, words in seen.stdout) == (0, True)
    assert "one, two, claude (disabled)" in seen.stdout
    env = place.daemon.cli("env", "openai", "--model", "claude")
    assert (env.returncode, env.stdout) == (2, "")
    assert words in env.stderr
    named = place.daemon.cli("verify", "claude", "--cloud")
    assert (named.returncode, words in named.stderr) == (1, True)
    every = place.daemon.cli("verify", "--cloud")
    assert f"\n{words}" in every.stdout
    assert json.loads(place.daemon.cli("verify", "--cloud", "--json").stdout)["left_out"] == ["claude"]

    place.keys = {KEY: "third"}
    place.write()
    assert place.reload() == ROLLING
    assert [model["state"] for model in place.daemon.wait_ready()["models"]] == ["ready"] * 3
    assert {name: place.incarnations()[name] for name in engines} == engines


def test_a_model_that_would_have_to_be_downloaded_is_named(place: Place) -> None:
    before = place.incarnations()
    cache = str(place.daemon.folder / "hf")
    place.settings["models"]["one"] |= {"model": "org/far-away", "env": {"HF_HOME": cache}}
    place.write()
    done = place.daemon.cli("reload", "--dry-run")
    assert done.returncode == 0
    assert f"org/far-away is not in the cache {cache}/hub, so its start downloads it" in done.stderr
    assert "llm-supervisor pull one" in done.stderr
    assert place.incarnations() == before


def test_a_taken_port_is_named_before_anything_is_touched(place: Place) -> None:
    before = place.incarnations()
    with net_listener.bind("127.0.0.1", 0) as other:
        place.settings["models"]["one"]["port"] = other.getsockname()[1]
        place.write()
        done = place.daemon.cli("reload")
    assert done.returncode == 2
    assert f"pid {os.getpid()}" in done.stderr
    assert place.incarnations() == before


def test_the_new_address_serves_and_the_old_one_refuses(place: Place) -> None:
    old = place.settings["gateway"]["port"]
    new = place.settings["gateway"]["port"] = free_port()
    place.write()
    place.reload()
    assert place.daemon.status()["endpoint"].endswith(f":{new}")
    assert net_ports.listening(new)
    assert not net_ports.listening(old)


def test_what_old_replicas_are_told_of_an_engine_that_has_moved(place: Place) -> None:
    """That it is not where they look for it, and that it is worth waiting; until there are none."""

    def told() -> dict[str, Any]:
        engines: dict[str, Any] = json.loads((place.daemon.runtime / "engines.json").read_text())["engines"]
        return engines

    old, new = (f"http://127.0.0.1:{port}/v1" for port in (place.settings["models"]["one"]["port"], free_port()))
    place.settings["models"]["one"]["port"] = int(new.rpartition(":")[2].removesuffix("/v1"))
    place.settings["gateway"]["env"] = {"FAKE_LITELLM": scenario(start=4)}
    place.write()
    before = place.incarnations()
    assert told()[old]["up"]
    assert place.daemon.cli("reload", "--no-wait").returncode == 0
    place.daemon.wait_for(lambda: told().get(new, {}).get("up"), "it is at the new address")
    said = told()[old]
    assert place.incarnations()["gateway-2"] == before["gateway-2"], "one that knows the old address only"
    assert (said["up"], said["final"]) == (False, False)
    assert "another address" in said["why"]
    place.daemon.wait_for(lambda: old not in told(), "no old replica is left")
    assert told()[new]["up"]
    assert before["gateway-2"] != place.incarnations()["gateway-2"]


def test_engines_restart_when_no_replica_has_to_leave_any_more(place: Place) -> None:
    """Requests that wait for them would be cut when its drain is over. One that is asked otherwise goes at once."""
    seen = len(place.daemon.events())
    engines_variable(place)
    place.settings["models"]["two"]["served_model_name"] = "dos"
    place.write()
    assert place.reload() == {"one": "restart", "two": "restart", **ROLLING}
    told = [(one.get("program"), one.get("state")) for one in place.daemon.events()[seen:]]
    back = [told.index((name, "RUNNING"), told.index((name, "STARTING"))) for name in ROLLING]
    assert told.index(("one", "STOPPING")) > max(back)
    assert told.index(("two", "STOPPING")) < min(back)


def test_a_stop_of_an_engine_before_its_turn_holds(place: Place) -> None:
    engines_variable(place)
    place.settings["gateway"]["env"] = {"FAKE_LITELLM": scenario(start=2)}
    place.write()
    with place.daemon.background("reload") as reload:
        place.daemon.wait("gateway", state="STARTING")
        assert place.daemon.ask("POST", "/v1/programs/one/stop")[1]["ok"]
        assert reload.wait(60) == 1
    assert place.daemon.program("one")["state"] == "STOPPED"
    assert place.daemon.program("two")["restarts"] > 0
    assert place.daemon.cli("start", "one").returncode == 0


@pytest.mark.parametrize("replicas", [2, 1])
def test_another_host_on_the_same_port(place: Place, replicas: int) -> None:
    """Another name of it, one that holds it as well, and back: while an old replica has the old one."""
    port = place.settings["gateway"]["port"]
    place.settings["gateway"]["replicas"] = replicas
    place.write()
    place.reload()
    names = [name for name in NAMES if name.startswith("gateway")][:replicas]
    with knocking(port) as wrong:
        for host in ("localhost", "0.0.0.0", "127.0.0.1", "::", "127.0.0.1"):
            place.settings["gateway"]["host"] = host
            place.write()
            assert place.reload() == dict.fromkeys(names, "rolling")
            place.daemon.wait_ready()
            assert len(net_ports.listening(port)) == 1, "the old one is closed"
    assert wrong == []
    assert place.daemon.cli("stop", "gateway").returncode == 0
    assert not net_ports.listening(port)
    assert place.daemon.cli("start", "gateway").returncode == 0


def test_a_replica_that_does_not_get_ready_stops_the_rolling(place: Place) -> None:
    """The other one serves on, with what it was started with."""
    before = place.incarnations()
    place.settings["gateway"]["env"] = {"FAKE_LITELLM": scenario(exit=3)}
    place.settings["gateway"]["restart"] = {"backoff": "1h"}
    place.write()
    done = place.daemon.cli("reload")
    assert done.returncode == 1
    assert "left as it is, as gateway did not get ready" in done.stderr
    after = place.incarnations()
    assert after["gateway-2"] == before["gateway-2"]
    assert place.daemon.program("gateway-2")["state"] == "RUNNING"


def test_one_that_is_too_many_serves_on_until_the_other_one_is_there(place: Place) -> None:
    """A replica less, and what the other one cannot start with."""
    before = place.incarnations()
    place.settings["gateway"] |= {"replicas": 1, "restart": {"backoff": "1h"}}
    place.settings["gateway"]["env"] = {"FAKE_LITELLM": scenario(exit=3)}
    place.write()
    with knocking(place.settings["gateway"]["port"]) as wrong:
        done = place.daemon.cli("reload")
    assert done.returncode == 1
    assert "left as it is, as gateway did not get ready" in done.stderr
    assert wrong == []
    assert place.daemon.program("gateway-2")["state"] == "RUNNING"
    assert place.incarnations()["gateway-2"] == before["gateway-2"]
    del place.settings["gateway"]["env"]
    place.write()
    assert place.reload() == {"gateway": "rolling"}
    place.daemon.wait_for(lambda: "gateway-2" not in place.incarnations(), "its end")


def test_sighup_does_the_same(place: Place) -> None:
    before = place.incarnations()
    place.settings["programs"]["tunnel"]["env"] = {"NEW": "1"}
    place.write()
    assert place.daemon.process is not None
    place.daemon.process.send_signal(signal.SIGHUP)
    place.daemon.wait_for(lambda: place.incarnations()["tunnel"] not in (before["tunnel"], None), "a new one")
    after = place.incarnations()
    assert {name for name in before if before[name] != after[name]} == {"tunnel"}
    place.daemon.config_file.write_text("nonsense: [")
    place.daemon.process.send_signal(signal.SIGHUP)
    place.daemon.wait_for(lambda: "not reloaded" in place.daemon.stderr(), "a word in its log")
    assert place.incarnations() == after


def test_what_was_given_up_and_what_was_stopped(make: Make) -> None:
    programs = {
        "wrong": program("exiter", "--status", 3, restart={"backoff": 0, "intensity": 2}),
        "stopped": program("obedient"),
        "waiting": program("exiter", "--status", 3, restart={"backoff": "1h"}),
    }
    daemon = make(programs)
    daemon.wait("wrong", state="FATAL")
    daemon.wait("waiting", state="BACKOFF")
    daemon.wait("stopped", state="RUNNING")
    assert daemon.cli("stop", "stopped").returncode == 0
    assert daemon.cli("reload").stdout.count("nothing") == 3, "an unchanged file is no reason to try again"
    for one in programs.values():
        one["env"] = {"NEW": "1"}
    programs["wrong"]["command"] = programs["waiting"]["command"] = programs["stopped"]["command"]
    daemon.write({"programs": programs})
    done = daemon.cli("reload", "--json")
    plan = {one["program"]: one["action"] for one in json.loads(done.stdout)["changes"]}
    assert plan == {"wrong": "start", "stopped": "update", "waiting": "restart"}
    assert done.returncode == 0
    assert {one["name"]: one["state"] for one in daemon.status()["programs"]} == {
        "wrong": "RUNNING",
        "stopped": "STOPPED",
        "waiting": "RUNNING",
    }


def test_what_is_put_back_while_it_leaves_comes_back(make: Make) -> None:
    """Unless it was a person who told it to leave, before or since. A person's signal ends what ignores SIGTERM."""
    stubborn = program("stubborn", stop={"grace": 3600})
    all_of_them = {"keep": program("obedient"), **dict.fromkeys(("back", "other", "before", "since"), stubborn)}
    all_of_them = json.loads(json.dumps(all_of_them))
    daemon = make(all_of_them)
    for name in all_of_them:
        daemon.wait(name, state="RUNNING")
    first = {name: daemon.program(name)["pid"] for name in all_of_them}
    assert daemon.cli("stop", "--no-wait", "before").returncode == 0
    daemon.write({"programs": {"keep": all_of_them["keep"]}})
    assert daemon.cli("reload", "--no-wait").returncode == 0
    for name in ("back", "other", "before", "since"):
        daemon.wait(name, state="STOPPING")
    assert daemon.cli("stop", "--no-wait", "since").returncode == 0
    all_of_them["other"]["env"] = {"NEW": "1"}
    for name in ("back", "other", "before", "since"):
        all_of_them[name]["stop"] = {"grace": 0.2}  # for the end of this test
    daemon.write({"programs": all_of_them})
    done = daemon.cli("reload", "--json", "--no-wait")
    plan = {one["program"]: one["action"] for one in json.loads(done.stdout)["changes"]}
    assert plan == {"keep": "nothing", "back": "start", "other": "start", "before": "update", "since": "update"}
    for name in ("back", "other", "before", "since"):
        os.kill(first[name], signal.SIGKILL)
    for name in ("back", "other"):
        assert daemon.wait(name, state="RUNNING")["pid"] != first[name]
    for name in ("before", "since"):
        daemon.wait(name, state="STOPPED")
    assert daemon.program("keep")["pid"] == first["keep"]
    assert daemon.cli("status").returncode == 0
    assert daemon.cli("reload").stdout.count("nothing") == len(all_of_them), "and it is settled"


def test_without_a_daemon(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, {"programs": {}})
    assert daemon.cli("reload").returncode == 4
    assert daemon.cli("upgrade").returncode == 4


# One replica alone ----------------------------------------------------------------------------------------------


def states(daemon: Daemon) -> list[tuple[str, str]]:
    """What became of the gateway's replicas, one word after the other."""
    words, last = [], {}
    for one in daemon.events():
        if one.get("event") == "state" and one["program"].startswith("gateway"):
            if last.get(one["program"]) != one["state"]:
                words.append((one["program"], one["state"]))
            last[one["program"]] = one["state"]
    return words


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    place.settings["gateway"]["replicas"] = 1
    place.settings["gateway"]["restart"]["backoff"] = "1h"
    place.write()
    with place.daemon as daemon:
        daemon.wait_ready()
        yield place


BEHIND_A_SPARE = [
    ("gateway-2", "STARTING"),
    ("gateway-2", "RUNNING"),
    ("gateway", "STOPPING"),
    ("gateway", "STARTING"),
    ("gateway", "RUNNING"),
    ("gateway-2", "STOPPING"),
    ("gateway-2", "STOPPED"),
]


@pytest.mark.parametrize("way", ["restart", "restart --no-wait", "POST", "reload"])
def test_an_only_replica_is_replaced_behind_a_spare_one(alone: Place, way: str) -> None:
    """The new one is ready before the old one drains, and nobody is refused."""
    before, seen = alone.incarnations(), len(states(alone.daemon))
    if way == "reload":
        cloud(alone)
        alone.write()
    with knocking(alone.settings["gateway"]["port"]) as wrong:
        if way == "POST":
            assert alone.daemon.ask("POST", "/v1/programs/gateway/restart")[1]["ok"]
        else:
            done = alone.daemon.cli(*(way.split() if way == "reload" else [*way.split(), "gateway"]))
            assert done.returncode == 0, done
        alone.daemon.wait_for(lambda: states(alone.daemon)[seen:][-1:] == BEHIND_A_SPARE[-1:], "the spare one's end")
    assert wrong == []
    assert states(alone.daemon)[seen:] == BEHIND_A_SPARE
    after = alone.incarnations()
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {"gateway"}
    assert set(alone.daemon.children().values()) == {f"{name}/{uuid}" for name, uuid in after.items()}


def test_a_reload_while_a_spare_one_serves(alone: Place) -> None:
    """They know of each other: of a file that is unchanged nothing comes, and one more replica is the spare one."""
    alone.settings["gateway"]["env"] = {"FAKE_LITELLM": scenario(start=1)}
    alone.write()
    assert alone.daemon.cli("reload", "--no-wait").returncode == 0
    alone.daemon.wait("gateway-2", state="STARTING")
    assert alone.reload() == {"gateway": "rolling"}, "its process is the old one still: it waits for the new one"
    assert alone.daemon.program("gateway")["restarts"] == 1, "and that is all"
    alone.write()
    assert alone.daemon.cli("restart", "gateway", "--no-wait").returncode == 0
    alone.daemon.wait("gateway-2", state="RUNNING")
    alone.settings["gateway"]["replicas"] = 2
    alone.write()
    alone.reload()
    alone.daemon.wait_for(lambda: alone.daemon.program("gateway")["restarts"] == 2, "the other change")
    alone.daemon.wait_ready()
    time.sleep(0.5)
    assert set(alone.incarnations()) == {"tunnel", "one", "two", "gateway", "gateway-2"}
    assert all(alone.daemon.program(name)["state"] == "RUNNING" for name in ("gateway", "gateway-2"))
    alone.settings["gateway"]["replicas"] = 1
    alone.settings["gateway"]["env"] = {"FAKE_LITELLM": scenario(start=0.5)}
    alone.write()
    with knocking(alone.settings["gateway"]["port"]) as wrong:
        assert alone.reload() == {"gateway": "rolling", "gateway-2": "stop"}
    assert wrong == []
    assert states(alone.daemon)[-4:] == [
        ("gateway", "STARTING"), ("gateway", "RUNNING"), ("gateway-2", "STOPPING"), ("gateway-2", "STOPPED"),
    ], "the other one served until it was ready"  # fmt: skip


def test_one_more_replica_while_a_spare_one_leaves(alone: Place) -> None:
    """It was no person who told it to."""
    alone.settings["gateway"] |= {"stop": {"grace": 3600}, "env": {"FAKE_LITELLM": scenario(ignore_term=True)}}
    alone.write()
    assert alone.daemon.cli("reload", "--no-wait").returncode == 0
    spare = alone.daemon.wait("gateway-2", state="STOPPING")["pid"]
    alone.settings["gateway"] |= {"replicas": 2, "stop": {"grace": 5}}
    alone.write()
    assert alone.daemon.cli("reload", "--no-wait").returncode == 0
    os.kill(spare, signal.SIGKILL)
    alone.daemon.wait_ready()
    assert alone.daemon.program("gateway-2")["state"] == "RUNNING"


@pytest.mark.parametrize("when", ["the spare one starts", "it starts"])
def test_a_stop_while_an_only_replica_is_replaced_holds(alone: Place, when: str) -> None:
    """For the spare one, too."""
    alone.settings["gateway"]["env"] = {"FAKE_LITELLM": scenario(start=2)}
    alone.write()
    alone.reload()
    with alone.daemon.background("restart", "gateway") as restart:
        alone.daemon.wait("gateway-2", state="STARTING")
        names = ["gateway"]  # and the spare one goes with it
        if when == "it starts":
            alone.daemon.wait("gateway", state="STARTING")
            names.append("gateway-2")  # as the command does
        for name in names:
            assert alone.daemon.ask("POST", f"/v1/programs/{name}/stop?wait=0")[0] == 200
        assert restart.wait(30) == 1
    alone.daemon.wait_for(lambda: "gateway-2" not in alone.incarnations(), "the spare one's end")
    assert alone.daemon.program("gateway")["state"] == "STOPPED"
    assert not net_ports.listening(alone.settings["gateway"]["port"])


@pytest.mark.parametrize("way", ["restart", "POST"])
def test_the_gateway_is_all_of_its_replicas(place: Place, way: str) -> None:
    """For the command and over the control socket: restarted one after the other, and nobody is refused."""
    seen = len(states(place.daemon))
    with knocking(place.settings["gateway"]["port"]) as wrong:
        if way == "POST":
            status, said = place.daemon.ask("POST", "/v1/programs/gateway/restart")
            assert (status, said["ok"], said["outcome"]) == (200, True, "restarted")
            assert said["program"]["name"] == "gateway"
        else:
            done = place.daemon.cli("restart", "gateway")
            assert (done.returncode, done.stdout) == (0, "gateway: restarted\ngateway-2: restarted\n")
    assert wrong == []
    assert states(place.daemon)[seen:] == [
        (name, state) for name in ("gateway", "gateway-2") for state in ("STOPPING", "STARTING", "RUNNING")
    ]


@pytest.mark.parametrize("how", ["--wait", "--no-wait"])
def test_a_stop_while_replicas_are_replaced_holds(place: Place, how: str) -> None:
    """The second one waits for its turn when it is said: it must not take it any more."""
    place.settings["gateway"]["env"] = {"FAKE_LITELLM": scenario(start=2)}
    place.write()
    place.reload()
    seen = len(states(place.daemon))
    with place.daemon.background("restart", "gateway", *([how] if how == "--no-wait" else [])) as restart:
        place.daemon.wait("gateway", state="STARTING")
        if how == "--no-wait":
            assert restart.wait(30) == 0
        for name in ("gateway", "gateway-2"):
            assert place.daemon.ask("POST", f"/v1/programs/{name}/stop")[1]["ok"]
        assert restart.wait(30) == (0 if how == "--no-wait" else 1)
    # another one waits for the same lock, behind whatever was asked before
    status, said = place.daemon.ask("POST", "/v1/programs/gateway-2/restart")
    assert (status, said["ok"]) == (200, True), "a person's later word holds as well"
    assert [one for one in states(place.daemon)[seen:] if one[0] == "gateway-2"] == [
        ("gateway-2", "STOPPING"),
        ("gateway-2", "STOPPED"),
        ("gateway-2", "STARTING"),
        ("gateway-2", "RUNNING"),
    ]
    assert place.daemon.program("gateway")["state"] == "STOPPED"
    assert place.daemon.cli("start", "gateway").returncode == 0


def test_a_replica_less_and_again_one_more(place: Place) -> None:
    """While the other one is replaced: who was to leave after it stays."""
    before = place.incarnations()
    place.settings["gateway"] |= {"replicas": 1, "env": {"FAKE_LITELLM": scenario(start=3)}}
    place.write()
    assert place.daemon.cli("reload", "--no-wait").returncode == 0
    place.daemon.wait("gateway", state="STARTING")
    assert place.incarnations()["gateway-2"] == before["gateway-2"]
    place.settings["gateway"]["replicas"] = 2
    place.write()
    place.reload()
    status = place.daemon.wait_ready()
    assert {one["name"] for one in status["programs"] if one["state"] == "RUNNING"} == set(NAMES)


def test_what_an_only_replica_cannot_start_with_does_not_replace_it(alone: Place) -> None:
    before = alone.incarnations()
    alone.settings["gateway"]["env"] = {"FAKE_LITELLM": scenario(exit=3)}
    alone.write()
    done = alone.daemon.cli("reload")
    assert done.returncode == 1
    assert "left as it is, as a new one did not get ready" in done.stderr
    assert alone.incarnations() == before
    assert alone.daemon.program("gateway")["state"] == "RUNNING"
    del alone.settings["gateway"]["env"]
    alone.write()
    assert alone.reload() == {"gateway": "update"}
    assert alone.incarnations() == before


def test_a_spare_one_that_was_left_is_ended_by_the_next_daemon(alone: Place) -> None:
    """Killed in the middle: the one that is configured is adopted, the other goes."""
    before = alone.incarnations()
    alone.settings["models"]["one"]["litellm"] = {"timeout": 5}
    alone.settings["gateway"]["env"] = {"FAKE_LITELLM": scenario(start=2)}
    alone.write()
    assert alone.daemon.cli("reload", "--no-wait").returncode == 0
    alone.daemon.wait("gateway-2", state="STARTING")
    time.sleep(0.2)
    killed(alone.daemon)
    assert "gateway-2" in str(alone.daemon.children())
    alone.daemon.start()
    alone.daemon.wait_ready()
    alone.daemon.wait_for(lambda: alone.incarnations()["gateway"] not in (None, before["gateway"]), "the change")
    alone.daemon.wait_for(lambda: alone.incarnations().keys() == before.keys(), "only what is configured", timeout=60)
