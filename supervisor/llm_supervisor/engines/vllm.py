"""vLLM: options to argv and environment, its answers to meanings, its log lines to progress. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from llm_supervisor.core.health import Answer, Counters, Probe
from llm_supervisor.core.probe import Step

# Not `vllm serve`: the CPU distribution dies there looking for the metadata of a distribution named `vllm`. Both run
# the same server.
MODULE = "vllm.entrypoints.openai.api_server"
# vLLM's children call themselves VLLM::EngineCore, VLLM::Worker...; comm is cut to 15 characters. Without one of them
# no request is answered, while /v1/models says 200 for seconds (ENGINES: the API server notices after about 5 s).
VITAL = ("VLLM::",)
# What the configuration says elsewhere, or the daemon decides: these options are refused under `vllm:`.
RESERVED = {
    "model": "write it as `model:`",
    "served-model-name": "write it as `served_model_name:`",
    "port": "write it as `port:`",
    "host": "engines listen on loopback only; clients talk to the gateway",
    "uds": "write it as `uds:`",
    "config": "write what is in that file here: nobody would have looked at it",
}


# Its short words, which are read behind a single dash only, and so never here
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
# What ``task`` was until it became two other options
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
    """Whether it gives vectors and no text. Options by their normal names."""
    return options.get("runner") == "pooling" or options.get("task") in ("embed", "embedding")


_OLD_LIMITS = re.compile(r"\s*[a-z]+\s*=\s*\d+(?:\s*,\s*[a-z]+\s*=\s*\d+)*\s*")


def limits(value: object) -> object:
    """``limit-mm-per-prompt`` as a mapping, where it is written in the old form (``image=1,video=2``), which vLLM no
    longer reads; else as it is."""
    if not isinstance(value, str) or not _OLD_LIMITS.fullmatch(value):
        return value
    pairs = (part.partition("=") for part in value.split(","))
    return {name.strip(): int(count) for name, _, count in pairs}


# How a list is written for which option (``Option.lists``), where the installed vLLM's own parser is not known: as 0.32
# has them. For any other it is one word of JSON, of which nothing can become the model, as a second word would
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
    """An option and its value. What begins with a dash would be taken for an option, in a word of its own."""
    return [f"--{name}={word}"] if word.startswith("-") else [f"--{name}", word]


def argv(
    python: str,
    model: str,
    served_name: str,
    place: int | str,
    options: Mapping[str, object],
    grace: float,
    lists: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """The whole command line. ``place`` is its loopback port, or the path of its unix socket. ``grace`` (seconds) is
    how long the daemon waits after SIGTERM: vLLM aborts what is in flight at once unless it is told to wait (0.18 and
    later), so it is told to, a little shorter. ``lists``: see ``flags``; an older vLLM ends at an option that it does
    not have, so where its options are known and that one is not among them, it is not told."""
    names = {normal(name) for name in options}
    left_out = "shutdown-timeout" in names or (lists and "shutdown-timeout" not in lists)
    extra = [] if left_out else ["--shutdown-timeout", str(max(int(grace) - 5, 0))]
    return (
        python, "-m", MODULE,
        "--model", model,
        "--served-model-name", served_name,
        *(("--uds", place) if isinstance(place, str) else ("--host", "127.0.0.1", "--port", str(place))),
        *flags({name: value for name, value in options.items() if normal(name) != "api-key"}, lists),
        *extra,
    )  # fmt: skip


# Read after the start only, so that one fork server can serve engines that differ in them. Not CUDA_VISIBLE_DEVICES:
# modules of vLLM ask for the capability of the first visible GPU while they are imported, and the answer is kept
LATE = frozenset({"VLLM_API_KEY"})
# Beginnings of the variables that it or its libraries read: of an env file that also holds a cloud's keys, the rest is
# nothing to it
READS = tuple(
    """VLLM_ CUDA_ NVIDIA_ NCCL_ GLOO_ UCX_ HF_ HUGGING_FACE_ HUGGINGFACE_ TRANSFORMERS_ TOKENIZERS_ MODELSCOPE_ TORCH
    PYTORCH_ TRITON_ FLASHINFER_ OMP_ MKL_ KMP_ RAY_ LD_ PYTHON SSL_ REQUESTS_ TMP TEMP HOME XDG_ PATH LANG LC_
    HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy""".split()
)
FORK = (("VLLM_WORKER_MULTIPROC_METHOD", "fork"),)


def fork_server(python: str, model: str, *, whole: bool) -> tuple[str, ...]:
    """The command line of what imports vLLM once for all starts. ``whole``: EngineCore and Workers are forked too, not
    only the API server."""
    script = str(files("llm_supervisor.engines.inside") / "fork_server.py")
    return (python, script, "--engine", "vllm", "--model", model, *([] if whole else ["--spawn"]))


def environment(
    *, gpus: Sequence[int], api_key: str | None, cpu: bool, offline: bool, modelscope: bool = False
) -> dict[str, str]:
    """What vLLM needs in its environment. ``offline``: the model is a folder, so no hub is to be asked; ``modelscope``:
    that hub is."""
    env = {
        "VLLM_NO_USAGE_STATS": "1",
        # seconds; longer than the gateway keeps an idle connection (120): by default vLLM closes it after 5, perhaps
        # just when the gateway sends the next request on it
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600",
        "PYTHONUNBUFFERED": "1",
        # setproctitle otherwise overwrites the environment area of /proc, and our cookie with it
        "SPT_NOENV": "1",
    }
    if gpus:
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in gpus)
    if api_key:
        env["VLLM_API_KEY"] = api_key
    if cpu:
        env["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB; the default takes half of the machine
    if offline:
        env["HF_HUB_OFFLINE"] = "1"
    if modelscope:
        env["VLLM_USE_MODELSCOPE"] = "True"
    return env


# Its answers ------------------------------------------------------------------------------------------------


def judge_health(status: int, body: bytes) -> Probe:
    """``/health``: 200, or 503 when the engine core is dead, which it will stay."""
    if status == 200:
        return Probe(Answer.OK, "/health 200")
    if status == 503:
        return Probe(Answer.DEAD, "/health says that the engine is dead (503)")
    return Probe(Answer.INVALID, f"/health answers {status}")


def judge_models(status: int, body: bytes, served_name: str) -> Probe:
    """``/v1/models``: must list the served name."""
    if status in (401, 403):
        return Probe(Answer.WRONG, f"/v1/models answers {status}: it does not take the key that it was given")
    if status != 200:
        return Probe(Answer.INVALID, f"/v1/models answers {status}")
    try:
        names = [str(entry["id"]) for entry in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return Probe(Answer.INVALID, "/v1/models answers something that is no list of models")
    if served_name not in names:
        return Probe(Answer.WRONG, f"/v1/models lists {', '.join(names) or 'nothing'}, not {served_name}")
    return Probe(Answer.OK, f"/v1/models lists {served_name}")


_SERIES = re.compile(
    rb"^vllm:(generation_tokens_total|prompt_tokens_total|iteration_tokens_total_count"
    rb"|request_success_total|num_requests_running|num_requests_waiting)(?:\{[^}\n]*\})? ([0-9.eE+]+)$",
    re.MULTILINE,
)
_WORK = (b"generation_tokens_total", b"prompt_tokens_total", b"iteration_tokens_total_count")


def read_metrics(page: bytes) -> Counters | None:
    """Six series of ``/metrics``, summed over engines; None when the page shows none of them. A pattern over the
    bytes: a parser of the whole page (50 KB) would block the loop thirty times as long."""
    sums: dict[bytes, float] = {}
    try:
        for name, value in _SERIES.findall(page):
            sums[name] = sums.get(name, 0.0) + float(value)
    except ValueError:
        return None
    if not sums or not all(map(math.isfinite, sums.values())):
        return None
    return Counters(
        work=tuple(sums.get(name, 0.0) for name in _WORK),
        running=int(sums.get(b"num_requests_running", 0)),
        waiting=int(sums.get(b"num_requests_waiting", 0)),
        finished=sums.get(b"request_success_total"),
    )


# Its log ----------------------------------------------------------------------------------------------------


_SHARDS = re.compile(rb"Loading safetensors checkpoint shards:\s+\d+% Completed \| (\d+)/(\d+)")
# bounded: a log may hold lines of megabytes, and this runs on the daemon's loop
_CAPTURE = re.compile(rb"Capturing CUDA graphs?[^|]{0,80}\|[^|]{0,80}\| (\d+)/(\d+)")
_STEPS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"vLLM API server version|Initializing a V1 LLM engine"), "starting the engine"),
    (re.compile(rb"Starting to load model"), "loading weights"),
    (re.compile(rb"Loading (?:weights|model weights) took"), "weights loaded"),
    (re.compile(rb"Downloading|Fetching \d+ files"), "downloading"),
    (re.compile(rb"torch\.compile takes|Compiling a graph|Dynamo bytecode transform"), "compiling"),
    (re.compile(rb"[Pp]rofiling|Available KV cache memory|GPU KV cache size|CPU KV cache size"), "sizing the KV cache"),
    (re.compile(rb"init engine .{0,120}took"), "engine initialised"),
    (
        re.compile(rb"Starting vLLM API server|Started server process|Waiting for application startup"),
        "opening the API",
    ),
)


def step(line: bytes) -> Step | None:
    """What a line of vLLM's log says about its start; None when it says nothing of the sort."""
    if found := _SHARDS.search(line):
        return Step("loading weights", int(found[1]), int(found[2]))
    if found := _CAPTURE.search(line):
        return Step("capturing graphs", int(found[1]), int(found[2]))
    for pattern, doing in _STEPS:
        if pattern.search(line):
            return Step(doing)
    return None
