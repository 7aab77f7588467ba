"""The reference of docs/configuration.md, made from the schema: a table for each block of the configuration.

A table has the block's keys, their types, their defaults and what they mean, as the pydantic models in config/schema.py
say. `make_docs` writes it into the document.
"""

from __future__ import annotations

import signal
from typing import Any

from llm_supervisor.config.show import json_schema

# The blocks in the order in which they are explained: the name in the schema, the title, and where it may stand
BLOCKS = (
    ("Root", "The whole file", ""),
    ("Gateway", "gateway", "the LiteLLM proxy"),
    ("Model", "models.NAME", "one vLLM server"),
    ("Program", "programs.NAME", "any other command"),
    ("Ready", "programs.NAME.ready", "one of these keys"),
    ("Health", "health", "of the gateway, a model or a program"),
    ("Restart", "restart", "of the gateway, a model or a program"),
    ("Stop", "stop", "of the gateway, a model or a program"),
    ("Engines", "engines", ""),
    ("Engine", "engines.vllm, engines.litellm", ""),
    ("Logs", "logs", ""),
)


def reference() -> str:
    """The tables of every block, as Markdown."""
    made = json_schema()
    parts = []
    for name, title, where in BLOCKS:
        block = made if name == "Root" else made["$defs"][name]
        heading = f"### {title if name == 'Root' else f'`{title}`'}"
        parts.append("\n".join([heading + (f": {where}" if where else ""), "", *_table(block)]))
    return "\n\n".join(parts) + "\n"


def _table(block: dict[str, Any]) -> list[str]:
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    needed = set(block.get("required", ()))
    for key, said in block["properties"].items():
        default = "must be given" if key in needed else _default(said)
        meaning = str(said.get("description", "")).replace("|", "\\|")
        rows.append(f"| `{key}` | {_value(said)} | {default} | {meaning} |")
    return rows


def _default(said: dict[str, Any]) -> str:
    """A default as a person would write it in the file."""
    value = said.get("default")
    if value is None:
        return "none"
    if isinstance(value, dict):
        # only `ready` has a default of its own, which its block does not have
        own = [f"{key}: {one:g}s" for key, one in value.items() if key == "after" and one is not None]
        return f"`{{{', '.join(own)}}}`" if own else "as below" if value else "`{}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    sorts = {_sort(one.get("pattern", "")) for one in _options(said)}
    if "m" in sorts and isinstance(value, (int, float)):
        return f"`{_duration(value)}`"
    if "S" in sorts:
        return f"`{signal.Signals(value).name.removeprefix('SIG')}`"
    if "K" in sorts and value % (1 << 20) == 0:
        return f"`{value >> 20}MB`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "m"), (1, "s")):
        if seconds >= size and seconds % size == 0 and (unit != "m" or seconds >= 300):
            return f"{seconds / size:g}{unit}"
    return f"{seconds * 1000:g}ms"


def _options(said: dict[str, Any]) -> list[dict[str, Any]]:
    """All that may stand there, without nested choices."""
    return [inner for one in said["anyOf"] for inner in _options(one)] if "anyOf" in said else [said]


def _value(said: dict[str, Any]) -> str:
    """What may stand there, in words."""
    options = _options(said)
    sorts = {_sort(one.get("pattern", "")) for one in options} - {""}
    words: list[str] = []
    for one in options:
        if one.get("type") in ("number", "integer") and sorts:
            continue  # a duration, a size or a signal may be a plain number as well: said once, above the tables
        words += [word for word in _words(one) if word not in words]
    return " or ".join(words) or "anything"


def _words(one: dict[str, Any]) -> list[str]:
    kind, pattern = one.get("type"), one.get("pattern", "")
    if "$ref" in one:
        return ["a mapping"]
    if "enum" in one:
        return [f"`{word}`" for word in one["enum"] if isinstance(word, str)]
    if "const" in one:
        return [f"`{one['const']}`"]
    if pattern.startswith("^(\\$\\{"):
        return []  # a variable may stand everywhere: said once, above the tables
    if sort := _sort(pattern):
        return [{"m": "a duration", "K": "a size", "S": "a signal"}[sort]]
    if kind == "array":
        numbers = any(inner.get("type") == "integer" for inner in _options(one["items"]))
        return ["a list of whole numbers" if numbers else "a list of words"]
    if kind in ("integer", "number"):
        return [_range("a whole number" if kind == "integer" else "a number", one)]
    return {"boolean": ["`true`", "`false`"], "string": ["text"], "object": ["a mapping"]}.get(str(kind), [])


def _sort(pattern: str) -> str:
    """What a pattern of the schema describes: m for a duration, K for a size, S for a signal, else nothing."""
    if "(ms|s|m|h|d)" in pattern:
        return "m"
    if "KMGT" in pattern:
        return "K"
    return "S" if "SIG" in pattern else ""


def _range(what: str, one: dict[str, Any]) -> str:
    least, most = one.get("minimum"), one.get("maximum")
    if least is not None and most is not None:
        return f"{what} from {least} to {most}"
    return f"{what}, at least {least:g}" if least is not None else what
