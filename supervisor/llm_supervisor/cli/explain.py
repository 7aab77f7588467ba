"""`llm-supervisor explain` and `diagnose`: why a program failed, and what to do.

Neither needs a daemon: the first reads the folder of the incident, the second a log on standard input.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_supervisor import paths
from llm_supervisor.cli.output import OK, complain, say, say_json

LAST_LINES = 8  # of the log, shown where the diagnosis has no evidence


def explain(options: argparse.Namespace) -> int:
    """Print what is recorded about the last failure of a program, or about the one with the given id."""
    from llm_supervisor.host import incident
    from llm_supervisor.suggest import nearest

    folders = paths.incident_dirs(os.environ)
    known = _known_programs(folders, options.name)
    if options.name not in known:
        return complain(nearest(options.name, sorted(known)))
    # those of this daemon; else those that an older version has kept for all daemons
    folder = next((one for one in folders if incident.ids(one, options.name)), folders[0])
    ids = incident.ids(folder, options.name)
    if not ids:
        if options.json:
            say_json(None)
        else:
            say(f"{options.name}: no failure is recorded")
        return OK
    wanted = options.incident or ids[-1]
    try:
        facts = incident.read(folder, options.name, wanted)
    except (OSError, ValueError):
        return complain(f"no such incident: {wanted}; there are: {', '.join(ids)}")
    if options.json:
        say_json(facts)
        return OK
    _print_failure(options.name, facts)
    _print_evidence(folder, options.name, wanted, facts)
    _print_remains(facts)
    others = f"; {len(ids) - 1} older: --incident {ids[0]} ..." if len(ids) > 1 else ""
    say()
    say(f"{folder / options.name / wanted}{others}")
    return OK


def _known_programs(folders: Sequence[Path], asked: str) -> set[str]:
    """The programs that have incidents and, if the one that was asked for is not among them, those of the daemon."""
    found = {path.name for folder in folders if folder.is_dir() for path in folder.glob("*")}
    known = {name for name in found if not name.startswith("%")}  # those are the folders of daemons
    if asked in known:
        return known
    from llm_supervisor.cli.connection import ask
    from llm_supervisor.control.client import NoDaemon

    try:
        _, answer = ask("GET", "/v1/status", timeout=5)
    except NoDaemon:
        return known
    return known | {program["name"] for program in answer["programs"]}


def _print_failure(name: str, facts: dict[str, Any]) -> None:
    """What failed, and what to do."""
    permanent = {True: ", permanent: a restart without a change cannot help", False: ", a restart may help", None: ""}
    say(f"{name}: {facts['summary']}")
    say(f"  {facts['kind']}, {facts['at']}{permanent[facts['permanent']]}")
    if facts["left"] not in facts["summary"]:
        say(f"  it ended because: {facts['left']}")
    if facts["advice"]:
        say()
        say("What to do:")
        say(f"  {facts['advice']}")


def _print_evidence(folder: Path, name: str, incident_id: str, facts: dict[str, Any]) -> None:
    """The lines of the log that the diagnosis rests on, else the last ones; and where the processes hung."""
    from llm_supervisor.host import incident
    from llm_supervisor.host.output import reader as output_reader

    if facts["evidence"]:
        say()
        say("The lines of its log that say so:")
        for line in facts["evidence"]:
            say(f"  {line}")
    if (stacks := incident.stacks_of(folder, name, incident_id)) is not None:
        say()
        say(f"Where its processes stood: {stacks}")
    if not facts["evidence"]:
        last = output_reader.split_lines(incident.log_of(folder, name, incident_id))[-LAST_LINES:]
        if last:
            say()
            say("The last lines of its log:")
            for raw in last:
                say(f"  {raw.decode(errors='replace')}")


def _print_remains(facts: dict[str, Any]) -> None:
    """What was left when its leader had died: memory of the GPUs, and processes."""
    for one in facts.get("gpus") or ():
        if one["used"] is not None:
            ours = one.get("programs") or {}
            by = ", ".join(
                f"{ours.get(pid, 'not ours')}, pid {pid}: {used // 2**20} MiB" for pid, used in one["processes"].items()
            )
            used = f"{one['used'] // 2**20} of {one['total'] // 2**20} MiB in use"
            say()
            say(f"GPU {one['index']}: {used}; {by or 'by no visible process'}")
    if facts["tree"]:
        say()
        say(f"Outlived its leader, and were ended: {', '.join(facts['tree'])}")


def diagnose(options: argparse.Namespace) -> int:
    """Read a log on standard input, and print the diagnosis as JSON."""
    from llm_supervisor.diagnosis import diagnose, to_message

    code = options.exit_code
    signal = code - 128 if code is not None and 128 < code < 160 else -code if code is not None and code < 0 else None
    found = diagnose(sys.stdin.buffer.read(), options.component, exit_code=None if signal else code, exit_signal=signal)
    say_json(to_message(found))
    return OK
