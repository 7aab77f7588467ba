"""Paths among the options of vLLM: a relative one starts at the folder of the configuration, as ``model:`` does.

vLLM itself would look for it where the daemon was started. Looks whether files are there, and reads none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_supervisor.engines.vllm import options as engine_options

# Options, and keys of options, whose value is the path of a file or folder
PATHS = frozenset(
    """ssl-keyfile ssl-certfile ssl-ca-certs allowed-local-media-path download-dir log-config-file
    logging-config.pylogging_config_file tool-parser-plugin reasoning-parser-plugin mm-encoder-fp8-scale-path
    mm-encoder-fp8-scale-save-path profiler-config.torch_profiler_dir compilation-config.cache_dir
    compilation-config.debug_dump_path""".split()
)
# Those whose value may be a path, or a hub id or a word of vLLM's
NAMES_OR_PATHS = frozenset(
    "tokenizer generation-config hf-config-path spec-model speculative-config.model reasoning-config.tokenizer".split()
)
# In a chat template that is written as text, by vLLM's own rule
_JINJA = "{}\n"


def resolved(options: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The options with every relative path made absolute. ``base`` is the configuration's folder."""
    return {written: _option(engine_options.normal(written), value, base) for written, value in options.items()}


def _option(name: str, value: Any, base: Path) -> Any:
    if isinstance(value, Mapping) and "." not in name:
        return {key: _option(f"{name}.{key}", item, base) for key, item in value.items()}
    if name == "lora-modules":
        return [_lora(item, base) for item in value] if isinstance(value, list) else _lora(value, base)
    if not isinstance(value, str) or not value or "\0" in value:
        return value
    if name in PATHS:
        return whole(value, base)
    if name in NAMES_OR_PATHS:
        return whole(value, base) if _is_path(value, base) else value
    if name == "chat-template" and not any(sign in value for sign in _JINJA):
        return whole(value, base) if "/" in value or _is_path(value, base) else value  # else: one that vLLM brings
    return value


def _lora(value: Any, base: Path) -> Any:
    """An adapter: a mapping with ``path``, or ``NAME=PATH``. The path may be a hub id."""
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        path = value["path"]
        return {**value, "path": whole(path, base) if _is_path(path, base) else path}
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        name, sign, path = value.partition("=")
        return f"{name}={whole(path, base)}" if sign and _is_path(path, base) else value
    return value


def _is_path(text: str, base: Path) -> bool:
    """Whether it looks like a path, or is there beside the configuration."""
    return text.startswith(("/", "./", "../", "~")) or os.path.exists(base / text)


def whole(text: str, base: Path) -> str:
    """The absolute form of a path."""
    return os.path.normpath(os.path.join(os.path.abspath(base), os.path.expanduser(text)))
