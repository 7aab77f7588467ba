"""Putting the environment's values into a configuration in the place of ``${NAME}``, and reading them as values.

Pure: the environment is handed in. Also reports numbers that YAML reads in another way than people do, as both decide
which value a text stands for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llm_supervisor import redaction
from llm_supervisor.config import schema
from llm_supervisor.config.config import GATEWAY
from llm_supervisor.config.document import Document, Where

# ${NAME}, ${NAME:-default}, and $${ for a plain ${
_VARIABLE = re.compile(r"\$(?:\$(?=\{)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")
_LITELLM_REFERENCE = re.compile(r"\s*os\.environ/([A-Za-z_][A-Za-z0-9_]*)\s*")
# $NAME, which a shell would fill in and nobody here does
_SHELL_VARIABLE = re.compile(r"(?<!\$)\$([A-Z_][A-Z0-9_]*)")


def fill_in(document: Document, environ: Mapping[str, str]) -> None:
    """Put the environment's values for ``${NAME}`` and ``${NAME:-default}`` into the texts of a document.

    ``$${`` becomes a plain ``${``. A text that is nothing but one variable becomes a number or a flag where the schema
    wants one. ``os.environ/NAME``, LiteLLM's spelling, means ``${NAME}`` where it is the whole text, except under
    ``litellm:``, where LiteLLM itself reads it. A variable that is not set is added to the document's ``problems``,
    and its place to ``unread``."""
    document.data = _Substitution(document, environ).filled(document.data, ())


class _Substitution:
    """Walks through the data of one document and reports what cannot be filled in."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ

    def filled(self, value: Any, where: Where) -> Any:
        if isinstance(value, dict):
            return {key: self.filled(item, (*where, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item, (*where, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or _is_shell_text(where):
            return value
        return self._text(value, where)

    def _text(self, value: str, where: Where) -> object:
        written = None
        if (reference := _LITELLM_REFERENCE.fullmatch(value)) and not _is_read_by_litellm(where):
            written, value = value.strip(), f"${{{reference[1]}}}"
        if "$" not in value:
            return value
        document = self._document
        rest = _VARIABLE.sub("", value)
        if "${" in rest:
            advice = "a default is ${NAME:-text}; write $${ for a plain ${"
            document.problems.append(document.problem(where, "holds a ${ that does not begin ${NAME}", advice))
            document.unread.add(where)
            return value
        if shell := _SHELL_VARIABLE.search(rest):
            message, advice = f"${shell[1]} is left as it is", f"write ${{{shell[1]}}} for the variable's value"
            document.problems.append(document.problem(where, message, advice, warning=True))
        text = _VARIABLE.sub(lambda match: self._value(match, written or match[0], where), value)
        alone = _VARIABLE.fullmatch(value) and not value.startswith("$$")
        return _typed(where, text) if alone else text

    def _value(self, match: re.Match[str], written: str, where: Where) -> str:
        """The text for one variable. ``written`` is how the file spells it."""
        name, default = match[1], match[2]
        if name is None:
            return "$"
        if (given := self._environ.get(name)) or default is not None:
            return given or default
        there = "" if where == ("env_file",) else " put it into env_file,"
        advice = f"export {name},{there} or write ${{{name}:-a default}}"
        document = self._document
        document.problems.append(document.problem(where, f"{written} is not set", advice))
        document.unread.add(where)
        return ""


def _typed(where: Where, text: str) -> object:
    """The value of a variable at a place: a text where the schema wants one. An option of vLLM is given as a word, so
    its value is a number only where the number is written as that very word (a revision like 1.10 is not)."""
    if verbatim(where, "int"):
        return text
    match schema.wanted(where):
        case "text":
            return text
        case "number":
            return number(text)
        case "flag":
            return number(text) if text.isdecimal() else flag(text)
        case "flag or text":
            return text == "true" if text in ("true", "false") else text
    if text in ("true", "false"):
        return text == "true"
    value = number(text)
    option = len(where) == 4 and where[0] == "models" and where[2] == "vllm"
    return text if option and str(value) != text else value


def verbatim(where: Where, kind: str) -> bool:
    """Whether a word at that place stays the text that was written: environment variables, commands, and keys. A date
    (``kind`` timestamp) is a text everywhere, as nothing in a configuration is one."""
    if kind == "timestamp":
        return True
    if len(where) > 2 and where[0] in ("models", "programs", GATEWAY):
        return where[1 if where[0] == GATEWAY else 2] in ("env", "command") or (
            where[2] == "vllm" and redaction.names_secret(str(where[-1]))
        )
    return False


def _is_read_by_litellm(where: Where) -> bool:
    """Whether LiteLLM itself looks up ``os.environ/NAME`` at that place."""
    return len(where) > 3 and where[0] == "models" and where[2] == "litellm"


def _is_shell_text(where: Where) -> bool:
    """Whether ``${...}`` stays as it is written: in a program's command, whose shell may know the variable."""
    return len(where) > 3 and where[0] == "programs" and where[2] == "command"


_FLAGS = {**dict.fromkeys(("true", "yes", "on"), True), **dict.fromkeys(("false", "no", "off"), False)}
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,18})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)?(\.\d+)?([eE][-+]?\d{1,3})?(?<=\d)")


def flag(text: str) -> bool | str:
    """The flag that a word stands for in YAML 1.1 (``yes``, ``off`` ...); else the word."""
    return _FLAGS.get(text.lower(), text)


def number(text: str) -> int | float | str:
    """The number that a text writes in decimal; else the text, also for hexadecimal, octal and the like."""
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if len(text) < 40 and _DECIMAL.fullmatch(text) else text


def check_ambiguous_numbers(document: Document) -> None:
    """Report every number that YAML reads in another way than people do (010 is 8): they would not notice."""
    for where, (written, value) in document.ambiguous.items():
        if _at(document.data, where) != value:
            continue  # another value has replaced it
        plain = written.lstrip("+").replace("_", "")
        if schema.wanted(where) == "text":
            advice = f'write "{written}", in quotes'
        elif ":" in written:
            advice = f"write {value}"
        else:
            advice = f"write {int(plain)}, or {value} if that is meant"
        base = "base 60" if ":" in written else "octal"
        message = f"YAML reads {written} in {base}, as {value}"
        document.problems.append(document.problem(where, message, advice))
        document.unread.add(where)


def _at(data: Any, where: Where) -> Any:
    """The value at a place; None where there is no such place."""
    for part in where:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data
