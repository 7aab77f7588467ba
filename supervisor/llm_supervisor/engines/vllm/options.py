"""The options of ``vllm serve``: their names, and how their values become words of a command line. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# Options that the configuration has a key of its own for, or the daemon decides: refused under `vllm:`
RESERVED = {
    "model": "write it as `model:`",
    "served-model-name": "write it as `served_model_name:`",
    "port": "write it as `port:`",
    "host": "engines listen on loopback only; clients talk to the gateway",
    "uds": "write it as `uds:`",
    "config": "write what is in that file here: nobody would have looked at it",
}
# vLLM's short names. It reads them behind a single dash only, and so never here
SHORT = {
    "ac": "attention-config",
    "asc": "api-server-count",
    "cc": "compilation-config",
    "dc": "diffusion-config",
    "dcp": "decode-context-parallel-size",
    "dp": "data-parallel-size",
    "dpa": "data-parallel-address",
    "dpb": "data-parallel-backend",
    "dpe": "data-parallel-external-lb",
    "dph": "data-parallel-hybrid-lb",
    "dpl": "data-parallel-size-local",
    "dpm": "data-parallel-multi-port-external-lb",
    "dpn": "data-parallel-rank",
    "dpp": "data-parallel-rpc-port",
    "dpr": "data-parallel-start-rank",
    "ep": "enable-expert-parallel",
    "n": "nnodes",
    "O": "optimization-level",
    "pcp": "prefill-context-parallel-size",
    "pp": "pipeline-parallel-size",
    "q": "quantization",
    "r": "node-rank",
    "sc": "speculative-config",
    "tp": "tensor-parallel-size",
}
# The values that ``task`` had, until two other options took its place
TASKS = {
    **dict.fromkeys(("embed", "embedding", "classify", "score", "reward"), "pooling"),
    **dict.fromkeys(("generate", "transcription"), "generate"),
}


def normal(option: str) -> str:
    """An option's name as vLLM writes it, without dashes in front: ``max_model_len`` and ``max-model-len`` are one.
    What is behind a dot is a key in its JSON, and no option's name."""
    name, dot, key = option.lstrip("-").partition(".")
    return name.replace("_", "-") + dot + key


def by_name(options: Mapping[str, object]) -> dict[str, Any]:
    """Options by their normal names."""
    return {normal(name): value for name, value in options.items()}


def pools(options: Mapping[str, object]) -> bool:
    """Whether a model with these options gives vectors and no text. The options are by their normal names."""
    return options.get("runner") == "pooling" or options.get("task") in ("embed", "embedding")


_OLD_LIMITS = re.compile(r"\s*[a-z]+\s*=\s*\d+(?:\s*,\s*[a-z]+\s*=\s*\d+)*\s*")


def keys(options: Mapping[str, object]) -> list[str]:
    """The API keys among the options, which are by their normal names; empty ones are none."""
    said = options.get("api-key")
    return [str(key) for key in (said if isinstance(said, list) else [said]) if key not in (None, "")]


def speaks_tls(options: Mapping[str, object]) -> bool:
    """Whether a server with these options speaks https, by uvicorn's rule. The options are by their normal names."""
    return bool(options.get("ssl-keyfile") or options.get("ssl-certfile"))


def limits(value: object) -> object:
    """``limit-mm-per-prompt`` as a mapping, where it is written in the old form (``image=1,video=2``), which vLLM no
    longer reads; else as it is."""
    if not isinstance(value, str) or not _OLD_LIMITS.fullmatch(value):
        return value
    pairs = (part.partition("=") for part in value.split(","))
    return {name.strip(): int(count) for name, _, count in pairs}


# How a list is written, by option (``Option.lists``), as 0.32 has them: for when the parser of the installed vLLM is
# not known. A list of any other option is one word of JSON: a second word could become the model
_LISTS = {
    **dict.fromkeys(
        """allowed-media-domains collect-detailed-traces cpu-offload-params cudagraph-capture-sizes ignore-patterns
        kv-cache-dtype-skip-layers logits-processors lora-modules lora-target-modules numa-bind-cpus numa-bind-nodes
        offload-params sleep-preserve-parameter-names""".split(),
        "values",
    ),
    "middleware": "each",
    "device-ids": "commas",
}


def flags(options: Mapping[str, object], lists: Mapping[str, str] | None = None) -> list[str]:
    """Options in vLLM's own words as argv. True and False become ``--x`` and ``--no-x``, None is left out, a mapping
    becomes JSON, a list what the option takes: several values, several times the option, or JSON. ``lists`` says
    which, of the options of the installed vLLM, where it is known. ``api-key`` never gets here: it would show in
    ``ps``."""
    argv: list[str] = []
    for written, value in options.items():
        name = normal(written)
        if name == "limit-mm-per-prompt":
            value = limits(value)
        if value is None:
            continue
        if isinstance(value, bool) and "." not in name:
            argv.append(f"--{name}" if value else f"--no-{name}")
            continue
        words = [_word(item) for item in value] if isinstance(value, (list, tuple)) else [_word(value)]
        if isinstance(value, (list, tuple)):
            how = _of_a_list(name, {**_LISTS, **(lists or {})})
            if how == "each":
                argv += [part for word in words for part in _with(name, word)]
                continue
            if how == "values" and len(words) != 1:
                argv += [f"--{name}", *words]
                continue
            if how != "values":
                words = [",".join(words) if how == "commas" else _word(list(value))]
        argv += _with(name, words[0])
    return argv


def _of_a_list(name: str, lists: Mapping[str, str]) -> str:
    if "." in name:  # a key in JSON; with a + it is added to
        return "commas" if name.endswith("+") else "json"
    return lists.get(name, "json")


def _word(value: object) -> str:
    if isinstance(value, (bool, Mapping, list, tuple)) or value is None:
        return json.dumps(value, separators=(",", ":"))
    return str(value)


def _with(name: str, word: str) -> list[str]:
    """An option and its value. A value that begins with a dash is joined by ``=``: in a word of its own it would be
    taken for an option."""
    return [f"--{name}={word}"] if word.startswith("-") else [f"--{name}", word]
