"""Checks of a configuration beyond its types: each looks at one part and yields the problems that it finds."""

from collections.abc import Iterator

from llm_supervisor.config.checks import (
    gateway,
    litellm_file,
    litellm_references,
    models,
    names_and_ports,
    programs,
    secrets,
    vllm_options,
    vllm_server,
)
from llm_supervisor.config.checks.context import Context
from llm_supervisor.config.document import Problem

__all__ = ["Context", "problems"]

_CHECKS = (
    gateway,
    litellm_file,
    litellm_references,
    models,
    names_and_ports,
    programs,
    secrets,
    vllm_options,
    vllm_server,
)


def problems(context: Context) -> Iterator[Problem]:
    """All problems of a configuration, those of one check after those of another."""
    for check in _CHECKS:
        yield from check.problems(context)
