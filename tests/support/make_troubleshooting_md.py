"""The tables of docs/troubleshooting.md, made from the tables of the diagnosis: every failure that is recognised."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llm_supervisor.diagnosis.matcher import BOOKS
from llm_supervisor.diagnosis.pattern import Pattern

PARTS = (
    (("vllm",), "vLLM"),
    (("litellm",), "LiteLLM"),
    (("litellm", "vllm"), "vLLM and LiteLLM"),
    (("command", "litellm", "vllm"), "Every program"),
)


def tables() -> str:
    """A table for each component, with a row for each kind of failure."""
    rows: dict[str, list[Pattern]] = {}
    components: dict[str, set[str]] = {}
    for component, book in BOOKS.items():
        for pattern in book.rows:
            known = rows.setdefault(pattern.kind, [])
            if not any(pattern is one for one in known):
                known.append(pattern)
            components.setdefault(pattern.kind, set()).add(component)
    parts = []
    for wanted, title in PARTS:
        kinds = sorted(kind for kind, found in components.items() if tuple(sorted(found)) == wanted)
        lines = [f"### {title}", "", "| kind | what happened | what to do | restart |", "| --- | --- | --- | --- |"]
        lines += [_row(kind, rows[kind]) for kind in kinds]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _row(kind: str, patterns: Iterable[Pattern]) -> str:
    """One kind: what its rows say, each text once."""
    happened = dict.fromkeys(_text(pattern.summary[0]) for pattern in patterns)
    advice = dict.fromkeys(_text(sentence) for pattern in patterns for sentence in pattern.advice)
    restarts = dict.fromkeys(_restart(pattern) for pattern in patterns)
    return f"| `{kind}` | {'; or '.join(happened)} | {' '.join(advice)} | {' or '.join(restarts)} |"


def _restart(pattern: Pattern) -> str:
    if pattern.busy:
        return "waits"
    return "no" if pattern.permanent else "yes"


def _text(template: str) -> str:
    """A text of the tables with the names of what the log fills in, and without what Markdown would read."""
    named = re.sub(r"\{(\w+)\}", lambda field: field[1].upper(), template.replace("{{", "\0").replace("}}", "\1"))
    return named.replace("\0", "{").replace("\1", "}").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
