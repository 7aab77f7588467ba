"""The tour behind ``verify``: every group of the gateway, asked in every way that it should answer, as its clients ask.

``plan`` is pure: which questions, from the configuration. ``run`` asks them, one after the other: what is measured is
each request by itself.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from llm_supervisor.config import Config, groups_of, schema
from llm_supervisor.config.media import fetches_from_here
from llm_supervisor.engines import canary
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.vllm import options as engine_options

TOKENS = 16
# What vLLM says when a model takes one image a request, or a processor does that finds a second one
_ONE_IMAGE = re.compile(
    r"(?i)at most (?:1|one) (?:image|picture)|only (?:one|1|a single) image|(?:one|single) image (?:per|a|is)|"
    r"(?:multiple|several|more than one) images? (?:is|are|not)|supports? only (?:one|a single)"
)
# Where a place for a picture stands in a question until it is known
BY_URL, BY_FILE = "{by-url}", "{by-file}"


@dataclass(frozen=True, slots=True)
class Question:
    """One step of the tour. ``refused``: the right answer is a 400 that says why. ``limited``: a model that takes one
    image by its nature may refuse it."""

    group: str
    name: str
    path: str
    body: Mapping[str, Any] | None = None
    stream: bool = False
    refused: bool = False
    limited: bool = False
    media: str = ""  # a folder for a picture, where the question has one by file
    expected: Any = None  # of the lists: what they must show


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is the right one, why in words, and how many tokens it has, where that is said."""

    ok: bool
    detail: str
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one. ``took`` is in seconds, ``first`` until the first token of a stream."""

    group: str
    name: str
    ok: bool
    detail: str
    took: float
    tokens: int | None = None
    first: float | None = None

    def line(self, width: int) -> str:
        """The result as a line for people; the groups' names are padded to `width` characters."""
        tokens = "" if self.tokens is None else f"{self.tokens} tokens"
        verdict = "ok" if self.ok else "FAILED"
        words = f"{self.group:<{width}}  {self.name:<16} {self.took:7.2f} s {tokens:>12}  {verdict:<6}  {self.detail}"
        return words.rstrip()

    def message(self) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
        return {
            "group": self.group,
            "check": self.name,
            "ok": self.ok,
            "detail": self.detail,
            "took_s": round(self.took, 3),
            "tokens": self.tokens,
            "first_token_s": None if self.first is None else round(self.first, 3),
        }


# What costs nothing, where no group is to be asked: whether anybody answers there
ANSWERS = Question("gateway", "answers", "/v1/models")

# Which questions --------------------------------------------------------------------------------------------------


def plan(config: Config, groups: Sequence[Mapping[str, Any]]) -> list[Question]:
    """For these groups of ``status``."""
    engines = {group.name: group.engines for group in groups_of(config)}
    return [one for group in groups for one in _questions(config, group, engines.get(str(group["name"]), ()))]


def _questions(config: Config, group: Mapping[str, Any], engines: Sequence[str]) -> Iterator[Question]:
    name, vision = str(group["name"]), bool(group["vision"])
    model = config.root.models[engines[0]] if engines else None
    yield Question(name, "listed", "/v1/models", expected=name)
    if group["vision"] is not None:
        yield Question(name, "supports_vision", "/model_group/info", expected=(name, vision))
    if _pools(model) if model is not None else _embeds(config, name):
        yield Question(name, "embeddings", "/v1/embeddings", {"model": name, "input": "hello"})
        return
    if model is None or model.chat:
        text = canary.chat(name, "Say hello.", vision=False, max_tokens=TOKENS)
        yield Question(name, "chat", "/v1/chat/completions", text)
        if engines and name not in config.root.models:  # another name: the engines' own groups are asked the rest
            if vision:
                yield from _pictures(config, name, None)
            return
        streamed = {**text, "stream": True, "stream_options": {"include_usage": True}}
        yield Question(name, "stream", "/v1/chat/completions", streamed, stream=True)
    if model is not None:
        yield Question(name, "completions", "/v1/completions", {"model": name, "prompt": "Hello", "max_tokens": TOKENS})
    if vision and (model is None or model.chat):
        yield from _pictures(config, name, model)


def _pools(model: schema.Model) -> bool:
    return engine_options.pools(engine_options.by_name(model.vllm))


def _embeds(config: Config, name: str) -> bool:
    """Whether a group of the native file is for embeddings, as it says itself: no other question tells that."""
    of = proxy_config.aliases(config.native).get(name, name)
    entries = config.native.get("model_list") or []
    infos = [entry.get("model_info") or {} for entry in entries if entry["model_name"] == of]
    return any(info.get("mode") == "embedding" for info in infos)


def _pictures(config: Config, name: str, model: schema.Model | None) -> Iterator[Question]:
    data = canary.image_url()

    def with_parts(*parts: Mapping[str, Any]) -> dict[str, Any]:
        content = [{"type": "text", "text": "What is this?"}, *parts]
        return {"model": name, "max_tokens": TOKENS, "messages": [{"role": "user", "content": content}]}

    def image(url: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url}}

    chat = "/v1/chat/completions"
    yield Question(name, "image (base64)", chat, with_parts(image(data)))
    if model is None:
        return  # a cloud cannot fetch what this machine serves
    # it is served on a loopback address, which is refused unless the configuration allows it
    inside = not fetches_from_here(config, model)
    yield Question(name, "image (URL)", chat, with_parts(image(BY_URL)), refused=inside)
    options = engine_options.by_name(model.vllm)
    if folder := options.get("allowed-local-media-path"):
        yield Question(name, "image (file)", chat, with_parts(image(BY_FILE)), media=str(folder))
    given = engine_options.limits(options.get("limit-mm-per-prompt"))
    limits = {name: _count(limit) for name, limit in given.items()} if isinstance(given, dict) else {}
    two = with_parts(image(data), image(data))
    if limits.get("image", 1) == 1 and "image" in limits:
        yield Question(name, "two images", chat, two, refused=True)
    else:
        yield Question(name, "two images", chat, two, limited="image" not in limits)
    if limits.get("video"):
        frame = base64.b64encode(canary.png()).decode()
        video = {"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + ",".join([frame] * 4)}}
        yield Question(name, "video", chat, with_parts(video))


def _count(limit: object) -> object:
    """A limit as a number: it may be written with what it is measured with."""
    return limit.get("count") if isinstance(limit, dict) else limit


# Asking -----------------------------------------------------------------------------------------------------------


async def run(
    endpoint: str, key: str, questions: Sequence[Question], timeout: float, show: Callable[[Row], None]
) -> list[Row]:
    """Ask them in their order; ``show`` is called for each as it is answered. ``timeout`` in seconds."""
    rows = []
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        _served(canary.png()) as url,
        httpx.AsyncClient(base_url=endpoint, headers=headers, timeout=timeout, trust_env=False) as http,
    ):
        for question in questions:
            row = await _ask(http, question, url)
            rows.append(row)
            show(row)
    return rows


async def _ask(http: httpx.AsyncClient, question: Question, url: str) -> Row:
    began = time.monotonic()
    try:
        with _file_for(question) as file:
            first: float | None = None
            if question.stream:
                verdict, first = await _streamed(http, question)
            else:
                body = (
                    None
                    if question.body is None
                    else json.loads(json.dumps(question.body).replace(BY_URL, url).replace(BY_FILE, file))
                )
                answer = await (http.get(question.path) if body is None else http.post(question.path, json=body))
                verdict = judge(question, answer.status_code, answer.content)
    except httpx.TimeoutException:
        verdict, first = Verdict(False, "no answer in time"), None
    except (httpx.HTTPError, OSError) as error:
        verdict, first = Verdict(False, str(error) or type(error).__name__), None
    took = time.monotonic() - began
    return Row(question.group, question.name, verdict.ok, verdict.detail, took, verdict.tokens, first)


def judge(question: Question, status: int, body: bytes) -> Verdict:
    """What that answer means. Pure."""
    if question.refused:
        said = _error(body)
        ok = 400 <= status < 500 and bool(said)
        return Verdict(ok, f"{'refused, as it should be' if ok else 'should be refused'} ({status}: {said})"[:160])
    if status != 200:
        said = _error(body)
        if question.limited and 400 <= status < 500 and _ONE_IMAGE.search(said):
            return Verdict(True, f"one image a request: the model takes no more ({status}: {said})"[:240])
        return Verdict(False, f"{status}: {said}"[:240])
    try:
        return _answered(question, body)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return Verdict(False, f"not an answer: {body[:80]!r}")


def _answered(question: Question, body: bytes) -> Verdict:
    """What an answer with status 200 means. Raises ValueError, KeyError, TypeError, IndexError or AttributeError for a
    body that is none."""
    data = json.loads(body)
    if question.path == "/v1/models":
        there = [one["id"] for one in data["data"]]
        listed = question.expected is None or question.expected in there
        return Verdict(listed, "" if listed else f"listed are {there}")
    if question.path == "/model_group/info":
        name, vision = question.expected
        shown = {one["model_group"]: bool(one.get("supports_vision")) for one in data["data"]}
        return Verdict(shown.get(name) is vision, f"{str(shown.get(name)).lower()}")
    if question.path == "/v1/embeddings":
        size = len(data["data"][0]["embedding"])
        return Verdict(size > 0, f"{size} dimensions", (data.get("usage") or {}).get("prompt_tokens"))
    tokens = int((data.get("usage") or {}).get("completion_tokens") or 0)
    choice = data["choices"][0]
    text = choice.get("text") if "text" in choice else _said(choice.get("message") or {})
    return Verdict(tokens > 0, json.dumps(str(text or ""), ensure_ascii=False)[:60], tokens)


def _said(message: Mapping[str, Any]) -> str:
    return str(message.get("content") or message.get("reasoning_content") or "")


def _error(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error).replace("\n", " ")
    except (ValueError, KeyError, TypeError):
        return body[:160].decode(errors="replace")


async def _streamed(http: httpx.AsyncClient, question: Question) -> tuple[Verdict, float | None]:
    """What the stream means, and the seconds until its first token."""
    began, first, tokens, text, ended = time.monotonic(), None, None, "", False
    async with http.stream("POST", question.path, json=question.body) as answer:
        if answer.status_code != 200:
            body = await answer.aread()
            return Verdict(False, f"{answer.status_code}: {_error(body)}"[:240]), None
        async for line in answer.aiter_lines():
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                ended = True
                break
            chunk = json.loads(data)
            if "error" in chunk:
                return Verdict(False, f"in the stream: {_error(data.encode())}"[:240]), first
            for choice in chunk.get("choices") or ():
                said = _said(choice.get("delta") or {})
                if said and first is None:
                    first = time.monotonic() - began
                text += said
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    detail = json.dumps(text, ensure_ascii=False)[:60] if ended else "it ended without [DONE]"
    return Verdict(ended and bool(tokens or text), detail, tokens), first


@contextmanager
def _file_for(question: Question) -> Iterator[str]:
    """A picture in the folder that vLLM may read, as a URL."""
    if not question.media:
        yield ""
        return
    handle, name = tempfile.mkstemp(prefix="llm-supervisor-verify-", suffix=".png", dir=question.media)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(canary.png())
        Path(name).chmod(0o644)
        yield f"file://{name}"
    finally:
        Path(name).unlink(missing_ok=True)


class _served:
    """A picture on a loopback address, for as long as the context lasts."""

    def __init__(self, picture: bytes) -> None:
        self._picture = picture
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/picture.png"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(self._picture)}\r\n"
            writer.write(head.encode() + b"Connection: close\r\n\r\n" + self._picture)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
