"""Checks of ``models``: what each model is, its key, its GPUs, and the port or socket of its engine."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from llm_supervisor.config import schema
from llm_supervisor.config.checks.context import Context
from llm_supervisor.config.checks.secrets import KEY_NEEDS_ASCII
from llm_supervisor.config.config import is_folder
from llm_supervisor.config.document import Problem, Where
from llm_supervisor.config.text_file import similar_name
from llm_supervisor.engines import hub_cache
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.vllm import options as engine_options
from llm_supervisor.host import bounded

LONGEST_SOCKET = 107  # bytes of a unix socket's path: sun_path has 108 with the NUL (unix(7))

_DOWNLOAD_AGAIN = "download it again, or write its hub id as model and `llm-supervisor pull`"
# Addresses that vLLM streams weights from
_BUCKETS = ("s3://", "gs://", "az://")
# Behind the id of a repository with GGUF files: the file's quantization
_QUANTIZATION = re.compile(r":[A-Z0-9_]+$")


def problems(context: Context) -> Iterator[Problem]:
    """All that is wrong with the models, apart from their options of vLLM and params of LiteLLM."""
    for alias, model in context.root.models.items():
        where: Where = ("models", alias)
        yield from _model(context, where, model)
        yield from _key(context, where, model)
        yield from _port_or_socket(context, where, model)
    yield from _sockets(context)


def _model(context: Context, where: Where, model: schema.Model) -> Iterator[Problem]:
    document = context.document
    if (*where, "model") not in context.placeholders:
        yield from _named_model(context, where, model)
    if len(set(model.gpus)) != len(model.gpus):
        yield document.problem((*where, "gpus"), "names one GPU twice")
    for key in ("model", "api_base", "api_key"):
        if key in model.litellm:
            yield document.problem((*where, "litellm", key), "is set by llm-supervisor for a local model")
    if not isinstance(model.litellm.get("model_info") or {}, dict):
        yield document.problem((*where, "litellm", "model_info"), "must be a mapping")


def _key(context: Context, where: Where, model: schema.Model) -> Iterator[Problem]:
    """The engine's key, which may be written as an option of vLLM or as its variable."""
    place, variable = (*where, "env", "VLLM_API_KEY"), model.env.get("VLLM_API_KEY", "")
    if not proxy_config.fits_in_header(variable):
        yield context.document.problem(place, KEY_NEEDS_ASCII)
    options = engine_options.keys(engine_options.by_name(model.vllm))
    if options and variable and options[0] != variable:
        message = "differs from api-key under vllm: the engine takes this key, and the gateway sends the other one"
        yield context.document.problem(place, message, "write one of the two")


def _port_or_socket(context: Context, where: Where, model: schema.Model) -> Iterator[Problem]:
    document, port, uds = context.document, (*where, "port"), (*where, "uds")
    if {port, uds} & context.placeholders:
        return
    if model.port is None and not model.uds:
        yield document.problem(port, "is missing", "or write uds: true, for a unix socket")
    elif model.port is not None and model.uds:
        yield document.problem(uds, "replaces port, which is written too")
    elif isinstance(model.uds, str) and (wrong := _wrong_socket(context.file(model.uds))) is not None:
        yield document.problem(uds, wrong)


def _wrong_socket(file: Path) -> str | None:
    """Why no unix socket can be made at a path; None where it can."""
    if len(os.fsencode(file)) > LONGEST_SOCKET:
        return f"{file} is too long for a unix socket: {LONGEST_SOCKET} bytes at most"
    if not os.path.isdir(file.parent):
        return f"no such folder: {file.parent}"
    if os.path.exists(file) and not stat.S_ISSOCK(os.stat(file).st_mode):
        return f"{file} is there already, and is no socket"
    return None


def _sockets(context: Context) -> Iterator[Problem]:
    """Two engines on one unix socket."""
    users: dict[str, str] = {}
    for alias, model in context.root.models.items():
        where: Where = ("models", alias)
        if {(*where, "port"), (*where, "uds")} & context.placeholders or model.port is not None:
            continue
        if isinstance(model.uds, str) and model.uds:
            other = users.setdefault(os.path.normpath(context.file(model.uds)), alias)
            if other != alias:
                yield context.document.problem((*where, "uds"), f"{model.uds} is already used by {other}")


def _named_model(context: Context, where: Where, model: schema.Model) -> Iterator[Problem]:
    """What is wrong with the value of ``model:``. Its folder may be on a disk that does not answer."""
    place = (*where, "model")
    try:
        wrong = bounded.call(
            f"the folder {model.model}", lambda: _wrong_model(model, context.path.parent), within=hub_cache.WITHIN
        )
    except bounded.NoAnswer as silent:
        advice = "is its disk mounted, and its server there? Whether the model is complete was not looked at"
        yield context.document.problem(place, str(silent), advice, warning=True)
        return
    if wrong is not None:
        yield context.document.problem(place, *wrong)


def _wrong_model(model: schema.Model, base: Path) -> tuple[str, str] | None:
    """Message and advice for the value of ``model:``; None where nothing is wrong."""
    name = model.model
    if not name.strip():
        return "is empty", "write a hub id or a folder"
    if not is_folder(model, base):
        if address := re.match(r"https?://(?:[^/]*/([^/]+/[^/?#]+))?", name):
            return "is an address, no hub id and no folder", f"write {address[1] or 'ORG/NAME'}"
        return None if _may_be_loadable(model) else ("is no hub id and no folder", _meant_model(name, base))
    folder = os.path.normpath(base / os.path.expanduser(name))
    if os.path.isfile(folder):
        return f"{folder} is a file; a model is a folder", similar_name(folder)
    if not os.path.isdir(folder):
        return f"no such folder: {folder}", similar_name(folder)
    options = engine_options.by_name(model.vllm)
    if not _described_elsewhere(folder, options):
        if not os.path.isfile(os.path.join(folder, "config.json")):
            return f"{folder} has no config.json: it is no model folder", ""
        if wrong := hub_cache.wrong_config(folder):
            return f"{folder} is incomplete: its config.json {wrong}", _DOWNLOAD_AGAIN
    if missing := hub_cache.unfinished(folder, str(options.get("load-format") or "auto").lower()):
        few = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        are = "are" if len(missing) > 1 else "is"
        return f"{folder} is incomplete: {few} {are} missing, empty or cut off", _DOWNLOAD_AGAIN
    return None


def _described_elsewhere(folder: str, options: Mapping[str, object]) -> bool:
    """Whether vLLM may read what the model is from another file than its config.json."""
    if any(options.get(name) for name in ("hf-config-path", "config-format")):
        return True
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return any(name in ("params.json", "adapter_config.json") or name.endswith(".gguf") for name in names)


def _may_be_loadable(model: schema.Model) -> bool:
    """Whether vLLM may be able to load a model by a name that is no folder: a hub id, a bucket, or, with a loader of
    its own (``load-format``), any address."""
    name = model.model
    if name.lower().startswith(_BUCKETS) or ("://" in name and "load-format" in engine_options.by_name(model.vllm)):
        return True
    return hub_cache.looks_like_a_hub_id(_QUANTIZATION.sub("", name) if ":" in name else name)


def _meant_model(name: str, base: Path) -> str:
    """Advice for a name that is no hub id and no folder."""
    if re.search(r"\s", name):
        return "a hub id is ORG/NAME, without a space"
    if name.startswith("~"):
        return f"there is no home of {name.partition('/')[0]}"
    if re.match(r"[A-Za-z]:\\|\\\\", name):
        return "it is a path of another system: write the folder's path on this machine"
    if address := re.fullmatch(r"(\w+)://(.*)", name):
        rest = address[2]
        known = address[1] == "file" or hub_cache.looks_like_a_hub_id(rest)
        return f"write {rest}" if known and rest else "a hub id is ORG/NAME"
    plain, sign, revision = re.sub(r"/{2,}", "/", name).strip("/").partition("@")
    if sign and hub_cache.looks_like_a_hub_id(plain):
        return f"write {plain}, and under vllm: revision: {revision or 'main'}"
    plain, _, _ = plain.partition(":")
    if "/" in plain and plain != name and hub_cache.looks_like_a_hub_id(plain):
        return f"write {plain}"
    close = similar_name(os.path.normpath(base / name)) if "/" in name.strip("/") else ""
    return close or f"a hub id is ORG/NAME; write ./{name.strip('/')} for a folder"
