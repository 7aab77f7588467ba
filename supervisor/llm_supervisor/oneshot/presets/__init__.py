"""Configurations that work, for the systems that people ask for, and what ``init`` makes of one.

A preset is a folder of YAML files with comments. ``init`` finds out what it can (free ports, whether there is a GPU),
makes the keys that are ours to make, and asks nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from importlib.resources import files

MAIN = "supervisor.yaml"
KEYS = "keys.env"
# Made rather than asked for: the gateway's key, and an engine's own
_MADE = {"LITELLM_MASTER_KEY": "sk-", "VLLM_KEY": "vk-"}
_PORT = re.compile(r"^(\s*port: )(\d+)$", re.MULTILINE)
_LIMIT = re.compile(r"\s*[rt]pm:")  # what may stay without a value
_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)|(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def names() -> dict[str, str]:
    """Every preset with its first line, which says what it is."""
    found = {}
    for folder in sorted(files(__package__).iterdir(), key=lambda one: one.name):
        if folder.is_dir() and (folder / MAIN).is_file():
            found[folder.name] = (folder / MAIN).read_text().partition("\n")[0].removeprefix("# ")
    return found


def texts(name: str) -> dict[str, str]:
    """The files of one preset by name."""
    folder = files(__package__) / name
    return {one.name: one.read_text() for one in sorted(folder.iterdir(), key=lambda one: one.name) if one.is_file()}


def made(name: str, *, free: Callable[[int], bool], gpus: bool) -> dict[str, str]:
    """The files for a new folder. ``free`` says whether a port is; ``gpus``: whether there is one at all."""
    written = texts(name)
    moved: dict[str, str] = {}

    def port(match: re.Match[str]) -> str:
        wanted = int(match[2])
        number = next(one for one in range(wanted, 65536) if free(one) and str(one) not in moved.values())
        moved[match[2]] = str(number)
        return f"{match[1]}{number}"

    written[MAIN] = _PORT.sub(port, written[MAIN])
    for file, text in written.items():
        if file != MAIN:  # what refers to an engine by its address
            written[file] = re.sub(
                r"(127\.0\.0\.1:)(\d+)", lambda match: match[1] + moved.get(match[2], match[2]), text
            )
    if not gpus:
        written[MAIN] = re.sub(
            r"^( *)gpus: .*\n", r"\1# gpus: [0]    (no NVIDIA GPU was found here)\n", written[MAIN], flags=re.MULTILINE
        )
    written[KEYS] = _keys(written)
    return written


def _keys(written: Mapping[str, str]) -> str:
    wanted: dict[str, bool] = {"LITELLM_MASTER_KEY": True}  # whether it must be there
    for text in written.values():
        for line in text.splitlines():
            for match in _REFERENCE.finditer(line.partition("#")[0]):
                wanted[match[1] or match[2]] = not _LIMIT.match(line)
    lines = ["# Read by llm-supervisor only; refused if others can read it."]
    for name, needed in wanted.items():
        value = _MADE[name] + secrets.token_urlsafe(32) if name in _MADE else ""
        lines.append(f"{name}={value}" if needed else f"# {name}=")
    return "\n".join(lines) + "\n"
