"""Starts what ``vllm serve`` starts, run by path with the Python of vLLM's own environment.

The ``vllm`` command itself dies on the distribution for CPUs, where it looks up the metadata of a distribution named
``vllm``. Its ``serve`` subcommand does not, so this is the rest of that command: the same parser, the same checks and
the same start. ``python -m vllm.entrypoints.openai.api_server``, the deprecated other way, starts one API server and
pays no attention to ``--api-server-count``, ``--headless``, ``--grpc`` and data parallelism over several ports.

Nothing is imported before ``main``: where vLLM's processes are spawned, each of them imports this file again.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from argparse import Namespace
from typing import Any

# More API keys than one, as a JSON list: on the command line they would show in the list of processes
KEYS = "LLM_SUPERVISOR_API_KEYS"
# Where the function of that name is, by version (since 0.29, and before)
ENV_SETUP = ("vllm.entrypoints.serve.utils.api_utils", "vllm.entrypoints.utils")


def command_line() -> tuple[Any, Any]:
    """The parser of the ``vllm`` command with its ``serve`` alone, and that subcommand."""
    serve = importlib.import_module("vllm.entrypoints.cli.serve")
    parser = serve.FlexibleArgumentParser(prog="vllm", description="vLLM CLI")
    subcommand = serve.ServeSubcommand()
    subcommand.subparser_init(parser.add_subparsers(required=True, dest="subparser"))
    return parser, subcommand


def serve_parser() -> Any:
    """The parser of the options of ``vllm serve``."""
    parser, subcommand = command_line()
    return next(action.choices[subcommand.name] for action in parser._actions if action.dest == "subparser")


def set_up_environment() -> None:
    """What the command does first: processes are spawned unless the environment says otherwise."""
    for name in ENV_SETUP:
        try:
            importlib.import_module(name).cli_env_setup()
        except (ImportError, AttributeError):
            continue
        return


def add_keys(args: Namespace) -> None:
    """The API keys that are given in the environment. They stay there for no process that vLLM starts."""
    keys = json.loads(os.environ.pop(KEYS, "[]"))
    if keys:
        args.api_key = [*(args.api_key or []), *keys]


def main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == here:
        del sys.path[0]  # nothing beside this file is a part of vLLM
    set_up_environment()
    parser, subcommand = command_line()
    args = parser.parse_args([subcommand.name, *sys.argv[1:]])
    configure = getattr(importlib.import_module("vllm.logger"), "configure_logging_from_args", None)
    if configure is not None:  # since 0.31
        configure(args)
    subcommand.validate(args)
    add_keys(args)
    subcommand.cmd(args)


if __name__ == "__main__":
    main()
