"""Prints the options of ``vllm serve`` as JSON, run by path with the Python of vLLM's own environment.

Whatever its version: the server's own command line is begun, and its parser is taken where it would read it. Answer:
``{NAME: {"negatable", "takes": "flag"|"value"|"values", "choices": [...] | null, "kind": "int"|...|""}}``, names as
vLLM writes them, without dashes in front.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from typing import Any, NoReturn

SERVER = "vllm.entrypoints.openai.api_server"


# vLLM's own readers of values by their names
KINDS = {
    "int": "int",
    "float": "float",
    "loads": "json",
    "human_readable_int": "count",
    "human_readable_int_or_auto": "count or auto",
}


def kind(reader: Any) -> str:
    """What a reader of values takes; empty where that is not known. One that takes nothing, too, holds the real one."""
    name = getattr(reader, "__name__", "")
    if name in ("_optional_type", "_parse_type"):
        inner = [cell.cell_contents for cell in reader.__closure__ or ()]
        return next((kind(one) for one in inner if callable(one)), "")
    return KINDS.get(name, "")


def described(parser: argparse.ArgumentParser) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for action in parser._actions:
        names = [name[2:] for name in action.option_strings if name.startswith("--")]
        if not names or isinstance(action, (argparse._HelpAction, argparse._VersionAction)):
            continue
        plain = [name for name in names if f"no-{name}" in names or not name.startswith("no-")]
        takes = "flag" if action.nargs == 0 else "values" if action.nargs in ("*", "+") else "value"
        for name in plain:
            found[name.replace("_", "-")] = {
                "negatable": f"no-{name}" in names,
                "takes": takes,
                "choices": [str(choice) for choice in action.choices] if action.choices else None,
                "kind": kind(action.type),
            }
    return found


def main() -> NoReturn:
    out = os.dup(1)
    os.dup2(2, 1)  # what is printed on the way is not the answer

    def instead(self: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        with os.fdopen(out, "w") as answer:
            json.dump(described(self), answer)
        answer.close()
        sys.stderr.flush()
        os._exit(0)

    argparse.ArgumentParser.parse_known_args = instead  # type: ignore[method-assign]
    sys.argv = [SERVER, "--model", "none"]
    runpy.run_module(SERVER, run_name="__main__")
    sys.exit("the server's command line was not read")


if __name__ == "__main__":
    main()
