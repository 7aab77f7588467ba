"""Prints the options of ``vllm serve`` as JSON, run by path with the Python of vLLM's own environment.

Whatever its version: the parser is the one that the engine's start uses (``vllm_serve.py``). Answer:
``{NAME: {"negatable", "takes": "flag"|"value"|..., "choices": [...] | null, "kind": "int"|...|"", "optional"}}``, names
as vLLM writes them, without dashes in front. ``Option`` (``engines/vllm/installed_options.py``) says what each may be.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import vllm_serve

# Readers of values by their names, vLLM's own and Python's
KINDS = {
    "str": "text",
    "int": "int",
    "float": "float",
    "loads": "json",
    "human_readable_int": "count",
    "human_readable_int_or_auto": "count or auto",
    "parse_dataclass": "object",
    "union_dict_and_str": "mapping or text",
}
# Of others than these it is not known what they make of a value
PLAIN = (argparse._StoreAction, argparse._AppendAction)


def kind(reader: Any) -> str:
    """What a reader of values takes; empty where that is not known. One that takes nothing, too, holds the real one."""
    name = "str" if reader is None else getattr(reader, "__name__", "")
    if name in ("_optional_type", "_parse_type"):
        inner = [cell.cell_contents for cell in reader.__closure__ or ()]
        return next((kind(one) for one in inner if callable(one)), "")
    return tried(reader) if name == "<lambda>" else KINDS.get(name, "")


def tried(reader: Any) -> str:
    """What a reader without a name takes, by what it makes of a word."""
    try:
        return {"['A-b', 'c']": "commas", "a_b,c": "word"}.get(str(reader("A-b,c")), "")
    except Exception:
        return ""


def takes(action: argparse.Action) -> str:
    """How many values it has."""
    if isinstance(action, argparse._AppendAction):
        return "each"
    if isinstance(action.nargs, int):
        return "values" if action.nargs else "flag"
    return {"+": "values", "*": "any", "?": "maybe"}.get(str(action.nargs), "value")


def described(parser: argparse.ArgumentParser) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for action in parser._actions:
        names = [name[2:] for name in action.option_strings if name.startswith("--")]
        if not names or isinstance(action, (argparse._HelpAction, argparse._VersionAction)):
            continue
        plain = [name for name in names if f"no-{name}" in names or not name.startswith("no-")]
        for name in plain:
            found[name.replace("_", "-")] = {
                "negatable": f"no-{name}" in names,
                "takes": takes(action),
                "choices": [str(choice) for choice in action.choices] if action.choices else None,
                "kind": kind(action.type) if type(action) in PLAIN else "",
                "optional": getattr(action.type, "__name__", "") == "_optional_type",
            }
    return found


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed on the way is not the answer
    vllm_serve.set_up_environment()
    with out:
        json.dump(described(vllm_serve.serve_parser()), out)


if __name__ == "__main__":
    main()
