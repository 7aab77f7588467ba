"""How the commands reach the running daemon, and what they print where none answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from llm_supervisor import paths
from llm_supervisor.cli.output import NO_DAEMON, WRONG, complain, complaint, say
from llm_supervisor.control.client import Distrusted, NoDaemon, request
from llm_supervisor.ownership import ROOT, NotOurs, Owner, command_as, owner_to_ask, read_file, user

if TYPE_CHECKING:
    from llm_supervisor.config import Config

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
    """The result of the call for the first runtime folder where a daemon answers. Raises Distrusted with the first
    folder that must not be asked, else NoDaemon with the first one, which is where a daemon should be."""
    errors: list[NoDaemon] = []
    for runtime in paths.runtime_dirs(os.environ):
        try:
            return call(runtime)
        except NoDaemon as error:
            errors.append(error)
    raise next((error for error in errors if isinstance(error, Distrusted)), errors[0])


def report_no_daemon(error: NoDaemon) -> int:
    """Print that no daemon answers, and which programs run on without it. Returns the exit status NO_DAEMON, or WRONG
    where the one that may answer must not be asked."""
    for line in no_daemon_lines(error):
        say(line, error=True)
    return no_daemon_status(error)


def no_daemon_status(error: NoDaemon) -> int:
    """The exit status of a command that got no answer: NO_DAEMON, or WRONG where nobody was asked on purpose."""
    return WRONG if isinstance(error, Distrusted) else NO_DAEMON


def no_daemon_lines(error: NoDaemon) -> list[str]:
    """The lines that ``report_no_daemon`` prints."""
    from llm_supervisor.supervision import leftovers

    if isinstance(error, Distrusted):
        return [complaint(str(error))]
    lines = [complaint(f"no daemon answers ({error})")]
    if found := leftovers.orphans(os.environ):
        advice = "Start the daemon again, or end them with `llm-supervisor stop --orphans`."
        lines.append(complaint(f"still running without it: {', '.join(found)}. {advice}"))
    return lines


class Gateway(NamedTuple):
    """The gateway of a daemon that answers: the status of that daemon, and whose daemon it is."""

    status: Status
    owner: Owner

    def config(self) -> Config:
        """The configuration of the daemon. Raises ConfigError; and NotOurs for a file of a user who is neither the one
        who asks nor root, as it could have values of our own environment sent to an address of its own."""
        from llm_supervisor.config import load

        files = [Path(file) for file in self.status["supervisor"]["config_files"]]
        if self.owner.uid not in (ROOT, os.geteuid()):
            for file in files:
                if file.exists() and (uid := file.stat().st_uid) not in (ROOT, os.geteuid()):
                    raise NotOurs(f"{file} belongs to {user(uid)}")
        return load(files, os.environ)

    def key(self) -> tuple[str | None, str | None]:
        """The gateway's key, and the file that contains it if the daemon made the key itself. (None, None) if it cannot
        be read. It is read from where the daemon took it, because no answer of the daemon contains it."""
        from llm_supervisor.config import ConfigError

        made = paths.data_dir(os.environ) / "master_key"
        try:
            given = self.config().master_key
        except (ConfigError, NotOurs):
            given = None
        if given is not None:
            return given, None
        try:
            # another user's daemon gets no key but its own
            key = made.read_bytes() if self.owner.uid == os.geteuid() else read_file(made, self.owner.uid)
            return key.decode("ascii").strip(), str(made)
        except OSError:
            return None, None


def find_gateway() -> Gateway | int:
    """The gateway of the daemon that answers. Where there is none, or where that daemon must not see its key from us,
    the reason is printed, and the result is the exit status of the command."""
    try:
        runtime, status = find_daemon()
    except NoDaemon as error:
        return report_no_daemon(error)
    if status["endpoint"] is None:
        return complain("there is no gateway in this configuration")
    owner = owner_to_ask(runtime, os.environ)
    if not owner.trusted:
        return complain(f"this daemon is of {user(owner.uid)}; use {command_as(owner.uid, runtime, '...')}")
    return Gateway(status, owner)


def disabled_text(model: dict[str, Any]) -> str:
    """Why a model group of the status is disabled, and what to do."""
    return f"{model['name']} is disabled: {model['reason']}; set it, then `llm-supervisor reload`"
