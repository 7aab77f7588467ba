"""The entry point of `llm-supervisor`: reads the command line and calls the function of the command named there.

Nothing is decided here. Each command stands in a module of its own group, which is imported only when that command is
used: `status` must start quickly, and most commands need libraries that it does not need.

Exit status: 0 done (`status`: everything that should run is ready), 1 failed, 2 wrong arguments or configuration,
3 `status`: something is not ready, 4 no daemon answers, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from llm_supervisor.cli.arguments import parser
from llm_supervisor.cli.output import OK

INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended: 128 + 2

# Command to the module in this folder and the function there that carries it out. Such a function takes the parsed
# options and returns the exit status.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("run", "run"),
    "install": ("setup", "install"),
    "pull": ("pull", "pull"),
    "init": ("setup", "init"),
    "check": ("check", "check"),
    "config": ("check", "config"),
    "status": ("status", "status"),
    "logs": ("logs", "logs"),
    "events": ("control", "events"),
    "start": ("control", "act"),
    "stop": ("control", "stop"),
    "restart": ("control", "act"),
    "reload": ("control", "reload"),
    "upgrade": ("control", "upgrade"),
    "env": ("gateway", "env"),
    "verify": ("gateway", "verify"),
    "shutdown": ("control", "shutdown"),
    "explain": ("explain", "explain"),
    "diagnose": ("explain", "diagnose"),
    "completion": ("completion", "completion"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command line (default: that of this process) and return the exit status.

    Raises SystemExit where argparse ends the command: for `--help`, `--version` and wrong arguments.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a name or a message may contain characters that the encoding of the terminal or pipe does not have
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else list(argv)
    # the parsers of the other commands cannot be needed when the first word is a command, and take 2 ms to make
    options = parser(only=words[0] if words and words[0] in COMMANDS else None).parse_args(words)
    options.config = [*(options.config or ()), *options.more_config]
    module, function = COMMANDS[options.command]
    try:
        code: int = getattr(import_module(f"llm_supervisor.cli.{module}"), function)(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as in `llm-supervisor logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    return code
