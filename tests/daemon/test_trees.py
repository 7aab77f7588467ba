"""Whatever a program does with its processes: nothing of it lives on, and no two incarnations live at once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import Make, played, program
from tests.support.harness import Daemon, died
from tests.support.programs import alive, free_port, gone, open_gate

pytestmark = pytest.mark.slow


def strays(daemon: Daemon, name: str) -> list[int]:
    """Pids of the descendants that a ``stray`` program announced, oldest first."""
    return [int(line.split()[1]) for line in daemon.log(name).splitlines() if line.startswith(b"stray ")]


@pytest.fixture(scope="module")
def grove(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the tests that kill no daemon; each has programs of its own."""
    daemon = Daemon(tmp_path_factory.mktemp("grove"), {})
    tag = ("--tag", daemon.mark)
    programs = {
        name: program(name, "--stubborn", "--stay", *tag, stop={"grace": 0.05})
        for name in ("forker", "daemoniser", "leaver")
    }
    programs |= {
        "stubborn": program("stubborn", stop={"grace": 0.3}),
        "obedient": program("obedient"),
        "frozen": program("obedient", stop={"grace": 20}),
        "parent": program("daemoniser", "--stay"),
        "introspect": program("introspect", restart={"policy": "never"}, ready={"after": 0}),
    }
    daemon.write({"programs": programs})
    read, write = os.pipe()
    daemon.start(pass_fds=(write,))  # what a shell may leave open
    os.close(write)
    with daemon.started():
        for name in programs:
            daemon.wait(name, state="RUNNING" if name != "introspect" else "EXITED")
        yield daemon
    os.close(read)


@pytest.mark.parametrize("name", ["forker", "daemoniser", "leaver"])
def test_what_a_leader_leaves_is_swept_before_its_successor_starts(grove: Daemon, name: str) -> None:
    """The leader dies, again and again, and each time leaves somebody who ignores SIGTERM."""
    for n in range(1, 3):
        before = grove.program(name)
        (stray,) = grove.wait_for(
            lambda n=n: len(found := strays(grove, name)) == n and found[-1:], "there was a stray"
        )
        pidfd = os.pidfd_open(stray)
        os.kill(before["pid"], signal.SIGKILL)
        after = grove.wait(name, state="RUNNING", restarts=n)
        assert not alive(stray), "the successor started beside it"
        died(pidfd)
        assert after["incarnation"] != before["incarnation"]
        assert after["pid"] != before["pid"]
    grove.wait_for(lambda: len(strays(grove, name)) == 3, "the last stray was there")


def test_a_stubborn_program_is_killed_after_its_grace(grove: Daemon) -> None:
    pid = grove.program("stubborn")["pid"]
    done = grove.call("stop", "stubborn")
    assert (done.returncode, done.stdout, done.stderr) == (0, "stubborn: stopped\n", "")
    assert not alive(pid)
    seen = grove.program("stubborn")
    assert (seen["state"], seen["wanted"], seen["exit"]) == ("STOPPED", "down", {"code": None, "signal": 9})


def test_an_obedient_program_is_not_killed(grove: Daemon) -> None:
    assert grove.call("stop", "obedient").returncode == 0
    assert grove.program("obedient")["exit"] == {"code": 0, "signal": None}
    assert grove.log("obedient").splitlines()[-1].startswith(b"bye "), "its last words are in the log"


def test_a_frozen_program_can_be_stopped(grove: Daemon) -> None:
    """SIGTERM to a stopped process waits; SIGCONT goes with it."""
    os.kill(grove.program("frozen")["pid"], signal.SIGSTOP)
    assert grove.call("stop", "frozen").returncode == 0
    assert grove.program("frozen")["exit"] == {"code": 0, "signal": None}


def test_orphans_of_programs_are_reaped(grove: Daemon) -> None:
    """The daemon is the subreaper: no zombie stays with it."""
    pid = grove.program("parent")["pid"]
    (stray,) = grove.wait_for(lambda: strays(grove, "parent"), "there was a stray")
    os.kill(stray, signal.SIGKILL)
    gone(stray)
    grove.wait_for(lambda: not Path(f"/proc/{stray}").exists(), "it was reaped")
    assert grove.program("parent")["pid"] == pid, "a stray's death is nothing to its leader"


def test_nothing_of_the_daemons_arrives_in_a_program(grove: Daemon) -> None:
    """Nor of its own parent's: no variable, no blocked signal, no descriptor."""
    seen = json.loads(grove.log("introspect"))
    names = [item.partition("=")[0] for item in seen["environ"]]
    for name in ("RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC"):
        assert name not in names
    assert (seen["SigBlk"], seen["sid"]) == ("0" * 16, seen["pid"])
    assert sorted(seen["fds"]) == ["0", "1", "2"]


def test_sigterm_while_a_program_is_starting_leaves_nothing(make: Make, tmp_path: Path) -> None:
    """It has just forked, and neither of the two is ready."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    daemon = make(
        {
            "forks": program("daemoniser", "--stay", "--stubborn", ready={"after": 3600}, stop={"grace": 0.3}),
            "waits": program("listener", "--port", 1, "--gate", gate, ready={"tcp": "127.0.0.1:1"}),
        }
    )
    daemon.wait_for(lambda: strays(daemon, "forks") and b"starting" in daemon.log("waits"), "both began")
    assert {daemon.program(name)["state"] for name in ("forks", "waits")} == {"STARTING"}
    assert daemon.end() == 0
    assert daemon.children() == {}


def test_ctrl_c_at_the_very_beginning(make: Make) -> None:
    """Before the handlers are there a stop waits; it does not kill a half-made daemon."""
    daemon = make({"p": program("obedient")})
    assert daemon.end(signal.SIGINT) in (0, -signal.SIGINT, 130)
    assert daemon.children() == {}


def test_ctrl_c_twice_does_not_wait_for_the_grace(make: Make) -> None:
    daemon = make({"p": program("stubborn", stop={"grace": 3600})})
    pid = daemon.wait("p", state="RUNNING")["pid"]
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGINT)
    daemon.wait("p", state="STOPPING")
    assert alive(pid)
    assert daemon.end(signal.SIGINT, timeout=20) == 0
    assert not alive(pid)


def as_the_first_version_wrote_it(daemon: Daemon) -> None:
    """The state file without how the programs were: what they left can be found by it, and no more."""
    file = daemon.runtime / "state.json"
    state = json.loads(file.read_text())
    for entry in state["programs"].values():
        for key in set(entry) - {"cookie", "next", "pid", "started", "fifo", "cgroup"}:
            del entry[key]
    file.write_text(json.dumps(state | {"version": 1}))


def test_leftovers_that_cannot_be_adopted_are_swept_before_anything_starts(make: Make) -> None:
    """Exactly one incarnation lives afterwards, of programs that are still configured and of one that is not."""
    daemon = make({}, start=False)
    tag = ("--tag", daemon.mark)
    programs = {
        "calm": program("obedient"),
        "tree": program("daemoniser", "--stay", "--stubborn", *tag, stop={"grace": 0.2}),
        "wiped": program("leaver", "--stay", "--stubborn", *tag, stop={"grace": 0.2}),
        "former": program("obedient"),
    }
    daemon.write({"programs": programs})
    daemon.start()
    assert daemon.process is not None
    for name in programs:
        daemon.wait(name, state="RUNNING")
    old = {name: daemon.program(name) for name in programs}
    daemon.wait_for(lambda: strays(daemon, "tree") and strays(daemon, "wiped"), "strays")
    old_pids = set(daemon.children())
    assert len(old_pids) == 6
    daemon.process.kill()
    daemon.process.wait()
    assert set(daemon.children()) == old_pids, "engines live on when their supervisor is killed"
    as_the_first_version_wrote_it(daemon)

    del programs["former"]
    programs["fresh"] = program("obedient")
    daemon.write({"programs": programs})
    daemon.start()
    for name in programs:
        now = daemon.wait(name, state="RUNNING")
        assert now["incarnation"] != old.get(name, {}).get("incarnation")
    assert not [pid for pid in old_pids if alive(pid)]
    daemon.wait_for(lambda: len(strays(daemon, "tree")) == 2 and len(strays(daemon, "wiped")) == 2, "new strays")
    # calm and fresh with one process each, tree and wiped with two
    assert len(daemon.children()) == 6
    fifos = {path.name.rpartition(".")[0] for path in (daemon.runtime / "fifo").iterdir()}
    assert fifos == set(programs), "what the former one held is gone"


def test_a_daemon_killed_again_and_again(make: Make) -> None:
    """Also while it sweeps and starts: never two of a program."""
    daemon = make({"p": program("obedient")}, start=False)
    for n in range(5):
        daemon.start()
        assert daemon.process is not None
        if n % 2:
            daemon.wait("p", state="RUNNING")
        else:
            daemon.wait_for(lambda: (daemon.runtime / "state.json").exists() and daemon.children(), "a child")
        daemon.process.kill()
        daemon.process.wait()
        assert len(daemon.children()) <= 1
    daemon.start()
    daemon.wait("p", state="RUNNING")
    assert len(daemon.children()) == 1


def test_what_the_child_said_while_no_daemon_lived_is_in_its_log(make: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    daemon = make({"p": program("chatty", "--lines", 1000, "--gate", gate, "--stay")})
    pid = daemon.wait("p", state="RUNNING")["pid"]
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    open_gate(gate)
    daemon.start()
    daemon.wait_for(lambda: b"end %d\n" % pid in daemon.log("p"), "its words")
    assert daemon.log("p").count(b"\n") >= 1001
    assert daemon.wait("p", state="RUNNING")["pid"] == pid, "and it is still there"


def test_an_engine_that_dies_while_it_starts_leaves_nothing_in_shared_memory(make: Make, tmp_path: Path) -> None:
    """What its worker has mapped is known when that is swept, although the engine was never ready."""
    name = f"test-{os.getpid()}-{tmp_path.name}"
    env = {"SHARED_MEMORY": name, "NEVER_READY": "1"}
    model = {
        "model": "org/glm",
        "port": free_port(),
        "env": env,
        "restart": {"policy": "never"},
        "health": {"canary": False},
    }
    daemon = make({}, gateway={"port": free_port()}, models={"glm": model}, engines=played(tmp_path))
    daemon.wait_for(lambda: b"loading" in daemon.log("glm"), "its worker")
    assert (Path("/dev/shm") / name).exists()
    assert len(daemon.tree("glm")) == 2
    os.kill(daemon.program("glm")["pid"], signal.SIGKILL)
    daemon.wait_for(lambda: not daemon.tree("glm"), "the worker's end")
    daemon.wait_for(lambda: not (Path("/dev/shm") / name).exists(), "its segment's end", 10)
