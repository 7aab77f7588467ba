"""`llm-supervisor start`, `stop`, `restart`, `reload`, `upgrade`, `shutdown` and `events`: requests to the daemon.

The daemon decides what they do; here they are sent, and its answers are printed.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

from llm_supervisor import paths
from llm_supervisor.cli.connection import ask, find_daemon, report_no_daemon
from llm_supervisor.cli.output import FAILED, OK, WRONG, complain, say, say_json
from llm_supervisor.control.client import NoDaemon, lines
from llm_supervisor.suggest import nearest

UPGRADE_WAIT = 60.0  # seconds that the new version may take until it answers
SHUTDOWN_WAIT = 60.0  # seconds that the daemon may take to end once everything is stopped


def stop(options: argparse.Namespace) -> int:
    """Stop programs; or, without a daemon, end what a dead daemon left running."""
    if not options.orphans:
        return act(options) if options.name else complain("stop: name a program, or all, or --orphans")
    import asyncio

    from llm_supervisor.daemon.orphans import services, sweep_orphans
    from llm_supervisor.ownership import NotOurs
    from llm_supervisor.supervision.resources import Refusal

    codes = [_stop_orphans_of(runtime, uid) for runtime, uid in services(os.environ).items()]
    try:
        found = asyncio.run(sweep_orphans(os.environ))
    except NotOurs as error:
        return complain(str(error))
    except Refusal as error:
        complain(str(error))
        return FAILED
    for name, count in found.items():
        say(f"{name}: {count} process{'es' if count != 1 else ''} ended")
    if not found and not codes:
        say("nothing was left running")
    return max(codes, default=OK)


def _stop_orphans_of(runtime: Path, uid: int) -> int:
    """The same command as the user of a service, with no more rights than that user has; its exit status."""
    import subprocess

    environ = {**os.environ, "RUNTIME_DIRECTORY": str(runtime)}
    environ.setdefault("LLM_SUPERVISOR_HOME", str(paths.data_dir(os.environ)))
    argv = [sys.executable, "-m", "llm_supervisor.cli", "stop", "--orphans"]
    sys.stdout.flush()
    try:
        gid = runtime.stat().st_gid
        done = subprocess.run(argv, env=environ, user=uid, group=gid, extra_groups=[gid], cwd="/", check=False)
    except OSError as error:
        complain(f"what uid {uid} has left in {runtime} cannot be ended: {error}")
        return FAILED
    return done.returncode


def act(options: argparse.Namespace) -> int:
    """Start, stop or restart the named programs, and print the outcome of each. Which programs a name means, and in
    which order they are restarted, is decided by the daemon."""
    from urllib.parse import urlencode

    query = urlencode([*(("name", name) for name in options.name), ("wait", int(not options.no_wait))])
    try:
        runtime, _ = find_daemon()
        for line in lines(runtime, f"/v1/programs/{options.command}?{query}", "POST"):
            if "error" in line:
                return complain(line["error"])
            if "program" not in line:  # the last one, about all of them
                return OK if line["ok"] else FAILED
            words = f"{line['program']}: {line['outcome']}"
            say(words, error=not line["ok"], flush=True)
        raise NoDaemon("it ended before it had answered")
    except NoDaemon as error:
        return report_no_daemon(error)


def reload(options: argparse.Namespace) -> int:
    """Let the daemon read its configuration again, and print what changed; WRONG if the configuration is wrong."""
    query = f"dry_run={int(options.dry_run)}&wait={int(not options.no_wait)}"
    try:
        _, answer = ask("POST", f"/v1/reload?{query}", timeout=None)
    except NoDaemon as error:
        return report_no_daemon(error)
    wrong = not answer["ok"] and not answer["changes"]
    code = OK if answer["ok"] else WRONG if wrong else FAILED
    if options.json:
        say_json(answer)
        return code
    for problem in answer["problems"]:
        say(problem if wrong else f"warning: {problem}", error=True)
    if wrong:
        return complain(answer.get("error") or "the configuration is wrong; nothing was changed")
    width = max((len(line["program"]) for line in answer["changes"]), default=0)
    for line in answer["changes"]:
        words = f"{line['program']:<{width}}  {line['action']:<8}  {line['why']}"
        done = line.get("outcome")
        say(f"{words}: {done}" if done else words, error=not line.get("ok", True))
    return code


def upgrade(options: argparse.Namespace) -> int:
    """Let the daemon replace itself by the installed version, and wait until that answers."""
    try:
        _, before = ask("GET", "/v1/status")
        pid, version = before["supervisor"]["pid"], before["supervisor"]["version"]
        daemon = _pidfd(pid)
        _, answer = ask("POST", "/v1/upgrade", timeout=None)
    except NoDaemon as error:
        return report_no_daemon(error)
    if not answer["ok"]:
        complain(f"not upgraded, everything is as it was: {answer['error']}")
        return FAILED
    return _await_upgrade(daemon, version, answer)


def _pidfd(pid: int) -> int:
    """A descriptor that is readable once that process has ended; -1 if it has ended already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1


def _await_upgrade(daemon: int, version: str, answer: dict[str, Any]) -> int:
    """Wait until the new version answers on the socket of the old one, at most UPGRADE_WAIT."""
    from llm_supervisor.supervision import leftovers

    end = time.monotonic() + UPGRADE_WAIT
    while time.monotonic() < end:
        if daemon < 0 or select.select([daemon], [], [], 0)[0]:
            advice = (
                "; its programs run on. Start the daemon again: it adopts them" if leftovers.orphans(os.environ) else ""
            )
            complain(f"the new version ended at once{advice}")
            return FAILED
        try:
            _, after = ask("GET", "/v1/status", timeout=5)
        except NoDaemon:
            time.sleep(0.05)
            continue
        if after["supervisor"]["upgrades"] > answer["upgrades"]:
            say(f"upgraded: {version} -> {after['supervisor']['version']}")
            return OK
        if after["supervisor"]["state"] == "stopping":
            complain("not upgraded: the daemon was told to end")
            return FAILED
        time.sleep(0.05)
    complain("not upgraded: the old version still answers; see the daemon's log")
    return FAILED


def shutdown(options: argparse.Namespace) -> int:
    """Stop all programs and the daemon, and wait until it has ended, at most SHUTDOWN_WAIT after the last program."""
    try:
        _, answer = ask("GET", "/v1/status")
        daemon = _pidfd(answer["supervisor"]["pid"])
        _, ended = ask("POST", "/v1/shutdown", timeout=None)
    except NoDaemon as error:
        return report_no_daemon(error)
    if daemon >= 0:
        select.select([daemon], [], [], SHUTDOWN_WAIT)
    for name, alive in ended.get("left", {}).items():
        say(f"{name}: {alive}", error=True)
    if not ended["ok"]:
        return FAILED
    say("everything is stopped")
    return OK


def events(options: argparse.Namespace) -> int:
    """Print the last events, and with --follow new ones until Ctrl-C or until the daemon ends."""
    try:
        runtime, status = find_daemon()
        known = [program["name"] for program in status["programs"]]
        for name in options.name:
            if name not in known:
                return complain(nearest(name, known))
        last = [event for event in lines(runtime, "/v1/events") if not options.name or event["program"] in options.name]
        for event in last[-options.lines :] if options.lines else []:
            _print_event(event, as_json=options.json)
        after = last[-1]["id"] if last else 0
        while options.follow:
            for event in lines(runtime, f"/v1/events?after={after}&follow=1"):
                after = event["id"]
                if not options.name or event["program"] in options.name:
                    _print_event(event, as_json=options.json)
            try:  # an upgrade also ends the stream, but then a daemon still answers and the events go on
                _, status = find_daemon()
            except NoDaemon:
                break
            if status["supervisor"]["state"] == "stopping":
                break
    except NoDaemon as error:
        return report_no_daemon(error)
    return OK


def _print_event(event: dict[str, Any], *, as_json: bool) -> None:
    """Print one event in a line, with its time in the local time zone."""
    if as_json:
        say_json(event, indent=None)
        return
    from datetime import datetime

    at = datetime.fromisoformat(event["at"]).astimezone().strftime("%H:%M:%S")
    say(f"{at}  {event['program']}  {event['state']}  {event['health']}  {event['reason']}", flush=True)
