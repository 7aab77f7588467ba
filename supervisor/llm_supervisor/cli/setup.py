"""`llm-supervisor init` and `install`: what is done once on a host, before the daemon runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm_supervisor import paths
from llm_supervisor.cli.output import FAILED, OK, complain, say, say_lines

if TYPE_CHECKING:
    from llm_supervisor.config import Config, Problem
    from llm_supervisor.engines.litellm.packages import Package
    from llm_supervisor.engines.vllm.installed_options import Options
    from llm_supervisor.engines.vllm.judgement import Answer, Question


def init(options: argparse.Namespace) -> int:
    """Write the files of a preset into a folder, or list the presets. No file is overwritten."""
    from llm_supervisor.host import gpu
    from llm_supervisor.host.net import listener as net_listener
    from llm_supervisor.oneshot import presets
    from llm_supervisor.suggest import nearest

    known = presets.names()
    if options.preset is None:
        width = max(map(len, known))
        for name, what in known.items():
            say(f"{name:<{width}}  {what}")
        return OK
    if options.preset not in known:
        return complain(nearest(options.preset, known, "preset"))
    files = presets.made(
        options.preset, free=lambda port: net_listener.can_bind("127.0.0.1", port) is None, gpus=gpu.Bounded().any()
    )
    folder = Path(options.folder)
    if there := [str(folder / name) for name in files if (folder / name).exists()]:
        return complain(f"nothing was written, because this exists already: {', '.join(there)}")
    try:
        _write(folder, files, secret=presets.KEYS)
    except OSError as error:
        return complain(f"the configuration cannot be written: {error}")
    empty = [line[:-1] for line in files[presets.KEYS].splitlines() if line.endswith("=") and line[0] != "#"]
    for name in files:
        say(str(folder / name))
    steps = [f"put the values of {', '.join(empty)} into {folder / presets.KEYS}"] if empty else []
    steps += [f"llm-supervisor check -c {folder / presets.MAIN}", f"llm-supervisor run -c {folder / presets.MAIN}"]
    say_lines("\nNext:\n" + "\n".join(f"  {step}" for step in steps))
    return OK


def _write(folder: Path, files: Mapping[str, str], *, secret: str) -> None:
    """Write new files (name to text); only their owner may read the file named ``secret``. Raises OSError, also where
    a file exists already."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if name == secret else 0o644)
        with os.fdopen(fd, "w") as file:
            file.write(text)


def install(options: argparse.Namespace) -> int:
    """Install the engines, each into an environment of its own, and test on this host what the daemon will need.

    Where a configuration is found, what LiteLLM needs for its settings is added. One that is wrong is told and does not
    keep the engines from being installed; the exit status then says so, if it was named."""
    from llm_supervisor.engines.environment import InstallError
    from llm_supervisor.oneshot import install
    from llm_supervisor.oneshot.progress import Lines

    unknown = [engine for engine in options.engine if engine not in ("vllm", "litellm")]
    if unknown:
        return complain(f"no such engine: {', '.join(unknown)}; there are vllm and litellm")
    tiny_model = Path(options.tiny_model).absolute() if options.tiny_model else None
    code, additions = _additions(options)
    try:
        install.install_all(
            tuple(dict.fromkeys(options.engine)) or ("litellm", "vllm"),
            paths.data_dir(os.environ),
            report=Lines(sys.stdout),
            tiny_model=tiny_model,
            additions=additions,
        )
    except InstallError as error:
        complain(str(error))
        return FAILED
    return code


def _additions(options: argparse.Namespace) -> tuple[int, list[Package]]:
    """What the configuration needs beside LiteLLM that `install` can bring, and the exit status so far."""
    from llm_supervisor.config import ConfigError, load, needed_packages

    files = paths.find_config(options.config)
    if not files:
        return OK, []
    try:
        config = load(files, os.environ)
    except ConfigError as error:
        told = "what it needs beside the engines is not installed; `llm-supervisor check` says what is wrong with it"
        complain(f"{', '.join(map(str, files))} has errors: {told}. The first: {error.problems[0]}")
        return (FAILED if options.config else OK), []
    if (own := config.root.engines.litellm) is not None:
        for need in needed_packages(config):
            say(f"{need.why} needs {need.package.distribution} beside {own.python}, which is yours to install")
        return OK, []
    return OK, [need.package for need in needed_packages(config) if need.package.requirement]


def learn_options(python: str | None) -> Options | None:
    """The options of the vLLM of that interpreter (None: the installed one); None if it is not installed.

    vLLM itself is asked if its answer is not stored yet, which takes some seconds.
    """
    from llm_supervisor.engines.vllm import installed_options

    found = _to_ask("vllm", python)
    return None if found is None else installed_options.learn(found, paths.data_dir(os.environ))


def judge_options(python: str | None, questions: Sequence[Question]) -> list[Answer] | None:
    """What the vLLM of that interpreter (None: the installed one) says of options; None if it is not installed.

    It takes some seconds if its answer is not stored yet."""
    from llm_supervisor.engines.vllm import judgement

    found = _to_ask("vllm", python)
    return None if found is None else judgement.judge(found, paths.data_dir(os.environ), questions)


def learn_providers(python: str | None) -> Collection[str] | None:
    """The same for the providers that LiteLLM knows."""
    from llm_supervisor.engines.litellm import dry_run

    found = _to_ask("litellm", python)
    return None if found is None else dry_run.learn_providers(found, paths.data_dir(os.environ))


def _to_ask(engine: str, python: str | None) -> str | None:
    """The interpreter of an engine, to ask it something; None where none is installed, or it should not be started."""
    from llm_supervisor.engines import environment as envs
    from llm_supervisor.oneshot import engine_packages

    if python is None:
        env = envs.environment(engine, paths.data_dir(os.environ))
        if not envs.is_complete(env):
            return None
        python = str(env.python)
    # asking starts that interpreter; `check` says what is wrong with it
    return None if engine_packages.is_malicious(Path(python)) else python


def rehearsal(config: Config) -> tuple[list[Problem], str]:
    """What the installed LiteLLM complains of in a configuration, and why it could not be asked; nothing where it is
    not installed. It takes seconds."""
    from llm_supervisor.config import plan, rehearsed
    from llm_supervisor.redaction import HIDDEN
    from llm_supervisor.supervision.resources import expected_pythons

    if config.root.gateway is None:
        return [], ""
    named = config.root.engines.litellm
    python = _to_ask("litellm", None if named is None else str(config.executable(named.python)))
    if python is None:
        return [], ""
    data = paths.data_dir(os.environ)
    runtime = paths.runtime_dirs(os.environ)[0]
    pythons = expected_pythons(config, data)
    planned = plan(config, runtime=runtime, pythons=pythons, master_key=config.master_key or HIDDEN)
    return rehearsed(config, planned, python, data)
