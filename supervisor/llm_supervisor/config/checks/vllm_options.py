"""Checks of the options under ``vllm:``.

Reported are options that the daemon sets itself, options that are written twice, dangerous values, and values that the
parser of the installed vLLM would refuse or misread.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from llm_supervisor.config import schema
from llm_supervisor.config.checks.context import Context
from llm_supervisor.config.checks.secrets import KEY_NEEDS_ASCII
from llm_supervisor.config.document import Document, Problem, Where
from llm_supervisor.config.option_paths import whole
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.vllm import former_options
from llm_supervisor.engines.vllm import options as engine_options
from llm_supervisor.engines.vllm.installed_options import Option, Options
from llm_supervisor.suggest import near, short


def problems(context: Context) -> Iterator[Problem]:
    """All that is wrong with the options of all models."""
    for alias, model in context.root.models.items():
        yield from _options(context, ("models", alias), model)
        yield from _gpus(context.document, ("models", alias), model, context.placeholders)


def _options(context: Context, where: Where, model: schema.Model) -> Iterator[Problem]:
    """All that is wrong with the options of one model."""
    document, known = context.document, context.options
    seen: dict[str, str] = {}
    for written, value in model.vllm.items():
        here: Where = (*where, "vllm", written)
        name = engine_options.normal(written)
        other = seen.setdefault(name, written)
        if other != written:
            yield document.problem(here, f"is the same option as {other}")
        elif (opposite := _opposite(name, seen)) and value is not None and model.vllm[opposite] is not None:
            yield document.problem(here, f"is the opposite of {opposite}, which is written too", "leave one out")
        elif (beside := _beside(name, seen)) and value is not None and model.vllm[beside] is not None:
            message = f"beside {beside}: vLLM then uses what is written with dots alone"
            yield document.problem(here, message, "write it as one mapping")
        short, dot, key = name.partition(".")
        if short in engine_options.SHORT and short not in (known or ()):
            yield document.problem(here, "is a short option", f"write {engine_options.SHORT[short]}{dot}{key}")
        elif name in engine_options.RESERVED:
            yield document.problem(here, "must not be set here", engine_options.RESERVED[name])
        elif context.has_placeholder_in(here):
            continue
        elif name == "api-key":
            for index, key in enumerate(value if isinstance(value, list) else [value]):
                is_text = isinstance(key, (str, int)) and not isinstance(key, bool)
                if not is_text or not proxy_config.fits_in_header(str(key)):
                    yield document.problem((*here, index) if isinstance(value, list) else here, KEY_NEEDS_ASCII)
        elif name == "hf-token" and isinstance(value, str):
            yield document.problem(here, "would show in the list of processes", "write env: {HF_TOKEN: ...}")
        elif limits := list(_limits(document, here, name, value)):
            yield from limits
        else:
            if name == "allowed-local-media-path" and (media := _wrong_media(value, context)) is not None:
                yield document.problem(here, *media, warning=True)
            for place, message, advice in _wrong(name, value, known) if known is not None else ():
                yield document.problem((*here, *place), message, advice)


# The kinds of input that vLLM limits, as its models name them
_MODALITIES = ("image", "video", "audio", "vision_chunk")
_LONGEST = 1000  # characters that are searched for the old form: on a longer text the pattern takes too long
_PAIR = re.compile(r"([A-Za-z_]+)\s*[=:]\s*(\d+)")  # `image=1`, the old form, or `image:1`


def _limits(document: Document, here: Where, name: str, value: object) -> Iterator[Problem]:
    """What is wrong with the limits of images and the like in a prompt. vLLM's parser takes any JSON for them; with a
    wrong one the engine dies later, or nothing is limited."""
    base, _, modality = name.partition(".")
    if base != "limit-mm-per-prompt" or value is None or "." in modality or (modality and isinstance(value, str)):
        return  # no limits, one part of a limit, or text that vLLM itself reads
    new = {modality: value} if modality else engine_options.limits(value)
    if isinstance(value, str) and isinstance(new, dict):
        message = f"{short(value)} is the old form, which vLLM no longer reads: it is given a mapping"
        yield document.problem(here, message, _as_limits(value), warning=True)
    elif isinstance(value, str):
        if not _reads(json.loads, value):
            yield document.problem(here, "is text that is no JSON", _as_limits(value))
            return
        new = json.loads(value)
    if not isinstance(new, dict):
        shown = "a list" if isinstance(value, list) else short(value)
        yield document.problem(here, f"must be a mapping, not {shown}", _as_limits(value))
        return
    if any(_PAIR.fullmatch(str(key)) for key in new):
        yield document.problem(here, "must be a mapping with a number for each", _as_limits(list(new)))
        return
    for key, limit in new.items():
        place = (*here, key) if isinstance(value, dict) and not modality else here
        yield from _limit(document, place, str(key), limit)


def _limit(document: Document, place: Where, modality: str, limit: object) -> Iterator[Problem]:
    """What is wrong with the limit of one kind of input: a number, or a mapping with ``count``."""
    count = limit.get("count", 0) if isinstance(limit, dict) else limit
    if isinstance(count, bool) or not isinstance(count, int):
        shown = "nothing" if count is None else short(count)
        quoted = isinstance(count, str) and count.isdecimal()
        advice = f"write {count}, without quotes" if quoted else f"write {modality}: 1, for one"
        yield document.problem(place, f"must be a whole number, not {shown}", advice)
    elif count < 0:
        yield document.problem(place, f"must be at least 0, not {count}")
    elif modality not in _MODALITIES:
        close = near(modality, _MODALITIES)
        message = f"is no {', '.join(_MODALITIES[:-1])} or {_MODALITIES[-1]}, which vLLM's models have"
        yield document.problem(place, message, close, warning=not close)  # a plugin's model may have others


def _as_limits(value: object) -> str:
    """Advice: the limits as a mapping, where they can be recognised."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    pairs = _PAIR.findall(text) if len(text) <= _LONGEST else []
    if pairs and re.fullmatch(r"[\s,;{}\[\]\"']*", _PAIR.sub("", text)):
        return f"write {{{', '.join(f'{name}: {count}' for name, count in pairs)}}}"
    only = re.fullmatch(r"\s*(\d+)\s*", text)
    return f"write {{image: {only[1]}}}" if only else "write a mapping"


def _opposite(name: str, seen: Mapping[str, str]) -> str | None:
    """The option of the same flag with ``no-`` in front, or without it, where that is written too."""
    return seen.get(name.removeprefix("no-") if name.startswith("no-") else f"no-{name}")


def _beside(name: str, seen: Mapping[str, str]) -> str | None:
    """An option that is written too and is the mapping of this key, or a key (``mapping.key``) of this mapping."""
    base, dot, _ = name.partition(".")
    return seen.get(base) if dot else next((said for one, said in seen.items() if one.startswith(f"{name}.")), None)


def _wrong_media(value: object, context: Context) -> tuple[str, str] | None:
    """Message and advice for the folder whose files requests may name; None where nothing is wrong."""
    if not isinstance(value, str) or not value:
        return None
    folder = whole(value, context.path.parent)
    if "\0" not in folder and os.path.realpath(folder) == "/":
        message = "shows every file of this machine that vLLM can read to whoever has a key of the gateway"
        return message, "name the folder with the media"
    if not os.path.isdir(folder):
        return f"no such folder: {folder}; vLLM refuses every image without it", "make it, or name another one"
    return None


Wrong = tuple[Where, str, str]  # the place inside the value, the message, and the advice


def _wrong(name: str, value: object, known: Options) -> Iterator[Wrong]:
    """What is wrong with an option and its value, by the options that the installed vLLM knows."""
    base, dot, _ = name.partition(".")  # some-config.key is a key of some-config
    if base not in known:
        positive = known.get(name.removeprefix("no-"))
        if name.startswith("no-") and positive is not None and positive.negatable:
            if value is False:
                yield (
                    (),
                    "is false, which switches off an option that begins with no",
                    f"write {name.removeprefix('no-')}: true",
                )
            elif value is not True and value is not None:
                yield (), "is a flag", "write true or false"
        elif name.replace("-", "_") in schema.Model.model_fields:
            yield (), "is no option of vLLM", "write it beside vllm, not under it"
        else:
            gone = former_options.OPTIONS.get(base)
            message = "is no option of the installed vLLM"
            if gone is not None and gone.since:
                message = f"is no option of vLLM any more, since {gone.since}"
            yield (), message, _meant_option(base, value, known)
    elif dot:
        if known[base].kind not in _MAPPINGS or known[base].takes == "flag":
            yield (), f"{base} has no keys", f"write {base}"
    elif value is not None:
        yield from _not_its_kind(name, known[base], value)


def _meant_option(name: str, value: object, known: Options) -> str:
    if name == "task" and str(value) in engine_options.TASKS:
        return f"write runner: {engine_options.TASKS[str(value)]}"
    if (gone := former_options.OPTIONS.get(name)) is not None:
        return former_options.advice(gone, value)
    if level := re.fullmatch(r"O(\d)", name):
        return f"write optimization-level: {level[1]}"
    return near(name, known) or "see `vllm serve --help`"


# Kinds of options whose keys may be written as `option.key`; the last is a kind that is not known
_MAPPINGS = ("json", "object", "mapping or text", "")


def _not_its_kind(name: str, option: Option, value: object) -> Iterator[Wrong]:
    """Values that vLLM's parser would refuse, or of which it would take a part for something else."""
    if option.takes == "flag":
        if not isinstance(value, bool):
            yield (), "is a flag", "write true or false"
        elif value is False and not option.negatable:
            yield (), "cannot be switched off", "leave it out"
    elif isinstance(value, bool) and not (value and option.takes == "maybe"):
        yield (), f"takes a value, not {str(value).lower()}", "leave it out for vLLM's default" if not value else ""
    elif isinstance(value, list) and option.lists in ("values", "each"):
        if not value and option.takes == "values":
            yield (), "is an empty list, and vLLM takes no option without a value", "leave it out for vLLM's default"
        for index, item in enumerate(value):
            if item is None or isinstance(item, bool):
                yield (index,), f"takes a value, not {'nothing' if item is None else str(item).lower()}", ""
            elif wrong := _no_value(name, option, item):
                yield ((index,), *wrong)
            elif option.takes != "each" and len(value) > 1 and _DASHED.match(str(item)):
                yield (index,), "begins with a dash, as no other of several values can", ""
    elif isinstance(value, bool) or (isinstance(value, list) and option.lists == "commas"):
        return
    elif wrong := _no_value(name, option, value):
        yield ((), *wrong)


_DASHED = re.compile(r"-(?!\d+$)")  # vLLM's parser takes such a word for an option, unless it is a number
_SHORT = re.compile(r"\d+(\.\d+)?[kmgt]|\d+[KMGT]")


def _no_value(name: str, option: Option, value: Any) -> tuple[str, str] | None:
    """Message and advice for one value of an option; None for a good one."""
    text = str(value).strip()
    if option.optional and text in ("", "None"):
        return None
    what = "mapping" if isinstance(value, dict) else "list" if isinstance(value, list) else ""
    if what and (option.choices is not None or option.kind not in _MAPPINGS):
        only = isinstance(value, list) and len(value) == 1 and isinstance(value[0], (str, int, float))
        return f"takes a single value, not a {what}", f"write {value[0]}" if only else "write one value"
    if option.choices is not None:
        said = re.sub("-", "_", text.lower()) if option.kind == "word" else str(value)
        if said in option.choices:
            return None
        close = near(str(value), option.choices)
        return f"must be one of {', '.join(option.choices)}, not {short(value)}", close
    match option.kind:
        case "int" if not _reads(int, text):
            return f"must be a whole number, not {short(value)}", ""
        case "float" if not _reads(float, text):
            return f"must be a number, not {short(value)}", ""
        case "count" | "count or auto" if not _SHORT.fullmatch(text) and not _reads(int, text):
            if option.kind != "count" and text.lower() == "auto":
                return None
            broken = re.fullmatch(r"\d+\.\d+[KMGT]", text)
            advice = f"K, M and G are powers of 1024, of whole numbers: write {text.lower()}" if broken else ""
            return f"must be a whole number, or one like 25k (25000) or 25K (25600), not {short(value)}", advice
        case "json" if isinstance(value, str) and not _reads(json.loads, text):
            return "is text that is no JSON", "write a mapping"
        case "object" if not isinstance(value, dict):
            return _no_object(name, value)
        case "mapping or text" if what == "list":
            return "must be a mapping, not a list", _LINES
        case "mapping or text" if re.match(r"(?s)\{.*\}$", text) and not what and not _reads(json.loads, text):
            return "is text that is no JSON", "write a mapping"
    return None


_LINES = "write `key: value` lines"


def _no_object(name: str, value: object) -> tuple[str, str] | None:
    """Message and advice for a value that should be a mapping; None for text that is one in JSON."""
    text = str(value).strip() if isinstance(value, str) else ""
    if text.startswith("{") and text.endswith("}"):
        return None  # not parsed here: it may hold numbers like 25k, which vLLM accepts there
    shown = "a list" if isinstance(value, list) else short(value)
    level = name == "compilation-config" and isinstance(value, int)
    return f"must be a mapping, not {shown}", f"write {{mode: {value}}}" if level else _LINES


def _reads(reader: Callable[[str], object], text: str) -> bool:
    try:
        reader(text)
    except (ValueError, RecursionError):
        return False
    return True


def _gpus(document: Document, where: Where, model: schema.Model, placeholders: Collection[Where]) -> Iterator[Problem]:
    """The engine needs as many GPUs as it has parts. With other machines in it, that cannot be judged here."""
    options = {engine_options.normal(name): value for name, value in model.vllm.items()}
    elsewhere = [
        name
        for name in options
        if name.startswith(("data-parallel", "prefill-context-parallel", "nnodes", "distributed-executor"))
    ]
    if not model.gpus or (*where, "gpus") in placeholders or len(set(model.gpus)) != len(model.gpus) or elsewhere:
        return
    if "CUDA_VISIBLE_DEVICES" in model.env:
        message = "names other GPUs than gpus does, and vLLM follows this one"
        if model.env["CUDA_VISIBLE_DEVICES"].replace(" ", "") != ",".join(map(str, model.gpus)):
            yield document.problem((*where, "env", "CUDA_VISIBLE_DEVICES"), message, "leave it out", warning=True)
    sizes = {name: options.get(name, 1) for name in ("tensor-parallel-size", "pipeline-parallel-size")}
    if not all(isinstance(size, int) and size > 0 for size in sizes.values()):
        return
    parts, count = sizes["tensor-parallel-size"] * sizes["pipeline-parallel-size"], len(model.gpus)
    written = next((name for name in model.vllm if engine_options.normal(name) in sizes), None)
    place: Where = (*where, "vllm", written) if written else (*where, "gpus")
    if parts > count:
        message = f"the engine has {parts} parts and {count} GPU{'s' if count > 1 else ''}"
        yield document.problem(place, message, "give it as many GPUs as parts")
    elif parts < count:
        message = f"{count} GPUs, and the engine uses {parts} of them"
        advice = f"write tensor-parallel-size: {count}" if parts == 1 else "give it as many GPUs as parts"
        yield document.problem(place, message, advice, warning=True)
