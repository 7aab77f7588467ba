"""The command line of `llm-supervisor`: its commands, their options and their `--help` texts.

Only argparse is imported here, as every command waits for this module.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

from llm_supervisor import __version__
from llm_supervisor.cli.output import WRONG


class Parser(argparse.ArgumentParser):
    """A parser whose errors look like those of the commands: the usage, one line, and the exit status WRONG."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message to standard error. Raises SystemExit."""
        self.print_usage(sys.stderr)
        self.exit(WRONG, f"{self.prog}: {message}\n")


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; with ``only``, of a command line that begins with that command.

    ``-c`` may stand before the command (``config``), after it (``more_config``), or at both places: argparse would
    replace the first by the second if both had one name.
    """
    top = Parser(prog="llm-supervisor", description="Keep one OpenAI-compatible endpoint alive on a GPU host.")
    top.add_argument(
        "-c", "--config", metavar="FILE", action="append",
        help="the configuration file (default: ./supervisor.yaml, else /etc/llm-supervisor/supervisor.yaml); may be "
        "given several times: a later file overrides the earlier ones",
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"llm-supervisor {__version__}", help="print the version")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name in COMMANDS if only is None else (only,):
        text, add_arguments = COMMANDS[name]
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument(
            "-c", "--config", metavar="FILE", action="append", dest="more_config", default=[],
            help="the configuration file; may be given several times",
        )  # fmt: skip
        add_arguments(command)
    return top


# The arguments of each command, in groups as the modules of the commands ---------------------------------------------


def _none(command: argparse.ArgumentParser) -> None:
    """For commands that take no arguments of their own."""


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON, for programs to read")


def _run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quiet", action="store_true", help="do not print progress to standard output")
    # `upgrade` runs this in a child process first, to see whether the new code works
    command.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)


def _install(command: argparse.ArgumentParser) -> None:
    command.add_argument("engine", nargs="*", metavar="ENGINE", help="vllm or litellm (default: both)")
    command.add_argument(
        "--tiny-model", metavar="DIR", help="also make a tiny GLM-4.1V with random weights in DIR, to try things out"
    )


def _init(command: argparse.ArgumentParser) -> None:
    command.add_argument("preset", nargs="?", metavar="PRESET", help="without it, the presets are listed")
    command.add_argument("folder", nargs="?", default=".", metavar="DIR", help="where to write (default: here)")


def _pull(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "name", nargs="*", metavar="NAME", help="a model of the configuration, or a hub id (default: all models)"
    )
    command.add_argument("--source", choices=("huggingface", "modelscope"), help="the hub (default: as configured)")
    command.add_argument("--revision", metavar="R", help="a branch, a tag or a commit (default: as configured)")
    command.add_argument(
        "--verify", action="store_true", help="also compare the files that are in the cache already with the hub's"
    )
    _json(command)


def _config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "what",
        choices=("show", "schema"),
        nargs="?",
        default="show",
        help="show: the configuration as it will be used (default); schema: a JSON Schema of the file, for editors",
    )
    _json(command)


def _status(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="*", metavar="NAME", help="a program (default: all)")
    _json(command)
    command.add_argument("--watch", action="store_true", help="show it again every second, until Ctrl-C")


def _logs(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="*", metavar="NAME", help="a program (default: all)")
    command.add_argument("-f", "--follow", action="store_true", help="also print new lines, until Ctrl-C")
    command.add_argument(
        "-n", "--lines", type=line_count, metavar="N",
        help="the last N lines of each program (default: 10; with --since: all lines since then)",
    )  # fmt: skip
    command.add_argument(
        "--since", type=moment, metavar="T",
        help="only lines since then: 30s, 5m or 1h ago, 19:30, 2026-11-20 or '2026-11-20 19:30:05'",
    )  # fmt: skip


def _events(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="*", metavar="NAME", help="a program (default: all)")
    command.add_argument("-f", "--follow", action="store_true", help="also print new events, until Ctrl-C")
    command.add_argument(
        "-n", "--lines", type=line_count, default=20, metavar="N", help="the last N events (default: 20)"
    )
    command.add_argument("--json", action="store_true", help="print each event as one line of JSON")


def _act(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="+", metavar="NAME", help="a program, or all")
    command.add_argument("--no-wait", action="store_true", help="return at once")


def _stop(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="*", metavar="NAME", help="a program, or all")
    command.add_argument("--no-wait", action="store_true", help="return at once")
    command.add_argument(
        "--orphans", action="store_true", help="end the programs that a daemon left running when it died"
    )


def _reload(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    command.add_argument("--no-wait", action="store_true", help="return at once")
    _json(command)


def _env(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "client", choices=("claude-code", "codex", "gemini-cli", "openai"), help="the program that will use the gateway"
    )
    command.add_argument(
        "--model", metavar="NAME",
        help="the model group to use (default: the one with the client's name, else the first local one)",
    )  # fmt: skip
    command.add_argument(
        "--write", action="store_true", help="also write the client's settings file, if there is none yet"
    )
    _json(command)


def _verify(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="*", metavar="GROUP", help="a model group (default: all)")
    command.add_argument("--cloud", action="store_true", help="also ask cloud groups, which may cost money")
    command.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="seconds that one request may take (default: 120)"
    )
    _json(command)


def _explain(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="a program")
    command.add_argument("--incident", metavar="ID", help="an older failure (default: the last one)")
    _json(command)


def _diagnose(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--component", choices=("vllm", "litellm", "command"), default="vllm", help="what wrote the log (default: vllm)"
    )
    command.add_argument(
        "--exit-code", type=int, metavar="N", help="how it exited, as a shell reports it: 137 means signal 9"
    )


def _completion(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell that will read the script")


# Command to its line in `--help` and the function that adds its arguments, in the order of `--help`
COMMANDS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": ("run the daemon in the foreground", _run),
    "install": ("install the engines, and what the configuration needs beside them", _install),
    "pull": ("download models into the cache that their engines will use", _pull),
    "init": ("write a working configuration from a preset", _init),
    "check": ("check the configuration, and whether this host can run it; nothing is started", _json),
    "config": ("show the configuration as it will be used, or the JSON Schema of the file", _config),
    "status": ("show which programs run and how healthy they are", _status),
    "logs": ("print what the programs wrote", _logs),
    "events": ("print every change of a program's state or health, with its reason", _events),
    "start": ("start programs, and wait until they are ready", _act),
    "stop": ("stop programs, and wait until they have ended", _stop),
    "restart": ("restart programs, and wait until they are ready again", _act),
    "reload": ("read the configuration again, and change only what differs", _reload),
    "upgrade": ("replace the daemon by the version that is installed now; no program is restarted", _none),
    "env": ("print what to export so that a client uses the gateway", _env),
    "verify": ("test every model group of the gateway with real requests", _verify),
    "shutdown": ("stop all programs and the daemon", _none),
    "explain": ("say why a program failed, and what to do", _explain),
    "diagnose": ("read a log on standard input, and print what went wrong as JSON", _diagnose),
    "completion": ("print a script that makes a shell complete this command", _completion),
}


# Types of values -----------------------------------------------------------------------------------------------------


def line_count(text: str) -> int:
    """A number of lines, 0 or more. Raises ArgumentTypeError for anything else."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def moment(text: str) -> float:
    """A time in seconds since the epoch, from a duration before now, a time of today, or a date.

    Raises ArgumentTypeError for anything else.
    """
    from datetime import datetime

    from llm_supervisor.units import seconds

    if not text.isdecimal() and (ago := seconds(text)) is not None:
        return time.time() - ago
    today = time.strftime("%Y-%m-%d ")
    for written in (text, today + text, today + text.rjust(5, "0")):
        try:
            return datetime.fromisoformat(written).timestamp()
        except (ValueError, OverflowError, OSError):
            continue
    raise argparse.ArgumentTypeError(f"{text!r} is not a time; write 5m, 1h, 19:30 or '2026-11-20 19:30:05'")
