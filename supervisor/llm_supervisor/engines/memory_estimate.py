"""How much memory a model will need on its GPU: an estimate from its folder and its options, with its parts.

Reads ``config.json`` and the sizes of the weights' files; imports no engine. The names of a configuration's fields are
those that vLLM looks for (``transformers_utils/model_arch_config_convertor.py``). What cannot be told is None: better
no figure than a wrong one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_supervisor.units import GIB

UTILIZATION = 0.92  # vLLM's default of gpu-memory-utilization
_BATCHED = 8192  # tokens of one step while vLLM measures itself; its default on a server's GPU
_SEQUENCES = 256  # of which it samples at once
_CONTEXT = int(0.6 * GIB)  # what a process on a GPU has before it does anything
_GRAPHS = int(0.75 * GIB)  # captured graphs and what the compiler keeps; none with enforce-eager

_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2, "fp8": 1, "int8": 1}
# Where the text part of a model of several parts is described
_TEXT = ("text_config", "llm_config", "language_config", "thinker_config")
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_seq_length")
# What a folder of these leaves out, as it is the default of its class
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "llama": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008},
    "mistral": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14336,
    },
}  # fmt: skip
_HUMAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgG]?)\s*")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on each GPU. ``kv_cache`` is what one request of ``max_len`` tokens needs, ``kv_token`` what each of them
    does; vLLM takes all that is left for the cache, and does not start when that is less than ``kv_cache``."""

    weights: int
    kv_cache: int
    kv_token: int
    max_len: int
    activations: int
    context: int

    @property
    def total(self) -> int:
        """The bytes with which the engine just starts."""
        return self.weights + self.kv_cache + self.activations + self.context


def count(value: object) -> int | None:
    """A number as vLLM reads it: ``25000``, ``25k`` (25,000), ``25K`` (25,600); None for ``auto``, -1 and the like."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value > 0 else None
    found = _HUMAN.fullmatch(value) if isinstance(value, str) else None
    return int(float(found[1]) * _UNITS[found[2]]) if found else None


def by_name(model: str) -> int | None:
    """The bytes of the weights of a hub id that tells its parameters (``glm-4v-9b``), at two bytes each."""
    found = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", model.rpartition("/")[2])
    return int(float(found[1]) * 2e9) if found else None


def weights(folder: Path) -> int | None:
    """The bytes of the files that vLLM would load; None when the folder has no such files."""
    try:
        with open(folder / "model.safetensors.index.json", encoding="utf-8") as file:
            names = set(map(str, json.load(file)["weight_map"].values()))
        return sum((folder / name).stat().st_size for name in names) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        files = [file for file in folder.glob(pattern) if not file.name.startswith("consolidated")]
        try:
            if size := sum(file.stat().st_size for file in files):
                return size
        except OSError:
            return None
    return None


def read(folder: Path, options: Mapping[str, Any]) -> Footprint | None:
    """The estimate for a model folder (complete, or with ``config.json`` at least) and options of vLLM by their normal
    names (``max-model-len``); None when the folder does not tell."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        overrides = options.get("hf-overrides")
        config = _merged(config, json.loads(overrides) if isinstance(overrides, str) else overrides or {})
        return _estimate(config, weights(folder), options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None


def _estimate(config: dict[str, Any], on_disk: int | None, said: Mapping[str, Any]) -> Footprint | None:
    text: dict[str, Any] = next((config[name] for name in _TEXT if isinstance(config.get(name), dict)), config)
    text = {**_DEFAULTS.get(str(text.get("model_type")), {}), **text}
    kept = str(config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype") or "")
    dtype = str(said.get("dtype") or "auto")
    # `auto` loads what is kept in 32 bits in 16
    item = _BYTES.get(dtype) or (2 if kept == "float32" else _BYTES.get(kept, 2))

    layers = int(_first(text, "num_hidden_layers", "num_layers", "n_layer", "n_layers"))
    hidden = int(_first(text, "hidden_size", "n_embd", "d_model"))
    heads = int(_first(text, "num_attention_heads", "n_head", "n_heads"))
    few = text.get("multi_query_group_num") if text.get("multi_query_attention", True) else None
    kv_heads = int(text.get("num_key_value_heads") or text.get("num_kv_heads") or text.get("n_head_kv") or few or heads)
    head = int(text.get("head_dim") or text.get("kv_channels") or hidden // heads)
    inner = int(_first(text, "intermediate_size", "ffn_hidden_size", "n_inner", default=4 * hidden))
    vocabulary = int(_first(text, "vocab_size", "padded_vocab_size", default=0))

    size = on_disk or _parameters(text, layers, hidden, heads * head, kv_heads * head, inner, vocabulary) * item
    if on_disk and kept == "float32" and not config.get("quantization_config"):
        size = on_disk * item // 4
    width = int(_first(text, "kv_lora_rank", default=0))
    per_layer = width + int(text.get("qk_rope_head_dim") or 0) if width else 2 * kv_heads * head
    cache_dtype = str(said.get("kv-cache-dtype") or "auto")
    cache_item = 1 if cache_dtype.startswith(("fp8", "int8")) else _BYTES.get(cache_dtype, item)

    tensor = max(int(said.get("tensor-parallel-size") or said.get("tp") or 1), 1)
    parts = tensor * max(int(said.get("pipeline-parallel-size") or said.get("pp") or 1), 1)
    pooling = said.get("runner") == "pooling" or said.get("task") in ("embed", "embedding")
    kv_token = 0 if pooling else layers * per_layer * cache_item // (parts if not width else 1)
    known = min((int(text[name]) for name in _LENGTHS if text.get(name)), default=0)
    max_len = count(said.get("max-model-len")) or known
    # without chunks a prompt is one step
    batched = count(said.get("max-num-batched-tokens")) or min(_BATCHED, max(max_len, 2048))
    sequences = count(said.get("max-num-seqs")) or _SEQUENCES
    # of one layer at a time: its input, what attention makes of it, the gate and the way up; then the logits
    activations = (batched * (8 * hidden + 2 * inner) * item) // tensor + sequences * vocabulary * 4
    return Footprint(
        weights=size // parts,
        kv_cache=kv_token * max_len,
        kv_token=kv_token,
        max_len=max_len,
        activations=activations,
        context=_CONTEXT + (0 if said.get("enforce-eager") else _GRAPHS),
    )


def _parameters(text: Mapping[str, Any], layers: int, hidden: int, q: int, kv: int, inner: int, vocabulary: int) -> int:
    """Of the text part; what sees and hears comes on top, and is small beside it."""
    experts = int(_first(text, "n_routed_experts", "num_experts", "num_local_experts", default=0))
    mlp = 3 * hidden * (int(text.get("moe_intermediate_size") or inner) * experts if experts else inner)
    tied = bool(text.get("tie_word_embeddings"))
    return layers * (2 * hidden * q + 2 * hidden * kv + mlp) + vocabulary * hidden * (1 if tied else 2)


def _first(text: Mapping[str, Any], *names: str, default: int | None = None) -> Any:
    """Raises KeyError where none is said and there is no default."""
    for name in names:
        if text.get(name):
            return text[name]
    if default is None:
        raise KeyError(names[0])
    return default


def _merged(config: Any, over: Any) -> Any:
    if not isinstance(config, dict) or not isinstance(over, dict):
        return over
    return {**config, **{name: _merged(config.get(name), value) for name, value in over.items()}}
