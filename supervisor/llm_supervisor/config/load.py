"""The whole configuration from its files, with every problem at once.

Reads files (the configuration, the native LiteLLM file, the env file, a model folder's config.json); starts nothing.
"""

from __future__ import annotations

import copy
import functools
import ipaddress
import os
import re
import shutil
import signal
import socket
import stat
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from llm_supervisor import redaction
from llm_supervisor.config import env_file, errors, litellm_include, schema, secrets, source
from llm_supervisor.config.checks import litellm_file, vllm_options
from llm_supervisor.config.source import ConfigError, Document, Problem, Where
from llm_supervisor.engines import hub_cache
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.vllm import options as engine_options
from llm_supervisor.engines.vllm.installed_options import Options
from llm_supervisor.suggest import near, short

GATEWAY = "gateway"


class PortPlace(NamedTuple):
    """A port that will be bound: where, by which program, and the problem to report when that cannot be done (its
    message is empty)."""

    host: str
    port: int
    who: str
    problem: Problem


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
    said: Mapping[str, Any] = field(default_factory=dict, repr=False)  # all of them as one, variables not filled in
    options: Options | None = field(default=None, repr=False)  # of the installed vLLM, where they are known

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

    def port_places(self) -> list[PortPlace]:
        """Every port that will be bound."""
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
    native: Any = None

    def add(self, *problems: Problem) -> None:
        self.problems += problems


OptionsOf = Callable[[str | None], Options | None]


def load(
    files: Path | Sequence[Path], environ: Mapping[str, str], options_of: OptionsOf = lambda python: None
) -> Config:
    """Read and check everything. Of several files a later one holds (``source.layered``); relative paths start at
    the folder of the first. ``options_of`` knows the options of the vLLM of an interpreter (None: of the one that
    ``install`` makes), or None where they are not known. Raises ConfigError with every problem that was found."""
    path, *more = [files] if isinstance(files, Path) else files
    reading = _Reading()
    document = source.layered([path, *more], _verbatim)
    env_values = _env_file(path, document, environ, reading) if document.data is not None else {}
    merged = {**env_values, **environ}
    config = _checked([path, *more], document, merged, env_values, options_of, reading)
    hidden = secrets.of(document.data, reading.native, environ=merged, env_file=env_values)
    problems = sorted(_hushed(problem, hidden) for problem in reading.problems)
    if config is None or any(not problem.warning for problem in problems):
        raise ConfigError(problems)
    return replace(config, warnings=tuple(problems))


def _hushed(problem: Problem, hidden: Sequence[str]) -> Problem:
    """A value of the wrong kind is shown, but no key that came into the wrong place."""
    path, message, advice = (redaction.redact(text, hidden) for text in (problem.path, problem.message, problem.advice))
    return replace(problem, path=path, message=message, advice=advice)


def _checked(
    files: Sequence[Path],
    document: Document,
    merged: Mapping[str, str],
    env_values: Mapping[str, str],
    options_of: OptionsOf,
    reading: _Reading,
) -> Config | None:
    """What was read, with its problems in ``reading``; None where too little is left of it to go on."""
    path, *more = files
    said = document.data
    if document.data is not None:
        _check_readers(document, "${NAME}", reading)
        fill_in(document, merged)
        _check_numbers(document)
    reading.add(*(_of_a_beginner(problem) for problem in document.problems))

    @functools.cache  # asking takes seconds
    def options() -> Options | None:
        engines = document.data.get("engines")
        said = engines.get("vllm") if isinstance(engines, dict) else None
        python = said.get("python") if isinstance(said, dict) else None
        return options_of(str(path.parent / os.path.expanduser(python)) if isinstance(python, str) else None)

    root = _validate(document, options, reading) if document.data is not None else None
    if root is None:
        return None

    _check_gateway(root, path, document, reading)
    native = _native(root, path, document, merged, reading)
    reading.native = native.data
    _check_readers(native, "os.environ/NAME", reading)
    _check_models(root, path, document, merged, reading)
    there = options() if any(model.vllm for model in root.models.values()) else None
    for alias, model in root.models.items():
        reading.add(*vllm_options.problems(document, ("models", alias), model, there, reading.made_up))
        _check_argv(alias, model, document, reading)
    _check_programs(root, path, document, merged, reading)
    _check_stops(root, document, reading)
    _check_names(root, native, document, reading)
    _check_aliases(root, native, document, reading)
    _check_ports(root, document, reading)
    _check_engines(root, path, document, reading)
    _check_replicas(root, native, document, merged, reading)
    master_key = _master_key(native, merged, document, root, path, reading)
    _check_exposure(root, master_key, document, reading)
    _check_circle(root, merged, document, reading)
    return Config(path, root, native.data or {}, merged, master_key, (), env_values, tuple(more), said, there)


def _of_a_beginner(problem: Problem) -> Problem:
    return (
        replace(problem, advice="`llm-supervisor init` writes one")
        if problem.message in (source.EMPTY, source.COMMENTS)
        else problem
    )


def _check_numbers(document: Document) -> None:
    """Numbers that YAML reads in another way than people do. Nobody would see which one is used."""
    for where, (written, value) in document.odd.items():
        if _at(document.data, where) != value:
            continue  # it was written again
        plain = written.lstrip("+").replace("_", "")
        if schema.wanted(where) == "text":
            advice = f'write "{written}", in quotes'
        elif ":" in written:
            advice = f"write {value}"
        else:
            advice = f"write {int(plain)}, or {value} if that is meant"
        base = "sixties" if ":" in written else "eights"
        message = f"{written} is {value} to YAML, which counts in {base} there"
        document.problems.append(document.problem(where, message, advice))
        document.unread.add(where)


def _at(data: Any, where: Where) -> Any:
    for part in where:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def fill_in(document: Document, environ: Mapping[str, str]) -> None:
    """Put in the environment's values, where they are ours to put in; what is missing is among the problems."""
    source.expand(document, environ, but=_not_ours, litellms=_litellms, made=_made)


def _made(where: Where, text: str) -> object:
    """What a variable's value is at that place: where a text is wanted, a text; for an option of vLLM, which
    gets it as a word, only what is the same word again (a revision like 1.10 is no number)."""
    if _verbatim(where, "int"):
        return text
    match schema.wanted(where):
        case "text":
            return text
        case "number":
            return source.number(text)
        case "flag":
            return source.number(text) if text.isdecimal() else source.flag(text)
        case "flag or text":
            return text == "true" if text in ("true", "false") else text
    if text in ("true", "false"):
        return text == "true"
    value = source.number(text)
    option = len(where) == 4 and where[0] == "models" and where[2] == "vllm"
    return text if option and str(value) != text else value


def _verbatim(where: Where, kind: str) -> bool:
    """Where a word means itself: what a program is given, and keys. Nothing here is a date, which is a text as well."""
    if kind == "timestamp":
        return True
    if len(where) > 2 and where[0] in ("models", "programs", GATEWAY):
        return where[1 if where[0] == GATEWAY else 2] in ("env", "command") or (
            where[2] == "vllm" and redaction.names_secret(str(where[-1]))
        )
    return False


def _litellms(where: Where) -> bool:
    """Where LiteLLM itself looks a variable up."""
    return len(where) > 3 and where[0] == "models" and where[2] == "litellm"


def _not_ours(where: Where) -> bool:
    """Where ``${...}`` is left for somebody else: a program's command, whose shell may know it."""
    return len(where) > 3 and where[0] == "programs" and where[2] == "command"


# The schema's own problems ----------------------------------------------------------------------------------


# Stand-ins for required values that are missing or wrong: one mistake must not hide the others
_STAND_INS: dict[str, Any] = {"port": 65535, "model": "stand/in", "command": ["true"], "python": "/bin/true"}


def _validate(document: Document, options: Callable[[], Options | None], reading: _Reading) -> schema.Root | None:
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
                reading.add(errors.complaint(document, where, item, options))
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


# What files and other keys say ------------------------------------------------------------------------------


def _env_file(path: Path, document: Document, environ: Mapping[str, str], reading: _Reading) -> dict[str, str]:
    """What it says. It is read before anything is checked, as values in it may be used anywhere; so only what is in
    ``environ`` can be in its own name."""
    named = Document(document.file, {"env_file": document.data.get("env_file")})
    fill_in(named, environ)
    name = named.data["env_file"]
    if not isinstance(name, str) or named.unread:
        return {}  # none, or what is wrong with it is said elsewhere
    file = path.parent / os.path.expanduser(name)
    where: Where = ("env_file",)
    try:
        mode = file.stat().st_mode
        text = source.text_of(file)
    except source.NotText as error:
        reading.add(Problem(str(file), error.line, "", str(error), "save it as UTF-8"))
        return {}
    except (OSError, ValueError) as error:
        reading.add(document.problem(where, f"{file}: {source.unreadable(error)}", _beside(str(file))))
        return {}
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        reading.add(document.problem(where, f"others can read {file}", f"chmod 600 {file}"))
    values, problems = env_file.parse(str(file), text)
    reading.add(*problems)
    return values


def read_env_file(path: Path, name: str) -> dict[str, str]:
    """What the env file of a configuration says, whatever may be wrong with it."""
    document = Document(str(path))
    document.data = {"env_file": name}
    return _env_file(path, document, {}, _Reading())


_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def _is_host(text: str) -> bool:
    """A name or an address; one of IPv6 in brackets or without."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return bare == text and _HOST.fullmatch(text.removesuffix(".")) is not None
    return bare == text or ":" in bare


def _check_gateway(root: schema.Root, path: Path, document: Document, reading: _Reading) -> None:
    gateway = root.gateway
    if gateway is None:
        if GATEWAY in document.data and (GATEWAY,) not in reading.made_up:
            advice, harmless = "write `gateway: {}`", not root.models
            reading.add(document.problem((GATEWAY,), "says nothing, so there is none", advice, warning=harmless))
        elif root.models:
            reading.add(document.problem(("models",), "there is no gateway to serve them", "add `gateway: {}`"))
        return
    if not _HOST.fullmatch(gateway.host):
        try:
            ipaddress.ip_address(gateway.host)
        except ValueError:
            message = f"{short(gateway.host)} is no name and no address of this machine"
            reading.add(document.problem((GATEWAY, "host"), message, _meant_host(gateway.host)))
    for name, advice in _NOT_OF_THE_GATEWAY.items():
        if name in gateway.env:
            reading.add(document.problem((GATEWAY, "env", name), "is given to LiteLLM by llm-supervisor", advice))


def _meant_host(host: str) -> str:
    """What to write in the place of a host that is none."""
    bare = re.fullmatch(r"(?:https?://)?(\[[0-9a-fA-F:]+\]|[^:/]*)(?::(\d+))?/?", host.strip())
    if bare is None:
        return ""
    name = bare[1].strip("[]").strip(".").strip()
    name = "0.0.0.0" if name in ("", "*") else name
    if not _HOST.fullmatch(name) and ":" not in name:
        return "write 127.0.0.1, or 0.0.0.0 for every address of this machine"
    return f"write host: {name}" + (f" and port: {bare[2]}" if bare[2] else "")


# Variables of LiteLLM that are told apart from what is asked of it
_NOT_OF_THE_GATEWAY = {
    proxy_config.MASTER_KEY: "put it into env_file",
    "CONFIG_FILE_PATH": "write it as litellm_config",
}


def _native(
    root: schema.Root, path: Path, document: Document, environ: Mapping[str, str], reading: _Reading
) -> Document:
    if root.gateway is None or root.gateway.litellm_config is None:
        return Document("")
    where = (GATEWAY, "litellm_config")
    native = source.read(path.parent / os.path.expanduser(root.gateway.litellm_config))
    if native.file and path.exists() and os.path.realpath(native.file) == os.path.realpath(path):
        reading.add(document.problem(where, "is this very file", "LiteLLM's own file has model_list and settings"))
        return Document("")
    lost = [one for one in native.problems if one.message.startswith(source.UNREADABLE) and not one.line]
    unread = [problem.message for problem in lost]
    if unread:
        reading.add(document.problem(where, f"{unread[0]}: {native.file}", _beside(native.file)))
        return native
    if native.problems and native.data is None and native.problems[0].message == source.COMMENTS:
        native.problems.clear()  # there is nothing to add; one without a word is a mistake
    reading.add(*native.problems, *litellm_include.put_in(native))
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
    reading.add(*litellm_file.refused(native), *litellm_file.doubts(native))
    environ = {**environ, **root.gateway.env}
    entries = (native.data or {}).get("model_list") or []
    others = [{**entry, "litellm_params": None} if isinstance(entry, dict) else None for entry in entries]
    _check_references(root, native, {**(native.data or {}), "model_list": others}, (), environ, reading)
    _check_deployments(root, native, environ, reading)
    return native


def _check_deployments(root: schema.Root, native: Document, environ: Mapping[str, str], reading: _Reading) -> None:
    """Those of the native file: a key that is missing disables what needs it, and nothing else."""
    entries = (native.data or {}).get("model_list") or []
    named = [
        (index, entry, entry["litellm_params"])
        for index, entry in enumerate(entries)
        if isinstance(entry, dict)
        and isinstance(entry.get("model_name"), str)
        and isinstance(entry.get("litellm_params"), dict)
    ]
    left = {entry["model_name"] for _, entry, _ in named if not proxy_config.missing_variables(entry, environ)}
    for index, entry, params in named:
        here: Where = ("model_list", index, "litellm_params")
        if missing := proxy_config.missing_variables(entry, environ):
            name = entry["model_name"]
            message = f"this deployment of {name} is left out" if name in left else f"{name} is disabled"
            place = ("model_list", index, *next(iter(missing.values())))
            advice = _how_to_set(root, *missing)
            reading.add(
                native.problem(place, f"{proxy_config.unset_text(list(missing))}: {message}", advice, warning=True)
            )
        elif proxy_config.lacks_version(params, environ):
            key = "api_base" if "api_base" in params else "base_url"
            said = str(params[key]).rstrip("/")
            plain = said.startswith("http") and "@" not in said
            advice = f"write {said}/v1" if plain else "let it end in /v1"
            message = "has no /v1: vLLM, and most others, answer 404 without it"
            reading.add(native.problem((*here, key), message, advice, warning=True))
        _check_limits(native, here, params, environ, reading)


def _check_limits(
    document: Document, where: Where, params: Mapping[str, Any], environ: Mapping[str, str], reading: _Reading
) -> None:
    for key in sorted(proxy_config.LIMITS & params.keys()):
        said = params[key]
        values = [environ.get(name) or "0" for _, name in proxy_config.references(said)] or [said]
        if said is not None and (isinstance(said, bool) or not re.fullmatch(r"\d+(\.0+)?", str(values[0]))):
            reading.add(document.problem((*where, key), f"must be a whole number, not {str(values[0])[:40]!r}"))


def _how_to_set(root: schema.Root, *names: str) -> str:
    if root.env_file:
        return f"put {' and '.join(f'{name}=...' for name in names)} into {root.env_file}"
    return f"export {' and '.join(names)}, or use env_file:"


def _check_references(
    root: schema.Root, document: Document, value: object, where: Where, environ: Mapping[str, str], reading: _Reading
) -> None:
    for where_used, name in proxy_config.references(value, where):
        if name != proxy_config.MASTER_KEY and not environ.get(name):
            reading.add(document.problem(where_used, f"os.environ/{name} is not set", _how_to_set(root, name)))


def _check_readers(document: Document, reference: str, reading: _Reading) -> None:
    """Keys that stand in a file as such, where others can read it."""
    for where in secrets.places(document.data):
        if len(where) > 3 and where[2] == "vllm" and engine_options.normal(str(where[3])) != "api-key":
            continue  # a tokenizer's
        problem = document.problem(where, "", f"write {reference} and put it into env_file, or chmod 600", warning=True)
        try:
            mode = os.stat(problem.file).st_mode
        except OSError:
            continue
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            reading.add(replace(problem, message=f"others can read {problem.file}, and the key in it"))


# Of the names of secrets, those that are certainly one in an option of vLLM's, and those that may be something else
# there. Other names that end in key or token are a tokenizer's, or a cache's
_CERTAIN = re.compile(
    r"""(?:.*(?:passwords?|passwd|passphrase|pwd|secrets?|credentials?|authorization)
    |(?:.*[_-])?(?:api|access|account|client|master|private|secret|shared)[_-]?keys?
    |(?:.*[_-])?(?:api|access|auth|bearer|hf|hub|refresh|secret|session)[_-]?token)""",
    re.IGNORECASE | re.VERBOSE,
)
_PERHAPS = re.compile(r"key|token|auth|pass|cookie", re.IGNORECASE)


def _check_argv(alias: str, model: schema.Model, document: Document, reading: _Reading) -> None:
    """What would be read in the list of processes by everybody on the machine."""
    for written, value in model.vllm.items():
        name = engine_options.normal(written)
        if name == "api-key" or (name == "hf-token" and isinstance(value, str)):
            continue  # that one goes by the environment; and of this one it is said already
        for where in secrets.places({written: value}):
            called = next((part for part in reversed(where) if isinstance(part, str)), "")
            said: Any = value
            for part in where[1:]:
                said = said[part]
            if isinstance(said, str) and said.startswith(("/", "~/", "./")):
                continue  # where it is
            certain = _CERTAIN.fullmatch(called) or redaction.has_password(str(said))
            if certain or _PERHAPS.fullmatch(called):
                advice = "write env: {HF_TOKEN: ...}" if name == "hf-token" else "give it by env, or in a file"
                place: Where = ("models", alias, "vllm", *where)
                message = "would show in the list of processes"
                reading.add(document.problem(place, message, advice, warning=not certain))


def _check_models(
    root: schema.Root, path: Path, document: Document, environ: Mapping[str, str], reading: _Reading
) -> None:
    sockets: dict[str, str] = {}
    for alias, model in root.models.items():
        here: Where = ("models", alias)
        if (*here, "model") not in reading.made_up and (wrong := _wrong_model(model, path.parent)) is not None:
            reading.add(document.problem((*here, "model"), *wrong))
        if not proxy_config.fits_in_header(model.env.get("VLLM_API_KEY", "")):
            reading.add(document.problem((*here, "env", "VLLM_API_KEY"), vllm_options.NO_KEY))
        keys = {str(engine_options.by_name(model.vllm).get("api-key") or ""), model.env.get("VLLM_API_KEY", "")} - {""}
        if len(keys) > 1:
            message = "is another key than api-key under vllm: the engine takes this one, and the gateway sends that"
            reading.add(document.problem((*here, "env", "VLLM_API_KEY"), message, "write one of the two"))
        if len(set(model.gpus)) != len(model.gpus):
            reading.add(document.problem((*here, "gpus"), "names one GPU twice"))
        for key in ("model", "api_base", "api_key"):
            if key in model.litellm:
                reading.add(document.problem((*here, "litellm", key), "is made by llm-supervisor for a local model"))
        if not {(*here, "port"), (*here, "uds")} & reading.made_up:
            if model.port is None and not model.uds:
                reading.add(document.problem((*here, "port"), "is missing", "or write uds: true, for a unix socket"))
            elif model.port is not None and model.uds:
                reading.add(document.problem((*here, "uds"), "is in the place of port, which is written too"))
            elif isinstance(model.uds, str):
                place = document.problem((*here, "uds"), "")
                _check_socket(path, model.uds, place, reading)
                other = sockets.setdefault(os.path.normpath(path.parent / os.path.expanduser(model.uds)), alias)
                if other != alias:
                    reading.add(replace(place, message=f"{model.uds} is already used by {other}"))
        if not isinstance(model.litellm.get("model_info") or {}, dict):
            reading.add(document.problem((*here, "litellm", "model_info"), "must be a mapping"))
        reading.add(*litellm_file.doubts_of_ours(document, (*here, "litellm"), model.litellm))
        _check_limits(document, (*here, "litellm"), model.litellm, environ, reading)
        _check_references(root, document, model.litellm, (*here, "litellm"), environ, reading)


LONGEST = 107  # bytes of a unix socket's address


def _check_socket(path: Path, name: str, place: Problem, reading: _Reading) -> None:
    file = path.parent / os.path.expanduser(name)
    if len(os.fsencode(file)) > LONGEST:
        reading.add(replace(place, message=f"{file} is too long for a unix socket: {LONGEST} bytes at most"))
    elif not os.path.isdir(file.parent):
        reading.add(replace(place, message=f"no such folder: {file.parent}"))
    elif os.path.exists(file) and not stat.S_ISSOCK(os.stat(file).st_mode):
        reading.add(replace(place, message=f"{file} is there already, and is no socket"))


def _wrong_model(model: schema.Model, base: Path) -> tuple[str, str] | None:
    """What is wrong with what ``model:`` says, and what to do."""
    name = model.model
    if not name.strip():
        return "is empty", "write a hub id or a folder"
    if not is_folder(model, base):
        if address := re.match(r"https?://(?:[^/]*/([^/]+/[^/?#]+))?", name):
            return "is an address, no hub id and no folder", f"write {address[1] or 'ORG/NAME'}"
        return None if _is_taken(model) else ("is no hub id and no folder", _meant_model(name, base))
    folder = os.path.normpath(base / os.path.expanduser(name))
    if os.path.isfile(folder):
        return f"{folder} is a file; a model is a folder", _beside(folder)
    if not os.path.isdir(folder):
        return f"no such folder: {folder}", _beside(folder)
    options = engine_options.by_name(model.vllm)
    if not _described_elsewhere(folder, options):
        if not os.path.isfile(os.path.join(folder, "config.json")):
            return f"{folder} has no config.json: it is no model folder", ""
        if wrong := hub_cache.wrong_config(folder):
            return f"{folder} is incomplete: its config.json {wrong}", _AGAIN
    if missing := hub_cache.unfinished(folder, str(options.get("load-format") or "auto").lower()):
        few = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        are = "are" if len(missing) > 1 else "is"
        return f"{folder} is incomplete: {few} {are} missing, empty or cut off", _AGAIN
    return None


_AGAIN = "download it again, or write its hub id as model and `llm-supervisor pull`"


def _described_elsewhere(folder: str, options: Mapping[str, object]) -> bool:
    """Whether vLLM may take what a model is from something else than its config.json."""
    if any(options.get(name) for name in ("hf-config-path", "config-format")):
        return True
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return any(name in ("params.json", "adapter_config.json") or name.endswith(".gguf") for name in names)


# What vLLM streams weights from
_BUCKETS = ("s3://", "gs://", "az://")
# Behind the id of a repository of GGUF files: which of them
_QUANTIZED = re.compile(r":[A-Z0-9_]+$")


def _is_taken(model: schema.Model) -> bool:
    """Whether vLLM may know what to do with a name that is no folder's. What loads it may be a plugin's, with addresses
    of its own."""
    name = model.model
    if name.lower().startswith(_BUCKETS) or ("://" in name and "load-format" in engine_options.by_name(model.vllm)):
        return True
    return hub_cache.looks_like_a_hub_id(_QUANTIZED.sub("", name) if ":" in name else name)


def _meant_model(name: str, base: Path) -> str:
    """What it may have been meant to be."""
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
    close = _beside(os.path.normpath(base / name)) if "/" in name.strip("/") else ""
    return close or f"a hub id is ORG/NAME; write ./{name.strip('/')} for a folder"


def _beside(file: str) -> str:
    """What else there is, of a name like that."""
    try:
        there = [one for one in os.listdir(os.path.dirname(file)) if one != os.path.basename(file)]
    except (OSError, ValueError):
        return ""
    return near(os.path.basename(file), there)


def _check_programs(
    root: schema.Root, path: Path, document: Document, environ: Mapping[str, str], reading: _Reading
) -> None:
    for name, program in root.programs.items():
        here: Where = ("programs", name)
        cwd = path.parent / os.path.expanduser(program.cwd) if program.cwd else None
        if cwd is not None and not os.path.isdir(cwd):
            reading.add(document.problem((*here, "cwd"), f"no such folder: {program.cwd}"))
        elif (*here, "command") not in reading.made_up:
            search = program.env.get("PATH") or environ.get("PATH") or os.environ.get("PATH", os.defpath)
            if problem := _wrong_command(program.command[0], cwd, search):
                message, advice, warning = problem
                reading.add(document.problem((*here, "command", 0), message, advice, warning=warning))
        ways = [way for way in ("tcp", "http", "after") if getattr(program.ready, way) is not None]
        if len(ways) != 1 and not any(place[:3] == (*here, "ready") for place in reading.made_up):
            advice = "leave the others out" if ways else "write {after: 5s}, for one"
            reading.add(document.problem((*here, "ready"), "must say exactly one of tcp, http, after", advice))
        if program.ready.tcp is not None:
            host, _, port = program.ready.tcp.rpartition(":")
            if not _is_host(host) or not port.isdecimal() or not 0 < int(port) < 65536:
                bare = re.fullmatch(r"(?:\w+://|\s*)(?:([\w.-]*):)?([1-9]\d{0,4})[\s/]*", program.ready.tcp)
                advice = f'write "{bare[1] or "127.0.0.1"}:{bare[2]}"' if bare and int(bare[2]) < 65536 else ""
                message = f"{short(program.ready.tcp)} is no host:port"
                reading.add(document.problem((*here, "ready", "tcp"), message, advice))
        if program.ready.http is not None and split_url(program.ready.http) is None:
            advice = "write http://127.0.0.1:8080/health, for one"
            reading.add(document.problem((*here, "ready", "http"), "must be an http:// URL of this machine", advice))


def _wrong_command(first: str, cwd: Path | None, search: str) -> tuple[str, str, bool] | None:
    """What is wrong with the first word of a command, what to do, and whether that is a warning only: the daemon may
    have another PATH, what is missing may come, and one program that is not there is no reason to start none."""
    if "/" not in first:
        if shutil.which(first, path=search) is not None:
            return None
        shell = first in _SHELLS_OWN or re.search(r"[\s$|&;<>*]", first) is not None
        advice = 'a shell is needed for that: [sh, -c, "..."]' if shell else "install it, or write its whole path"
        return f"no such program in PATH: {first}", advice, True
    if first.startswith(("~", "$")):
        return f"{first}: no shell is there to read that", "write the whole path", False
    file = os.path.join(cwd, first) if cwd else first
    if os.path.isdir(file):
        return f"{first} is a folder", "", False
    if not os.path.isfile(file):
        return f"no such program: {first}", "", True
    return None if os.access(file, os.X_OK) else (f"{first} cannot be executed", f"chmod +x {first}", False)


_SHELLS_OWN = frozenset({"cd", "export", "source", ".", "exec", "ulimit", "set"})


def _check_stops(root: schema.Root, document: Document, reading: _Reading) -> None:
    blocks: dict[Where, schema.Supervised] = {("models", name): model for name, model in root.models.items()}
    blocks |= {("programs", name): program for name, program in root.programs.items()}
    blocks |= {(GATEWAY,): root.gateway} if root.gateway is not None else {}
    for where, block in blocks.items():
        if block.stop.signal in (signal.SIGSTOP, signal.SIGCONT):
            name = signal.Signals(block.stop.signal).name.removeprefix("SIG")
            message = f"{name} ends nothing: each stop would take the whole grace"
            reading.add(document.problem((*where, "stop", "signal"), message, "write TERM, INT or QUIT"))


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
            if name == "all":
                reading.add(document.problem((group, name), "all is what commands call every program", "rename it"))
    for name in root.programs:
        if name in root.models:
            reading.add(document.problem(("programs", name), "there is a model of that name"))
    for index, entry in enumerate((native.data or {}).get("model_list") or []):
        if isinstance(entry, dict) and isinstance(entry.get("model_name"), str) and entry["model_name"] in root.models:
            where: Where = ("model_list", index, "model_name")
            ours = document.problem(("models", entry["model_name"]), "")
            message = f"{entry['model_name']} is also the alias of a local model, in {ours.file}:{ours.line}"
            reading.add(native.problem(where, message))


def _check_aliases(root: schema.Root, native: Document, document: Document, reading: _Reading) -> None:
    """Other names for groups. LiteLLM looks at them first, before a group of that very name, and leaves one for a group
    that is none out without a word."""
    data = native.data or {}
    entries = data.get("model_list") or []
    natives = {str(entry.get("model_name")): index for index, entry in enumerate(entries) if isinstance(entry, dict)}
    settings = data.get("router_settings")
    said = settings.get("model_group_alias") if isinstance(settings, dict) else None
    for alias, target in said.items() if isinstance(said, dict) else ():
        of = target.get("model") if isinstance(target, dict) else target  # hidden ones, too
        if not isinstance(of, str) or of == alias or not (alias in root.models or alias in natives):
            continue
        if alias in root.models:
            place = document.problem(("models", alias), "")
            whose = f"a local model, in {place.file}:{place.line}"
        else:
            place = native.problem(("model_list", natives[alias], "model_name"), "")
            whose = f"a group, in {place.file}:{place.line}"
        message = f"{alias} is also {whose}: all its requests would go to {of}"
        # of a group of that file it may be meant: one line takes its clients elsewhere
        meant = alias not in root.models
        reading.add(native.problem((*_ALIASES, alias), message, "rename one of them", warning=meant))
    groups = [*root.models, *natives]
    if any("*" in group for group in groups):
        return
    for alias, of in proxy_config.aliases(data).items():
        if of not in groups:
            advice = near(of, groups) or f"there are: {', '.join(groups) or 'none'}"
            reading.add(native.problem((*_ALIASES, alias), f"{of} is no group", advice, warning=True))
    # by the id of a deployment, too
    infos = [entry.get("model_info") for entry in entries if isinstance(entry, dict)]
    infos += [model.litellm.get("model_info") for model in root.models.values()]
    ids = [info.get("id") for info in infos if isinstance(info, dict)]
    others = [*said] if isinstance(said, dict) else []
    routing = settings.get("routing_groups") if isinstance(settings, dict) else None
    others += [one.get("group_name") for one in routing if isinstance(one, dict)] if isinstance(routing, list) else []
    for where, of in litellm_file.fallbacks(data):
        if of not in (*groups, *others, *ids):
            advice = near(of, [*groups, *map(str, others)]) or f"there are: {', '.join(groups) or 'none'}"
            reading.add(native.problem(where, f"{of} is no group", advice, warning=True))


_ALIASES: Where = ("router_settings", "model_group_alias")


def _ports(root: schema.Root, document: Document) -> list[PortPlace]:
    ports = []
    if root.gateway is not None:
        problem = document.problem((GATEWAY, "port"), "")
        ports.append(PortPlace(root.gateway.host, root.gateway.port, GATEWAY, problem))
    for alias, model in root.models.items():
        if model.port is not None:
            problem = document.problem(("models", alias, "port"), "")
            ports.append(PortPlace("127.0.0.1", model.port, alias, problem))
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
        where: Where = ("engines", name, "python")
        if os.path.isdir(python):
            advice = f"write {engine.python.rstrip('/')}/bin/python" if os.path.isfile(python / "bin/python") else ""
            reading.add(document.problem(where, f"{engine.python} is a folder", advice))
        elif not os.path.isfile(python):
            reading.add(document.problem(where, f"no such program: {engine.python}"))
        elif not os.access(python, os.X_OK):
            reading.add(document.problem(where, f"{engine.python} cannot be executed", f"chmod +x {python}"))


def _check_replicas(
    root: schema.Root, native: Document, document: Document, environ: Mapping[str, str], reading: _Reading
) -> None:
    """Replicas count requests each for itself, unless there is a Redis."""
    if root.gateway is None or root.gateway.replicas == 1:
        return
    data, environ = native.data or {}, {**environ, **root.gateway.env}
    entries = data.get("model_list") or []
    params = [entry.get("litellm_params") for entry in entries if isinstance(entry, dict)]
    params += [model.litellm for model in root.models.values()]
    limited = any(isinstance(one, dict) and proxy_config.limits(one, environ) for one in params)
    if limited and proxy_config.redis_address(data, environ) is None:
        reading.add(
            document.problem(
                (GATEWAY, "replicas"),
                f"{root.gateway.replicas} replicas count rpm and tpm each for itself: that many times more is let in",
                "add redis_host to router_settings, or write 1",
                warning=True,
            )
        )


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches that, as far as its spelling tells."""
    if host.lower() == "localhost":
        return True
    try:
        return socket.inet_aton(host)[0] == 127  # 127.1, too, as who binds it reads it
    except (OSError, ValueError):
        pass
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


STRONG = 20  # characters


def _check_exposure(root: schema.Root, master_key: str | None, document: Document, reading: _Reading) -> None:
    """Whoever reaches the gateway can try keys: one that is reached from elsewhere needs one that cannot be guessed."""
    if root.gateway is None or master_key is None or len(master_key) >= STRONG:
        return  # ours is strong
    host = root.gateway.host
    if not _is_loopback(host):
        message = f"{host} can be reached from elsewhere, and the gateway's key has {len(master_key)} characters"
        advice = f"give it at least {STRONG} (or none: a strong one is made and kept), or write 127.0.0.1"
        reading.add(document.problem((GATEWAY, "host"), message, advice))


# Where LiteLLM takes a provider's address from, if a deployment names none. Clients of the gateway read some of them
_ADDRESSES = ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL", "GEMINI_API_BASE", "OPENAI_API_BASE", "OPENAI_BASE_URL")


def _check_circle(root: schema.Root, environ: Mapping[str, str], document: Document, reading: _Reading) -> None:
    """What `env` prints for a client is not for the gateway: it would ask itself."""
    if root.gateway is None:
        return
    for name in _ADDRESSES:
        split = split_url({**environ, **root.gateway.env}.get(name, ""))
        if split is not None and split[0] in [(host, root.gateway.port) for host in ("127.0.0.1", "localhost", "::1")]:
            message = f"{name} is the gateway's own address: LiteLLM would ask itself instead of the provider"
            advice = f"unset {name} where the daemon is started"
            reading.add(document.problem((GATEWAY,), message, advice, warning=True))


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
        if given.strip() in proxy_config.WEAK_KEYS:
            reading.add(native.problem(where, "is blank or a known default; LiteLLM refuses to start with it"))
        elif not proxy_config.fits_in_header(given):
            reading.add(native.problem(where, vllm_options.NO_KEY))
        return given
    if given is not None and not isinstance(given, str):
        reading.add(native.problem(where, "must be text: write it in quotes"))
        return None
    name = given.removeprefix("os.environ/") if isinstance(given, str) else proxy_config.MASTER_KEY
    value = environ.get(name)
    what = None
    if value is not None and value.strip() in proxy_config.WEAK_KEYS:
        what = f"{name} is blank or a known default; LiteLLM refuses to start with it"
        if given and name != proxy_config.MASTER_KEY and not value:
            what = None  # said already: it is not set
    elif value is not None and not proxy_config.fits_in_header(value):
        what = f"{name} {vllm_options.NO_KEY}"
    if what is not None:
        reading.add(native.problem(where, what) if given else document.problem((GATEWAY,), what))
    return value
