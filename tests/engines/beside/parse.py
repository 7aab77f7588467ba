"""What vLLM's own parser makes of command lines; run by path with the Python of vLLM's environment, starts nothing.

Standard input is a list of argument lists as JSON, the answer a list of ``{"error": WORDS}`` or of what was understood,
``{"said": {NAME: VALUE}}``, of what is not the default.
"""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import sys
from typing import Any, NoReturn

SERVER = "vllm.entrypoints.openai.api_server"


class Refused(Exception):
    """The parser does not take it."""


def plain(value: Any) -> Any:
    """A value as JSON can carry it; of a configuration what is not its default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fresh = {}
        for field in dataclasses.fields(value):
            now = getattr(value, field.name, None)
            if now not in (None, [], {}) and str(now) != str(field.default):
                fresh[field.name] = plain(now)
        return fresh
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def main() -> NoReturn:
    lines = json.load(sys.stdin)
    out = os.dup(1)
    os.dup2(2, 1)  # what is printed on the way is not the answer
    from vllm.utils import argparse_utils

    class_ = argparse_utils.FlexibleArgumentParser
    parse = class_.parse_args

    def refuse(self: Any, message: str) -> NoReturn:
        raise Refused(message)

    def instead(self: Any, *_: object, **__: object) -> NoReturn:
        usual = vars(parse(self, []))
        answers = []
        for line in lines:
            try:
                said = vars(parse(self, line))
                answers.append({"said": {name: plain(it) for name, it in said.items() if it is not usual.get(name)}})
            except Exception as error:
                answers.append({"error": str(error)})
        with os.fdopen(out, "w") as answer:
            json.dump(answers, answer)
        sys.stderr.flush()
        os._exit(0)

    class_.error = refuse  # type: ignore[assignment]
    class_.parse_args = instead  # type: ignore[assignment]
    sys.argv = [SERVER]
    runpy.run_module(SERVER, run_name="__main__")
    sys.exit("the server's command line was not read")


if __name__ == "__main__":
    main()
