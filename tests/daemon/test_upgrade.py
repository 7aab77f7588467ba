"""Another version in the same process: nothing is restarted, nobody is refused, and what would not do is not become."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

import llm_supervisor
from llm_supervisor.control.client import NoDaemon
from llm_supervisor.host.net import listener as net_listener
from tests.daemon.conftest import program
from tests.daemon.test_adoption import knocking, pair, same
from tests.support.harness import Daemon, answer_to
from tests.support.programs import alive, marked, meanwhile, open_gate, until

pytestmark = pytest.mark.slow

PACKAGE = Path(llm_supervisor.__file__).parent
OLD = llm_supervisor.__version__


class Installed:
    """A copy of the package, from which the daemon runs: so that another version can be put there."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "code"
        shutil.copytree(PACKAGE, self.path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))

    def write(self, file: str, old: str, new: str) -> None:
        """Change something in it."""
        path = self.path / PACKAGE.name / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def hold_rehearsals(self, gate: Path) -> None:
        """From now on each waits until the gate is opened (``open_gate``)."""
        os.mkfifo(gate)
        start = '    """The rehearsal, in the new code'
        self.write("daemon/upgrade.py", start, f"    open({str(gate)!r}).close()\n{start}")

    def version(self, new: str) -> None:
        file = self.path / PACKAGE.name / "__init__.py"
        file.write_text(file.read_text() + f'\n__version__ = "{new}"\n')


def installed(folder: Path, config: dict[str, Any]) -> tuple[Installed, Daemon]:
    code = Installed(folder)
    return code, Daemon(folder, config, env={"PYTHONPATH": str(code.path)})


def rehearses(daemon: Daemon) -> bool:
    """Whether new code is being tried."""
    return any("--rehearse" in line for line in marked(daemon.mark).values())


def asking(daemon: Daemon) -> AbstractContextManager[list[str]]:
    """Somebody asks for the status all the time; what was no answer."""

    def ask() -> str | None:
        try:
            code, answer = daemon.ask("GET", "/v1/status")
        except NoDaemon as error:
            return str(error)
        fine = code == 200 and answer["supervisor"]["state"] in ("running", "starting")
        return None if fine else str(answer)

    return meanwhile(ask)


def test_it_becomes_another_version(tmp_path: Path) -> None:
    programs = {"calm": program("obedient"), "tree": program("daemoniser", "--stay"), "off": program("obedient")}
    code, daemon = installed(tmp_path, {"programs": programs})
    with daemon:
        for name in programs:
            daemon.wait(name, state="RUNNING")
        assert daemon.cli("stop", "off").returncode == 0
        before, about = {name: daemon.program(name) for name in programs}, daemon.status()["supervisor"]
        events = daemon.cli("events", "--json", "-n", "1000").stdout.splitlines()
        assert (about["version"], about["upgrades"]) == (OLD, 0)
        code.version("9.9.9")
        with asking(daemon) as wrong:
            done = daemon.cli("upgrade")
        assert (done.returncode, done.stdout) == (0, f"upgraded: {OLD} -> 9.9.9\n"), done
        assert wrong == [], "whoever asks waits for a moment at most"
        after = daemon.status()["supervisor"]
        assert (after["pid"], after["version"], after["upgrades"]) == (about["pid"], "9.9.9", 1)
        assert after["uptime_s"] > about["uptime_s"]
        for name in programs:
            now = daemon.program(name)
            assert same(before[name], now)
            assert (now["state"], now["restarts"]) == (before[name]["state"], 0)
        assert daemon.cli("events", "--json", "-n", "1000").stdout.splitlines()[: len(events)] == events

        os.kill(before["calm"]["pid"], signal.SIGKILL)
        again = daemon.wait("calm", state="RUNNING", restarts=1)
        assert again["exit"] == {"code": None, "signal": 9}, "they are its children still"
        assert daemon.cli("upgrade").returncode == 0, "and once more"
        assert daemon.status()["supervisor"]["upgrades"] == 2
        assert same(again, daemon.program("calm"))
        descriptors = len(os.listdir(f"/proc/{about['pid']}/fd"))
        assert daemon.cli("upgrade").returncode == 0
        assert len(os.listdir(f"/proc/{about['pid']}/fd")) <= descriptors, "none is left open each time"
        zombies = [pid for pid in daemon.children() if not alive(pid)]
        assert zombies == []


BROKEN = {
    "a syntax error": ("daemon/daemon.py", "class Daemon:", "class Daemon\n"),
    "an import": (
        "supervision/local/local_world.py",
        "from dataclasses import replace\n",
        "from dataclasses import replace\nimport no_such_module\n",
    ),
    "another state": ("supervision/state_file.py", "STATE_VERSION = 2", "STATE_VERSION = 3"),
    "no such option": ("cli/arguments.py", '"--rehearse"', '"--other"'),
    "a key that it does not know": (
        "config/schema.py",
        "    programs: dict[str, Program]",
        "    others: dict[str, Program]",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_would_not_do_is_not_become(tmp_path: Path, name: str) -> None:
    code, daemon = installed(tmp_path, {"programs": {"p": program("obedient")}})
    with daemon:
        before = daemon.wait("p", state="RUNNING")
        code.write(*BROKEN[name])
        done = daemon.cli("upgrade", timeout=60) if name != "no such option" else None
        if done is None or name in ("a syntax error", "an import", "a key that it does not know"):
            # the command is of the new code as well: ask as an old one would
            _, answer = daemon.ask("POST", "/v1/upgrade")
            assert answer["ok"] is False
            assert "rehearsal" in answer["error"]
        else:
            assert done.returncode == 1
            assert "everything is as it was" in done.stderr
        assert daemon.status()["supervisor"]["upgrades"] == 0
        assert same(before, daemon.program("p"))
        os.kill(before["pid"], signal.SIGKILL)
        daemon.wait("p", state="RUNNING", restarts=1)  # it works as before


@pytest.mark.parametrize("wrong", ["a configuration", "a port"])
def test_what_went_wrong_meanwhile_ends_no_daemon_that_has_nothing_alive(tmp_path: Path, wrong: str) -> None:
    """What passes the rehearsal is gone on with, though a daemon that starts would refuse it."""
    settings = pair(tmp_path)
    _, daemon = installed(tmp_path, settings)
    with daemon, ExitStack() as stack:
        daemon.wait_ready()
        assert daemon.cli("stop", "all").returncode == 0
        if wrong == "a port":
            stack.enter_context(net_listener.bind("127.0.0.1", settings["gateway"]["port"]))
        else:
            daemon.config_file.write_text("programs: [")
        done = daemon.cli("upgrade")
        assert done.returncode == 0, done
        about = daemon.status()["supervisor"]
        assert (about["upgrades"], len(about["config_problems"])) == (1, 1)
        assert {daemon.program(name)["state"] for name in ("gateway", "glm")} == {"STOPPED"}
        stack.close()
        daemon.write(settings)
        assert daemon.cli("reload").returncode == 0
        assert daemon.status()["supervisor"]["config_problems"] == []
        assert daemon.cli("start", "glm").returncode == 0


def test_it_is_upgraded_though_nothing_was_ever_started(tmp_path: Path) -> None:
    _, daemon = installed(tmp_path, {"programs": {"p": program("obedient", autostart=False)}})
    with daemon:
        daemon.wait_up()
        done = daemon.cli("upgrade")
        assert (done.returncode, done.stdout) == (0, f"upgraded: {OLD} -> {OLD}\n"), done
        assert daemon.program("p")["state"] == "STOPPED"
        assert daemon.cli("start", "p").returncode == 0


def test_new_code_that_dies_at_once_costs_no_program(tmp_path: Path) -> None:
    """What no rehearsal shows: it breaks when it is the daemon. The next one adopts."""
    code, daemon = installed(tmp_path, {"programs": {"p": program("obedient")}})
    with daemon:
        before = daemon.wait("p", state="RUNNING")
        good = (code.path / PACKAGE.name / "daemon/daemon.py").read_text()
        code.write("daemon/daemon.py", "        become_subreaper()\n", "        os._exit(70)\n")
        done = daemon.cli("upgrade")
        assert done.returncode == 1
        assert "ended at once" in done.stderr
        assert daemon.wait_ended() == 70
        assert alive(before["pid"])
        (code.path / PACKAGE.name / "daemon/daemon.py").write_text(good)
        daemon.start()
        assert same(before, daemon.wait("p", state="RUNNING"))


def test_sigusr2_does_the_same_and_a_stop_on_the_way_is_heard(tmp_path: Path) -> None:
    _, daemon = installed(tmp_path, {"programs": {"p": program("obedient")}})
    with daemon:
        before = daemon.wait("p", state="RUNNING")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGUSR2)
        daemon.wait_for(lambda: (daemon.status()["supervisor"] or {}).get("upgrades") == 1, "an upgrade")
        assert same(before, daemon.program("p"))
        daemon.process.send_signal(signal.SIGUSR2)
        daemon.wait_for(lambda: daemon.stderr().count('"upgrading"') == 2, "the next one")
        assert daemon.end() == 0
        assert not alive(before["pid"])


def test_a_shutdown_during_the_rehearsal_comes_first(tmp_path: Path) -> None:
    """Who asked for it hears that all is down, and who asked for the upgrade that there is none."""
    code, daemon = installed(tmp_path, {"programs": {"p": program("stubborn", stop={"grace": 3})}})
    with daemon:
        daemon.wait("p", state="RUNNING")
        code.hold_rehearsals(gate := tmp_path / "gate")
        upgrade = daemon.background("upgrade")
        daemon.wait_for(lambda: rehearses(daemon), "a rehearsal")
        shutdown = daemon.background("shutdown")
        daemon.wait("p", state="STOPPING")
        open_gate(gate)
        _, said = upgrade.communicate(timeout=30)
        assert upgrade.returncode == 1
        assert b"not upgraded, everything is as it was: the daemon is about to end" in said
        assert (shutdown.communicate(timeout=30), shutdown.returncode) == ((b"everything is stopped\n", b""), 0)
        assert daemon.wait_ended() == 0


def test_of_two_upgrades_at_once_one_is_told(tmp_path: Path) -> None:
    code, daemon = installed(tmp_path, {"programs": {"p": program("obedient")}})
    with daemon:
        daemon.wait("p", state="RUNNING")
        code.hold_rehearsals(gate := tmp_path / "gate")
        first = daemon.background("upgrade")
        daemon.wait_for(lambda: rehearses(daemon), "a rehearsal")
        with daemon.posted("/v1/upgrade") as second:
            open_gate(gate)
            assert answer_to(second) == {"ok": False, "error": "it becomes another version already"}
        said, _ = first.communicate(timeout=30)
        assert (first.returncode, said) == (0, f"upgraded: {OLD} -> {OLD}\n".encode())
        assert daemon.status()["supervisor"]["upgrades"] == 1


def test_a_request_in_hand_is_answered_first(tmp_path: Path) -> None:
    """A restart that takes long: who waits for it is told, and it goes on under the new code."""
    slow = program("stubborn", stop={"grace": 4})
    _, daemon = installed(tmp_path, {"programs": {"p": slow}})
    with daemon:
        daemon.wait("p", state="RUNNING")
        following = daemon.background("events", "-f")
        waiting = daemon.background("restart", "p")
        daemon.wait("p", state="STOPPING")
        assert daemon.cli("upgrade").returncode == 0
        said, _ = waiting.communicate(timeout=10)
        assert (waiting.returncode, said) == (0, b"p: asked\n")
        assert daemon.program("p")["state"] == "STOPPING"
        daemon.wait("p", state="RUNNING", restarts=1)
        assert following.stdout is not None
        os.set_blocking(following.stdout.fileno(), False)
        told = b""

        def heard() -> bool:
            nonlocal told
            told += following.stdout.read() or b""  # type: ignore[union-attr]
            words = [line.split()[2] for line in told.decode().splitlines()]
            return words[-3:] == ["STOPPING", "STARTING", "RUNNING"]

        until(heard, "who follows the events goes on following")
        assert following.poll() is None
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=10)


def test_the_members_that_are_known_do_not_grow_in_number(tmp_path: Path) -> None:
    """Each is watched anew after an upgrade, and is still one."""
    _, daemon = installed(tmp_path, pair(tmp_path))
    with daemon:
        daemon.wait_ready()

        def members() -> list[Any]:
            daemon.cli("stop", "gateway")  # what was answered is written down
            state = json.loads((daemon.runtime / "state.json").read_text())
            found: list[Any] = state["programs"]["glm"]["members"]
            return found

        vital = daemon.tree("glm").keys() - {daemon.program("glm")["pid"]}
        daemon.wait_for(lambda: {pid for pid, *_ in members()} == vital, "all members are known")
        before = members()
        for _ in range(2):
            assert daemon.cli("upgrade").returncode == 0
            daemon.wait("glm", state="RUNNING", health="ready")
            assert members() == before


@pytest.mark.parametrize("exec_works", [True, False])
def test_a_restart_of_the_gateway_during_the_rehearsal_comes_afterwards(tmp_path: Path, exec_works: bool) -> None:
    """Waited for or not; once for each replica, however often it was asked for."""
    code, daemon = installed(tmp_path, pair(tmp_path, replicas=2))
    if not exec_works:
        code.write("daemon/upgrade.py", "os.execve(argv[0], argv, environment())", "raise OSError('no exec')")
    with daemon:
        daemon.wait_ready()
        replicas = ("gateway", "gateway-2")
        before = {name: daemon.program(name) for name in replicas}
        code.hold_rehearsals(gate := tmp_path / "gate")
        with (
            daemon.posted("/v1/upgrade") as upgraded,
            daemon.posted("/v1/programs/gateway/restart") as waited_for,
            daemon.posted("/v1/programs/gateway/restart?wait=0"),
            daemon.posted("/v1/programs/gateway-2/restart?wait=0") as not_waited_for,
        ):
            assert answer_to(not_waited_for)["outcome"] == "asked"
            open_gate(gate)
            assert answer_to(upgraded)["ok"]
            said = answer_to(waited_for)
            assert (said["ok"], said["outcome"]) == (True, "asked")
        for name in replicas:
            assert not same(before[name], daemon.wait(name, state="RUNNING", restarts=1))
        daemon.wait_ready()
        assert [daemon.program(name)["restarts"] for name in replicas] == [1, 1]
        assert daemon.status()["supervisor"]["upgrades"] == int(exec_works)


def test_clients_of_the_gateway_notice_nothing(tmp_path: Path) -> None:
    settings = pair(tmp_path)
    _, daemon = installed(tmp_path, settings)
    with daemon:
        daemon.wait_ready()
        before = {name: daemon.program(name) for name in ("gateway", "glm")}
        with knocking(settings["gateway"]["port"]) as wrong:
            for _ in range(3):
                done = daemon.cli("upgrade")
                assert done.returncode == 0, done
            assert daemon.cli("restart", "gateway").returncode == 0
        assert wrong == []
        daemon.wait_ready()
        assert same(before["glm"], daemon.program("glm"))


def test_a_rehearsal_changes_nothing(tmp_path: Path) -> None:
    _, daemon = installed(tmp_path, {"programs": {"p": program("obedient")}})
    with daemon:
        daemon.wait("p", state="RUNNING")
        time.sleep(0.1)
        state = (daemon.runtime / "state.json").read_text()
        done = daemon.cli("run", "--rehearse", "-c", str(daemon.config_file))
        assert json.loads(done.stdout) == {"rehearsed": OLD}
        assert (daemon.runtime / "state.json").read_text() == state
        (daemon.runtime / "state.json").write_text("{}")
        assert daemon.cli("run", "--rehearse", "-c", str(daemon.config_file)).returncode == 1
        (daemon.runtime / "state.json").write_text(state)
