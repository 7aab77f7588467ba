"""Providers on loopback: servers that speak Anthropic's, Google's and OpenAI's wire, and keep what reached them.

Each answers with a few tokens, in one piece or as the stream of its own kind; nothing here is collected.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

WORDS = ("Hello", " from", " there")
VECTOR = [0.25, -0.5, 0.125]


@dataclass(frozen=True)
class Asked:
    """One request: header names are in lower case, the query's values are texts."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """What is sent back: ``body`` as JSON, or ``events`` as server-sent events, each (name or empty, content)."""

    body: Any = None
    events: list[tuple[str, Any]] = field(default_factory=list)
    status: int = 200


class Wire:
    """One provider's server, for as long as the context lasts."""

    root: ClassVar[str] = ""  # what follows the host in the address that a client of it is given

    def __enter__(self) -> Self:
        wire = self
        self.asked: list[Asked] = []
        self.failing = 0  # how many of the next requests get a 500

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Quiet."""

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(parts.path, query, headers, body)
                wire.asked.append(asked)
                answer = wire.answer(asked)
                if wire.failing:
                    wire.failing -= 1
                    answer = Answer({"error": {"message": "told to fail", "type": "server_error"}}, status=500)
                lines = (
                    (f"event: {name}\n" if name else "")
                    + f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n"
                    for name, event in answer.events
                )
                data = ("".join(lines) or json.dumps(answer.body)).encode()
                self.send_response(answer.status)
                self.send_header("Content-Type", "text/event-stream" if answer.events else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def base(self) -> str:
        """The address for a client of this provider."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{self.root}"

    def answer(self, asked: Asked) -> Answer:
        """What that request gets."""
        raise NotImplementedError


class Anthropic(Wire):
    """``/v1/messages``."""

    def answer(self, asked: Asked) -> Answer:
        if asked.path != "/v1/messages":
            return Answer({"type": "error", "error": {"type": "not_found_error", "message": asked.path}}, status=404)
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked.body["model"]}
        begun = {**message, "content": [], "stop_reason": None, "usage": {"input_tokens": 7, "output_tokens": 1}}
        if not asked.body.get("stream"):
            text = [{"type": "text", "text": "".join(WORDS)}]
            return Answer({**begun, "content": text, "stop_reason": "end_turn", "usage": usage("input", "output")})
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
                for word in WORDS
            ),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": len(WORDS)}},
            {"type": "message_stop"},
        ]
        return Answer(events=[(event["type"], event) for event in events])


class OpenAI(Wire):
    """``/v1/chat/completions``, ``/v1/responses`` and ``/v1/embeddings``."""

    root = "/v1"

    def answer(self, asked: Asked) -> Answer:
        match asked.path:
            case "/v1/chat/completions":
                return self._chat(asked.body)
            case "/v1/responses":
                return self._response(asked.body)
            case "/v1/embeddings":
                given = asked.body["input"]
                texts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
                rows = [{"object": "embedding", "index": index, "embedding": VECTOR} for index, _ in enumerate(texts)]
                used = {"prompt_tokens": 7, "total_tokens": 7}
                return Answer({"object": "list", "data": rows, "model": asked.body["model"], "usage": used})
        return Answer({"error": {"message": f"no such path: {asked.path}", "type": "invalid_request"}}, status=404)

    def _chat(self, body: Any) -> Answer:
        used = {**usage("prompt", "completion"), "total_tokens": 7 + len(WORDS)}
        head = {"id": "chatcmpl-1", "created": 1700000000, "model": body["model"]}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return Answer({**head, "object": "chat.completion", "choices": [choice], "usage": used})
        deltas: list[tuple[dict[str, str], str | None]] = [
            ({"role": "assistant", "content": word}, None) for word in WORDS
        ] + [({}, "stop")]
        chunks: list[Any] = [
            {**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
            for delta, end in deltas
        ]
        chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": used})
        return Answer(events=[("", chunk) for chunk in [*chunks, "[DONE]"]])

    def _response(self, body: Any) -> Answer:
        used = {**usage("input", "output"), "total_tokens": 7 + len(WORDS)}
        part = {"type": "output_text", "text": "".join(WORDS), "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
        head = {
            "id": "resp_1", "object": "response", "created_at": 1700000000, "model": body["model"], "error": None,
            "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True,
            "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        }  # fmt: skip
        done = {**head, "status": "completed", "output": [item], "usage": used}
        if not body.get("stream"):
            return Answer(done)
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        empty = {**item, "status": "in_progress", "content": []}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": {**head, "status": "in_progress", "output": [], "usage": None}},
            {"type": "response.output_item.added", "output_index": 0, "item": empty},
            {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
            *({"type": "response.output_text.delta", **place, "delta": word} for word in WORDS),
            {"type": "response.output_text.done", **place, "text": "".join(WORDS)},
            {"type": "response.content_part.done", **place, "part": part},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": done},
        ]
        numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
        return Answer(events=[(event["type"], event) for event in numbered])


class Gemini(Wire):
    """``/v1beta/models/NAME:generateContent`` and ``:streamGenerateContent``."""

    root = "/v1beta"

    def answer(self, asked: Asked) -> Answer:
        version, _, method = asked.path.partition("/models/")
        name, _, verb = method.partition(":")
        if version != "/v1beta" or verb not in ("generateContent", "streamGenerateContent"):
            return Answer({"error": {"code": 404, "message": asked.path, "status": "NOT_FOUND"}}, status=404)

        def piece(text: str, end: str | None) -> dict[str, Any]:
            candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
            counts = {"promptTokenCount": 7, "candidatesTokenCount": len(WORDS), "totalTokenCount": 7 + len(WORDS)}
            ended = {"finishReason": end} if end else {}
            return {"candidates": [{**candidate, **ended}], "usageMetadata": counts, "modelVersion": name}

        if verb == "generateContent":
            return Answer(piece("".join(WORDS), "STOP"))
        return Answer(events=[("", piece(word, "STOP" if word == WORDS[-1] else None)) for word in WORDS])


def usage(before: str, after: str) -> dict[str, int]:
    """Tokens, under a provider's own names."""
    return {f"{before}_tokens": 7, f"{after}_tokens": len(WORDS)}
