"""What the unit promises, under a real systemd: starts, crashes, stops. Plain programs only."""

from __future__ import annotations

import json
import re
import shlex
import time
from typing import Any

import pytest

from tests.support.programs import command
from tests.support.systemd.inside import CONFIG, NAME, RUNTIME
from tests.support.systemd.machine import BIN, UNIT, Machine

PORT = 17001
CLI = BIN / "llm-supervisor"
QUICK = {"stop": {"grace": "1s"}, "health": {"startup_period": "50ms"}}


def answering(*argv: str) -> dict[str, Any]:
    """A program that is ready when its port accepts."""
    listener = command("listener", "--port", PORT)
    return {"command": list(argv) or listener, "ready": {"tcp": f"127.0.0.1:{PORT}"}, **QUICK}


def living(*argv: str) -> dict[str, Any]:
    """A program that is ready when it has lived for a moment."""
    return {"command": list(argv) or command("obedient"), "ready": {"after": 0.1}, **QUICK}


PAIR = {"web": answering(), "plain": living()}
KILL = f"systemctl kill --kill-whom=main --signal=KILL {NAME}"


def test_systemd_finds_nothing_wrong_with_the_unit(machine: Machine) -> None:
    machine.install(PAIR)
    assert machine.run(f"systemd-analyze verify {NAME}.service") == ""
    assert "/opt/" not in machine.run(f"systemctl cat {NAME}")


class TestStart:
    def test_is_done_when_everything_is_ready(self, machine: Machine) -> None:
        gate = "/run/gate"
        machine.run(f"rm -f {gate}; mkfifo {gate}")
        machine.install({"web": answering(*command("listener", "--port", PORT, "--gate", gate)), "plain": living()})
        machine.run(f"systemctl start --no-block {NAME}")
        waiting = ["activating", "1 of 2 ready: web starting"]
        machine.until(lambda: machine.show("ActiveState", "StatusText") == waiting, "one of two ready")
        time.sleep(0.5)  # for a READY=1 that comes too soon
        assert machine.show("ActiveState", "StatusText") == waiting

        machine.run(f": > {gate}; systemctl start {NAME}")  # joins the start that waits
        assert PORT in machine.inside("look")["listening"]
        assert machine.show("ActiveState", "SubState", "StatusText") == ["active", "running", "2 of 2 ready"]
        assert 'Status: "2 of 2 ready"' in machine.run(f"systemctl status --no-pager {NAME}")
        machine.whole("web", "plain")

    def test_may_take_longer_than_its_timeout_while_it_moves(self, machine: Machine) -> None:
        loading = 'for n in 1 2 3 4 5 6 7; do echo "loading $n"; sleep 1; done; exec '
        slow = answering("sh", "-c", loading + shlex.join(command("listener", "--port", PORT)))
        machine.install({"web": slow}, dropin="TimeoutStartSec=5s\n")
        began = time.monotonic()
        machine.run(f"systemctl start {NAME}")
        assert time.monotonic() - began > 6.5
        machine.whole("web")
        assert machine.show("NRestarts") == ["0"]

    def test_fails_at_its_timeout_when_nothing_moves(self, machine: Machine) -> None:
        # a start counts as moving for a minute after its last sign of life: here for a second
        code = "from llm_supervisor.cli import main; from llm_supervisor.daemon import watchdog; "
        code += "watchdog.EXTENSION = 1; main.main()"
        start = f"ExecStart=\nExecStart={BIN}/python -c '{code}' run -c {CONFIG}\n"
        machine.install({"web": answering("sleep", "1000")}, dropin=f"TimeoutStartSec=5s\nRestart=no\n{start}")
        began = time.monotonic()
        assert "timeout was exceeded" in machine.run(f"systemctl start {NAME}", check=False)
        assert 4.5 < time.monotonic() - began < 15
        assert machine.show("ActiveState", "Result") == ["failed", "timeout"]
        machine.assert_nothing_left(PORT)

    def test_with_a_wrong_configuration_fails_and_says_why(self, machine: Machine) -> None:
        machine.install({"web": {**answering(), "reday": {}}})
        said = machine.run(f"systemctl start {NAME}", check=False)
        assert f"Job for {NAME}.service failed" in said
        assert re.search(rf"{CONFIG}:\d+.*reday", machine.journal())
        # it keeps trying, at a pace: the corrected file is taken without a hand on it
        machine.install(PAIR)
        machine.whole("web", "plain")


class TestCrash:
    def test_killed_it_is_back_within_a_second(self, machine: Machine) -> None:
        machine.install(PAIR)
        before = machine.start("web", "plain")
        pid = machine.main_pid
        machine.run(f"echo kept > {RUNTIME}/kept; stat -c %i {RUNTIME} > {RUNTIME}/inode")
        milliseconds = machine.run(
            f"kill -KILL {pid}; began=$(date +%s%N); while :; do now=$(systemctl show {NAME} -P MainPID); "
            f"test $now != 0 && test $now != {pid} && break; done; echo $(( ($(date +%s%N) - began) / 1000000 ))"
        )
        assert int(milliseconds) < 1000
        assert machine.whole("web", "plain") == before, "and nobody else noticed"
        assert machine.run(f"cat {RUNTIME}/kept") == "kept"
        assert machine.run(f"cat {RUNTIME}/inode") == machine.run(f"stat -c %i {RUNTIME}")
        assert machine.show("NRestarts", "ActiveState") == ["1", "active"]

    def test_killed_again_and_again_at_any_moment_it_loses_nobody(self, machine: Machine) -> None:
        machine.install(PAIR)
        machine.run(f"systemctl start {NAME}")
        pauses = " ".join(f"{number / 20:.2f}" for number in range(1, 15, 2))
        machine.run(
            f"for pause in {pauses}; do while test $(systemctl show {NAME} -P MainPID) = 0; do :; done; "
            f"sleep $pause; {KILL}; done"
        )
        machine.whole("web", "plain")
        machine.run(f"systemctl stop {NAME}")
        machine.assert_nothing_left(PORT)

    def test_killed_while_it_starts_a_program_it_loses_nobody(self, machine: Machine) -> None:
        # a program's first act is to kill the daemon that has just started it
        killer = f"if mkdir {RUNTIME}/once 2>/dev/null; then kill -KILL $PPID; fi; exec sleep 1000"
        machine.install({**PAIR, "killer": living("sh", "-c", killer)})
        machine.run(f"systemctl start {NAME}", check=False)
        machine.whole("killer", "web", "plain")
        assert machine.show("NRestarts") == ["1"]

    def test_broken_inside_it_loses_nobody(self, machine: Machine) -> None:
        machine.install(PAIR)
        before, main = machine.start("web", "plain"), machine.main_pid
        # where it means to write its state next, there is a folder
        place = f"{RUNTIME}/.state.json.{main}"
        machine.run(f"mkdir {place}")
        ((pid,),) = machine.inside("look")["programs"]["plain"].values()
        machine.run(f"kill -KILL {pid}")
        machine.until(lambda: "the state cannot be written" in machine.journal(), "it says so")
        machine.run(f"rmdir {place}")
        after = machine.whole("web", "plain")
        assert (after["web"], machine.main_pid) == (before["web"], main)
        assert after["plain"] != before["plain"]
        assert machine.show("NRestarts") == ["0"]

    def test_stuck_it_is_replaced_by_the_watchdog(self, machine: Machine) -> None:
        machine.install(PAIR, dropin="WatchdogSec=6s\n")
        before = machine.start("web", "plain")
        pid = machine.main_pid
        # one that turns is left alone, also when systemd itself is replaced
        machine.run("systemctl daemon-reexec")
        time.sleep(6.5)
        assert (machine.whole("web", "plain"), machine.main_pid) == (before, pid)
        machine.run(f"kill -STOP {pid}")
        machine.until(lambda: machine.main_pid not in (0, pid), "another daemon")
        assert machine.whole("web", "plain") == before
        assert "Watchdog timeout (limit 6s)" in machine.journal()
        assert machine.show("NRestarts") == ["1"]


class TestStop:
    def test_leaves_nothing_however_stubborn(self, machine: Machine) -> None:
        stubborn, daemoniser = (living(*command(name)) for name in ("stubborn", "daemoniser"))
        daemoniser["command"].append("--stay")
        machine.install({**PAIR, "stubborn": stubborn, "daemoniser": daemoniser})
        machine.start("daemoniser", "plain", "stubborn", "web")
        (pids,) = machine.inside("look")["programs"]["daemoniser"].values()
        assert len(pids) == 2
        machine.run(f"systemctl stop {NAME}")
        machine.assert_nothing_left(PORT)
        assert machine.show("ActiveState", "Result") == ["inactive", "success"]

    # systemd hardly knows; it pauses before the restart; the new daemon starts; it has started
    @pytest.mark.parametrize(
        "moment",
        [(), ("stop-post",), ("start",), ("start", "running")],
        ids=["at-once", "pause", "start", "running"],
    )
    def test_leaves_nothing_of_a_daemon_killed_before(self, machine: Machine, moment: tuple[str, ...]) -> None:
        machine.install(PAIR)
        machine.start("web", "plain")
        waits = [f"until systemctl show {NAME} -P SubState | grep -qx {state}; do :; done" for state in moment]
        machine.run("; ".join([KILL, *waits, f"systemctl stop {NAME}"]))
        machine.assert_nothing_left(PORT)

    def test_leaves_nothing_of_a_daemon_killed_while_it_stops(self, machine: Machine) -> None:
        deaf = living("sh", "-c", "trap '' HUP; while :; do sleep 0.1; done")
        machine.install({"deaf": {**deaf, "stop": {"signal": "HUP", "grace": "1h"}}})
        machine.start("deaf")
        machine.run(
            f"systemctl stop --no-block {NAME}; until systemctl show {NAME} -P SubState | grep stop-sig; do :; done; "
            f"sleep 0.2; {KILL}; systemctl stop {NAME}"
        )
        machine.assert_nothing_left()

    def test_by_our_own_command_is_final(self, machine: Machine) -> None:
        machine.install(PAIR)
        machine.start("web", "plain")
        assert machine.run(f"{CLI} shutdown") == "everything is stopped"
        machine.until(lambda: machine.show("ActiveState") == ["inactive"], "the unit's end")
        time.sleep(0.5)
        assert machine.show("ActiveState", "NRestarts") == ["inactive", "0"]
        machine.assert_nothing_left(PORT)

    def test_restart_is_a_full_one(self, machine: Machine) -> None:
        machine.install(PAIR)
        before, pid = machine.start("web", "plain"), machine.main_pid
        machine.run(f"systemctl restart {NAME}")
        after = machine.whole("web", "plain")
        assert machine.main_pid != pid
        assert not set(before.values()) & set(after.values())


class TestChildren:
    def test_cannot_speak_to_systemd_in_the_daemons_name(self, machine: Machine) -> None:
        # neither by what it inherits, nor at the address that everybody knows
        tries = "systemd-notify --ready; echo first $?; NOTIFY_SOCKET=/run/systemd/notify systemd-notify --ready"
        liar = living("sh", "-c", f"{tries}; echo second $?; exec sleep 1000")
        machine.install({"liar": liar, "never": answering("sleep", "1000")})
        machine.run(f"systemctl start --no-block {NAME}")
        log = "cat /var/log/llm-supervisor/liar/*"
        machine.until(lambda: "second" in machine.run(log, check=False), "both tries")
        assert "first 1" in machine.run(log)
        time.sleep(0.2)
        assert machine.show("ActiveState") == ["activating"]

    def test_have_a_control_group_each_that_nobody_leaves(self, machine: Machine) -> None:
        flags = ("--setsid", "--double", "--wipe", "--redirect", "--stubborn", "--stay", "--tag", "the-hider")
        # not in its very first moment, when it may not be in its group yet
        hider = living("sh", "-c", f"sleep 1; exec {shlex.join(command('stray', *flags))}")
        machine.install({**PAIR, "hider": hider})

        def whole() -> dict[str, Any]:  # the hidden one is in nobody's tree, so not as in the other tests
            seen = machine.inside("whole", 60, "hider", "plain", "web")
            assert seen["ready"] == ["hider", "plain", "web"], machine.journal()
            return seen["status"]

        hidden = "pgrep -f 'settled.*[t]he-hider'"
        machine.run(f"systemctl start {NAME}")
        pid = whole()["plain"]["pid"]
        assert re.search(rf"/{NAME}\.service/plain\.[0-9a-f]{{32}}$", machine.run(f"cat /proc/{pid}/cgroup").strip())
        machine.until(lambda: bool(machine.run(hidden, check=False)), "somebody who hides")
        first = machine.run(hidden).split()
        machine.run(KILL)
        machine.until(lambda: machine.show("NRestarts") == ["1"], "another daemon")
        whole()
        assert machine.run(hidden).split() == first, "it is left as it is"
        machine.run(f"{CLI} restart hider")  # whoever came next finds it by its group alone
        whole()
        machine.until(lambda: bool(machine.run(hidden, check=False)), "the next one")
        second = machine.run(hidden).split()
        assert len(first) == len(second) == 1
        assert second != first
        machine.run(f"systemctl stop {NAME}")
        assert machine.run(hidden, check=False) == ""
        machine.assert_nothing_left(PORT)
        machine.run(f"systemctl start {NAME}")  # groups that are left over would forbid it
        whole()

    def test_inherit_nothing_of_what_systemd_said_to_the_daemon(self, machine: Machine) -> None:
        machine.install(PAIR)
        machine.start("web", "plain")
        ((pid,),) = machine.inside("look")["programs"]["plain"].values()
        environ = machine.run(f"tr '\\0' '\\n' < /proc/{pid}/environ")
        names = {line.partition("=")[0] for line in environ.splitlines()}
        assert "LLM_SUPERVISOR_INCARNATION" in names
        said = """NOTIFY_SOCKET WATCHDOG_USEC WATCHDOG_PID LISTEN_FDS LISTEN_PID LISTEN_FDNAMES INVOCATION_ID
            JOURNAL_STREAM RUNTIME_DIRECTORY STATE_DIRECTORY LOGS_DIRECTORY SYSTEMD_EXEC_PID MEMORY_PRESSURE_WATCH"""
        assert not names & set(said.split())


class TestPlaces:
    def test_are_the_ones_that_the_unit_names(self, machine: Machine) -> None:
        machine.install(PAIR)
        machine.start("web", "plain")
        asked = f"stat -c '%a %F' {RUNTIME} {RUNTIME}/control.sock /var/lib/llm-supervisor /var/log/llm-supervisor"
        assert machine.run(asked).splitlines() == ["700 directory", "600 socket", "750 directory", "750 directory"]
        assert {"plain", "web"} <= set(machine.run("ls /var/log/llm-supervisor").split())


def test_the_log_is_in_the_journal_as_json(machine: Machine) -> None:
    machine.install(PAIR)
    machine.start("web", "plain")
    pid = machine.main_pid
    machine.run(f"systemctl stop {NAME}")
    lines = [
        json.loads(line) for line in machine.run(f"journalctl -u {NAME} _PID={pid} -o cat --no-pager").splitlines()
    ]
    assert [line["event"] for line in lines if line["event"] != "state"] == ["started", "shutting down", "ended"]
    states = [line for line in lines if line["event"] == "state"]
    assert {line["program"] for line in states} == {"web", "plain"}
    assert {"program", "state", "health", "reason", "level", "timestamp"} <= states[0].keys()


def test_the_unit_keeps_what_its_text_promises() -> None:
    """Settings whose loss no test above would notice."""
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert (settings["KillMode"], settings["OOMPolicy"]) == ("process", "continue")
    assert settings["StartLimitIntervalSec"] == "0"
    assert "PrivateTmp" not in settings
