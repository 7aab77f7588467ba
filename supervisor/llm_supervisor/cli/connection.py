"""How the commands reach the running daemon, and what they print where none answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from llm_supervisor import paths
from llm_supervisor.cli.output import NO_DAEMON, complain, complaint
from llm_supervisor.control.client import NoDaemon, request

Status = dict[str, Any]  # the answer to GET /v1/status, which `status --json` prints
T = TypeVar("T")


def find_daemon() -> tuple[Path, Status]:
    """The runtime folder of the daemon that answers, and its status. Raises NoDaemon."""
    return _first_that_answers(lambda runtime: (runtime, request(runtime, "GET", "/v1/status")[1]))


def ask(method: str, path: str, timeout: float | None = 30.0) -> tuple[int, Any]:
    """One request to the daemon: the HTTP status and the decoded JSON of the answer. ``timeout`` is in seconds; with
    None it waits for ever. Raises NoDaemon."""
    return _first_that_answers(lambda runtime: request(runtime, method, path, timeout=timeout))


def _first_that_answers(call: Callable[[Path], T]) -> T:
    """The result of the call for the first runtime folder where a daemon answers. Raises NoDaemon with the error of
    the first folder, which is where a daemon should be."""
    first: NoDaemon | None = None
    for runtime in paths.runtime_dirs(os.environ):
        try:
            return call(runtime)
        except NoDaemon as error:
            first = first or error
    assert first is not None
    raise first


def report_no_daemon(error: NoDaemon) -> int:
    """Print that no daemon answers, and which programs run on without it. Returns the exit status NO_DAEMON."""
    for line in no_daemon_lines(error):
        print(line, file=sys.stderr)
    return NO_DAEMON


def no_daemon_lines(error: NoDaemon) -> list[str]:
    """The lines that ``report_no_daemon`` prints."""
    from llm_supervisor.supervision import state_file

    lines = [complaint(f"no daemon answers ({error})")]
    if found := state_file.orphans(os.environ):
        advice = "Start the daemon again, or end them with `llm-supervisor stop --orphans`."
        lines.append(complaint(f"still running without it: {', '.join(found)}. {advice}"))
    return lines


def gateway_status() -> Status | int:
    """The status of a daemon that has a gateway. Where there is none, the reason is printed, and the result is the
    exit status of the command."""
    try:
        _, status = ask("GET", "/v1/status")
    except NoDaemon as error:
        return report_no_daemon(error)
    if status["endpoint"] is None:
        return complain("there is no gateway in this configuration")
    return dict(status)


def gateway_key(status: Status) -> tuple[str | None, str | None]:
    """The gateway's key, and the file that contains it if the daemon made the key itself. (None, None) if it cannot be
    read. It is read from where the daemon took it, because no answer of the daemon contains it."""
    made = paths.data_dir(os.environ) / "master_key"
    from llm_supervisor.config import ConfigError, load

    try:
        given = load([Path(file) for file in status["supervisor"]["config_files"]], os.environ).master_key
    except ConfigError:
        given = None
    if given is not None:
        return given, None
    try:
        return made.read_text(encoding="ascii").strip(), str(made)
    except OSError:
        return None, None


def disabled_text(model: dict[str, Any]) -> str:
    """Why a model group of the status is disabled, and what to do."""
    return f"{model['name']} is disabled: {model['reason']}; set it, then `llm-supervisor reload`"
