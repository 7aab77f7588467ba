"""What LiteLLM itself says of the configuration that it would get: its own loading is tried
(``engines.litellm.dry_run``), and each complaint is told with the place of the file that it is about.

It takes seconds, so it is asked by `check` and by a reload, and not by every command that reads a configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from llm_supervisor import redaction
from llm_supervisor.config import litellm_reader, yaml_reader
from llm_supervisor.config.config import GATEWAY, Config
from llm_supervisor.config.document import Document, Problem, Where
from llm_supervisor.config.plan import Plan
from llm_supervisor.config.show import secrets_of
from llm_supervisor.config.specs import gateway_environ
from llm_supervisor.core.spec import Kind
from llm_supervisor.engines.litellm import dry_run
from llm_supervisor.engines.litellm.config import usable_entries
from llm_supervisor.suggest import near


def rehearsed(config: Config, plan: Plan, python: str, data: Path) -> tuple[list[Problem], str]:
    """What LiteLLM, run by ``python``, complains of, and why it could not be asked (empty where it could, or there was
    nothing to ask). ``data`` is the folder in which answers are kept."""
    gateway = config.root.gateway
    if gateway is None or gateway.litellm_config is None or plan.litellm_config is None:
        return [], ""
    launch = plan.programs[GATEWAY].spec.launch
    environ = {**plan.environs[Kind.LITELLM], **dict(launch.env)}
    modules = str(config.executable(gateway.litellm_config).parent)
    answer = dry_run.ask(python, data, plan.litellm_config, environ, modules)
    if answer.untried:
        return [], answer.untried
    document = yaml_reader.layered(config.files)
    native, _ = litellm_reader.read(config.root, config.file, document)
    places = _Places(config, document, native)
    hidden = secrets_of(config)
    known = {(problem.file, problem.path) for problem in config.warnings}
    found = dict.fromkeys(places.problem(one, hidden) for one in answer.complaints)
    return [one for one in found if not one.warning or (one.file, one.path) not in known], ""


class _Places:
    """Where the parts of the file that LiteLLM gets are written."""

    def __init__(self, config: Config, document: Document, native: Document) -> None:
        self._document, self._native = document, native
        self._aliases = list(config.root.models)
        self._entries = usable_entries(config.native, gateway_environ(config))

    def problem(self, complaint: dry_run.Complaint, hidden: Sequence[str]) -> Problem:
        """The complaint as a problem at its place; at the name of the file where that is not known."""
        document, where = self._found(complaint.where)
        text = redaction.redact(complaint.text, hidden)
        message = f"LiteLLM does not start with this: {text}" if complaint.fatal else f"LiteLLM says: {text}"
        return document.problem(where, message, _advice(document, where, text), warning=not complaint.fatal)

    def _found(self, where: Where) -> tuple[Document, Where]:
        if len(where) > 1 and where[0] == "model_list" and isinstance(where[1], int):
            local = len(self._aliases)
            if where[1] < local:
                return self._document, ("models", self._aliases[where[1]], "litellm")
            if where[1] - local < len(self._entries):
                return self._native, ("model_list", self._entries[where[1] - local], *where[2:])
        if where and where[0] in (self._native.data or {}):
            return self._native, where
        return self._document, (GATEWAY, "litellm_config")


def _advice(document: Document, where: Where, text: str) -> str:
    """The word that was meant by a wrong one, among those that the complaint lists."""
    value: object = document.data
    for part in where:
        value = value.get(part) if isinstance(value, Mapping) else value[part] if isinstance(value, list) else None  # type: ignore[index]
    if not re.search(r"valid|one of|expected|supported|allowed", text, re.IGNORECASE):
        return ""
    words = [word for word in text.replace('"', "'").split("'")[1::2] if word != value]
    return near(value, words) if isinstance(value, str) and value in text else ""
