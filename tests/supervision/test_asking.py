"""Answers that no judge can read, and lines that no reader can: they are the program's, and no defect of ours."""

from __future__ import annotations

import asyncio
import re

import pytest

from llm_supervisor.core.health import Answer, Counters, ProbeResult
from llm_supervisor.core.probe import Canary, HttpProbe, MetricsProbe, ProbePlan
from llm_supervisor.diagnosis import diagnose
from llm_supervisor.engines.vllm import probes
from llm_supervisor.supervision.local.asking import ProbeClient
from tests.support.programs import free_port

DIGITS = "9" * 5000  # more than int() takes


def unreadable(status: int, body: bytes) -> ProbeResult:
    raise KeyError("choices")


def no_counters(body: bytes) -> Counters:
    raise OverflowError("cannot convert float infinity to integer")


def test_an_answer_that_no_judge_can_read_is_invalid() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    async def scene() -> None:
        port = free_port()
        plan = ProbePlan(("127.0.0.1", port), (HttpProbe("liveness", "/health", unreadable),))
        client = ProbeClient({}, lambda living: [])
        async with await asyncio.start_server(answer, "127.0.0.1", port):
            seen = await client.ask("p", plan, plan.probes[0], 10.0)
            assert seen.answer is Answer.INVALID
            assert seen.detail == "/health answers 200 with something that cannot be read (KeyError)"
            seen = await client.send("p", plan, Canary("/v1/chat/completions", lambda nonce: {}, unreadable), 10.0)
            assert (seen.answer, "/v1/chat/completions" in seen.detail) == (Answer.INVALID, True)
            seen, counters = await client.read("p", plan, MetricsProbe("/metrics", no_counters), 10.0)
            assert (seen.answer, counters) == (Answer.INVALID, None)
        await client.close()

    asyncio.run(scene())


LINES = (
    "Loading safetensors checkpoint shards:  20% Completed | {digits}/5",
    "Loading safetensors checkpoint shards:  20% Completed | 1/{digits}",
    "Capturing CUDA graphs (decode): 10%|###   | {digits}/{digits}",
    "ValueError: Total number of attention heads ({digits}) must be divisible by tensor parallel size (3).",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {digits} GiB. GPU 0 has a total capacity of "
    "{digits} GiB of which {digits} MiB is free.",
    "ValueError: Free memory on device ({digits}/{digits} GiB) on startup is less than desired GPU memory utilization "
    "(0.9, {digits} GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
    "ValueError: User-specified max_model_len ({digits}) is greater than the derived max_model_len "
    "(max_position_embeddings={digits} or model_max_length=None in model's config.json).",
    "NVRM: Xid (PCI:0000:{digits}): {digits}, pid={digits}, name=python",
    "Not enough free disk space to download the file. The expected file size is: {digits} MB.",
)


@pytest.mark.parametrize("line", LINES)
def test_a_number_without_end_ends_nothing(line: str) -> None:
    text = re.sub(r"\{digits\}", DIGITS, line)
    probes.step(text.encode())
    for component in ("vllm", "litellm", "command"):
        found = diagnose(text.encode(), component, exit_code=1)
        assert found.kind
