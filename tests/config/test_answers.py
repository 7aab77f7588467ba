"""What the engines say, right, wrong or not at all: judged without ever raising."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from functools import partial

import pytest

from llm_supervisor.core.health import Answer, ProbeResult, Rank
from llm_supervisor.core.probe import Step
from llm_supervisor.engines.litellm import probes as litellm_probes
from llm_supervisor.engines.vllm import probes as vllm_probes

Judge = Callable[[int, bytes], ProbeResult]
JUDGES: dict[str, Judge] = {
    "health": vllm_probes.judge_health,
    "models": partial(vllm_probes.judge_models, served_names=["glm"]),
    "liveliness": litellm_probes.judge_liveliness,
    "groups": partial(litellm_probes.judge_groups, expected={"glm": True, "claude": None}),
}


def models(*names: object) -> bytes:
    return json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]}).encode()


def groups(**vision: object) -> bytes:
    return json.dumps(
        {"data": [{"model_group": name.replace("ALL", "*"), "supports_vision": seen} for name, seen in vision.items()]}
    ).encode()


ROWS: list[tuple[str, int, bytes, Answer, str]] = [
    ("health", 200, b"", Answer.OK, "200"),
    ("health", 503, b"", Answer.DEAD, "the engine is dead (503)"),
    ("health", 500, b"", Answer.INVALID, "500"),
    ("health", 404, b"", Answer.INVALID, "404"),
    ("models", 200, models("glm"), Answer.OK, "lists glm"),
    ("models", 200, models("other", "glm"), Answer.OK, "lists glm"),
    ("models", 200, models("other", "more"), Answer.WRONG, "lists other, more, not glm"),
    ("models", 200, models(), Answer.WRONG, "lists nothing, not glm"),
    ("models", 200, models(1, None), Answer.WRONG, "lists 1, None, not glm"),
    ("models", 401, b'{"error":"Unauthorized"}', Answer.WRONG, "does not take the key"),
    ("models", 403, b"", Answer.WRONG, "does not take the key"),
    ("models", 500, models("glm"), Answer.INVALID, "500"),
    ("models", 404, b"", Answer.INVALID, "404"),
    ("liveliness", 200, b'"I\'m alive!"', Answer.OK, "200"),
    ("liveliness", 503, b"", Answer.INVALID, "503"),
    ("groups", 200, groups(glm=True, claude=True), Answer.OK, "lists 2 groups"),
    ("groups", 200, groups(glm=True, claude=False), Answer.OK, "as LiteLLM thinks"),
    ("groups", 200, groups(glm=True, claude=None, ALL=True), Answer.OK, "a wildcard is no group of its own"),
    ("groups", 200, groups(claude=True), Answer.WRONG, "glm is missing"),
    ("groups", 200, groups(), Answer.WRONG, "glm is missing; claude is missing"),
    ("groups", 200, groups(glm=True, claude=True, gpt=True), Answer.OK, "there may be more: models of a wildcard"),
    ("groups", 200, groups(gpt=True), Answer.WRONG, "glm is missing; claude is missing"),
    ("groups", 200, groups(glm=False, claude=True), Answer.WRONG, "glm shows supports_vision false, not true"),
    ("groups", 200, groups(glm=None, claude=True), Answer.WRONG, "glm shows supports_vision false, not true"),
    ("groups", 400, b"", Answer.WRONG, "does not take the master key"),
    ("groups", 401, b"", Answer.WRONG, "does not take the master key"),
    ("groups", 500, b"", Answer.INVALID, "500"),
]


@pytest.mark.parametrize(("name", "status", "body", "answer", "words"), ROWS)
def test_an_answer(name: str, status: int, body: bytes, answer: Answer, words: str) -> None:
    probe = JUDGES[name](status, body)
    assert probe.answer is answer
    assert words in probe.detail or answer is Answer.OK


GARBAGE = [
    *(
        b"",
        b"null",
        b"true",
        b"42",
        b'"text"',
        b"[]",
        b"[1]",
        b"{}",
        b'{"data": null}',
        b'{"data": 5}',
        b'{"data": {}}',
    ),
    *(b'{"data": [null]}', b'{"data": ["glm"]}', b'{"data": [[]]}', b'{"data": [{}]}', b'{"data": [{"id": []}]}'),
    *(b'{"data": [{"model_group": null}]}', b'{"data": [{"model_group": []}]}', b'{"data": [{"model_group": 5}]}'),
    *(b'{"data": [{"model_group": {}}]}', b'{"data": {"a": {"id": "glm"}}}', b"<html>", b"\xff\xfe", b"\0"),
    *(b"{" * 100_000, b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b'{"data": [' + b"9" * 10_000 + b"]}"),
    *(b"NaN", b"Infinity", b'{"data": NaN}', b"\xef\xbb\xbf{}", '{"data": []}'.encode("utf-16"), b'"\\ud800"'),
]


@pytest.mark.parametrize("name", ["models", "groups"])
@pytest.mark.parametrize("body", GARBAGE, ids=[str(body[:32]) for body in GARBAGE])
def test_garbage_with_a_good_status(name: str, body: bytes) -> None:
    """Invalid, or wrong where it is a list of sorts; never a right answer, and never an exception."""
    probe = JUDGES[name](200, body)
    assert probe.answer in (Answer.INVALID, Answer.WRONG)
    assert probe.detail


@pytest.mark.parametrize("name", JUDGES)
def test_any_status_with_any_body(name: str) -> None:
    dice = random.Random(3)
    for status in (0, 100, 200, 204, 301, 400, 401, 403, 404, 418, 429, 500, 502, 503, 599, 999):
        for _ in range(20):
            body = bytearray(models("glm") if dice.random() < 0.5 else groups(glm=True))
            for _ in range(dice.randint(0, 4)):
                body[dice.randrange(len(body))] = dice.randrange(256)
            assert isinstance(JUDGES[name](status, bytes(body)), ProbeResult)


# vLLM's counters --------------------------------------------------------------------------------------------


def test_vllms_counters() -> None:
    page = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="glm"} 2.0
vllm:num_requests_waiting{engine="0",model_name="glm"} 1.0
vllm:prompt_tokens_total{engine="0",model_name="glm"} 1.2345e+06
vllm:generation_tokens_total{engine="0",model_name="glm"} 100.0
vllm:iteration_tokens_total_count{engine="0",model_name="glm"} 7.0
vllm:generation_tokens_total{engine="1",model_name="glm"} 1.0
"""
    seen = vllm_probes.read_metrics(page)
    assert seen is not None
    assert (seen.work, seen.running, seen.waiting) == ((101.0, 1234500.0, 7.0), 2, 1)
    assert seen.ranks == {"0": Rank((100.0, 1234500.0, 7.0), 2, 1), "1": Rank((1.0, 0.0, 0.0))}
    alone = vllm_probes.read_metrics(page.replace(b'engine="1"', b'engine="0"'))
    assert alone is not None
    assert (alone.work, alone.ranks) == (seen.work, {}), "one engine is its own sum"


@pytest.mark.parametrize(
    "page",
    [
        b"", b"<html>", b"\xff" * 100, b"vllm:num_requests_running{} \n", b"vllm:num_requests_running ...\n",
        b"vllm:num_requests_running 1e999\n", b"vllm:num_requests_running 1.2.3\n", b"vllm:num_requests_running ++\n",
        b"vllm:num_requests_running NaN\n", b"vllm:num_requests_running{" + b"x" * 100_000,
    ],
)  # fmt: skip
def test_a_page_of_metrics_that_is_none(page: bytes) -> None:
    assert vllm_probes.read_metrics(page) is None


# vLLM's log -------------------------------------------------------------------------------------------------

# As vLLM 0.32 wrote them
CORE = b"(EngineCore pid=8785) INFO 11-20 08:51:19 "
WORKER = b"(Worker pid=8803) INFO 11-20 08:51:15 "
LOG: list[tuple[bytes, Step | None]] = [
    (
        CORE + b"[core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='x'",
        Step("starting the engine"),
    ),
    (WORKER + b"[cpu_model_runner.py:68] Starting to load model /models/tiny...", Step("loading weights")),
    (
        b"\rLoading safetensors checkpoint shards:   0% Completed | 0/1 [00:00<?, ?it/s]",
        Step("loading weights", 0, 1),
    ),
    (
        b"Loading safetensors checkpoint shards:  60% Completed | 3/5 [00:02<00:01, 1.2it/s]",
        Step("loading weights", 3, 5),
    ),
    (WORKER + b"[default_loader.py:501] Loading weights took 0.01 seconds", Step("weights loaded")),
    (b"Fetching 12 files:  50%|#####     | 6/12 [00:10<00:10,  1.67s/it]", Step("downloading")),
    (CORE + b"[kv_cache_utils.py:2327] CPU KV cache size: 4,194,304 tokens", Step("sizing the KV cache")),
    (WORKER + b"[gpu_worker.py:760] Available KV cache memory: 61.05 GiB", Step("sizing the KV cache")),
    (
        b"Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  42%|####      | 28/67 [00:02<00:03, 12.1it/s]",
        Step("capturing graphs", 28, 67),
    ),
    (
        CORE + b"[core.py:402] init engine (profile, create kv cache, warmup model) took 2.70 s",
        Step("engine initialised"),
    ),
    (b"INFO:     Started server process [8760]", Step("opening the API")),
    (b"INFO:     Waiting for application startup.", Step("opening the API")),
    (b'INFO:     127.0.0.1:38628 - "GET /health HTTP/1.1" 200 OK', None),
    (
        b"(APIServer pid=8760) INFO 11-20 08:51:41 [loggers.py:335] Engine 000: Avg prompt throughput: 3.4 tokens/s",
        None,
    ),
    (b"Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup.", None),
    (b"", None),
    (b"\xff\xfe\0", None),
]


@pytest.mark.parametrize(("line", "step"), LOG, ids=[str(row[1].doing if row[1] else row[0][:20]) for row in LOG])
def test_a_line_of_vllms_log(line: bytes, step: Step | None) -> None:
    assert vllm_probes.step(line) == step


def test_a_huge_line_is_read_quickly() -> None:
    """No pattern goes back and forth: a megabyte of anything takes a moment."""
    lines = (b"x" * 10**6, b"Capturing CUDA graphs" * 20_000, b"Fetching 1" * 10**5, b"init engine " * 20_000)
    began = time.process_time()
    for line in lines:
        assert vllm_probes.step(line) is None
    assert time.process_time() - began < 1.0


def judged(status: int, refusing: str) -> Answer:
    """The answer of the list of groups, and of a route, where a setting may turn the daemon away."""
    listed = litellm_probes.judge_groups(status, b"{}", {"glm": True}, refusing)
    routed = litellm_probes.judge_route(status, b"{}", lambda *_: ProbeResult(Answer.WRONG, "no"), refusing)
    assert (listed.answer is Answer.OK) is (routed.answer is Answer.OK)
    return listed.answer


def test_who_is_turned_away_by_a_setting_knows_nothing() -> None:
    assert judged(401, "custom_auth") is Answer.OK
    assert judged(403, "allowed_routes") is Answer.OK
    assert judged(500, "custom_auth") is Answer.OK, "a function that raises something"
    assert judged(502, "custom_auth") is not Answer.OK
    assert judged(401, "") is Answer.WRONG
