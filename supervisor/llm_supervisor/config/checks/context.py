"""What every check is given, and the few judgements that several checks share."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_supervisor.config import schema
from llm_supervisor.config.document import Document, Where
from llm_supervisor.engines.vllm.installed_options import Options


@dataclass(frozen=True)
class Context:
    """A configuration that is valid by its types. A check reads it, changes nothing and yields problems.

    ``path`` is the first file, whose folder relative paths start at; ``document`` are all files as one, variables
    filled in. ``native`` is LiteLLM's own file. ``environ`` is the process's environment, completed by the env file.
    ``placeholders`` are places whose value is not from the file: nothing may be reported about these. ``options`` are
    those of the installed vLLM, ``providers`` the names of those that the installed LiteLLM knows; None where they are
    not known."""

    path: Path
    root: schema.Root
    document: Document
    native: Document
    environ: Mapping[str, str]
    placeholders: frozenset[Where]
    options: Options | None
    providers: Collection[str] | None

    def file(self, name: str) -> Path:
        """A path of the configuration; a relative one starts at the folder of the first file."""
        return self.path.parent / os.path.expanduser(name)

    def has_placeholder_in(self, where: Where) -> bool:
        """Whether the value at that place, or a part of it, is not from the file."""
        return any(place[: len(where)] == where for place in self.placeholders)


_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def is_host_name(text: str) -> bool:
    """Whether it is a host's name, or an IPv4 address."""
    return _HOST_NAME.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Whether it is a host's name or an address; one of IPv6 in brackets or without."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return bare == text and is_host_name(text.removesuffix("."))
    return bare == text or ":" in bare
