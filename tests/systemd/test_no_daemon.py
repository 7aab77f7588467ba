"""What happens while no daemon lives, under a real systemd, which keeps our pipes and sockets meanwhile."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.programs import command
from tests.support.systemd.inside import CONFIG, NAME, RUNTIME
from tests.support.systemd.machine import Machine
from tests.systemd.test_unit import CLI, KILL, PAIR, PORT, answering, living

HOLD = "/run/hold"
# The next daemon waits at its door for as long as that file is there
DROPIN = f"ExecStartPre=/bin/sh -c 'while test -e {HOLD}; do sleep 0.05; done'\n"
TRACEBACK = "raise RuntimeError('CUDA error: an illegal memory access was encountered')"


def without_daemon(machine: Machine, meanwhile: Callable[[], None]) -> None:
    """Kill the daemon, do that, and let the next one come."""
    machine.run(f"touch {HOLD}; {KILL}")
    machine.until(lambda: machine.show("SubState") == ["start-pre"], "the next one waits")
    meanwhile()
    machine.run(f"rm {HOLD}")


def log_of(machine: Machine, name: str) -> str:
    return machine.run(f"cat /var/log/llm-supervisor/{name}/*.log")


def pid_of(machine: Machine, name: str) -> int:
    ((pid,),) = machine.inside("look")["programs"][name].values()
    return int(pid)


def test_nobody_notices(machine: Machine) -> None:
    machine.install(PAIR, dropin=DROPIN)
    before = machine.start("web", "plain")

    def looks() -> None:
        seen = machine.inside("look")
        assert {name: list(tree) for name, tree in seen["programs"].items()} == {n: [u] for n, u in before.items()}
        assert PORT in seen["listening"]
        said = machine.run(f"{CLI} status", check=False)
        assert "no daemon answers" in said
        assert "stop --orphans" in said

    without_daemon(machine, looks)
    assert machine.whole("web", "plain") == before


def test_a_full_pipe(machine: Machine) -> None:
    gate, lines = "/run/gate", 100_000
    machine.run(f"rm -f {gate}; mkfifo {gate}")
    chatty = living(*command("chatty", "--lines", lines, "--gate", gate, "--stay"))
    machine.install({"p": chatty}, dropin=DROPIN)
    before = machine.start("p")
    without_daemon(machine, lambda: machine.run(f": > {gate}; sleep 0.5") and None)
    assert machine.whole("p") == before
    machine.until(lambda: "\nend" in log_of(machine, "p"), "its last word")
    said = [line.split()[0] for line in log_of(machine, "p").splitlines() if not line.startswith(("end", "begin"))]
    numbers = [int(word) for word in said if word.isdecimal()]
    assert numbers == list(range(numbers[0], numbers[0] + lines))


def test_last_words(machine: Machine) -> None:
    """Its whole tree dies, nobody reads: systemd alone has the pipe, and in it what it said."""
    gate = "/run/gate"
    machine.run(f"rm -f {gate}; mkfifo {gate}")
    script = f"import os\nif os.path.exists('{gate}'): open('{gate}'); {TRACEBACK}\nimport time; time.sleep(1000)"
    python = command("obedient")[0]
    machine.install({"p": living(python, "-c", script), **PAIR}, dropin=DROPIN)
    before = machine.start("p", "plain", "web")
    pid = pid_of(machine, "p")
    without_daemon(
        machine, lambda: machine.run(f": > {gate}; rm {gate}; while test -d /proc/{pid}; do sleep 0.05; done") and None
    )
    after = machine.whole("p", "plain", "web")
    assert {name for name in before if before[name] != after[name]} == {"p"}
    assert "RuntimeError: CUDA error: an illegal memory access" in log_of(machine, "p")
    told: dict[str, Any] = json.loads(machine.run(f"{CLI} explain p --json"))
    assert told["left"] == "ended while no daemon lived (status unknown)"
    assert "RuntimeError: CUDA error" in json.dumps(told["evidence"]) + told["summary"]


def test_a_stop(machine: Machine) -> None:
    machine.install(PAIR, dropin=DROPIN)
    machine.start("web", "plain")
    machine.run(f"touch {HOLD}; {KILL}")
    machine.until(lambda: machine.show("SubState") == ["start-pre"], "the next one waits")
    machine.run(f"systemctl stop {NAME}; rm {HOLD}")
    machine.assert_nothing_left(PORT)


@pytest.mark.parametrize("broken", ["programs: [", "programs: {web: {comand: 3}}", None])
def test_a_configuration_that_is_broken_by_then(machine: Machine, broken: str | None) -> None:
    machine.install(PAIR, dropin=DROPIN)
    before = machine.start("web", "plain")
    spoil = f"rm {CONFIG}" if broken is None else f"echo {shlex.quote(broken)} > {CONFIG}"
    without_daemon(machine, lambda: machine.run(spoil) and None)
    assert machine.whole("web", "plain") == before
    assert "the last good one is in use" in machine.run(f"{CLI} status")
    assert str(CONFIG) in machine.journal()
    assert machine.run(f"systemctl reload {NAME}", check=False) != "", "it says that it failed"
    machine.install({**PAIR, "more": living()}, dropin=DROPIN)
    machine.run(f"systemctl reload {NAME}")
    after = machine.whole("more", "plain", "web")
    assert {name: after[name] for name in before} == before


def test_an_orphan_of_an_adopted_program(machine: Machine) -> None:
    """It is not ours any more: it went to init. Nothing of the tree outlives its leader all the same."""
    flags = ("--setsid", "--double", "--stubborn", "--stay")
    stray = living("sh", "-c", f"{shlex.join(command('stray', *flags))} & exec sleep 1000")
    machine.install({"p": stray}, dropin=DROPIN)
    machine.run(f"systemctl start {NAME}")
    machine.until(lambda: len(_tree(machine)) > 1, "its stray")
    without_daemon(machine, lambda: None)
    machine.until(lambda: machine.show("ActiveState") == ["active"], "the next one")
    old = _tree(machine)
    machine.run(f"kill -KILL {min(old)}")
    machine.until(lambda: not set(old) & set(_tree(machine)) and len(_tree(machine)) > 1, "a new tree, and only that")
    machine.run(f"systemctl stop {NAME}")
    machine.assert_nothing_left()


def _tree(machine: Machine) -> list[int]:
    trees = machine.inside("look")["programs"].get("p", {})
    return sorted(pid for tree in trees.values() for pid in tree)


def test_what_is_kept_is_let_go(machine: Machine) -> None:
    """One pipe for each living program, and none of the dead."""
    machine.install(PAIR)
    machine.start("web", "plain")

    def kept() -> int:
        return int(machine.show("NFileDescriptorStore")[0])

    assert kept() == 2
    for _ in range(3):
        machine.run(f"{CLI} restart web plain")
    assert kept() == 2
    machine.run(KILL)
    machine.whole("web", "plain")
    assert kept() == 2
    machine.run(f"{CLI} stop web")
    assert kept() == 1
    machine.run(f"systemctl restart {NAME}")
    machine.whole("web", "plain")
    assert kept() == 2


def test_reload_and_upgrade_keep_the_main_process(machine: Machine) -> None:
    machine.install(PAIR)
    before, pid = machine.start("web", "plain"), machine.main_pid
    machine.install({**PAIR, "more": living()})
    machine.run(f"systemctl reload {NAME}")
    after = machine.whole("more", "plain", "web")
    assert machine.run(f"{CLI} upgrade").startswith("upgraded: ")
    assert machine.whole("more", "plain", "web") == after
    assert {name: after[name] for name in before} == before
    assert machine.show("ActiveState", "NRestarts") == ["active", "0"]
    assert machine.main_pid == pid
    machine.run(KILL)
    machine.until(lambda: machine.show("NRestarts") == ["1"], "the next one")
    assert machine.whole("more", "plain", "web") == after
    assert machine.run(f"ls {RUNTIME}/fifo").count("\n") == 2
    machine.run(f"systemctl stop {NAME}")
    machine.assert_nothing_left(PORT)


def test_the_watchdog_is_fed_after_an_upgrade(machine: Machine) -> None:
    machine.install({"web": answering()}, dropin="WatchdogSec=10s\n")
    before = machine.start("web")
    machine.run(f"{CLI} upgrade")
    for _ in range(2):
        fed = machine.show("WatchdogTimestampMonotonic")
        machine.until(lambda fed=fed: machine.show("WatchdogTimestampMonotonic") != fed, "it is fed")
    assert machine.whole("web") == before
    assert machine.show("NRestarts", "ActiveState") == ["0", "active"]
