"""Loading a configuration: reads all of its files, checks everything, and reports every problem at once.

Only the sequence is here. The files are the configuration itself, the env file, LiteLLM's own file with the files that
it includes, and a model folder's config.json. Nothing is started, bound or written.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from llm_supervisor import redaction
from llm_supervisor.config import checks, env_file, litellm_reader, secrets, variables, yaml_reader
from llm_supervisor.config.checks import vllm_values
from llm_supervisor.config.checks.secrets import given_master_key, readable_by_others
from llm_supervisor.config.config import Config
from llm_supervisor.config.document import COMMENTS, EMPTY, ConfigError, Document, Problem
from llm_supervisor.config.validate import validate
from llm_supervisor.engines.vllm.installed_options import Options
from llm_supervisor.engines.vllm.judgement import Answer, Question

# Returns the options of the vLLM of an interpreter (None: of the interpreter that `install` makes), or None where they
# are not known
OptionsOf = Callable[[str | None], Options | None]
# The same for the providers of LiteLLM
ProvidersOf = Callable[[str | None], Collection[str] | None]
# Asks the vLLM of an interpreter what it says of options; None where there is none
JudgeOf = Callable[[str | None, Sequence[Question]], "list[Answer] | None"]


def load(
    files: Path | Sequence[Path],
    environ: Mapping[str, str],
    options_of: OptionsOf = lambda python: None,
    providers_of: ProvidersOf = lambda python: None,
    judge_of: JudgeOf | None = None,
) -> Config:
    """Read and check a configuration. Of several files a later one overrides an earlier one
    (``yaml_reader.layered``); relative paths start at the folder of the first. Raises ConfigError with every problem
    that was found; warnings alone are in the configuration's ``warnings``. With ``judge_of`` vLLM itself is asked about
    the values of its options, which takes seconds."""
    path, *more = [files] if isinstance(files, Path) else files
    document = yaml_reader.layered([path, *more], variables.verbatim)
    written = document.data
    env_values: dict[str, str] = {}
    problems: list[Problem] = []
    if written is not None:
        env_values, problems = env_file.read(path, document, environ)
    merged = {**env_values, **environ}
    context = None
    if written is not None:
        problems += readable_by_others(document, "${NAME}")  # while references can still be told from keys
        variables.fill_in(document, merged)
        variables.check_ambiguous_numbers(document)
        context, found = _context(path, document, merged, options_of, providers_of)
        problems += found
    problems += map(_with_first_step, document.problems)
    if context is not None:
        problems += checks.problems(context)
        if judge_of is not None:
            problems += vllm_values.problems(context, partial(judge_of, _python_of("vllm", path, document)), problems)
    hidden = secrets.of(document.data, context and context.native.data, environ=merged, env_file=env_values)
    problems = sorted(_redacted(problem, hidden) for problem in problems)
    if context is None or any(not problem.warning for problem in problems):
        raise ConfigError(problems)
    return Config(
        file=path,
        root=context.root,
        native=context.native.data or {},
        environ=merged,
        master_key=given_master_key(context),
        warnings=tuple(problems),
        env_values=env_values,
        more=tuple(more),
        written=written,
        options=context.options,
    )


def _context(
    path: Path,
    document: Document,
    environ: Mapping[str, str],
    options_of: OptionsOf,
    providers_of: ProvidersOf,
) -> tuple[checks.Context | None, list[Problem]]:
    """What the checks are given, and the problems of the types on the way there; None where too little is valid."""

    @functools.cache  # asking the installed vLLM takes seconds
    def options() -> Options | None:
        return options_of(_python_of("vllm", path, document))

    validated = validate(document, options)
    problems = [*validated.problems]
    root = validated.root
    if root is None:
        return None, problems
    native, found = litellm_reader.read(root, path, document)
    problems += found
    known = options() if any(model.vllm for model in root.models.values()) else None
    providers = providers_of(_python_of("litellm", path, document)) if (native.data or {}).get("model_list") else None
    context = checks.Context(path, root, document, native, environ, validated.placeholders, known, providers)
    return context, problems


def _python_of(name: str, path: Path, document: Document) -> str | None:
    """The interpreter of an engine that the configuration names; None where it names none."""
    engines = document.data.get("engines")
    engine = engines.get(name) if isinstance(engines, dict) else None
    python = engine.get("python") if isinstance(engine, dict) else None
    return str(path.parent / os.path.expanduser(python)) if isinstance(python, str) else None


def _redacted(problem: Problem, hidden: Sequence[str]) -> Problem:
    """The problem without any secret: a message shows a wrong value, and a key may be written in the wrong place."""
    path, message, advice = (redaction.redact(text, hidden) for text in (problem.path, problem.message, problem.advice))
    return replace(problem, path=path, message=message, advice=advice)


def _with_first_step(problem: Problem) -> Problem:
    """For an empty file: the advice to have one written."""
    if problem.message in (EMPTY, COMMENTS):
        return replace(problem, advice="`llm-supervisor init` writes one")
    return problem
