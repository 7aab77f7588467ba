"""vLLM's failures that are about memory, of GPUs and of the machine: weights, KV cache, what others hold.

Messages as vLLM 0.32 and torch raise them; a few of older versions where those differ.
"""

from __future__ import annotations

import re

from llm_supervisor.diagnosis.pattern import Rank, Values, number, row

_UNITS = {"bytes": 2**-30, "KiB": 2**-20, "MiB": 2**-10, "GiB": 1.0, "TiB": 1024.0}
_SIZE = re.compile(r"([\d.]{1,16}) (bytes|KiB|MiB|GiB|TiB)")


def _gib(size: str | None) -> float:
    found = _SIZE.fullmatch(size or "")
    return number(found[1]) * _UNITS[found[2]] if found else 0.0


def _older(values: Values) -> Values:
    """torch before 2.1 put the same numbers into another order."""
    return {name.removesuffix("_"): value for name, value in values.items() if name.endswith("_")}


def _others(values: Values) -> float:
    """GiB of that GPU which this process does not hold, as torch's message tells."""
    return _gib(values["total"]) - _gib(values["free"]) - _gib(values.get("own"))


def _held_by_others(values: Values) -> bool:
    # without its own share in the message nothing can be said; 1 GiB is what contexts and a desktop take
    return "own" in values and "total" in values and _others(values) > max(1.0, 0.04 * _gib(values["total"]))


def _name_others(values: Values) -> Values:
    return {"others": f"{_others(values):.2f} GiB"}


def _used(values: Values) -> float:
    return number(values["total"]) - number(values["free"])


def _held(values: Values) -> bool:
    return _used(values) > max(1.0, 0.04 * number(values["total"]))


def _room(values: Values) -> Values:
    """What is held, and the largest utilization that would fit now, rounded down so that it does."""
    free, total = number(values["free"]), number(values["total"]) or 1.0
    return {"used": f"{total - free:.2f}", "fits": f"{int(max(free - 0.2, 0) / total * 100) / 100:.2f}"}


_SOME = r"[\d.]{1,12} \w{3,5}"
_OOM = (
    rf"(?:CUDA|HIP|XPU) out of memory\. Tried to allocate (?P<wanted>{_SOME})(?:\. GPU (?P<gpu>\d{{1,3}}) has a total "
    rf"capac(?:i)?ty of (?P<total>{_SOME}) of which (?P<free>{_SOME}) is free\.(?:[\s\S]{{0,600}}?this process has "
    rf"(?P<own>{_SOME}) memory in use)?| \(GPU (?P<gpu_>\d{{1,3}}); (?P<total_>{_SOME}) total capacity; "
    rf"(?P<own_>{_SOME}) "
    rf"already allocated; (?P<free_>{_SOME}) free;)"
)
_HOLDERS = (
    "Find who holds it: nvidia-smi --query-compute-apps=pid,used_memory --format=csv. An engine that is still "
    "leaving lets it go by itself."
)

ROWS = (
    row(
        "gpu_memory_taken", "on startup is less than desired GPU memory utilization",
        r"Free memory on device (?P<device>\S{0,20}?)\s?\((?P<free>[\d.]{1,12})/(?P<total>[\d.]{1,12}) GiB\) on "
        r"startup is less than desired GPU memory utilization \((?P<utilization>[\d.]{1,8}), (?P<wanted>[\d.]{1,12}) "
        r"GiB\)",
        permanent=False, busy=True, when=_held, derive=_room,
        summary="others hold {used} GiB of the GPU: {free} of {total} GiB are free, {wanted} are wanted",
        advice=(_HOLDERS, "To live beside them, gpu-memory-utilization {fits} would fit now (it is {utilization})."),
    ),
    row(
        "gpu_utilization_too_high", "on startup is less than desired GPU memory utilization",
        r"Free memory on device (?P<device>\S{0,20}?)\s?\((?P<free>[\d.]{1,12})/(?P<total>[\d.]{1,12}) GiB\) on "
        r"startup is less than desired GPU memory utilization \((?P<utilization>[\d.]{1,8}), (?P<wanted>[\d.]{1,12}) "
        r"GiB\)",
        permanent=True, derive=_room,
        summary="gpu-memory-utilization {utilization} asks for {wanted} GiB; an empty GPU has {free} of {total}",
        advice="Set gpu-memory-utilization to {fits} or less.",
    ),
    row(
        "gpu_memory_taken", "on startup is less than the engine's budget",
        r"Free memory on device (?P<device>\S{0,20}?)\s?\((?P<free>[\d.]{1,12})/(?P<total>[\d.]{1,12}) GiB\) on "
        r"startup is less than the engine's budget[\s\S]{0,80}?\((?P<utilization>[\d.]{1,8}), "
        r"(?P<wanted>[\d.]{1,12}) GiB\)",
        permanent=False, busy=True, derive=_room,
        summary="others hold GPU memory: {free} of {total} GiB are free, {wanted} are wanted",
        advice=_HOLDERS,
    ),
    row(
        "gpu_memory_taken", "Externally held weights",
        r"Externally held weights on device (?P<device>\S{0,20}?)\s?\((?P<held>[\d.]{1,12})/(?P<total>[\d.]{1,12}) "
        r"GiB\)",
        permanent=False, busy=True,
        summary="weights held by another process take {held} of {total} GiB",
        advice=("Raise gpu-memory-utilization, or let the process that holds them go.", _HOLDERS),
    ),
    row(
        "gpu_memory_changed", "Error in memory profiling",
        r"Error in memory profiling\.(?: Initial free memory (?P<before>[\d.]{1,16})[^\d]{0,40}(?P<after>[\d.]"
        r"{1,16})?)?",
        permanent=False, busy=True,
        summary="GPU memory was let go by another process while vLLM measured it",
        advice=(
            "Start one engine per GPU at a time, after its free memory has stopped changing.",
            "It was {before} at first.",
        ),
    ),
    row(
        "gpu_memory_taken", " out of memory. Tried to allocate", _OOM,
        permanent=False, busy=True, phase="start", when=_held_by_others, derive=_name_others,
        summary="others hold {others} of GPU {gpu} ({total}); {free} are free",
        advice=_HOLDERS,
    ),
    row(
        "weights_do_not_fit", " out of memory. Tried to allocate", _OOM,
        derive=_older, permanent=True, phase="start", frames=
        r"load_model|load_weights|create_weights|process_weights_after_loading|"
            r"initialize_model",
        summary=("{model} does not fit into GPU {gpu} ({total})", "the model does not fit into GPU {gpu} ({total})"),
        advice=(
            "Split it over more GPUs (tensor-parallel-size), take a quantised or smaller model, or cpu-offload-gb; "
            "{wanted} more were wanted, {free} of {total} free.",
        ),
    ),
    row(
        "weights_do_not_fit", "not enough GPU memory", r"Failed to load model - not enough GPU memory",
        permanent=True, where="line", rank=Rank.COARSE,
        summary=("{model} does not fit into the GPU", "the model does not fit into the GPU"),
        advice="Split it over more GPUs (tensor-parallel-size), take a quantised or smaller model, or cpu-offload-gb.",
    ),
    row(
        "cuda_oom_starting", "CUDA out of memory occurred when warming up",
        r"CUDA out of memory occurred when warming up (?P<part>sampler|pooler) with (?P<requests>\d{1,6})",
        permanent=True,
        summary="no GPU memory is left to sample for {requests} requests at once",
        advice="Lower max-num-seqs (below {requests}) or gpu-memory-utilization.",
    ),
    row(
        "cuda_oom_starting", " out of memory. Tried to allocate", _OOM,
        derive=_older, permanent=True, phase="start", rank=Rank.COARSE,
        summary="GPU {gpu} ({total}) has no room for what comes after the weights: {wanted} more, {free} free",
        advice=(
            "Lower gpu-memory-utilization, max-num-seqs or max-num-batched-tokens; enforce-eager: true saves the "
            "graphs' memory.",
            "gpu-memory-utilization is {gpu_memory_utilization} now.",
        ),
    ),
    row(
        "cuda_oom_serving", " out of memory. Tried to allocate", _OOM,
        derive=_older, permanent=False, phase="run",
        summary="GPU {gpu} ({total}) ran out of memory while serving: {wanted} more, {free} free",
        advice="If it happens again: lower gpu-memory-utilization, max-num-batched-tokens or the images per prompt.",
    ),
    row(
        "cuda_oom_serving", "STATUS_ALLOC_FAILED", permanent=False, phase="run",
        summary="the GPU ran out of memory while serving",
        advice="If it happens again: lower gpu-memory-utilization, max-num-batched-tokens or the images per prompt.",
    ),
    row(
        "cuda_oom_starting", "STATUS_ALLOC_FAILED", permanent=True, phase="start",
        summary="the GPU has no room for what comes after the weights",
        advice="Lower gpu-memory-utilization, max-num-seqs or max-num-batched-tokens.",
    ),
    row(
        "cuda_oom_serving", "CUDA error: out of memory", permanent=False, phase="run",
        summary="the GPU ran out of memory while serving",
        advice="If it happens again: lower gpu-memory-utilization, max-num-batched-tokens or the images per prompt.",
    ),
    row(
        "gpu_memory_taken", "CUDA error: out of memory", permanent=False, busy=True, phase="start", rank=Rank.COARSE,
        summary="the GPU's memory is taken: not even a context could be made",
        advice=_HOLDERS,
    ),
    row(
        "no_memory_for_kv_cache", "No available memory for the cache blocks", permanent=True,
        summary="weights and activations leave nothing for the KV cache",
        advice=(
            "Raise gpu-memory-utilization, lower max-model-len or max-num-seqs, or set enforce-eager: true; else "
            "more GPUs or a quantised model.",
            "gpu-memory-utilization is {gpu_memory_utilization} now.",
        ),
    ),
    row(
        "no_memory_for_kv_cache", "Cannot auto-fit max_model_len", permanent=True,
        summary="there is no memory for the KV cache of a single token",
        advice="Raise gpu-memory-utilization, or take more GPUs or a quantised model.",
    ),
    row(
        "no_memory_for_kv_cache", "exceeds available Mamba cache blocks",
        r"max_num_seqs \((?P<wanted>\d{1,9})\) exceeds available Mamba cache blocks \((?P<fits>\d{1,9})\)",
        permanent=True,
        summary="there is room for the state of {fits} sequences, and {wanted} are wanted",
        advice="Set max-num-seqs to {fits} or less, or raise gpu-memory-utilization.",
    ),
    row(
        "kv_cache_too_small", "larger than the available KV cache",
        r"max seq len \((?P<wanted>\d{1,12})\), \((?P<needed>[\d.]{1,12}) GiB KV cache is needed, which is larger "
        r"than the available KV cache memory \((?P<available>[\d.]{1,12}) GiB\)(?:[\s\S]{0,120}?estimated maximum "
        r"model length is (?P<fits>\d{1,12}))?",
        permanent=True,
        summary="the KV cache cannot hold one request of {wanted} tokens: {needed} GiB needed, {available} there",
        advice=(
            "Set max-model-len to {fits} or less.",
            "Or make room: raise gpu-memory-utilization, or kv-cache-dtype: fp8, for {needed} GiB instead of "
            "{available}.",
        ),
    ),
    row(
        "kv_cache_too_small", "larger than the maximum number of tokens",
        r"max seq len \((?P<wanted>\d{1,12})\) is larger than the maximum number of tokens that can be stored in KV "
        r"cache \((?P<fits>\d{1,12})\)",
        permanent=True,
        summary="the KV cache holds {fits} tokens, a request may have {wanted}",
        advice="Set max-model-len to {fits} or less, or raise gpu-memory-utilization.",
    ),
    row(
        "host_memory_short", "Too large swap space",
        r"Too large swap space\. (?P<wanted>[\d.]{1,12}) GiB out of the (?P<total>[\d.]{1,12}) GiB total CPU memory",
        permanent=True,
        summary="swap-space asks for {wanted} GiB of the machine's {total}",
        advice="Lower swap-space (or cpu-offload-gb) to well below {total}.",
    ),
    row(
        "host_memory_short", "on startup is less than desired CPU memory utilization",
        r"Available memory on node (?P<node>\d{1,4}) \((?P<free>[\d.]{1,12})/(?P<total>[\d.]{1,12}) GiB\) on startup "
        r"is less than desired CPU memory utilization \((?P<utilization>[\d.]{1,8}), (?P<wanted>[\d.]{1,12}) GiB\)",
        permanent=False, derive=_room,
        summary="{free} of {total} GiB of memory are free, {wanted} are wanted",
        advice=(
            "Set VLLM_CPU_KVCACHE_SPACE, or gpu-memory-utilization to {fits} (it is {utilization}, and rules the "
            "CPU's, too)."
        ),
    ),
    row(
        "host_memory_short", "on kv cache allocation is less than requested",
        r"Available memory on node (?P<node>\d{1,4}) \((?P<free>[\d.]{1,12})/(?P<total>[\d.]{1,12}) GiB\) on kv "
        r"cache allocation is less than requested memory for kv \((?P<wanted>[\d.]{1,12}) GiB\)",
        permanent=False,
        summary="the KV cache wants {wanted} GiB, {free} of {total} GiB are free",
        advice="Lower VLLM_CPU_KVCACHE_SPACE (or kv-cache-memory-bytes) to less than {free} GiB.",
    ),
)  # fmt: skip
