"""`llm-supervisor run`: the daemon in the foreground, with its progress on standard output."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from llm_supervisor import paths
from llm_supervisor.cli.output import complain, complain_no_config, print_problems, say, say_lines

if TYPE_CHECKING:
    from llm_supervisor.core.state import State
    from llm_supervisor.daemon.daemon import Daemon, Show


def run(options: argparse.Namespace) -> int:
    """Run the daemon until it ends, or only its rehearsal, and return its exit status."""
    # before any import that takes time: a signal to stop must not kill a daemon that is half started
    from llm_supervisor.daemon import bootstrap

    bootstrap.hold_signals()
    from llm_supervisor.config import ConfigError
    from llm_supervisor.daemon import daemon, upgrade
    from llm_supervisor.host import log
    from llm_supervisor.supervision import leftovers
    from llm_supervisor.supervision.resources import Refusal

    files = paths.find_config(options.config)
    if not files:
        return complain_no_config()
    environ = dict(os.environ)
    managed = "JOURNAL_STREAM" in environ or "NOTIFY_SOCKET" in environ
    showing = not options.quiet and not managed
    # what the terminal shows already is not logged beside it
    log.configure(level="warning" if showing and sys.stderr.isatty() else "info")
    try:
        if options.rehearse:
            runtime = leftovers.runtime_in_use(environ) or paths.make_runtime_dir(environ)
            return upgrade.perform(files, runtime, environ)
        return daemon.run(files, environ, _show if showing else None)
    except ConfigError as error:
        return print_problems(error)
    except (Refusal, OSError) as error:
        return complain(str(error))


def _show(daemon: Daemon) -> Show:
    """The function that the daemon calls for each change of a program: it prints one line for each change of the
    text, and once, when all programs are ready, how to use the endpoint."""
    from llm_supervisor.core import fleet

    width = max((len(name) for name in daemon.plan.programs), default=0)
    told: dict[str, str] = {}
    announced = False

    def show(name: str, before: State, state: State) -> None:
        nonlocal announced
        words = _words(state)
        if told.get(name) != words:
            told[name] = words
            say(f"{time.strftime('%H:%M:%S')}  {name:<{width}}  {words}", flush=True)
        if (
            not announced
            and not daemon.ending
            and len(daemon.states) == len(daemon.plan.programs)
            and fleet.all_ready(daemon.states.values())
        ):
            announced = True
            _announce(daemon)

    return show


def _words(state: State) -> str:
    """The state of a program in one line: the state's word, then what it is doing, or why it is in that state."""
    doing = str(state.startup.loading) if state.startup.loading and state.word == "STARTING" else ""
    words = state.word if not doing else f"{state.word}  {doing}"
    if state.word in ("RUNNING", "BACKOFF", "FATAL", "EXITED") or (state.word == "STOPPING" and state.reason):
        words += f"  {state.health_word.value if state.word == 'RUNNING' else ''} {state.reason}".rstrip()
    if state.word == "FATAL" and state.failure and state.failure.advice:
        words += f" -- {state.failure.advice}"
    return words


def _announce(daemon: Daemon) -> None:
    """Print the endpoint, and a request that works when it is pasted into a shell."""
    from llm_supervisor.oneshot import clients

    if daemon.plan.endpoint is None:
        say("Ready.", flush=True)
        return
    say_lines(f"\nReady: {daemon.plan.endpoint}/v1")
    for group in daemon.plan.groups:
        if group.local:
            key = clients.from_file(str(daemon.key_file)) if daemon.key_file else "$LITELLM_MASTER_KEY"
            image = "with an image" if group.vision else ""
            example = clients.curl(daemon.plan.endpoint, group.name, key, bool(group.vision))
            say_lines(f"\nTry {group.name} {image}\n{example}\n")
            break
    say("Ctrl-C stops everything.", flush=True)
