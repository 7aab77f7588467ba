"""A checked configuration: the validated settings, LiteLLM's own file, the environment, and paths relative to them."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from llm_supervisor.config import schema, yaml_reader
from llm_supervisor.config.document import Document, Problem
from llm_supervisor.engines import hub_cache
from llm_supervisor.engines.vllm.installed_options import Options
from llm_supervisor.host import bounded

GATEWAY = "gateway"  # the block of the configuration, and the name of the first replica's program


class BoundPort(NamedTuple):
    """A TCP port that a program of the configuration will bind. ``place`` is a problem at the line that sets the port,
    without a message yet."""

    host: str
    port: int
    program: str
    place: Problem


@dataclass(frozen=True)
class Config:
    """A configuration without errors.

    ``native`` is the content of LiteLLM's own file. ``environ`` is the process's environment, completed by the values
    of the env file, which are also in ``env_values``. ``more`` are the files that override ``file``, in their order.
    ``written`` is the content of all of these as one, before variables are filled in. ``options`` are those of the
    installed vLLM; None where they are not known or no model gives any."""

    file: Path
    root: schema.Root
    native: Mapping[str, Any]
    environ: Mapping[str, str]
    master_key: str | None
    warnings: tuple[Problem, ...] = ()
    env_values: Mapping[str, str] = field(default_factory=dict, repr=False)
    more: tuple[Path, ...] = ()
    written: Mapping[str, Any] = field(default_factory=dict, repr=False)
    options: Options | None = field(default=None, repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the configuration, in their order."""
        return (self.file, *self.more)

    def resolve(self, name: str) -> Path:
        """A path of the configuration, absolute and without links: a relative one starts at the folder of the first
        file. Where its disk does not answer, what it was when the disk last did."""
        path = self.file.parent / os.path.expanduser(name)
        try:
            _resolved[path] = bounded.call(f"the folder {path}", path.resolve, within=hub_cache.WITHIN)
        except bounded.NoAnswer:
            return _resolved.get(path, Path(os.path.abspath(path)))
        return _resolved[path]

    def executable(self, name: str) -> Path:
        """Like ``resolve``, but links are not followed: by its link a virtual environment's Python finds its folder."""
        return self.file.parent / os.path.expanduser(name)

    def model_path(self, model: schema.Model) -> Path | None:
        """The model's folder; None when it is a hub id."""
        return self.resolve(model.model) if is_folder(model, self.file.parent) else None

    def port_places(self) -> list[BoundPort]:
        """Every port that will be bound, each with the place to report a problem at."""
        return bound_ports(self.root, yaml_reader.layered(self.files))


# What paths were without their links when they were last looked at: a disk that does not answer changes no program
_resolved: dict[Path, Path] = {}


def bound_ports(root: schema.Root, document: Document) -> list[BoundPort]:
    """The gateway's port and those of the models. Engines listen on loopback only."""
    ports = []
    if root.gateway is not None:
        place = document.problem((GATEWAY, "port"), "")
        ports.append(BoundPort(root.gateway.host, root.gateway.port, GATEWAY, place))
    for alias, model in root.models.items():
        if model.port is not None:
            place = document.problem(("models", alias, "port"), "")
            ports.append(BoundPort("127.0.0.1", model.port, alias, place))
    return ports


def split_url(url: str) -> tuple[tuple[str, int], str] | None:
    """``((host, port), path)`` of an ``http://`` URL; None for any other text."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = 80 if parts.port is None else parts.port
    except ValueError:
        return None
    if parts.scheme != "http" or not parts.hostname or port == 0:
        return None
    return (parts.hostname, port), (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def is_folder(model: schema.Model, base: Path) -> bool:
    """Whether ``model:`` names a folder: ``source: path`` says so, the name looks like a path, or the folder exists."""
    name = os.path.expanduser(model.model)
    # os.path, not pathlib: for a name that no file can have it returns False instead of raising. So do the checks
    return model.source == "path" or name.startswith(("/", "./", "../")) or os.path.isdir(base / name)
