"""A daemon that is killed costs nothing: the next one goes on with what lives. Plain programs and played engines."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.host.net import ports as net_ports
from llm_supervisor.host.process import boot_id
from llm_supervisor.supervision.state_file import STATE_VERSION
from tests.daemon.conftest import Make, program
from tests.daemon.test_trees import as_the_first_version_wrote_it
from tests.support.fakes import VLLM, litellm_python, scenario
from tests.support.harness import Daemon, answer_to
from tests.support.programs import alive, free_port, gone, meanwhile, open_gate, until

pytestmark = pytest.mark.slow

PIDS = ("pid", "incarnation")


def killed(daemon: Daemon) -> None:
    """SIGKILL to the daemon, and to nothing else."""
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return all(before[key] == after[key] for key in PIDS)


def test_it_goes_on_where_the_former_one_was_killed(make: Make) -> None:
    programs = {
        "calm": program("obedient"),
        "tree": program("daemoniser", "--stay"),
        "restarted": program("obedient"),
        "stopped": program("obedient"),
        "wrong": program("exiter", "--status", 3, restart={"backoff": 0, "intensity": 2}),
        "waiting": program("exiter", "--status", 3, restart={"backoff": "1h"}),
    }
    daemon = make(programs)
    for name in ("calm", "tree", "restarted", "stopped"):
        daemon.wait(name, state="RUNNING")
    daemon.wait("wrong", state="FATAL")
    daemon.wait("waiting", state="BACKOFF")
    assert daemon.cli("restart", "restarted").returncode == 0
    assert daemon.cli("stop", "stopped").returncode == 0
    before = {name: daemon.program(name) for name in programs}
    children = set(daemon.children())
    daemon.wait_written()

    killed(daemon)
    seen = daemon.call("status")
    assert seen.returncode == 4
    assert f"calm (pid {before['calm']['pid']})" in seen.stderr
    assert "stop --orphans" in seen.stderr
    daemon.start()
    daemon.wait("calm", state="RUNNING", health="ready")
    after = {name: daemon.program(name) for name in programs}
    assert set(daemon.children()) == children, "nobody was ended, nobody was started"
    for name in programs:
        assert same(before[name], after[name])
        assert after[name]["state"] == before[name]["state"]
        assert after[name]["restarts"] == before[name]["restarts"]
        assert after[name]["failure"] == before[name]["failure"]
    assert after["calm"]["uptime_s"] > before["calm"]["uptime_s"]
    assert before["waiting"]["retry_in_s"] - 60 < after["waiting"]["retry_in_s"] < before["waiting"]["retry_in_s"]

    os.kill(after["calm"]["pid"], signal.SIGKILL)
    again = daemon.wait("calm", restarts=1, state="RUNNING")
    assert again["exit"] == {"code": None, "signal": None}, "it is not our child, so nobody can say how it ended"
    assert daemon.cli("stop", "tree").returncode == 0
    assert len(daemon.children()) == 2, "and its stray, which went to init, was found"


def test_after_an_orderly_end_everything_begins_anew(make: Make) -> None:
    """What was stopped or given up under a daemon that had adopted it, too."""
    programs = {
        "calm": program("obedient"),
        "stopped": program("obedient"),
        "wrong": program("exiter", "--status", 3, restart={"backoff": 0, "intensity": 2}),
    }
    daemon = make(programs)
    daemon.wait("calm", state="RUNNING")
    daemon.wait("wrong", state="FATAL")
    assert daemon.cli("stop", "stopped").returncode == 0
    killed(daemon)
    daemon.start()
    daemon.wait("stopped", state="STOPPED")
    assert daemon.cli("shutdown").returncode == 0
    daemon.wait_ended()
    assert not (daemon.runtime / "state.json").exists()
    assert not (daemon.runtime / "last-good.json").exists()
    daemon.start()
    for name in ("calm", "stopped"):
        daemon.wait(name, state="RUNNING")


def test_killed_while_it_ends_nothing_is_forgotten(make: Make) -> None:
    """That all are told to stop then is nobody's word about one of them."""
    daemon = make({"quick": program("obedient"), "slow": program("stubborn", stop={"grace": 3600})})
    for name in ("quick", "slow"):
        daemon.wait(name, state="RUNNING")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait("quick", state="STOPPED")
    time.sleep(0.1)  # what changed is written down within 20 ms; but not that all are told to stop
    killed(daemon)
    daemon.start()
    for name in ("quick", "slow"):
        daemon.wait(name, state="RUNNING")
    assert daemon.cli("stop", "--no-wait", "slow").returncode == 0
    os.kill(daemon.program("slow")["pid"], signal.SIGKILL)


def test_only_what_changed_meanwhile_is_touched(make: Make) -> None:
    programs = {name: program("obedient") for name in ("same", "watched", "other", "former", "stopped")}
    daemon = make(programs)
    for name in programs:
        daemon.wait(name, state="RUNNING")
    assert daemon.cli("stop", "stopped").returncode == 0
    before = {name: daemon.program(name) for name in programs}
    daemon.wait_written()
    killed(daemon)
    del programs["former"]
    programs["watched"]["stop"] = {"grace": 3}
    programs["other"]["env"] = programs["stopped"]["env"] = {"NEW": "1"}
    programs["fresh"] = program("obedient")
    daemon.write({"programs": programs})
    daemon.start()
    daemon.wait("fresh", state="RUNNING")
    daemon.wait_for(lambda: daemon.program("other")["restarts"] == 1, "the changed one is new")
    daemon.wait("other", state="RUNNING")
    after = {name: daemon.program(name) for name in programs}
    assert [name for name in before if name in after and not same(before[name], after[name])] == ["other"]
    assert after["stopped"]["state"] == "STOPPED"
    gone(before["former"]["pid"])
    daemon.wait_for(lambda: "former" not in names(daemon), "it is forgotten")
    assert len(daemon.children()) == 4


def names(daemon: Daemon) -> list[str]:
    return [one["name"] for one in daemon.status()["programs"]]


def taken_out(make: Make, tmp_path: Path, **stop: Any) -> tuple[Daemon, int]:
    """A daemon whose former one was killed, and which has another program than that one; the pid of that."""
    script = "trap '' TERM; trap 'read line < \"$1\"; exit' USR1; while :; do sleep 0.01; done"
    child = {**program("obedient", stop=stop), "command": ["sh", "-c", script, "-", str(tmp_path / "gate")]}
    daemon = make({"kept": program("obedient"), "former": child})
    os.mkfifo(tmp_path / "gate")
    for name in ("kept", "former"):
        daemon.wait(name, state="RUNNING")
    pid = daemon.program("former")["pid"]
    daemon.wait_written()
    killed(daemon)
    daemon.write({"programs": {"kept": program("obedient")}})
    daemon.start()
    return daemon, pid


def test_what_is_no_longer_configured_gets_its_signal_and_its_time(make: Make, tmp_path: Path) -> None:
    """And nobody waits for it."""
    daemon, pid = taken_out(make, tmp_path, grace=3600, signal="USR1")
    daemon.wait("kept", state="RUNNING")
    assert daemon.wait("former", state="STOPPING")["wanted"] == "down"
    with daemon.posted("/v1/programs/former/start") as start:
        assert daemon.cli("upgrade").returncode == 0
        assert answer_to(start)["outcome"] == "asked"
    seen = daemon.wait("former", state="STOPPING")
    assert (seen["wanted"], seen["pid"]) == ("down", pid), "nobody starts it any more, and it is adopted once more"
    with daemon.posted("/v1/programs/former/stop") as stop:
        open_gate(tmp_path / "gate")
        assert answer_to(stop)["ok"]
    daemon.wait_for(lambda: names(daemon) == ["kept"], "it is forgotten")
    assert not alive(pid)
    daemon.wait_ready()
    killed(daemon)
    daemon.start()
    daemon.wait_up()
    assert names(daemon) == ["kept"]


def test_it_is_waited_for_at_the_end(make: Make, tmp_path: Path) -> None:
    daemon, pid = taken_out(make, tmp_path, grace=3600, signal="USR1")
    daemon.wait("former", state="STOPPING")
    ends = daemon.background("shutdown")
    daemon.wait("kept", state="STOPPED")
    assert alive(pid)
    open_gate(tmp_path / "gate")
    assert ends.wait(30) == 0
    assert daemon.wait_ended() == 0


def test_of_an_older_daemon_nobody_knows_how_long_it_may_take(make: Make, tmp_path: Path) -> None:
    programs = {"kept": program("obedient"), "former": program("stubborn", stop={"grace": 0})}
    daemon = make(programs)
    for name in programs:
        daemon.wait(name, state="RUNNING")
    pid = daemon.program("former")["pid"]
    daemon.wait_written()
    killed(daemon)
    state = json.loads((daemon.runtime / "state.json").read_text())
    for entry in state["programs"].values():
        del entry["stop"]
    (daemon.runtime / "state.json").write_text(json.dumps(state))
    del programs["former"]
    daemon.write({"programs": programs})
    daemon.start()
    daemon.wait("former", state="STOPPING")
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
    daemon.wait_for(lambda: names(daemon) == ["kept"], "it is forgotten")


def test_a_pipe_that_was_full_loses_nothing(make: Make, tmp_path: Path) -> None:
    """The child writes far more than a pipe holds while nobody reads, and waits."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    lines = 100_000
    daemon = make({"p": program("chatty", "--lines", lines, "--gate", gate, "--stay")})
    pid = daemon.wait("p", state="RUNNING")["pid"]
    daemon.wait_written()
    killed(daemon)
    with open(gate, "wb"):
        pass
    until(lambda: "pipe" in Path(f"/proc/{pid}/wchan").read_text() or _sleeps(pid), "it stands still")
    daemon.start()
    daemon.wait_for(lambda: b"end %d\n" % pid in daemon.log("p"), "its last word")
    said = [line for line in daemon.log("p").splitlines() if not line.startswith((b"end", b"begin"))]
    numbers = [int(line.split()[0]) for line in said if line.split()[0].isdigit()]
    assert numbers == list(range(numbers[0], numbers[0] + lines))
    assert daemon.program("p")["pid"] == pid


def _sleeps(pid: int) -> bool:
    """It waits for something, and has not run between two looks."""
    looks = []
    for _ in range(2):
        text = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        looks.append((text[0], text[11], text[12]))
        time.sleep(0.2)
    return looks[0] == looks[1] and looks[0][0] == b"S"


@pytest.mark.parametrize("alone", [False, True])
def test_one_that_died_meanwhile_has_died(make: Make, tmp_path: Path, alone: bool) -> None:
    """It is named, counted, and back. A process of its that lives on is ended first, and has kept its last words; when
    all of it is dead nobody has them, unless systemd has kept the pipe (tests/systemd)."""
    holder = "" if alone else "holder = subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    script = (
        f"import os, subprocess, sys, time\n{holder}\n"
        "first = not os.path.exists(sys.argv[1])\n"
        "while first and not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
        "if first: raise RuntimeError('CUDA error: an illegal memory access was encountered')\n"
        "time.sleep(1000)\n"
    )
    gate = tmp_path / "gate"
    child = {**program("obedient"), "command": [sys.executable, "-c", script, str(gate)]}
    daemon = make({"p": child})
    before = daemon.wait("p", state="RUNNING")
    old = set(daemon.children())
    daemon.wait_written()
    killed(daemon)
    gate.touch()
    gone(before["pid"])
    daemon.start()
    after = daemon.wait("p", state="RUNNING", restarts=1)
    assert not same(before, after)
    assert not [pid for pid in old if alive(pid)]
    assert (b"RuntimeError: CUDA error" in daemon.log("p")) is not alone
    told = json.loads(daemon.call("explain", "p", "--json").stdout)
    assert told["left"] == "ended while no daemon lived (status unknown)"
    assert told["was_ready"] is True


def test_it_gets_a_stop_while_no_daemon_lives(make: Make) -> None:
    daemon = make({"p": program("obedient"), "q": program("stubborn", stop={"grace": 1})})
    for name in ("p", "q"):
        daemon.wait(name, state="RUNNING")
    killed(daemon)
    done = daemon.cli("stop", "--orphans")
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, ["p: 1 process ended", "q: 1 process ended"])
    assert daemon.children() == {}
    assert daemon.call("status").returncode == 4
    assert daemon.cli("stop", "--orphans").stdout == "nothing was left running\n"


def test_what_outlives_its_leader_is_named_while_no_daemon_lives(make: Make) -> None:
    """As an EngineCore with the GPU's memory outlives its API server."""
    daemon = make({"p": {**program("obedient"), "command": ["sh", "-c", "setsid sleep 1000 & exec sleep 1001"]}})
    leader = daemon.wait("p", state="RUNNING")["pid"]
    daemon.wait_for(lambda: sorted(daemon.tree("p").values()) == ["sleep", "sleep"], "both of its processes")
    (other,) = daemon.tree("p").keys() - {leader}
    killed(daemon)
    os.kill(leader, signal.SIGKILL)
    gone(leader)
    seen = daemon.call("status")
    assert seen.returncode == 4
    assert f"p (its leader is dead, not sleep pid {other})" in seen.stderr
    assert "stop --orphans" in seen.stderr
    assert daemon.cli("stop", "--orphans").stdout == "p: 1 process ended\n"
    assert "still running" not in daemon.call("status").stderr


@pytest.mark.parametrize("broken", ["programs: {p: {command: [", "programs: {p: {comand: [x]}}", None])
def test_a_configuration_that_is_wrong_by_then_leaves_nobody_alone(make: Make, broken: str | None) -> None:
    programs = {"p": program("obedient"), "q": program("obedient")}
    daemon = make(programs)
    before = {name: daemon.wait(name, state="RUNNING") for name in programs}
    daemon.wait_written()
    killed(daemon)
    if broken is None:
        daemon.config_file.unlink()
    else:
        daemon.config_file.write_text(broken)
    daemon.start()
    for name in programs:
        assert same(before[name], daemon.wait(name, state="RUNNING"))
    status = daemon.status()["supervisor"]
    assert str(daemon.config_file) in status["config_problems"][0]
    said = daemon.call("status")
    assert said.returncode == 0
    assert "the last good one is in use" in said.stderr
    os.kill(before["p"]["pid"], signal.SIGKILL)
    daemon.wait("p", state="RUNNING", restarts=1)  # it is really watched

    assert daemon.cli("reload").returncode == 2
    assert daemon.status()["supervisor"]["config_problems"]
    daemon.write({"programs": programs})
    assert daemon.cli("reload").returncode == 0
    assert daemon.status()["supervisor"]["config_problems"] == []
    assert same(before["q"], daemon.program("q"))


def test_with_a_wrong_configuration_and_nobody_alive_it_does_not_start(make: Make) -> None:
    daemon = make({"p": program("obedient")})
    pid = daemon.wait("p", state="RUNNING")["pid"]
    killed(daemon)
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    daemon.config_file.write_text("programs: 3")
    daemon.start()
    assert daemon.wait_ended() == 2
    daemon.write({"programs": {}})
    daemon.start()
    daemon.wait_up()


def test_a_state_file_that_is_garbage_or_old(make: Make) -> None:
    """What was left is found by what is known of it, or not touched."""
    daemon = make({"p": program("obedient")})
    before = daemon.wait("p", state="RUNNING")
    daemon.wait_written()
    killed(daemon)
    as_the_first_version_wrote_it(daemon)
    daemon.start()
    after = daemon.wait("p", state="RUNNING")
    assert not same(before, after)
    assert len(daemon.children()) == 1, "the one whose state nobody knows was ended first"


LAST_WORD = """\
import os
from llm_supervisor.daemon import bootstrap

def late(runtime, take_lock=bootstrap.take_lock):
    os.replace(runtime / "last", runtime / "state.json")
    return take_lock(runtime)

bootstrap.take_lock = late
found = bootstrap.Bootstrap.prepare(os.environ)
print(*found.former.programs)
found.leave()
"""


def test_what_the_former_one_wrote_at_its_very_end_counts(tmp_path: Path) -> None:
    """It lived when we looked first, and was dead when we took the lock."""
    entry = {"cookie": "p/1", "next": "", "fifo": "", "pid": None, "started": None}
    for file, names in {"state.json": ["old"], "last": ["old", "new"]}.items():
        state = {"version": STATE_VERSION, "boot": boot_id(), "programs": dict.fromkeys(names, entry)}
        (tmp_path / file).write_text(json.dumps(state))
    env = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path), "LLM_SUPERVISOR_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LAST_WORD], env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("old new\n", 0), done.stderr


def test_killed_again_and_again_it_changes_nothing(make: Make) -> None:
    daemon = make({"p": program("obedient"), "q": program("obedient")})
    before = {name: daemon.wait(name, state="RUNNING") for name in ("p", "q")}
    daemon.wait_written()
    for n in range(8):
        killed(daemon)
        daemon.start()
        if n % 2:
            daemon.wait("p", state="RUNNING")
        else:
            time.sleep(0.05 * n)
    for name, old in before.items():
        assert same(old, daemon.wait(name, state="RUNNING"))


# The gateway and an engine ------------------------------------------------------------------------------------


def pair(folder: Path, **gateway: Any) -> dict[str, Any]:
    """A played vLLM behind a played LiteLLM."""
    health = {"period": 0.3, "readiness_period": 0.3, "startup_period": 0.1, "canary": False}
    model = {"model": "nobody/nothing", "port": free_port(), "health": health, "env": {"FAKE_VLLM": scenario(start=0)}}
    engines = {"vllm": {"python": str(VLLM)}, "litellm": {"python": str(litellm_python(folder))}}
    return {"gateway": {"port": free_port(), **gateway}, "engines": engines, "models": {"glm": model}}


def knocking(port: int) -> AbstractContextManager[list[str]]:
    """Somebody connects all the time; what went wrong."""

    def knock() -> str | None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
        except OSError as error:
            return str(error)
        return None

    return meanwhile(knock)


def test_the_gateways_socket_is_got_back(tmp_path: Path) -> None:
    """So that nobody is refused, though the replica is replaced after its daemon was."""
    settings = pair(tmp_path, litellm_config=None)
    port = settings["gateway"]["port"]
    with Daemon(tmp_path, settings) as daemon:
        daemon.wait_ready()
        before = {name: daemon.program(name) for name in ("gateway", "glm")}
        daemon.wait_written()
        with knocking(port) as wrong:
            killed(daemon)
            daemon.start()
            daemon.wait_ready()
            assert all(same(before[name], daemon.program(name)) for name in before)
            assert daemon.process is not None
            assert net_ports.held(net_ports.listening(port), [daemon.process.pid]), "the socket is ours again"
            assert daemon.cli("restart", "gateway").returncode == 0
        assert wrong == []
        assert daemon.cli("stop", "gateway").returncode == 0
        assert not net_ports.listening(port)


def test_another_host_of_the_gateway_meanwhile(tmp_path: Path) -> None:
    """The socket of the former one is in the way of the new one; both are ours."""
    settings = pair(tmp_path, litellm_config=None)
    port = settings["gateway"]["port"]
    with Daemon(tmp_path, settings) as daemon:
        daemon.wait_ready()
        before = daemon.program("gateway")["incarnation"]
        daemon.wait_written()
        killed(daemon)
        settings["gateway"]["host"] = "0.0.0.0"
        daemon.write(settings)
        with knocking(port) as wrong:
            daemon.start()
            daemon.wait_for(lambda: daemon.program("gateway").get("incarnation") not in (None, before), "the change")
            daemon.wait_ready()
        assert wrong == []
        daemon.wait_for(lambda: len(net_ports.listening(port)) == 1, "only the new one")


def test_an_engine_that_lost_a_worker_meanwhile_is_replaced(tmp_path: Path) -> None:
    settings = pair(tmp_path)
    with Daemon(tmp_path, settings) as daemon:
        daemon.wait_ready()
        before = daemon.program("glm")
        tree = daemon.tree("glm")
        core = next(pid for pid, name in tree.items() if name.startswith("VLLM"))
        daemon.wait_written()
        killed(daemon)
        os.kill(core, signal.SIGKILL)
        gone(core)
        daemon.start()
        after = daemon.wait("glm", state="RUNNING", restarts=1)
        assert not same(before, after)
        assert not [pid for pid in tree if alive(pid)]
