"""`llm-supervisor completion`: a script that makes a shell complete this command.

For bash, for example: ``source <(llm-supervisor completion bash)`` in ~/.bashrc.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import shtab

from llm_supervisor.cli.arguments import parser
from llm_supervisor.cli.output import OK, say_script

# What a shell offers for a value, by the name that `--help` gives it
VALUES = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}


def completion(options: argparse.Namespace) -> int:
    """Print the script for one shell."""
    say_script(script(options.shell))
    return OK


def script(shell: str) -> str:
    """The script for bash, zsh or tcsh."""
    top = parser()
    for action in _actions(top):
        if isinstance(action.metavar, str) and action.metavar in VALUES:
            action.complete = VALUES[action.metavar]  # type: ignore[attr-defined]  # where shtab looks for it
    return str(shtab.complete(top, shell=shell))


def _actions(top: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of the parser and of its commands."""
    for action in top._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
