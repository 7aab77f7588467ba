"""What is wrong with options under ``vllm:``: ours, written twice, dangerous, or not as vLLM's parser wants it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from llm_supervisor.config import schema, wording
from llm_supervisor.config.source import Document, Problem, Where
from llm_supervisor.engines import litellm, vllm
from llm_supervisor.engines.options import Option, Options

NO_KEY = "must be printable ASCII: no HTTP header can carry anything else"


def problems(
    document: Document, where: Where, model: schema.Model, there: Options | None, made_up: Collection[Where]
) -> Iterator[Problem]:
    """All that is wrong with the options of a model. ``there`` are those that the installed vLLM has, None where they
    are not known; nothing is said of places that are ``made_up``."""
    seen: dict[str, str] = {}
    for written, value in model.vllm.items():
        here: Where = (*where, "vllm", written)
        name = vllm.normal(written)
        other = seen.setdefault(name, written)
        if other != written:
            yield document.problem(here, f"is the same option as {other}")
        if name in vllm.RESERVED:
            yield document.problem(here, "is not written here", vllm.RESERVED[name])
        elif here in made_up:
            continue
        elif name == "api-key":
            if not isinstance(value, (str, int)) or isinstance(value, bool) or not litellm.carries(str(value)):
                yield document.problem(here, NO_KEY)
        elif name == "hf-token" and isinstance(value, str):
            yield document.problem(here, "would show in the list of processes", "write env: {HF_TOKEN: ...}")
        elif name == "limit-mm-per-prompt" and isinstance(value, str) and isinstance(new := vllm.limits(value), dict):
            message = f"{schema.short(value)} is the old form, which vLLM no longer reads: it is given a mapping"
            pairs = ", ".join(f"{key}: {count}" for key, count in new.items())
            yield document.problem(here, message, f"write {{{pairs}}}", warning=True)
        else:
            if name == "allowed-local-media-path" and value and (media := _wrong_media(str(value))) is not None:
                yield document.problem(here, *media, warning=True)
            if there is not None and (wrong := _wrong(name, value, there)) is not None:
                yield document.problem(here, *wrong)
    yield from _gpus(document, where, model, made_up)


def _wrong_media(folder: str) -> tuple[str, str] | None:
    """What is wrong with the folder whose files may be in requests, and what to do."""
    if "\0" not in folder and os.path.realpath(folder) == "/":
        message = "shows every file of this machine that vLLM can read to whoever has a key of the gateway"
        return message, "name the folder with the media"
    if not os.path.isabs(folder) or not os.path.isdir(folder):
        return f"no such folder: {folder}; vLLM refuses every image without it", "write the whole path of one"
    return None


def _wrong(name: str, value: object, there: Options) -> tuple[str, str] | None:
    """What is wrong with an option and its value, and what to do."""
    base = name.partition(".")[0]  # some-config.key is a key of some-config
    positive = name.removeprefix("no-")
    if base not in there and not (positive != name and positive in there and there[positive].negatable):
        if name.replace("-", "_") in schema.Model.model_fields:
            return "is no option of vLLM", "write it beside vllm, not under it"
        return "is no option of the installed vLLM", wording.near(base, there) or "see `vllm serve --help`"
    if base != name or base not in there:
        return None
    option = there[base]
    if option.takes == "flag":
        if not isinstance(value, bool) and value is not None:
            return "is a flag", "write true or false"
        if value is False and not option.negatable:
            return "cannot be switched off", "leave it out"
    elif isinstance(value, bool):
        return f"takes a value, not {str(value).lower()}", "leave it out for vLLM's default" if not value else ""
    elif option.choices is not None and isinstance(value, (str, int, float)) and str(value) not in option.choices:
        return f"must be one of {', '.join(option.choices)}, not {schema.short(value)}", wording.near(
            str(value), option.choices
        )
    elif value is not None and option.takes == "value":
        return _not_its_kind(option, value)
    return None


_SHORT = re.compile(r"\d+(\.\d+)?[kmgt]|\d+[KMGT]")


def _not_its_kind(option: Option, value: Any) -> tuple[str, str] | None:
    """vLLM's parser would refuse a value of that kind."""
    text = str(value).strip()
    if text in ("", "None"):
        return None  # what may be left out takes these
    if option.kind and isinstance(value, (dict, list)) and option.kind != "json":
        return f"takes a single value, not a {'mapping' if isinstance(value, dict) else 'list'}", ""
    match option.kind:
        case "int" if not _reads(int, text):
            return f"must be a whole number, not {schema.short(value)}", ""
        case "float" if not _reads(float, text):
            return f"must be a number, not {schema.short(value)}", ""
        case "count" | "count or auto" if not _SHORT.fullmatch(text) and not _reads(int, text):
            if option.kind != "count" and text.lower() == "auto":
                return None
            broken = re.fullmatch(r"\d+\.\d+[KMGT]", text)
            advice = f"K, M and G are powers of 1024, of whole numbers: write {text.lower()}" if broken else ""
            return f"must be a whole number, or one like 25k (25000) or 25K (25600), not {schema.short(value)}", advice
        case "json" if isinstance(value, str) and not _reads(json.loads, text):
            return "is text that is no JSON", "write a mapping"
    return None


def _reads(reader: Callable[[str], object], text: str) -> bool:
    try:
        reader(text)
    except (ValueError, RecursionError):
        return False
    return True


def _gpus(document: Document, where: Where, model: schema.Model, made_up: Collection[Where]) -> Iterator[Problem]:
    """As many GPUs as the engine has parts; where other machines are in it, that is for the person to know."""
    options = {vllm.normal(name): value for name, value in model.vllm.items()}
    elsewhere = [
        name
        for name in options
        if name.startswith(("data-parallel", "prefill-context-parallel", "nnodes", "distributed-executor"))
    ]
    if not model.gpus or (*where, "gpus") in made_up or len(set(model.gpus)) != len(model.gpus) or elsewhere:
        return
    if "CUDA_VISIBLE_DEVICES" in model.env:
        message = "names other GPUs than gpus does, and vLLM follows this one"
        if model.env["CUDA_VISIBLE_DEVICES"].replace(" ", "") != ",".join(map(str, model.gpus)):
            yield document.problem((*where, "env", "CUDA_VISIBLE_DEVICES"), message, "leave it out", warning=True)
    sizes = {name: options.get(name, 1) for name in ("tensor-parallel-size", "pipeline-parallel-size")}
    if not all(isinstance(size, int) and size > 0 for size in sizes.values()):
        return
    parts, count = sizes["tensor-parallel-size"] * sizes["pipeline-parallel-size"], len(model.gpus)
    written = next((name for name in model.vllm if vllm.normal(name) in sizes), None)
    place: Where = (*where, "vllm", written) if written else (*where, "gpus")
    if parts > count:
        message = f"the engine has {parts} parts and {count} GPU{'s' if count > 1 else ''}"
        yield document.problem(place, message, "give it as many GPUs as parts")
    elif parts < count:
        message = f"{count} GPUs, and the engine uses {parts} of them"
        advice = f"write tensor-parallel-size: {count}" if parts == 1 else "give it as many GPUs as parts"
        yield document.problem(place, message, advice, warning=True)
