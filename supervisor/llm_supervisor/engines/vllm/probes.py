"""What vLLM's answers and log lines mean. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

from llm_supervisor.core.health import Answer, Counters, ProbeResult, Rank
from llm_supervisor.core.probe import Step


def judge_health(status: int, body: bytes) -> ProbeResult:
    """``/health``: 200, or 503 when the engine core is dead, which it will stay."""
    if status == 200:
        return ProbeResult(Answer.OK, "/health 200")
    if status == 503:
        return ProbeResult(Answer.DEAD, "/health says that the engine is dead (503)")
    return ProbeResult(Answer.INVALID, f"/health answers {status}")


def judge_models(status: int, body: bytes, served_names: Sequence[str]) -> ProbeResult:
    """``/v1/models``: must list the served names."""
    if status in (401, 403):
        return ProbeResult(Answer.WRONG, f"/v1/models answers {status}: it does not take the key that it was given")
    if status != 200:
        return ProbeResult(Answer.INVALID, f"/v1/models answers {status}")
    try:
        names = [str(entry["id"]) for entry in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ProbeResult(Answer.INVALID, "/v1/models answers something that is not a list of models")
    if missing := [name for name in served_names if name not in names]:
        return ProbeResult(Answer.WRONG, f"/v1/models lists {', '.join(names) or 'nothing'}, not {', '.join(missing)}")
    return ProbeResult(Answer.OK, f"/v1/models lists {', '.join(served_names)}")


_SERIES = re.compile(
    rb"^vllm:(generation_tokens_total|prompt_tokens_total|iteration_tokens_total_count"
    rb"|request_success_total|num_requests_running|num_requests_waiting)(?:\{([^}\n]*)\})? ([0-9.eE+]+)$",
    re.MULTILINE,
)
_RANK = re.compile(rb'(?:^|,)engine="(\d{1,6})"')
_WORK = (b"generation_tokens_total", b"prompt_tokens_total", b"iteration_tokens_total_count")


def read_metrics(page: bytes) -> Counters | None:
    """Six series of ``/metrics``, summed over engines, and by engine where there are several (data-parallel ranks: one
    that hangs does not show in the sums). None when the page shows none of them. A pattern over the bytes: a parser of
    the whole page (50 KB) would block the loop thirty times as long."""
    sums: dict[bytes, float] = {}
    by_rank: dict[str, dict[bytes, float]] = {}
    try:
        for name, labels, value in _SERIES.findall(page):
            number = float(value)
            sums[name] = sums.get(name, 0.0) + number
            if (rank := _RANK.search(labels)) is not None:
                of_rank = by_rank.setdefault(rank[1].decode(), {})
                of_rank[name] = of_rank.get(name, 0.0) + number
    except ValueError:
        return None
    if not sums or not all(map(math.isfinite, sums.values())):
        return None
    ranks = {name: Rank(*_counted(of_rank)) for name, of_rank in by_rank.items()} if len(by_rank) > 1 else {}
    return Counters(*_counted(sums), finished=sums.get(b"request_success_total"), ranks=ranks)


def _counted(sums: Mapping[bytes, float]) -> tuple[tuple[float, ...], int, int]:
    """The work, and the requests that run and that wait."""
    work = tuple(sums.get(name, 0.0) for name in _WORK)
    return work, int(sums.get(b"num_requests_running", 0)), int(sums.get(b"num_requests_waiting", 0))


_SHARDS = re.compile(rb"Loading safetensors checkpoint shards:\s+\d{1,3}% Completed \| (\d{1,9})/(\d{1,9})\b")
# bounded: a log may hold lines and numbers of megabytes, and this runs on the daemon's loop
_CAPTURE = re.compile(rb"Capturing CUDA graphs?[^|]{0,80}\|[^|]{0,80}\| (\d{1,9})/(\d{1,9})\b")
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
