"""Options that vLLM no longer has, and keys that its objects no longer have: what replaces each. Pure.

From vLLM's deprecation notes. The version is the first without it, where its notes name one.
"""

from __future__ import annotations

import json
from typing import NamedTuple


class Gone(NamedTuple):
    """``advice`` may hold ``{value}``, the value that was written. ``since`` is empty where it is not known."""

    advice: str
    since: str = ""


_ALWAYS = "leave it out: vLLM always does that"
_NOTHING = "leave it out: the engine that read it is gone, and nothing replaces it"
_BY_MODEL = "leave it out: the model's own configuration says it"
_GUIDED = "write structured-outputs-config: {{{key}: {{value}}}}"
_EPLB = "write eplb-config: {{{key}: {{value}}}}"
_SPECULATIVE = "write speculative-config: {{{key}: {{value}}}}"

OPTIONS: dict[str, Gone] = {
    # structured outputs
    "guided-decoding-backend": Gone(_GUIDED.format(key="backend"), "0.12"),
    "guided-decoding-disable-any-whitespace": Gone(_GUIDED.format(key="disable_any_whitespace"), "0.12"),
    "guided-decoding-disable-additional-properties": Gone(_GUIDED.format(key="disable_additional_properties"), "0.12"),
    "guided-decoding-disable-fallback": Gone("leave it out: there is no other backend to fall back to", "0.12"),
    "logits-processor-pattern": Gone("write logits-processors, with the classes to load"),
    # reasoning and logging
    "enable-reasoning": Gone("leave it out: reasoning-parser alone switches it on", "0.10"),
    "disable-log-requests": Gone("leave it out: requests are logged only with enable-log-requests", "0.12"),
    # speculation
    "speculative-model": Gone(_SPECULATIVE.format(key="model")),
    "num-speculative-tokens": Gone(_SPECULATIVE.format(key="num_speculative_tokens")),
    "ngram-prompt-lookup-max": Gone(
        "write speculative-config: {method: ngram, prompt_lookup_max: {value}, num_speculative_tokens: ...}"
    ),
    "ngram-prompt-lookup-min": Gone(_SPECULATIVE.format(key="prompt_lookup_min")),
    "speculative-draft-tensor-parallel-size": Gone(_SPECULATIVE.format(key="draft_tensor_parallel_size")),
    "speculative-model-quantization": Gone(_SPECULATIVE.format(key="quantization")),
    "speculative-max-model-len": Gone(_SPECULATIVE.format(key="max_model_len")),
    "spec-decoding-acceptance-method": Gone(_SPECULATIVE.format(key="rejection_sample_method")),
    "speculative-disable-mqa-scorer": Gone(_NOTHING),
    "speculative-disable-by-batch-size": Gone(_NOTHING),
    # the model
    "rope-scaling": Gone("write hf-overrides: {rope_parameters: {value}}"),
    "rope-theta": Gone("write hf-overrides: {rope_parameters: {rope_theta: {value}}}"),
    "override-pooler-config": Gone("write pooler-config: {value}", "0.12"),
    "device": Gone("leave it out: the installed build decides it", "0.10"),
    "quantization-param-path": Gone("leave it out: the scales come with the checkpoint"),
    "calculate-kv-scales": Gone("leave it out: the scales come with the checkpoint"),
    "qlora-adapter-name-or-path": Gone("write enable-lora: true and lora-modules: [NAME={value}]"),
    # images
    "disable-mm-preprocessor-cache": Gone("write mm-processor-cache-gb: 0", "0.12"),
    "enable-multimodal-encoder-data-parallel": Gone("write mm-encoder-tp-mode: data", "0.13"),
    "image-input-type": Gone(_BY_MODEL),
    "image-token-id": Gone(_BY_MODEL),
    "image-input-shape": Gone(_BY_MODEL),
    "image-feature-size": Gone(_BY_MODEL),
    # graphs and compilation
    "cuda-graph-sizes": Gone("write cudagraph-capture-sizes: {value}", "0.13"),
    "max-seq-len-to-capture": Gone("leave it out, or write max-cudagraph-capture-size: the most tokens of a batch"),
    "max-context-len-to-capture": Gone("leave it out, or write max-cudagraph-capture-size: the most tokens of a batch"),
    # expert parallelism
    "num-redundant-experts": Gone(_EPLB.format(key="num_redundant_experts"), "0.12"),
    "eplb-window-size": Gone(_EPLB.format(key="window_size"), "0.12"),
    "eplb-step-interval": Gone(_EPLB.format(key="step_interval"), "0.12"),
    "eplb-log-balancedness": Gone(_EPLB.format(key="log_balancedness"), "0.12"),
    "enable-microbatching": Gone("write enable-dbo: true"),
    # the former engine
    "num-scheduler-steps": Gone(_NOTHING, "0.11"),
    "multi-step-stream-outputs": Gone(_NOTHING, "0.11"),
    "use-v2-block-manager": Gone(_ALWAYS, "0.11"),
    "preemption-mode": Gone("leave it out: what does not fit is computed again", "0.11"),
    "swap-space": Gone("leave it out, or write kv-offloading-size for a KV cache in the host's memory"),
    "num-lookahead-slots": Gone("leave it out: speculative-config decides it"),
    "scheduler-delay-factor": Gone(_NOTHING, "0.11"),
    "max-num-partial-prefills": Gone(_NOTHING),
    "max-long-partial-prefills": Gone(_NOTHING),
    "disable-async-output-proc": Gone(_NOTHING, "0.11"),
    "disable-frontend-multiprocessing": Gone("leave it out, or write env: {VLLM_ENABLE_V1_MULTIPROCESSING: '0'}"),
    "engine-use-ray": Gone(_NOTHING),
    "worker-use-ray": Gone("write distributed-executor-backend: ray"),
    "tokenizer-pool-size": Gone(_NOTHING),
    "tokenizer-pool-type": Gone(_NOTHING),
    "tokenizer-pool-extra-config": Gone(_NOTHING),
    "enable-prompt-adapter": Gone("leave it out: prompt adapters are gone; LoRA adapters are what is left"),
    "max-prompt-adapters": Gone("leave it out: prompt adapters are gone; LoRA adapters are what is left"),
    "max-prompt-adapter-token": Gone("leave it out: prompt adapters are gone; LoRA adapters are what is left"),
    "lora-extra-vocab-size": Gone("leave it out: adapters with more words are no longer taken", "0.12"),
    "long-lora-scaling-factors": Gone(_NOTHING),
    "enable-lora-bias": Gone(_NOTHING),
    "override-neuron-config": Gone("leave it out: it went with the Neuron backend; additional-config is for plugins"),
}

# Keys inside the objects of vLLM, by option
KEYS: dict[tuple[str, str], Gone] = {
    ("compilation-config", "level"): Gone("write mode: {value}", "0.12"),
    ("compilation-config", "full_cuda_graph"): Gone("write cudagraph_mode: FULL", "0.12"),
    ("compilation-config", "use_cudagraph"): Gone("write cudagraph_mode: PIECEWISE, or NONE for none", "0.12"),
    ("compilation-config", "use_inductor"): Gone("write backend: inductor, or backend: eager", "0.12"),
    ("compilation-config", "enable_fusion"): Gone("write pass_config: {fuse_norm_quant: true}"),
    ("structured-outputs-config", "disable_fallback"): Gone("leave it out: there is no other backend to fall back to"),
    ("structured-outputs-config", "guided_decoding_backend"): Gone("write backend: {value}"),
    ("speculative-config", "acceptance_method"): Gone("write rejection_sample_method: {value}"),
    ("speculative-config", "ngram_prompt_lookup_max"): Gone("write prompt_lookup_max: {value}"),
    ("speculative-config", "ngram_prompt_lookup_min"): Gone("write prompt_lookup_min: {value}"),
    ("speculative-config", "draft_model"): Gone("write model: {value}"),
}


def advice(gone: Gone, value: object) -> str:
    """What to write in the place of an option or key, with the value that it has."""
    text = value if isinstance(value, str) else json.dumps(value)
    return gone.advice.replace("{value}", text if len(text) <= 60 else "...")
