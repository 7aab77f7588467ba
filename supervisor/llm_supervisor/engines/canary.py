"""The canary: a real request of few tokens, with an image for a vision model, and what its answer means. Pure.

Its prompt begins with a nonce, so that no prefix cache answers for the engine; its ``user`` and its request id name it,
so that its log lines can be told from people's.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from llm_supervisor.core.health import Answer, ProbeResult

USER = "llm-supervisor-canary"
TOKENS = 4  # enough to prove that it generates


def png(width: int = 56, height: int = 56, blue: int = 96) -> bytes:
    """A small picture as a PNG: red to the right, green downwards, and ``blue`` (0 to 255) everywhere. 56 pixels are
    two patches of the coarsest of the vision models that are served (28).

    Its rows are stored as differences (PNG's filters Sub and Up), all alike: so it takes some 120 bytes, and the
    request that `run` prints can be read and pasted.
    """
    right, down = bytes((255 // width, 0, 0)), bytes((0, 255 // height, 0))
    rows = b"\1" + bytes((0, 0, blue)) + right * (width - 1) + (b"\2" + down * width) * (height - 1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@cache
def image_url(blue: int = 96) -> str:
    """The picture as a data URL."""
    return "data:image/png;base64," + base64.b64encode(png(blue=blue)).decode()


def chat(model: str, text: str, *, vision: bool, max_tokens: int) -> dict[str, object]:
    """The body of a chat completion, with the image where ``vision``."""
    content: object = text
    if vision:
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": image_url()}}]
    return {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": content}]}


def chat_canary(nonce: str, *, model: str, vision: bool) -> dict[str, object]:
    """The body of the chat canary."""
    text = f"{nonce}: what is this?" if vision else f"{nonce}: say hello."
    body = chat(model, text, vision=vision, max_tokens=TOKENS)
    return {**body, "temperature": 0, "user": USER}


def completion_canary(nonce: str, *, model: str) -> dict[str, object]:
    """A text completion, for a model without a chat template by configuration."""
    return {"model": model, "prompt": f"{nonce}: hello", "max_tokens": TOKENS, "temperature": 0, "user": USER}


def embedding_canary(nonce: str, *, model: str) -> dict[str, object]:
    """An embedding, for an embedding model."""
    return {"model": model, "input": f"{nonce}: hello", "user": USER}


def judge(status: int, body: bytes, *, expect: str | None = None) -> ProbeResult:
    """What an answer to a canary means. A refusal (4xx) is a valid answer with the wrong content: neither waiting nor a
    restart mends a missing chat template, a wrong name or a wrong key. Everything else but an answer with at least one
    token is a failure."""
    if status != 200:
        said = _error(body)
        if status in (401, 403):
            return ProbeResult(Answer.WRONG, f"does not take the key that it was given ({status}: {said})")
        if 400 <= status < 500 and status not in (408, 429):
            return ProbeResult(Answer.WRONG, f"is refused ({status}: {said})")
        return ProbeResult(Answer.INVALID, f"fails ({status}: {said})")
    try:
        answer: Mapping[str, Any] = json.loads(body)
    except ValueError:
        return ProbeResult(Answer.INVALID, "gets something that is no JSON")
    if not isinstance(answer, dict):
        return ProbeResult(Answer.INVALID, "gets something that is no answer")
    if "data" in answer:
        return _judge_embedding(answer)
    return _judge_text(answer, expect)


def _judge_embedding(answer: Mapping[str, Any]) -> ProbeResult:
    try:
        numbers = answer["data"][0]["embedding"]
        sound = len(numbers) > 0 and any(float(number) != 0 for number in numbers)
    except (KeyError, IndexError, TypeError, ValueError):
        return ProbeResult(Answer.INVALID, "gets no embedding")
    if not sound:
        return ProbeResult(Answer.INVALID, "gets an empty embedding")
    return ProbeResult(Answer.OK, f"gets {len(numbers)} numbers")


def _judge_text(answer: Mapping[str, Any], expect: str | None) -> ProbeResult:
    try:
        choice = answer["choices"][0]
        message = choice.get("message") or {}
        # a reasoning parser may have taken everything: then content is null
        parts = (message.get("content"), message.get("reasoning"), message.get("reasoning_content"), choice.get("text"))
        text = "".join(part for part in parts if isinstance(part, str))
        tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return ProbeResult(Answer.INVALID, "gets something that is no completion")
    if tokens < 1 and not text:
        return ProbeResult(Answer.INVALID, "gets an empty answer")
    if expect is not None and not re.search(expect, text):
        return ProbeResult(Answer.WRONG, f"gets {text[:60]!r}, which does not match {expect!r}")
    return ProbeResult(Answer.OK, f"gets {tokens or 'some'} tokens")


def _error(body: bytes) -> str:
    """The words of an error's body, in one short line."""
    try:
        said = json.loads(body)
        while isinstance(said, dict):
            said = said.get("error") or said.get("message") or said.get("detail") or ""
    except ValueError:
        said = body.decode(errors="replace")
    return " ".join(str(said).split())[:200] or "no reason given"
