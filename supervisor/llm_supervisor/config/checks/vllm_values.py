"""What the installed vLLM itself says of the values under ``vllm:``, with the place of each in the file.

Options that another check has complained of are left out of the question.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_supervisor.config import schema
from llm_supervisor.config.checks.context import Context
from llm_supervisor.config.config import is_folder
from llm_supervisor.config.document import Problem, Where, path_words
from llm_supervisor.config.option_paths import resolved, whole
from llm_supervisor.engines import hub_cache
from llm_supervisor.engines.vllm import former_options
from llm_supervisor.engines.vllm import options as engine_options
from llm_supervisor.engines.vllm import process as vllm_process
from llm_supervisor.engines.vllm.judgement import Answer, Complaint, Question
from llm_supervisor.host import bounded
from llm_supervisor.suggest import near

# Asks the installed vLLM; None where there is none
Judge = Callable[[Sequence[Question]], "list[Answer] | None"]

_LONGEST = 300  # characters of vLLM's words that a message shows
# Never among the words: keys are given in another way, and an adapter's folder is looked at by the engine alone
_NOT_ASKED = frozenset({"api-key", "hf-token"})
# With these the engine's configuration depends on other machines, or on code that came with the model
_NOT_ALONE = ("nnodes", "node-rank", "master-addr", "data-parallel-address", "trust-remote-code")
# Options of which the port or socket decides something
_NEED_PLACE = ("grpc-port", "data-parallel-multi-port-external-lb")


def problems(context: Context, judge: Judge, known: Sequence[Problem]) -> Iterator[Problem]:
    """All that vLLM does not accept. ``known`` are the problems that were found already."""
    wrong = {problem.path for problem in known if not problem.warning}
    models = {alias: model for alias, model in context.root.models.items() if model.vllm}
    asked = {alias: _question(context, alias, model, wrong) for alias, model in models.items()}
    answers = judge(list(asked.values()))
    if answers is None:
        return
    for (alias, model), answer in zip(models.items(), answers, strict=True):
        where: Where = ("models", alias)
        if answer is None:
            message = "vLLM was asked whether it accepts these options, and gave no answer in time"
            advice = "they are judged when the engine starts; on a busy machine, try again later"
            yield context.document.problem((*where, "vllm"), message, advice, warning=True)
        for complaint in answer or ():
            yield _problem(context, where, model, complaint)


def _question(context: Context, alias: str, model: schema.Model, wrong: set[str]) -> Question:
    where: Where = ("models", alias)
    lists = {name: one.lists for name, one in (context.options or {}).items()}
    words = []
    for written, value in resolved(model.vllm, context.path.parent).items():
        here: Where = (*where, "vllm", written)
        said = path_words(here)
        is_wrong = any(path == said or path.startswith((f"{said}.", f"{said}[")) for path in wrong)
        if is_wrong or context.has_placeholder_in(here) or engine_options.normal(written) in _NOT_ASKED:
            continue
        if argv := engine_options.flags({written: value}, lists):
            words.append((written, tuple(argv)))
    options = engine_options.by_name(model.vllm)
    if model.port is not None and any(options.get(name) for name in _NEED_PLACE):
        words.append(("port", ("--port", str(model.port))))
    environ = {
        name: value
        for name, value in {**context.environ, **model.env}.items()
        if name.startswith(vllm_process.READS) and name not in vllm_process.KEYS
    }
    environ |= vllm_process.environment(gpus=model.gpus, api_keys=(), cpu=False, offline=True)
    environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    folder = None
    if path_words((*where, "model")) not in wrong and not context.has_placeholder_in((*where, "model")):
        folder = _folder(context, model, options)
    return Question(model.model, folder, tuple(words), environ)


def _folder(context: Context, model: schema.Model, options: Mapping[str, Any]) -> str | None:
    """Where the files of the model are, if vLLM may read its configuration here and now."""
    if any(options.get(name) for name in _NOT_ALONE) or "ray" in map(options.get, ("distributed-executor-backend",)):
        return None
    base = context.path.parent

    def look() -> str | None:
        if is_folder(model, base):
            folder: Path | None = Path(whole(model.model, base))
        else:
            environ = {**context.environ, **model.env}
            taken = hub_cache.repositories(model.model, model.source, options, environ)
            folder = taken[0].snapshot() if taken else None
        return str(folder) if folder is not None and os.path.isfile(folder / "config.json") else None

    try:
        return bounded.call(f"the folder {model.model}", look, within=hub_cache.WITHIN)
    except bounded.NoAnswer:
        return None


def _problem(context: Context, where: Where, model: schema.Model, complaint: Complaint) -> Problem:
    """A complaint of vLLM's as a problem with its place."""
    if not complaint.options:
        # what no option is to blame for may be the model's own: the other models need not wait until that is mended
        text = textwrap.shorten(complaint.text, _LONGEST, placeholder=" ...")
        return context.document.problem((*where, "model"), f"vLLM would not start with it: {text}", warning=True)
    written, *others = complaint.options
    if written == "port":
        return context.document.problem((*where, "port"), f"vLLM refuses it: {complaint.text}")
    place, value = _inside((*where, "vllm", written), model.vllm[written], complaint.keys)
    option = engine_options.normal(written).partition(".")[0]
    if complaint.choices and complaint.keys:
        gone = former_options.KEYS.get((option, complaint.keys[-1]))
        message = f"{complaint.keys[-1]} is no key of {option} in the installed vLLM"
        advice = near(complaint.keys[-1], complaint.choices, 0.7) or f"it has {', '.join(complaint.choices)}"
        if gone is not None:
            advice = former_options.advice(gone, value)
        return context.document.problem(place, message, advice)
    text = textwrap.shorten(complaint.text, _LONGEST, placeholder=" ...")
    message = f"vLLM refuses it: {text}"
    if complaint.keys and len(place) == len(where) + 2:
        message = f"vLLM refuses its {'.'.join(complaint.keys)}: {text}"
    accepted = [*re.findall(r"'([^']+)'", complaint.text), *complaint.text.partition("; it has ")[2].split(", ")]
    advice = near(value, filter(None, accepted)) if isinstance(value, str) and value else ""
    if not advice and others:
        advice = f"it does not go together with {' and '.join(others[:2])}"
    return context.document.problem(place, message, advice)


def _inside(place: Where, value: Any, keys: Sequence[str]) -> tuple[Where, Any]:
    """The place of the innermost of the keys that are written there, and its value."""
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            break
        place, value = (*place, key), value[key]
    return place, value
