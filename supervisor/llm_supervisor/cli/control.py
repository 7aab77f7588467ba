"""`llm-supervisor start`, `stop`, `restart`, `reload`, `upgrade`, `shutdown` and `events`: requests to the daemon.

The daemon decides what they do; here they are sent, and its answers are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import Any

from llm_supervisor.cli.connection import ask, find_daemon, orphans, report_no_daemon
from llm_supervisor.cli.output import FAILED, OK, WRONG, complain
from llm_supervisor.control.client import NoDaemon, lines
from llm_supervisor.names import nearest

UPGRADE_WAIT = 60.0  # seconds that the new version may take until it answers
SHUTDOWN_WAIT = 60.0  # seconds that the daemon may take to end once everything is stopped


def stop(options: argparse.Namespace) -> int:
    """Stop programs; or, without a daemon, end what a dead daemon left running."""
    if not options.orphans:
        return act(options) if options.name else complain("stop: name a program, or all, or --orphans")
    import asyncio

    from llm_supervisor.daemon import bootstrap
    from llm_supervisor.daemon import daemon as main_daemon

    try:
        found = asyncio.run(main_daemon.sweep_orphans(os.environ))
    except bootstrap.Refusal as error:
        complain(str(error))
        return FAILED
    for name, count in found.items():
        print(f"{name}: {count} process{'es' if count != 1 else ''} ended")
    if not found:
        print("nothing was left running")
    return OK


def act(options: argparse.Namespace) -> int:
    """Start, stop or restart the named programs, and print the outcome of each."""
    from concurrent.futures import ThreadPoolExecutor
    from urllib.parse import quote

    try:
        _, answer = ask("GET", "/v1/status")
        known = [program["name"] for program in answer["programs"]]
        replicas = [program["name"] for program in answer["programs"] if program["kind"] == "litellm"]
        asked = known if "all" in options.name and "all" not in known else list(dict.fromkeys(options.name))
        for name in asked:
            if name not in known:
                return complain(nearest(name, known))
        # the name "gateway" stands for all of its replicas
        names = list(dict.fromkeys(one for name in asked for one in (replicas if name == "gateway" else [name])))
        wait = "0" if options.no_wait else "1"

        def one(name: str) -> tuple[str, int, Any]:
            status, said = ask("POST", f"/v1/programs/{quote(name)}/{options.command}?wait={wait}", timeout=None)
            return name, status, said

        # one replica after the other, so that the others serve meanwhile
        rolling = options.command == "restart" and len(replicas) > 1 and set(replicas) <= set(names)
        together = [name for name in names if name not in replicas] if rolling else names

        def several() -> Iterator[tuple[str, int, Any]]:
            with ThreadPoolExecutor(max_workers=max(len(names), 1)) as pool:
                yield from pool.map(one, together)
            for name in names if rolling else ():
                if name in replicas:
                    yield (done := one(name))
                    if wait == "1" and done[1] == 200 and (done[2]["program"] or {}).get("wanted") == "down":
                        return  # somebody has stopped the gateway meanwhile: a restart would start the next replica

        code = OK
        for name, status, said in several():
            ok = status == 200 and said["ok"]
            words = said["outcome"] if status == 200 else said["error"]
            print(f"{name}: {words}", file=sys.stdout if ok else sys.stderr)
            code = code if ok else FAILED
        return code
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
        print(json.dumps(answer, indent=2))
        return code
    for problem in answer["problems"]:
        print(problem if wrong else f"warning: {problem}", file=sys.stderr)
    if wrong:
        return complain(answer.get("error") or "the configuration is wrong; nothing was changed")
    width = max((len(line["program"]) for line in answer["changes"]), default=0)
    for line in answer["changes"]:
        words = f"{line['program']:<{width}}  {line['action']:<8}  {line['why']}"
        done = line.get("outcome")
        print(f"{words}: {done}" if done else words, file=sys.stdout if line.get("ok", True) else sys.stderr)
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
    end = time.monotonic() + UPGRADE_WAIT
    while time.monotonic() < end:
        if daemon < 0 or select.select([daemon], [], [], 0)[0]:
            advice = "; its programs run on. Start the daemon again: it adopts them" if orphans() else ""
            complain(f"the new version ended at once{advice}")
            return FAILED
        try:
            _, after = ask("GET", "/v1/status", timeout=5)
        except NoDaemon:
            time.sleep(0.05)
            continue
        if after["supervisor"]["upgrades"] > answer["upgrades"]:
            print(f"upgraded: {version} -> {after['supervisor']['version']}")
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
        ask("POST", "/v1/shutdown", timeout=None)
    except NoDaemon as error:
        return report_no_daemon(error)
    if daemon >= 0:
        select.select([daemon], [], [], SHUTDOWN_WAIT)
    print("everything is stopped")
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
        print(json.dumps(event), flush=True)
        return
    from datetime import datetime

    at = datetime.fromisoformat(event["at"]).astimezone().strftime("%H:%M:%S")
    print(f"{at}  {event['program']}  {event['state']}  {event['health']}  {event['reason']}", flush=True)
