"""The table of rules in docs/how-it-decides.md, made from the table that the code uses (`core.verdict.RULES`)."""

from __future__ import annotations

from llm_supervisor.core.verdict import RULES, Rule

SIGNALS = ("tree", "liveness", "progress", "catalogue", "canary", "routes")
FOLLOWS = {
    "keep": "nothing",
    "doubt": "a canary",
    "leave": "stop and restart",
    "kill": "kill and restart",
}


def table() -> str:
    """One row for each rule, in their order."""
    rows = ["| rule | signals | health | what follows |", "| --- | --- | --- | --- |"]
    rows += [f"| {rule.name} | {_signals(rule)} | {rule.word} | {FOLLOWS[rule.action]} |" for rule in RULES]
    return "\n".join(rows) + "\n"


def _signals(rule: Rule) -> str:
    """Which words of which signals the rule matches; a signal that is not named may show any."""
    wanted = ((signal, getattr(rule, signal)) for signal in SIGNALS)
    return "; ".join(f"{signal} {' or '.join(words)}" for signal, words in wanted if words is not None) or "any"
