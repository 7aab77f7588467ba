"""What the command prints, and how it exits: over one daemon whose programs are in every state there is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from llm_supervisor.control.client import lines
from tests.daemon.conftest import program
from tests.support.harness import Daemon
from tests.support.openapi import check
from tests.support.programs import Lines, alive

ONCE = {"policy": "never"}
LATE = {"after": 3600}  # it ends before it is ready, however slow this machine is


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the module; a test changes only programs that no other test uses, or puts them back."""
    programs = {
        "calm": program("obedient"),
        "twin": program("obedient"),
        "killed": program("obedient"),
        "down": program("obedient", autostart=False),
        "done": program("exiter", ready={"after": 0}, restart=ONCE),
        "failed": program("exiter", "--status", 7, ready={"after": 0}, restart=ONCE),
        "on-failure": program("exiter", ready={"after": 0}, restart={"policy": "on-failure"}),
        "loops": program("exiter", "--status", 7, ready=LATE, restart={"backoff": 0, "intensity": 3}),
        "waits": program("exiter", "--status", 7, ready=LATE, restart={"backoff": 3600, "backoff_cap": 3600}),
        "absent": {"command": ["/no/such/program"]},
        "lines": program("chatty", "--lines", 30, "--stay"),
        "many": program("chatty", "--lines", 20_000, "--stay"),
    }
    with Daemon(tmp_path_factory.mktemp("zoo"), {"programs": programs}) as daemon:
        for name, state in {
            **dict.fromkeys(("calm", "twin", "killed", "lines", "many"), "RUNNING"),
            **dict.fromkeys(("done", "failed", "on-failure"), "EXITED"),
            **dict.fromkeys(("loops", "absent"), "FATAL"),
            "waits": "BACKOFF",
            "down": "STOPPED",
        }.items():
            daemon.wait(name, state=state)
        daemon.wait_for(lambda: b"\nend " in daemon.log("many") and b"\nend " in daemon.log("lines"), "all lines")
        yield daemon


def test_the_api_answers_as_its_document_says(zoo: Daemon) -> None:
    _, document = zoo.ask("GET", "/v1/openapi.json")
    check("/v1/status", zoo.status(), document=document)
    for event in lines(zoo.runtime, "/v1/events"):
        check("/v1/events", event, document=document)
    _, reload = zoo.ask("POST", "/v1/reload?dry_run=1")
    check("/v1/reload", reload, method="post", document=document)
    _, started = zoo.ask("POST", "/v1/programs/calm/start")
    check("/v1/programs/{name}/{action}", started, method="post", document=document)


COMMAND = [sys.executable, "-m", "llm_supervisor.cli"]


def said(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


# status -----------------------------------------------------------------------------------------------------


def test_status_in_columns(zoo: Daemon) -> None:
    done = zoo.cli("status")
    assert (done.returncode, done.stderr) == (3, ""), "something is not ready"
    assert zoo.call("status").stdout.split()[:3] == done.stdout.split()[:3], "the tests below do not start a process"
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [one["name"] for one in zoo.status()["programs"]]
    rows = {line.split()[0]: line for line in lines}
    pid = zoo.program("calm")["pid"]
    assert re.fullmatch(rf"calm +RUNNING +ready +pid {pid}, uptime 0:00:\d\d", rows["calm"])
    assert re.fullmatch(r"down +STOPPED +unknown *", rows["down"])
    assert re.fullmatch(r"done +EXITED +unknown +exited with status 0", rows["done"])
    assert re.match(r"failed +EXITED +unknown +.*status 7", rows["failed"])
    assert re.match(
        r"loops +FATAL +unhealthy +3 failures within 3600 s without a lasting readiness; .*status 7", rows["loops"]
    )
    assert re.match(r"waits +BACKOFF +starting +.*status 7.*, next start in 3\d\d\d s", rows["waits"])
    assert re.fullmatch(r"absent +FATAL +unhealthy +no such file: /no/such/program", rows["absent"])
    starts = {re.match(r"\S+ +\S+ +", line).end() for line in lines}  # type: ignore[union-attr]
    assert len(starts) == 1, "the columns are straight"


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["calm"], 0),
        (["calm", "twin"], 0),
        (["down"], 0),
        (["done"], 0),
        (["on-failure"], 0),
        (["failed"], 3),
        (["calm", "loops"], 3),
        (["waits"], 3),
        (["absent"], 3),
    ],
)
def test_the_status_of_some(zoo: Daemon, names: list[str], code: int) -> None:
    done = zoo.call("status", *names)
    assert done.returncode == code
    assert [line.split()[0] for line in done.stdout.splitlines()] == names


def test_the_shape_of_the_json(zoo: Daemon) -> None:
    """Documented, and stable."""
    done = zoo.call("status", "--json")
    assert done.returncode == 3
    message = json.loads(done.stdout)
    assert set(message) >= {"supervisor", "endpoint", "programs", "models"}
    assert set(message["supervisor"]) >= {"pid", "version", "uptime_s", "state"}
    assert zoo.process is not None
    assert (message["supervisor"]["pid"], message["supervisor"]["state"]) == (zoo.process.pid, "running")
    assert (message["endpoint"], message["models"]) == (None, [])
    programs = {one["name"]: one for one in message["programs"]}
    documented = {
        *("name", "kind", "state", "health", "pid", "incarnation", "uptime_s"),
        *("restarts", "progress", "probes", "gpus", "failure"),
    }
    assert all(set(one) >= documented for one in programs.values())
    calm = programs["calm"]
    assert (calm["kind"], calm["state"], calm["health"]) == ("command", "RUNNING", "ready")
    assert calm["uptime_s"] > 0
    assert (calm["restarts"], calm["progress"], calm["probes"], calm["gpus"]) == (0, None, {}, [])
    assert calm["failure"] is None
    assert re.fullmatch(r"[0-9a-f]{32}", calm["incarnation"])
    assert (programs["down"]["pid"], programs["down"]["uptime_s"], programs["down"]["incarnation"]) == (
        None,
        None,
        None,
    )
    failure = programs["absent"]["failure"]
    assert set(failure) >= {"kind", "permanent", "summary", "advice", "incident"}
    assert (failure["permanent"], failure["summary"]) == (True, "no such file: /no/such/program")
    assert failure["advice"]
    assert programs["loops"]["restarts"] == 2
    assert programs["absent"]["restarts"] == 0, "what cannot work is not tried again"


def test_names_that_are_none(zoo: Daemon) -> None:
    for words in (["status"], ["logs"], ["start"], ["stop"], ["restart"]):
        code, out, err = said(zoo.call(*words, "clam"))
        assert (code, out, err) == (2, "", "llm-supervisor: no such program: clam (did you mean calm?)\n")
    code, _, err = said(zoo.call("status", "calm", "zzz"))
    assert code == 2
    assert err.startswith("llm-supervisor: no such program: zzz (there are: calm, twin, ")
    code, out, _ = said(zoo.call("stop", "twin", "zzz"))
    assert (code, out) == (2, "")
    assert zoo.program("twin")["state"] == "RUNNING", "nothing is done when one of the names is wrong"


# start, stop, restart ---------------------------------------------------------------------------------------


def test_stop_and_start(zoo: Daemon) -> None:
    pid = zoo.program("twin")["pid"]
    assert said(zoo.call("stop", "twin")) == (0, "twin: stopped\n", "")
    assert not alive(pid)
    assert said(zoo.call("stop", "twin")) == (0, "twin: stopped\n", ""), "it is so already"
    assert zoo.call("status", "twin").returncode == 0, "it is as it is wanted"
    assert said(zoo.call("start", "twin")) == (0, "twin: started\n", "")
    assert said(zoo.call("start", "twin")) == (0, "twin: started\n", ""), "it is so already"
    now = zoo.program("twin")
    assert now["state"] == "RUNNING"
    assert now["pid"] != pid
    assert said(zoo.call("restart", "twin")) == (0, "twin: restarted\n", "")
    again = zoo.program("twin")
    assert again["pid"] != now["pid"]
    assert again["incarnation"] != now["incarnation"]
    assert not alive(now["pid"])


def test_several_at_once_and_twice_the_same(zoo: Daemon) -> None:
    code, out, err = said(zoo.call("restart", "twin", "calm", "twin"))
    assert (code, sorted(out.splitlines()), err) == (0, ["calm: restarted", "twin: restarted"], "")


def test_what_cannot_start_is_a_failure(zoo: Daemon) -> None:
    assert said(zoo.call("start", "absent")) == (1, "", "absent: FATAL: no such file: /no/such/program\n")
    code, out, err = said(zoo.call("restart", "loops", "calm"))
    assert (code, out) == (1, "calm: restarted\n")
    assert err.startswith(("loops: BACKOFF: ", "loops: FATAL: "))
    zoo.wait("loops", state="FATAL")


def test_a_program_that_waits_can_be_hurried_and_given_up(zoo: Daemon) -> None:
    restarts = zoo.program("waits")["restarts"]
    assert zoo.call("start", "waits").returncode == 1
    assert zoo.wait("waits", state="BACKOFF")["restarts"] == restarts + 1
    assert said(zoo.call("stop", "waits")) == (0, "waits: stopped\n", "")
    seen = zoo.program("waits")
    assert (seen["state"], seen["wanted"], seen["retry_in_s"]) == ("STOPPED", "down", None)
    zoo.call("start", "waits")
    zoo.wait("waits", state="BACKOFF")


def test_without_waiting(zoo: Daemon) -> None:
    assert said(zoo.call("stop", "--no-wait", "down")) == (0, "down: stopped\n", "")
    code, out, _ = said(zoo.call("start", "--no-wait", "down"))
    assert (code, out) in [(0, "down: asked\n"), (0, "down: started\n")]
    zoo.wait("down", state="RUNNING")
    zoo.call("stop", "down")


def test_bad_command_lines(zoo: Daemon) -> None:
    for words in ([], ["zzz"], ["start"], ["stop"], ["logs", "-n", "x"], ["status", "--zzz"], ["logs", "-n", "-1"]):
        done = zoo.call(*words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert "Traceback" not in done.stderr
    assert zoo.call("--version").stdout.startswith("llm-supervisor ")


# Deaths -----------------------------------------------------------------------------------------------------


def test_a_killed_program_is_back(zoo: Daemon) -> None:
    before = zoo.program("killed")
    os.kill(before["pid"], signal.SIGKILL)
    after = zoo.wait("killed", state="RUNNING", restarts=before["restarts"] + 1)
    assert after["pid"] != before["pid"]
    assert after["exit"] == {"code": None, "signal": 9}
    assert "signal 9" in after["reason"] or after["reason"]
    started = [event for event in zoo.events() if event.get("program") == "killed" and event.get("state") == "STARTING"]
    assert "was killed by signal 9" in str(zoo.events()), "the log says why"
    assert len(started) >= 2


def test_ends_that_are_wanted_stay(zoo: Daemon) -> None:
    for name, code in (("done", 0), ("failed", 7), ("on-failure", 0)):
        seen = zoo.program(name)
        assert (seen["state"], seen["exit"], seen["restarts"]) == ("EXITED", {"code": code, "signal": None}, 0)


# logs -------------------------------------------------------------------------------------------------------


def test_the_last_lines(zoo: Daemon) -> None:
    numbers = [line.split()[0] for line in zoo.call("logs", "lines").stdout.splitlines()]
    assert numbers == [f"{n:012d}" for n in range(21, 30)] + ["end"], "ten of them"
    assert zoo.call("logs", "-n", "0", "lines").stdout == ""
    assert len(zoo.call("logs", "-n", "1000", "lines").stdout.splitlines()) == 31
    one, two = zoo.call("logs", "-n", "2", "lines").stdout.splitlines()
    assert (one.split()[0], two.split()[0]) == (f"{29:012d}", "end")


def test_several_logs_have_prefixes(zoo: Daemon) -> None:
    lines = zoo.call("logs", "-n", "1", "lines", "many", "down").stdout.splitlines()
    pids = {name: zoo.program(name)["pid"] for name in ("lines", "many")}
    assert lines[:2] == [f"lines | end {pids['lines']}", f"many  | end {pids['many']}"]
    everything = zoo.call("logs", "-n", "1").stdout
    assert "calm       | " in everything
    assert "\x1b" not in everything, "no colours where nobody looks"


def test_following(zoo: Daemon) -> None:
    """Until Ctrl-C; across a restart."""
    follower = zoo.background("logs", "-f", "-n", "1", "calm")
    assert follower.stdout is not None
    lines = Lines(follower.stdout.fileno())
    pid = zoo.program("calm")["pid"]
    assert lines.next() == f"ready {pid}"
    zoo.call("restart", "calm")
    assert lines.next() == f"bye {pid}"
    assert lines.next() == f"ready {zoo.program('calm')['pid']}"
    follower.send_signal(signal.SIGINT)
    out, err = follower.communicate(timeout=20)
    assert (follower.returncode, out, err) == (130, b"", b"")


def test_watching(zoo: Daemon) -> None:
    """The status again and again; the last one's exit status in the end."""
    watcher = zoo.background("status", "--watch", "calm")
    assert watcher.stdout is not None
    lines = Lines(watcher.stdout.fileno())
    for _ in range(3):
        assert lines.next().startswith("calm")
    watcher.send_signal(signal.SIGINT)
    watcher.communicate(timeout=20)
    assert watcher.returncode in (0, 130)


def test_a_broken_pipe_is_no_error(zoo: Daemon) -> None:
    """``llm-supervisor logs | head -1``."""
    for words in ("logs -n 20000 many", "status", "logs -n 20000"):
        script = f"set -o pipefail; {' '.join(COMMAND)} {words} | head -n 1"
        done = subprocess.run(["bash", "-c", script], env=zoo.env, capture_output=True, text=True, timeout=60)
        assert done.returncode in (0, 3), done
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 1


# Without a daemon, and the end ------------------------------------------------------------------------------


def test_no_daemon(zoo: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zoo.env, "RUNTIME_DIRECTORY", str(zoo.folder / "nowhere"))
    for words in (["status"], ["start", "x"], ["stop", "x"], ["restart", "x"], ["shutdown"]):
        code, out, err = said(zoo.call(*words))
        assert (code, out) == (4, ""), words
        assert err.startswith("llm-supervisor: no daemon answers")
    done = zoo.call("status", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout) == {"supervisor": None, "endpoint": None, "programs": [], "models": []}
    # the last words of the dead can be read all the same
    done = zoo.call("logs", "-n", "1", "lines")
    assert done.returncode == 0
    assert done.stdout.startswith("end ")
    monkeypatch.setitem(zoo.env, "LLM_SUPERVISOR_HOME", str(zoo.folder / "nowhere"))
    code, out, err = said(zoo.call("logs"))
    assert (code, out) == (2, "")
    assert err.startswith("llm-supervisor: no logs in ")


def test_logs_since(zoo: Daemon) -> None:
    every = zoo.call("logs", "-n", "100000", "lines").stdout
    assert zoo.call("logs", "--since", "1h", "lines").stdout == every != ""
    assert zoo.call("logs", "--since", "1h", "-n", "1", "lines").stdout == every.splitlines(keepends=True)[-1]
    tomorrow = datetime.now() + timedelta(days=1)
    assert zoo.call("logs", "--since", f"{tomorrow:%Y-%m-%d %H:%M}", "lines").stdout == ""
    yesterday = f"{tomorrow - timedelta(days=2):%Y-%m-%d}"
    assert zoo.call("logs", "--since", yesterday, "lines").stdout == every
    for wrong in ("soon", "5", "25:00", "5 parsecs"):
        code, out, err = said(zoo.call("logs", "--since", wrong))
        assert (code, out) == (2, "")
        assert f"{wrong!r} is not a time; write 5m, 1h, 19:30" in err


def test_the_configuration_may_be_named_before_or_after_the_command(zoo: Daemon) -> None:
    file = str(zoo.config_file)
    for words in (
        ["-c", file, "check"],
        ["check", "-c", file],
        ["--config", file, "check"],
    ):
        code, out, _ = said(zoo.call(*words))
        assert (code, out.splitlines()[-1]) == (1, f"{file}: 1 warning"), "one of its programs is not there"
    assert zoo.call("check").stdout.endswith(f"{file}: 1 warning\n"), "./supervisor.yaml"
    # both are meant: given several times, what a later file says holds
    code, _, err = said(zoo.call("-c", "/x", "check", "-c", file))
    assert (code, "/x: no such file" in err.splitlines()) == (2, True), err
    more = zoo.folder / "more.yaml"
    more.write_text("programs: {one-more: {command: [/no/such/thing]}}\n")
    for words in (["-c", file, "check", "-c", str(more)], ["-c", file, "-c", str(more), "check"]):
        code, out, _ = said(zoo.call(*words))
        assert (code, "2 warnings" in out) == (1, True), out
    assert zoo.call("-c", file, "status", "calm").returncode == 0


def test_a_terminal_that_does_not_know_a_sign(zoo: Daemon) -> None:
    """What it cannot show it shows as its number; that is no reason to end."""
    folder = zoo.folder / "智谱"
    folder.mkdir()
    file = folder / "supervisor.yaml"
    file.write_text('"名": 1\n')
    for shown, encoding in (("智谱", "utf-8"), ("\\u667a\\u8c31", "ascii"), ("\\u667a\\u8c31", "latin-1")):
        zoo.env["PYTHONIOENCODING"] = encoding
        try:
            wrong = zoo.cli("check", "-c", str(file))
            right = zoo.cli("init", "cloud", f"{folder}/{encoding}")
        finally:
            del zoo.env["PYTHONIOENCODING"]
        assert "Traceback" not in wrong.stderr + right.stderr
        assert (wrong.returncode, right.returncode) == (2, 0)
        assert f"{shown}/supervisor.yaml:1" in wrong.stderr
        assert f"{shown}/{encoding}/supervisor.yaml" in right.stdout


def test_the_daemon_says_what_it_does(zoo: Daemon) -> None:
    """On a terminal: one line a change. In its log: JSON."""
    shown = zoo.stdout().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  \S+ +[A-Z]+", line) for line in shown), shown
    assert any(re.search(r"calm +RUNNING  ready", line) for line in shown)
    assert any(re.search(r"absent +FATAL .*no such file: /no/such/program", line) for line in shown)
    events = zoo.events()
    assert events[0]["event"] == "configuration", "first what may be wrong with it"
    assert all({"event", "level", "timestamp"} <= set(event) for event in events)
    assert len(events) == len(zoo.stderr().splitlines()), "nothing else is in it"


def test_shutdown(zoo: Daemon) -> None:
    """Last in this module: the fixture then asserts that nothing is left."""
    assert zoo.process is not None
    pids = list(zoo.children())
    assert len(pids) >= 5
    assert said(zoo.cli("shutdown")) == (0, "everything is stopped\n", "")
    assert zoo.wait_ended(20) == 0
    assert not [pid for pid in pids if alive(pid)]
    assert zoo.call("status").returncode == 4
    assert zoo.events()[-1]["event"] == "ended"
