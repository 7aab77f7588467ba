"""Reading LiteLLM's own file, which the gateway's ``litellm_config`` names, with the files that it includes.

Blocks of the wrong type are reported and taken out, so that the checks after this one may rely on the types.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from llm_supervisor.config import litellm_include, schema, yaml_reader
from llm_supervisor.config.config import GATEWAY
from llm_supervisor.config.document import COMMENTS, UNREADABLE, Document, Problem, Where
from llm_supervisor.config.text_file import similar_name


def read(root: schema.Root, path: Path, document: Document) -> tuple[Document, list[Problem]]:
    """The file as a document and what is wrong with it as YAML. ``path`` is the configuration that names it, and
    ``document`` its content. The data is None where there is no such file or it cannot be read."""
    if root.gateway is None or root.gateway.litellm_config is None:
        return Document(""), []
    where = (GATEWAY, "litellm_config")
    native = yaml_reader.read(path.parent / os.path.expanduser(root.gateway.litellm_config))
    if native.file and path.exists() and os.path.realpath(native.file) == os.path.realpath(path):
        advice = "LiteLLM's own file has model_list and settings"
        return Document(""), [document.problem(where, "is the configuration itself", advice)]
    for problem in native.problems:
        if problem.message.startswith(UNREADABLE) and not problem.line:
            return native, [
                document.problem(where, f"{problem.message}: {native.file}", similar_name(native.file)),
            ]
    if native.problems and native.data is None and native.problems[0].message == COMMENTS:
        native.problems.clear()  # only comments: nothing is to be added. A file without a word is a mistake
    return native, [*native.problems, *litellm_include.put_in(native), *_take_out_wrong_types(native)]


def _take_out_wrong_types(native: Document) -> Iterator[Problem]:
    """Report blocks of the wrong type; ``model_list`` and the settings are emptied when they are one."""
    models = (native.data or {}).get("model_list")
    if models is not None and not isinstance(models, list):
        yield native.problem(("model_list",), "must be a list")
        native.data = {key: value for key, value in native.data.items() if key != "model_list"}
    for index, entry in enumerate((native.data or {}).get("model_list") or []):
        here: Where = ("model_list", index)
        if not isinstance(entry, dict):
            yield native.problem(here, "must be a mapping with model_name and litellm_params")
            continue
        if not isinstance(entry.get("model_name"), str):
            yield native.problem((*here, "model_name"), "is missing, or is no text")
        params = entry.get("litellm_params")
        if not isinstance(params, dict) or not isinstance(params.get("model"), str):
            yield native.problem((*here, "litellm_params", "model"), "is missing, or is no text")
        if not isinstance(entry.get("model_info") or {}, dict):
            yield native.problem((*here, "model_info"), "must be a mapping")
    for place in ("general_settings", "litellm_settings", "router_settings"):
        if not isinstance((native.data or {}).get(place) or {}, dict):
            yield native.problem((place,), "must be a mapping")
            native.data[place] = {}
