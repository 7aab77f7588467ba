"""Messages for what the schema refuses: what is wrong, and what was probably meant or where it belongs. Pure."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pydantic

from llm_supervisor import redaction
from llm_supervisor.config import schema
from llm_supervisor.config.document import Document, Problem, Where, path_words
from llm_supervisor.engines.vllm import options as engine_options
from llm_supervisor.suggest import near, short

# Names that other programs give a setting, and ours
_ELSEWHERE = {
    "environment": "env",
    "args": "vllm",
    "options": "vllm",
    "devices": "gpus",
    "working_dir": "cwd",
    "config": "litellm_config",
    "entrypoint": "command",
}
_PARAMS = frozenset({"rpm", "tpm", "model_info", "max_parallel_requests", "weight"})  # of LiteLLM's deployments


def complaint(
    document: Document, where: Where, item: Mapping[str, Any], options: Callable[[], Collection[str] | None]
) -> Problem:
    """The problem for one of pydantic's errors. ``options`` returns the names of vLLM's options, or None where they are
    not known; it may take seconds and is called only where it helps."""
    kind, given, bounds = item["type"], item.get("input"), item.get("ctx") or {}
    if kind == "extra_forbidden":
        return document.problem(where, "unknown key", _meant(where, options))
    if kind == "missing":
        return document.problem(where, "is missing")
    if kind in ("value_error", "assertion_error"):
        return document.problem(where, item["msg"].removeprefix("Value error, "))
    not_this = f", not {_shown(where, given)}"
    match kind:
        case "model_type" | "dict_type":
            advice = _allowed(where) or _AS_MAPPING.get(str(where[-1]), "")
            if given is None:
                advice = f"{_AS_MAPPING[str(where[-1])]}, or leave it out" if str(where[-1]) in _AS_MAPPING else ""
            return document.problem(where, f"must be a mapping{not_this}", advice)
        case "list_type":
            return document.problem(where, f"must be a list{not_this}", _as_list(where, given))
        case "string_type":
            advice = f'write "{given}", in quotes' if isinstance(given, (int, float)) else ""
            advice = (
                "put it into quotes: without them, yes, no, on and off are true or false"
                if isinstance(given, bool)
                else advice
            )
            return document.problem(where, f"must be text{not_this}", advice)
        case "bool_type" | "bool_parsing":
            return document.problem(where, f"must be true or false{not_this}", _as_flag(given))
        case "int_type" | "int_parsing" | "int_from_float":
            advice = ""
            if _is_number(given):  # YAML takes 08000 for text, without any quotes
                quoted = str(int(given)) == given.strip()
                advice = f"write {int(given)}{', without quotes' if quoted else ''}"
            return document.problem(where, f"must be a whole number{not_this}", advice)
        case "float_type" | "float_parsing" | "finite_number":
            advice = f"write {given.strip()}, without quotes" if _is_number(given, r"\d{1,18}(\.\d+)?") else ""
            return document.problem(where, f"must be a number{not_this}", advice)
        case "greater_than_equal":
            return document.problem(where, f"must be at least {bounds['ge']:g}{not_this}")
        case "greater_than":
            return document.problem(where, f"must be more than {bounds['gt']:g}{not_this}")
        case "less_than_equal":
            return document.problem(where, f"must be at most {bounds['le']:g}{not_this}")
        case "too_short":
            return document.problem(where, "must not be empty")
        case "literal_error":
            words = re.findall(r"'([^']*)'", bounds["expected"])
            return document.problem(where, f"must be {_either(words)}{not_this}", near(str(given), words))
    return document.problem(where, f"must be {item['msg'].removeprefix('Input should be ')}{not_this}")


def _either(words: list[str]) -> str:
    """The words as a choice: ``a, b or c``."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _shown(where: Where, given: object) -> str:
    """A value as a message shows it; no secret."""
    if any(redaction.names_secret(str(part)) for part in where):
        return "that"
    match given:
        case None:
            return "nothing"
        case True | False:
            return str(given).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
    return short(given)


def _is_number(given: object, pattern: str = r"\d{1,18}") -> typing.TypeGuard[str]:
    """Whether it is text that reads as a number; by default a whole one of at most 18 digits."""
    return isinstance(given, str) and re.fullmatch(pattern, given.strip()) is not None


_AS_MAPPING = {
    "models": "write the alias as a key: `NAME: {model: ..., port: ...}`",
    "programs": "write the name as a key: `NAME: {command: [...]}`",
    "vllm": "write `option: value` lines",
    "env": "write `NAME: value` lines",
}


def _as_list(where: Where, given: object) -> str:
    """Advice: the list that was meant by a single value."""
    if where[-1] == "gpus" and (given == "all" or isinstance(given, int)):
        return "write the numbers of the GPUs: [0] for the first, [0, 1] for two"
    if (
        where[-1] == "gpus"
        and isinstance(given, str)
        and (two := re.fullmatch(r"\s*(\d{1,2})\s*-\s*(\d{1,2})\s*", given))
    ):
        return f"write {list(range(int(two[1]), int(two[2]) + 1))}"
    if isinstance(given, str) and re.fullmatch(r"[\d\s,]+", given):
        return f"write [{', '.join(re.findall(r'[0-9]+', given))}]"
    return f"write [{given}]" if isinstance(given, (int, float)) and not isinstance(given, bool) else ""


def _as_flag(given: object) -> str:
    """Advice: the flag that was meant by a word or a number."""
    word = str(given).lower()
    return next((f"write {flag}" for flag, words in _FLAGS.items() if word in words), "")


_FLAGS = {"true": ("true", "yes", "on", "y", "1"), "false": ("false", "no", "off", "n", "0")}


def _meant(where: Where, options: Callable[[], Collection[str] | None]) -> str:
    """Advice: the key that was meant by an unknown one, or the block where it belongs."""
    key, around = str(where[-1]), where[:-1]
    known = _known(around)
    if close := near(key, known, 0.75):
        return close
    if _ELSEWHERE.get(key) in known:
        return f"write it as {_ELSEWHERE[key]}"
    block = _block(around)
    if block is schema.Model and engine_options.normal(key) in (options() or ()):
        return "it is an option of vLLM: write it under vllm"
    if block is schema.Model and engine_options.normal(key) in engine_options.SHORT:
        return f"write it under vllm, as {engine_options.SHORT[engine_options.normal(key)]}"
    if block is schema.Model and key in _PARAMS:
        return "it is one of LiteLLM's: write it under litellm"
    inner = [name for name in known if key in _known((*around, name))]
    if inner:
        return f"write it under {inner[0]}"
    for length in range(len(around) - 1, -1, -1):
        if key in _known(around[:length]):
            return f"write it in {path_words(around[:length])}" if length else "write it at the top of the file"
    return near(key, known) or _allowed(around)


def _block(where: Where) -> type[pydantic.BaseModel] | None:
    """The schema's block at that place; None where there is none."""
    block: Any = schema.Root
    for part in where:
        if isinstance(block, type) and issubclass(block, pydantic.BaseModel):
            info = block.model_fields.get(str(part))
            block = None if info is None else _inner(info.annotation)
        elif typing.get_origin(block) is dict:
            block = _inner(typing.get_args(block)[1])
        else:
            return None
    return block if isinstance(block, type) and issubclass(block, pydantic.BaseModel) else None


def _inner(annotation: Any) -> Any:
    """The type ``X`` of an annotation ``X | None``."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next((part for part in typing.get_args(annotation) if part is not type(None)), None)
    return annotation


def _known(where: Where) -> list[str]:
    """The keys of the schema's block at that place; none where there is no block."""
    block = _block(where)
    return list(block.model_fields) if block else []


def _allowed(where: Where) -> str:
    """Advice: all keys that the block at that place knows."""
    known = _known(where)
    return f"known here: {', '.join(known)}" if known else ""
