"""`llm-supervisor status`: which programs run and how healthy they are.

This command is called often, by people and by scripts. Nothing is imported here that a single answer does not need;
rich is imported for `--watch` on a terminal only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from llm_supervisor.cli.connection import Status, ask, disabled_text, no_daemon_lines, no_daemon_status
from llm_supervisor.cli.output import NOT_READY, OK, WRONG, complaint, say_lines, shown
from llm_supervisor.control.client import NoDaemon
from llm_supervisor.units import clock_text

PERIOD = 1.0  # seconds between two looks of --watch
LATE = 1.0  # seconds by which the daemon may be late before people are told


class Line(NamedTuple):
    """A line of output. A problem goes to standard error, any other line to standard output."""

    text: str
    problem: bool = False


class Report(NamedTuple):
    """What one look at the daemon found: the exit status and the lines to print."""

    code: int
    lines: Sequence[Line]


def status(options: argparse.Namespace) -> int:
    """Print the status once, or with --watch until Ctrl-C; the exit status is that of the last look."""
    if options.watch:
        return _watch(options)
    report = _look(options)
    _print(report)
    return report.code


def _watch(options: argparse.Namespace) -> int:
    """Look again every PERIOD until Ctrl-C. Raises KeyboardInterrupt if that comes before the first look is done."""
    report: Report | None = None
    # JSON is for programs: every document whole, one after the other
    with _redrawn() if sys.stdout.isatty() and not options.json else _printed() as show:
        try:
            while True:
                report = _look(options)
                show(report)
                time.sleep(PERIOD)
        except KeyboardInterrupt:
            if report is None:
                raise
            return report.code


@contextmanager
def _printed() -> Iterator[Callable[[Report], None]]:
    """Shows each report below the last one."""

    def show(report: Report) -> None:
        _print(report)
        sys.stdout.flush()

    yield show


@contextmanager
def _redrawn() -> Iterator[Callable[[Report], None]]:
    """Shows each report in the place of the last one, without flicker. The last one stays on the terminal."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_interactive:  # TERM=dumb: the cursor cannot be moved
        with _printed() as show:
            yield show
        return
    # nothing else prints meanwhile, and the only thread that draws is this one
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield lambda report: live.update(
            Text("\n".join(line.text for line in report.lines), overflow="fold"), refresh=True
        )


def _print(report: Report) -> None:
    for line in report.lines:
        say_lines(line.text, error=line.problem)


def _look(options: argparse.Namespace) -> Report:
    """Ask the daemon for its status once."""
    try:
        _, answer = ask("GET", "/v1/status")
    except NoDaemon as error:
        problems = [Line(text, problem=True) for text in no_daemon_lines(error)]
        nothing: Status = {"supervisor": None, "endpoint": None, "programs": [], "models": []}
        return Report(no_daemon_status(error), [Line(json.dumps(nothing)), *problems] if options.json else problems)
    programs = answer["programs"]
    if options.name:
        known = {program["name"]: program for program in programs}
        for name in options.name:
            if name not in known:
                from llm_supervisor.suggest import nearest

                return Report(WRONG, [Line(complaint(nearest(name, known)), problem=True)])
        programs = answer["programs"] = [known[name] for name in options.name]
    code = OK if all(_is_fine(program) for program in programs) else NOT_READY
    if options.json:
        return Report(code, [Line(json.dumps(answer, indent=2))])
    return Report(code, [Line(shown(text), problem) for text, problem in _lines(answer)])


def _is_fine(program: dict[str, Any]) -> bool:
    """Whether a program is as it should be: ready, ended without an error, or stopped where that was asked for, and
    nothing of it is left."""
    if program["wanted"] == "down":
        return bool(program["state"] == "STOPPED" and program["health"] != "unhealthy")
    if program["state"] == "EXITED":
        return bool(program["exit"] and program["exit"]["code"] == 0)
    return program["state"] == "RUNNING" and program["health"] in ("ready", "busy")


def _lines(answer: Status) -> list[Line]:
    """The status for people: a line for each program, then the endpoint with its model groups."""
    programs = answer["programs"]
    width = max((len(program["name"]) for program in programs), default=0) + 2
    lines = []
    for program in programs:
        columns = f"{program['name']:<{width}}{program['state']:<10}{program['health']:<11}"
        lines.append(Line(columns + ", ".join(part for part in _parts(program) if part)))
    lines += [Line(text, problem=True) for text in _troubles(answer["supervisor"])]
    for problem in answer["supervisor"]["config_problems"]:
        lines.append(Line(f"the configuration is wrong, the last good one is in use: {problem}", problem=True))
    if answer["endpoint"]:
        words = {"ready": "", "degraded": " (not ready)", "disabled": " (disabled)"}
        models = ", ".join(model["name"] + words[model["state"]] for model in answer["models"])
        lines += [Line(""), Line(f"{answer['endpoint']}/v1  {models}")]
        lines += [Line(disabled_text(model)) for model in answer["models"] if model["state"] == "disabled"]
    return lines


def _troubles(supervisor: dict[str, Any]) -> list[str]:
    """What is wrong with the machine, as far as it hinders the daemon."""
    found = [
        f"{one['name']} does not answer (for {clock_text(one['for_s'])}): who needs it waits, the rest goes on"
        for one in supervisor.get("not_answering", [])  # an older daemon says nothing of it
    ]
    found += [f"degraded: {text}" for text in supervisor.get("degraded", [])]
    if (lag := supervisor.get("loop_lag_s", 0.0)) > LATE:
        found.append(f"the daemon was held up for {lag:.1f} s within the last minute: is the machine overloaded?")
    return found


def _parts(program: dict[str, Any]) -> list[str]:
    """What stands behind the columns of a program: its process, then what it is doing or what is wrong."""
    parts = []
    if program["pid"] is not None:
        parts.append(f"pid {program['pid']}, uptime {clock_text(program['uptime_s'])}")
    if program["progress"]:
        step = program["progress"]
        parts.append(step["step"] + (f" {step['done']}/{step['total']}" if step["total"] else ""))
    elif not _is_fine(program) or program["state"] == "EXITED":
        failure = program["failure"]
        parts.append(failure["summary"] if failure and program["state"] != "RUNNING" else program["reason"])
    elif program["fork_server"] is not None:
        parts += [f"started {program['started']}", _fork_server(program["fork_server"])]
    if program["retry_in_s"] is not None:
        parts.append(f"next start in {program['retry_in_s']:.0f} s")
    return parts


def _fork_server(seen: dict[str, Any]) -> str:
    """Whether the next start can be a fork, and the memory that the fork server holds for that."""
    if seen["state"] == "ready":
        held = seen["memory_bytes"]
        return "fork server" + (f" {held / 2**20:.0f} MiB" if held is not None else "")
    return f"fork server {seen['state']}" + (f" ({seen['reason']})" if seen["reason"] else "")
