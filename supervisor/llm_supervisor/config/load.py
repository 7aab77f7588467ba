"""The whole configuration from its files, with every problem at once.

Reads files (the configuration, the native LiteLLM file, the env file, a model folder's config.json); starts nothing.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import re
import stat
import types
import typing
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from llm_supervisor.config import schema, source
from llm_supervisor.config.source import ConfigError, Document, Problem, Where
from llm_supervisor.engines import litellm, vllm
from llm_supervisor.engines.options import Options

GATEWAY = "gateway"


@dataclass(frozen=True)
class Config:
    """A configuration without errors. ``environ`` is the process's environment with the env file's under it;
    ``env_values`` what the env file says."""

    file: Path
    root: schema.Root
    native: Mapping[str, Any]
    environ: Mapping[str, str]
    master_key: str | None
    warnings: tuple[Problem, ...] = ()
    env_values: Mapping[str, str] = field(default_factory=dict, repr=False)
    more: tuple[Path, ...] = ()  # files whose words come after those of ``file``

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, in their order."""
        return (self.file, *self.more)

    def resolve(self, name: str) -> Path:
        """A path of the configuration: relative ones start at the file's folder."""
        return (self.file.parent / os.path.expanduser(name)).resolve()

    def executable(self, name: str) -> Path:
        """Likewise, but a link is not followed: through it a virtual environment's Python knows where it is."""
        return self.file.parent / os.path.expanduser(name)

    def model_path(self, model: schema.Model) -> Path | None:
        """The model's folder; None when it is a hub id."""
        return self.resolve(model.model) if is_folder(model, self.file.parent) else None

    def port_places(self) -> list[tuple[str, int, str, Problem]]:
        """(host, port, who, the problem to report) for every port that will be bound."""
        return _ports(self.root, source.layered(self.files))


def split_url(url: str) -> tuple[tuple[str, int], str] | None:
    """((host, port), path) of an ``http://`` URL; None when it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = 80 if parts.port is None else parts.port
    except ValueError:
        return None
    if parts.scheme != "http" or not parts.hostname or port == 0:
        return None
    return (parts.hostname, port), (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def is_folder(model: schema.Model, base: Path) -> bool:
    """Whether ``model:`` names a folder: it says so, it looks like a path, or there is one."""
    name = os.path.expanduser(model.model)
    # os.path rather than pathlib here and below: it takes a name that no file can have for one that is not there
    return model.source == "path" or name.startswith(("/", "./", "../")) or os.path.isdir(base / name)


@dataclass
class _Reading:
    """What is collected while reading. ``made_up`` are places whose value is ours, so that the rest can be checked."""

    problems: list[Problem] = field(default_factory=list)
    made_up: set[Where] = field(default_factory=set)

    def add(self, *problems: Problem) -> None:
        self.problems += problems


OptionsOf = Callable[[str | None], Options | None]


def load(
    files: Path | Sequence[Path], environ: Mapping[str, str], vllm_options: OptionsOf = lambda python: None
) -> Config:
    """Read and check everything. Of several files a later one holds (``source.layered``); relative paths start at
    the folder of the first. ``vllm_options`` knows the options of the vLLM of an interpreter (None: of the one that
    ``install`` makes), or None where they are not known. Raises ConfigError with every problem that was found."""
    path, *more = [files] if isinstance(files, Path) else files
    reading = _Reading()
    document = source.layered([path, *more])
    env_values = _env_file(path, document, reading) if document.data is not None else {}
    merged = {**env_values, **environ}
    if document.data is not None:
        source.expand(document, merged, but=_not_ours)
    reading.add(*document.problems)
    root = _validate(document, reading) if document.data is not None else None
    if root is None:
        raise ConfigError(reading.problems)

    native = _native(root, path, document, merged, reading)
    _check_models(root, path, document, merged, reading)
    _check_options(root, path, document, vllm_options, reading)
    _check_programs(root, path, document, reading)
    _check_names(root, native, document, reading)
    _check_ports(root, document, reading)
    _check_engines(root, path, document, reading)
    _check_replicas(root, native, document, merged, reading)
    master_key = _master_key(native, merged, document, root, path, reading)
    _check_exposure(root, master_key, document, reading)
    errors = [problem for problem in reading.problems if not problem.warning]
    if errors:
        raise ConfigError(reading.problems)
    warnings = tuple(sorted(reading.problems))
    return Config(path, root, native.data or {}, merged, master_key, warnings, env_values, tuple(more))


def _not_ours(where: Where) -> bool:
    """Where ``${...}`` is left for somebody else: a program's command, whose shell may know it."""
    return len(where) > 3 and where[0] == "programs" and where[2] == "command"


# The schema's own problems ----------------------------------------------------------------------------------


# Stand-ins for required values that are missing or wrong: one mistake must not hide the others
_STAND_INS: dict[str, Any] = {"port": 65535, "model": "stand/in", "command": ["true"], "python": "/bin/true"}


def _validate(document: Document, reading: _Reading) -> schema.Root | None:
    """The validated root. Where it is not valid, every problem is noted, and what is left without them is returned, to
    be checked further."""
    data = copy.deepcopy(document.data)
    reading.made_up |= document.unread
    for _ in range(20):
        try:
            return schema.Root.model_validate(data)
        except pydantic.ValidationError as error:
            # of the ways in which a value fits none of several types, the last says most
            items = {_place(data, item["loc"]): item for item in error.errors(include_url=False)}
        for where, item in items.items():
            if where not in reading.made_up:
                reading.add(_problem(document, where, item))
        for where in items:
            _repair(data, where, reading)
    return None


def _repair(data: Any, where: Where, reading: _Reading) -> None:
    """Put something valid there, or nothing. A list goes as a whole: without some items it means another thing."""
    reading.made_up.add(where)
    for index, part in enumerate(where):
        if isinstance(part, int):
            where = where[:index]
            reading.made_up.add(where)
            break
    for part in where[:-1]:
        if not isinstance(data, dict) or part not in data:
            return  # gone with what was around it
        data = data[part]
    name = where[-1] if where else None
    if isinstance(data, dict):
        stand_in = None
        if len(where) > 2 and where[0] in ("models", "programs", "engines"):
            stand_in = _STAND_INS.get(str(name))
        if stand_in is not None and data.get(name) != stand_in:
            data[name] = copy.deepcopy(stand_in)
        else:
            data.pop(name, None)


def _problem(document: Document, where: Where, item: Mapping[str, Any]) -> Problem:
    kind, given = item["type"], item.get("input")
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(str(where[-1]), _known(where[:-1]), n=1)
        return document.problem(where, "unknown key", f"did you mean {close[0]}?" if close else _allowed(where[:-1]))
    if kind == "missing":
        return document.problem(where, "is missing")
    if kind in ("value_error", "assertion_error"):
        return document.problem(where, item["msg"].removeprefix("Value error, "))
    shown = "nothing" if given is None else "a mapping" if isinstance(given, dict) else repr(given)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    if kind in ("model_type", "dict_type"):
        return document.problem(where, f"must be a mapping, not {shown}")
    message = item["msg"].removeprefix("Input should be ").replace("a valid ", "a ")
    return document.problem(where, f"must be {message}, not {shown}")


def _place(data: Any, loc: tuple[str | int, ...]) -> Where:
    """pydantic's location without what is not in the file (names of types in a union)."""
    where: list[str | int] = []
    for index, part in enumerate(loc):
        if isinstance(data, dict):
            if part not in data and index != len(loc) - 1:
                continue
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        where.append(part)
    return tuple(where)


def _block(where: Where) -> type[pydantic.BaseModel] | None:
    """The schema's block at that place."""
    block: Any = schema.Root
    for part in where:
        if isinstance(block, type) and issubclass(block, pydantic.BaseModel):
            info = block.model_fields.get(str(part))
            block = None if info is None else _inner(info.annotation)
        elif typing.get_origin(block) is dict:
            block = _inner(typing.get_args(block)[1])
        else:
            return None
    return block if isinstance(block, type) and issubclass(block, pydantic.BaseModel) else None


def _inner(annotation: Any) -> Any:
    """``X`` of ``X | None``."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next((part for part in typing.get_args(annotation) if part is not type(None)), None)
    return annotation


def _known(where: Where) -> list[str]:
    block = _block(where)
    return list(block.model_fields) if block else []


def _allowed(where: Where) -> str:
    known = _known(where)
    return f"known here: {', '.join(known)}" if known else ""


# What files and other keys say ------------------------------------------------------------------------------


def _env_file(path: Path, document: Document, reading: _Reading) -> dict[str, str]:
    """What it says. It is read before anything is checked, as values in it may be used anywhere."""
    name = document.data.get("env_file")
    if not isinstance(name, str):
        return {}  # none, or the schema says what is wrong with it
    file = path.parent / os.path.expanduser(name)
    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        reason = "it is not text" if isinstance(error, UnicodeDecodeError) else reason
        reading.add(document.problem(("env_file",), f"{file}: {reason}"))
        return {}
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        reading.add(document.problem(("env_file",), f"others can read {file}", f"chmod 600 {file}"))
    values: dict[str, str] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name.isidentifier():
            reading.add(Problem(str(file), number, "", "is no NAME=value"))
            continue
        if "\0" in value:
            reading.add(Problem(str(file), number, "", f"the value of {name} holds a NUL"))
            continue
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        values[name] = value
    return values


def read_env_file(path: Path, name: str) -> dict[str, str]:
    """What the env file of a configuration says, whatever may be wrong with it."""
    document = Document(str(path))
    document.data = {"env_file": name}
    return _env_file(path, document, _Reading())


def _native(
    root: schema.Root, path: Path, document: Document, environ: Mapping[str, str], reading: _Reading
) -> Document:
    if root.gateway is None or root.gateway.litellm_config is None:
        return Document("")
    where = (GATEWAY, "litellm_config")
    native = source.read(path.parent / os.path.expanduser(root.gateway.litellm_config))
    unread = [problem.message for problem in native.problems if problem.message.startswith(source.UNREADABLE)]
    if unread:
        reading.add(document.problem(where, f"{unread[0]}: {native.file}"))
        return native
    reading.add(*native.problems)
    models = (native.data or {}).get("model_list")
    if models is not None and not isinstance(models, list):
        reading.add(native.problem(("model_list",), "must be a list"))
        native.data = {key: value for key, value in native.data.items() if key != "model_list"}
    for index, entry in enumerate((native.data or {}).get("model_list") or []):
        here: Where = ("model_list", index)
        if not isinstance(entry, dict):
            reading.add(native.problem(here, "must be a mapping with model_name and litellm_params"))
            continue
        if not isinstance(entry.get("model_name"), str):
            reading.add(native.problem((*here, "model_name"), "is missing, or is no text"))
        params = entry.get("litellm_params")
        if not isinstance(params, dict) or not isinstance(params.get("model"), str):
            reading.add(native.problem((*here, "litellm_params", "model"), "is missing, or is no text"))
        if not isinstance(entry.get("model_info") or {}, dict):
            reading.add(native.problem((*here, "model_info"), "must be a mapping"))
    for place in ("general_settings", "litellm_settings", "router_settings"):
        if not isinstance((native.data or {}).get(place) or {}, dict):
            reading.add(native.problem((place,), "must be a mapping"))
            native.data[place] = {}
    _check_references(root, native, native.data or {}, (), environ, reading)
    return native


def _check_references(
    root: schema.Root, document: Document, value: object, where: Where, environ: Mapping[str, str], reading: _Reading
) -> None:
    for where_used, name in litellm.references(value, where):
        if name != litellm.MASTER_KEY and not environ.get(name):
            advice = f"put {name}=... into {root.env_file}" if root.env_file else f"export {name}, or use env_file:"
            reading.add(document.problem(where_used, f"os.environ/{name} is not set", advice))


_NO_KEY = "must be printable ASCII: no HTTP header can carry anything else"


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _check_models(
    root: schema.Root, path: Path, document: Document, environ: Mapping[str, str], reading: _Reading
) -> None:
    for alias, model in root.models.items():
        here: Where = ("models", alias)
        if (*here, "model") not in reading.made_up and is_folder(model, path.parent):
            folder = os.path.normpath(path.parent / os.path.expanduser(model.model))
            if not os.path.isdir(folder):
                reading.add(document.problem((*here, "model"), f"no such folder: {folder}"))
            elif not os.path.isfile(os.path.join(folder, "config.json")):
                reading.add(document.problem((*here, "model"), f"{folder} has no config.json: it is no model folder"))
            elif missing := _missing_shards(folder):
                few = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
                message = (
                    f"{folder} is incomplete: {few} of its index {'are' if len(missing) > 1 else 'is'} missing or empty"
                )
                reading.add(document.problem((*here, "model"), message, "download it again"))
        for option in model.vllm:
            name = vllm.normal(option)
            if name in vllm.RESERVED:
                reading.add(document.problem((*here, "vllm", option), "is not written here", vllm.RESERVED[name]))
        seen: dict[str, str] = {}
        for option in model.vllm:
            other = seen.setdefault(vllm.normal(option), option)
            if other != option:
                reading.add(document.problem((*here, "vllm", option), f"is the same option as {other}"))
        for option, value in model.vllm.items():
            if vllm.normal(option) == "api-key":
                if not isinstance(value, (str, int)) or isinstance(value, bool) or not litellm.carries(str(value)):
                    reading.add(document.problem((*here, "vllm", option), _NO_KEY))
            elif isinstance(value, (dict, list)) and not _is_json(value):
                reading.add(document.problem((*here, "vllm", option), "cannot be written as JSON, as vLLM wants it"))
        if not litellm.carries(model.env.get("VLLM_API_KEY", "")):
            reading.add(document.problem((*here, "env", "VLLM_API_KEY"), _NO_KEY))
        if len(set(model.gpus)) != len(model.gpus):
            reading.add(document.problem((*here, "gpus"), "names one GPU twice"))
        for key in ("model", "api_base", "api_key"):
            if key in model.litellm:
                reading.add(document.problem((*here, "litellm", key), "is made by llm-supervisor for a local model"))
        if not isinstance(model.litellm.get("model_info") or {}, dict):
            reading.add(document.problem((*here, "litellm", "model_info"), "must be a mapping"))
        _check_references(root, document, model.litellm, (*here, "litellm"), environ, reading)
    if root.models and root.gateway is None:
        reading.add(document.problem(("models",), "there is no gateway: to serve them", "add `gateway: {}`"))


def _missing_shards(folder: str) -> list[str]:
    """Files of the weights that the folder's own index names and that are not there: an interrupted download."""
    try:
        with open(os.path.join(folder, "model.safetensors.index.json"), encoding="utf-8") as file:
            named = set(json.load(file)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # none, or vLLM will say what is wrong with it
    missing = []
    for name in sorted(map(str, named)):
        try:
            if os.path.getsize(os.path.join(folder, name)) == 0:
                missing.append(name)
        except OSError:
            missing.append(name)
    return missing


def _check_options(
    root: schema.Root, path: Path, document: Document, vllm_options: OptionsOf, reading: _Reading
) -> None:
    """Options against vLLM's own parser, and what is known to go wrong with some."""
    engine = root.engines.vllm
    there = (
        vllm_options(str(path.parent / os.path.expanduser(engine.python)) if engine else None) if root.models else None
    )
    for alias, model in root.models.items():
        for option, value in model.vllm.items():
            where: Where = ("models", alias, "vllm", option)
            name = vllm.normal(option)
            if name in vllm.RESERVED or name == "api-key" or where in reading.made_up:
                continue
            if name == "limit-mm-per-prompt" and isinstance(value, str) and isinstance(new := vllm.limits(value), dict):
                message = f"{value!r} is the old form, which vLLM no longer reads: it is given a mapping"
                pairs = ", ".join(f"{key}: {count}" for key, count in new.items())
                reading.add(document.problem(where, message, f"write {{{pairs}}}", warning=True))
                continue
            if name == "allowed-local-media-path" and os.path.normpath(str(value)) == "/":
                message = "shows every file of this machine that vLLM can read to whoever has a key of the gateway"
                reading.add(document.problem(where, message, "name the folder with the media", warning=True))
            if there is not None and (problem := _wrong_option(name, value, there)) is not None:
                reading.add(document.problem(where, *problem))


def _wrong_option(name: str, value: object, there: Options) -> tuple[str, str] | None:
    """What is wrong with an option and its value, and what to do."""
    base = name.partition(".")[0]  # some-config.key is a key of some-config
    positive = name.removeprefix("no-")
    if base not in there and not (positive != name and positive in there and there[positive].negatable):
        close = difflib.get_close_matches(base, there, n=1)
        return "is no option of the installed vLLM", f"did you mean {close[0]}?" if close else "see `vllm serve --help`"
    if base != name or base not in there:
        return None
    option = there[base]
    if option.takes == "flag":
        if not isinstance(value, bool) and value is not None:
            return "is a flag", "write true or false"
        if value is False and not option.negatable:
            return "cannot be switched off", "leave it out"
    elif isinstance(value, bool):
        return f"takes a value, not {str(value).lower()}", "leave it out for vLLM's default" if not value else ""
    elif option.choices is not None and isinstance(value, (str, int, float)) and str(value) not in option.choices:
        close = difflib.get_close_matches(str(value), option.choices, n=1)
        return (
            f"must be one of {', '.join(option.choices)}, not {value!r}",
            f"did you mean {close[0]}?" if close else "",
        )
    return None


def _check_programs(root: schema.Root, path: Path, document: Document, reading: _Reading) -> None:
    for name, program in root.programs.items():
        here: Where = ("programs", name)
        if program.cwd is not None and not os.path.isdir(path.parent / os.path.expanduser(program.cwd)):
            reading.add(document.problem((*here, "cwd"), f"no such folder: {program.cwd}"))
        ways = [way for way in ("tcp", "http", "after") if getattr(program.ready, way) is not None]
        if len(ways) != 1 and not any(place[:3] == (*here, "ready") for place in reading.made_up):
            reading.add(document.problem((*here, "ready"), "must say exactly one of tcp, http, after"))
        if program.ready.tcp is not None:
            host, _, port = program.ready.tcp.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                reading.add(document.problem((*here, "ready", "tcp"), f"{program.ready.tcp!r} is no host:port"))
        if program.ready.http is not None and split_url(program.ready.http) is None:
            reading.add(document.problem((*here, "ready", "http"), "must be an http:// URL of this machine"))


def _check_names(root: schema.Root, native: Document, document: Document, reading: _Reading) -> None:
    for group, names in (("models", root.models), ("programs", root.programs)):
        for name in names:
            if not schema.NAME.fullmatch(name) or name.endswith(".log"):
                reading.add(
                    document.problem(
                        (group, name), "is no name", "letters, digits, . _ - ; at most 63, not ending in .log"
                    )
                )
            if name == GATEWAY or re.fullmatch(rf"{GATEWAY}-\d+", name):
                reading.add(document.problem((group, name), f"{name} is the gateway's own name"))
    for name in root.programs:
        if name in root.models:
            reading.add(document.problem(("programs", name), "there is a model of that name"))
    for index, entry in enumerate((native.data or {}).get("model_list") or []):
        if isinstance(entry, dict) and isinstance(entry.get("model_name"), str) and entry["model_name"] in root.models:
            where: Where = ("model_list", index, "model_name")
            place = f"{document.file}:{document.line(('models', entry['model_name']))}"
            reading.add(native.problem(where, f"{entry['model_name']} is also the alias of a local model, in {place}"))


def _ports(root: schema.Root, document: Document) -> list[tuple[str, int, str, Problem]]:
    ports = []
    if root.gateway is not None:
        problem = document.problem((GATEWAY, "port"), "")
        ports.append((root.gateway.host, root.gateway.port, GATEWAY, problem))
    for alias, model in root.models.items():
        ports.append(("127.0.0.1", model.port, alias, document.problem(("models", alias, "port"), "")))
    return ports


def _check_ports(root: schema.Root, document: Document, reading: _Reading) -> None:
    users: dict[int, str] = {}
    for _, port, who, problem in _ports(root, document):
        place: Where = (GATEWAY, "port") if who == GATEWAY else ("models", who, "port")
        if place in reading.made_up:
            continue
        if port in users:
            message = f"port {port} is already used by {users[port]}"
            reading.add(Problem(problem.file, problem.line, problem.path, message))
        users.setdefault(port, who)


def _check_engines(root: schema.Root, path: Path, document: Document, reading: _Reading) -> None:
    for name in ("vllm", "litellm"):
        if ("engines", name, "python") in reading.made_up:
            continue
        engine: schema.Engine | None = getattr(root.engines, name)
        if engine is None:
            continue
        python = path.parent / os.path.expanduser(engine.python)
        if not os.path.isfile(python) or not os.access(python, os.X_OK):
            where: Where = ("engines", name, "python")
            reading.add(document.problem(where, f"no such program: {engine.python}"))


def _check_replicas(
    root: schema.Root, native: Document, document: Document, environ: Mapping[str, str], reading: _Reading
) -> None:
    """Replicas count requests each for itself, unless there is a Redis."""
    if root.gateway is None or root.gateway.replicas == 1:
        return
    data = native.data or {}
    entries = data.get("model_list") or []
    params = [entry.get("litellm_params") for entry in entries if isinstance(entry, dict)]
    params += [model.litellm for model in root.models.values()]
    limited = any(isinstance(one, dict) and (one.get("rpm") or one.get("tpm")) for one in params)
    if limited and litellm.redis_address(data, {**environ, **root.gateway.env}) is None:
        reading.add(
            document.problem(
                (GATEWAY, "replicas"),
                f"{root.gateway.replicas} replicas count rpm and tpm each for itself: that many times more is let in",
                "add redis_host to router_settings, or write 1",
                warning=True,
            )
        )


STRONG = 20  # characters


def _check_exposure(root: schema.Root, master_key: str | None, document: Document, reading: _Reading) -> None:
    """Whoever reaches the gateway can try keys: one that is reached from elsewhere needs one that cannot be guessed."""
    if root.gateway is None or master_key is None or len(master_key) >= STRONG:
        return  # ours is strong
    host = root.gateway.host
    if host not in ("localhost", "::1") and not host.startswith("127."):
        message = f"{host} can be reached from elsewhere, and the gateway's key has {len(master_key)} characters"
        advice = f"give it at least {STRONG} (or none: a strong one is made and kept), or write 127.0.0.1"
        reading.add(document.problem((GATEWAY, "host"), message, advice))


def _master_key(
    native: Document,
    environ: Mapping[str, str],
    document: Document,
    root: schema.Root,
    path: Path,
    reading: _Reading,
) -> str | None:
    """The key that was given, if one was: by the native file, else by the environment."""
    if root.gateway is None:
        return None
    where: Where = ("general_settings", "master_key")
    if where in native.unread:
        return None
    given = ((native.data or {}).get("general_settings") or {}).get("master_key")
    if isinstance(given, str) and not given.startswith("os.environ/"):
        if given.strip() in litellm.WEAK_KEYS:
            reading.add(native.problem(where, "is blank or a known default; LiteLLM refuses to start with it"))
        elif not litellm.carries(given):
            reading.add(native.problem(where, _NO_KEY))
        mode = Path(native.file).stat().st_mode
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            advice = "write os.environ/LITELLM_MASTER_KEY and put the key into env_file, or chmod 600"
            reading.add(
                native.problem(where, f"others can read {native.file}, and the key in it", advice, warning=True)
            )
        return given
    if given is not None and not isinstance(given, str):
        reading.add(native.problem(where, "must be text: write it in quotes"))
        return None
    name = given.removeprefix("os.environ/") if isinstance(given, str) else litellm.MASTER_KEY
    value = environ.get(name)
    what = None
    if value is not None and value.strip() in litellm.WEAK_KEYS:
        what = f"{name} is blank or a known default; LiteLLM refuses to start with it"
        if given and name != litellm.MASTER_KEY and not value:
            what = None  # said already: it is not set
    elif value is not None and not litellm.carries(value):
        what = f"{name} {_NO_KEY}"
    if what is not None:
        reading.add(native.problem(where, what) if given else document.problem((GATEWAY,), what))
    return value
