"""The packages that a configuration needs of LiteLLM's environment beside LiteLLM's own: which, and which lack there.

Only files are looked at; no interpreter is started.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llm_supervisor.config import litellm_reader, yaml_reader
from llm_supervisor.config.config import GATEWAY, Config
from llm_supervisor.config.document import Document, Problem
from llm_supervisor.engines import site_packages
from llm_supervisor.engines.litellm import packages
from llm_supervisor.engines.litellm.packages import PRISMA, Need, Package


def needed(config: Config) -> list[Need]:
    """What LiteLLM needs for the settings of its file, and for the variables that it gets."""
    gateway = config.root.gateway
    return packages.needs(config.native, {**config.environ, **gateway.env}) if gateway is not None else []


def lacking(config: Config, python: Path) -> list[Problem]:
    """A problem for every package that is needed and is not beside LiteLLM's interpreter ``python``: an error where
    LiteLLM does not start without it."""
    needs = [need for need in needed(config) if not is_there(need.package, python)]
    if not needs:
        return []
    document = yaml_reader.layered(config.files)
    native, _ = litellm_reader.read(config.root, config.file, document)
    return [_problem(config, document, native, need) for need in needs]


def is_there(package: Package, python: Path) -> bool:
    """Whether a package is beside an interpreter: by its distribution, or by its module. Of prisma the client, too,
    which is generated for LiteLLM's tables after it was installed."""
    places = site_packages.folders(python)
    module = package.imports.replace(".", "/")
    there = site_packages.normal(package.distribution) in site_packages.distributions(places) or any(
        (place / module).is_dir() or (place / f"{module}.py").is_file() for place in places
    )
    return there and (package != PRISMA or any((place / "prisma/client.py").is_file() for place in places))


def _problem(config: Config, document: Document, native: Document, need: Need) -> Problem:
    """What to tell about a package that lacks."""
    engine, package = config.root.engines.litellm, need.package
    what = package.distribution if package != PRISMA else "prisma with a client that was generated"
    message = f"{need.why} needs {what}, which LiteLLM's environment does not have"
    own: Sequence[str] = (package.distribution, *(one.partition(">")[0] for one in package.more))
    if engine is not None:
        then = ", and run `prisma generate` for litellm/proxy/schema.prisma" if package == PRISMA else ""
        advice = f"install {' and '.join(own)} beside {engine.python}{then}"
    elif package.requirement:
        advice = f"`llm-supervisor install -c {config.file}` adds it"
    else:
        advice = "`install` does not bring it: name an environment of your own that has it under `engines: litellm:`"
    warning = not package.vital
    if need.place:
        return native.problem(need.place, message, advice, warning=warning)
    return document.problem((GATEWAY,), message, advice, warning=warning)
