"""`llm-supervisor check` and `config`: what is wrong with a configuration, and how it will be used."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_supervisor import paths
from llm_supervisor.cli.output import FAILED, OK, WRONG, complain_no_config, print_problems, say, say_json, say_lines
from llm_supervisor.cli.setup import judge_options, learn_options, learn_providers, rehearsal
from llm_supervisor.config import ConfigError, Problem, load


def check(options: argparse.Namespace) -> int:
    """Check the configuration and the host; exit status 0 when all is fine, FAILED for warnings, WRONG for errors."""
    from llm_supervisor.config import lacking_packages, not_cached
    from llm_supervisor.host import gpu
    from llm_supervisor.oneshot import preflight
    from llm_supervisor.oneshot.finding import Finding, Verdict
    from llm_supervisor.oneshot.finding import worst as worst_of
    from llm_supervisor.supervision import resources

    files = paths.find_config(options.config)
    if not files:
        return complain_no_config()
    problems: Sequence[Problem]
    findings: list[Finding] = []
    try:
        config = load(files, os.environ, learn_options, learn_providers, judge_options)
        litellm = resources.interpreter(config, "litellm", paths.data_dir(os.environ))
        packages = lacking_packages(config, litellm) if litellm is not None else []
        said, untried = rehearsal(config)
        named = {(problem.file, problem.line) for problem in packages}  # LiteLLM misses them, too
        said = [problem for problem in said if (problem.file, problem.line) not in named]
        problems = sorted({*config.warnings, *not_cached(config), *packages, *said})
        findings = preflight.Preflight(config, os.environ, gpu.Bounded()).findings()
        if untried:
            detail = f"LiteLLM's own loading of its file was not tried: {untried}"
            findings.append(Finding("litellm", "file", Verdict.FINE, detail))
        worst = worst_of(findings)
        if any(not problem.warning for problem in problems):
            worst = Verdict.ERROR
        elif problems and worst is Verdict.FINE:
            worst = Verdict.WARNING
    except ConfigError as error:
        problems, worst = error.problems, Verdict.ERROR
    code = {Verdict.FINE: OK, Verdict.WARNING: FAILED, Verdict.ERROR: WRONG}[worst]
    if options.json:
        host = [asdict(finding) for finding in findings]
        rows = [_row(problem) for problem in problems]
        answer = {"ok": code != WRONG, "verdict": worst, "config": str(files[0]), "problems": rows, "host": host}
        say_json(answer)
    else:
        _print_findings(files, problems, findings)
    return code


def _row(problem: Problem) -> dict[str, Any]:
    """A problem of the configuration as `check --json` prints it."""
    return {
        "severity": "warning" if problem.warning else "error",
        "file": problem.file,
        "line": problem.line,
        "path": problem.path,
        "message": problem.message,
        "advice": problem.advice,
    }


def _print_findings(files: Sequence[Path], problems: Sequence[Problem], findings: Sequence[Any]) -> None:
    """Print the problems of the configuration to standard error, then the findings about the host and a summary."""
    from llm_supervisor.oneshot.finding import Verdict

    for problem in problems:
        say(("warning: " if problem.warning else "") + str(problem), error=True)
    width = max((len(finding.subject) for finding in findings), default=0)
    for finding in findings:
        say(f"{finding.verdict:<8} {finding.check:<7} {finding.subject:<{width}}  {finding.detail}")
        if finding.advice:
            say(f"{'':<{width + 18}}{finding.advice}")
    verdicts = [finding.verdict for finding in findings]
    verdicts += [Verdict.WARNING if problem.warning else Verdict.ERROR for problem in problems]
    counts = [(verdicts.count(verdict), verdict) for verdict in (Verdict.ERROR, Verdict.WARNING)]
    said = ", ".join(f"{count} {verdict}{'s' if count > 1 else ''}" for count, verdict in counts if count)
    if findings:
        say(f"{', '.join(map(str, files))}: {said or 'fine'}")


def config(options: argparse.Namespace) -> int:
    """Print the configuration as it will be used, without keys, or the JSON Schema of the file."""
    from llm_supervisor.config import plan, show

    if options.what == "schema":
        say_json(show.json_schema())
        return OK
    files = paths.find_config(options.config)
    if not files:
        return complain_no_config()
    try:
        config = load(files, os.environ, learn_options, learn_providers)
    except ConfigError as error:
        return print_problems(error)
    from llm_supervisor.redaction import HIDDEN
    from llm_supervisor.supervision.resources import expected_pythons

    runtime = paths.runtime_dirs(os.environ)[0]
    pythons = expected_pythons(config, paths.data_dir(os.environ))
    seen = show.shown(config, plan(config, runtime=runtime, pythons=pythons, master_key=HIDDEN))
    for problem in config.warnings:
        say(f"warning: {problem}", error=True)
    if options.json:
        say_json(seen)
    else:
        _print_config(seen)
    return OK


def _print_config(seen: dict[str, Any]) -> None:
    """Print what ``show.shown`` returns as YAML, with the command line of each program."""
    import shlex

    import yaml

    def dump(data: Any) -> str:
        return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))

    say_lines(f"# from {', '.join(seen['files'])}\n{dump(seen['config'])}")
    if seen["env_file"]:
        say_lines(f"# set by env_file: {', '.join(seen['env_file'])}")
        say_lines(f"# of these, vLLM gets: {', '.join(seen['env_file_for_vllm']) or 'none'}\n")
    for name, argv in seen["argv"].items():
        say_lines(f"# {name}:\n{shlex.join(argv)}\n")
    if seen["litellm_config"] is not None:
        say_lines(f"# the file that LiteLLM gets:\n{dump(seen['litellm_config'])}", end="")
