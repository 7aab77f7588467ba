"""Prints the options of ``vllm serve`` as JSON, run by path with the Python of vLLM's own environment.

Whatever its version: the server's own command line is begun, and its parser is taken where it would read it. Answer:
``{NAME: {"negatable", "takes": "flag"|"value"|"values", "choices": [...] | null}}``, names as vLLM writes them, without
dashes in front.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from typing import Any, NoReturn

SERVER = "vllm.entrypoints.openai.api_server"


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
