"""What clients may have an engine fetch, and how much they may send: the application in front of LiteLLM's.

The real file, around an application that takes everything. With the real LiteLLM: ``tests.engines.test_media``.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import random
import struct
import threading
import time
import zlib
from collections.abc import Iterable
from typing import Any

import pytest

from llm_supervisor.engines import environment as envs

CHAT = "/v1/chat/completions"
JSON = b"application/json"
SETTINGS: dict[str, Any] = {"allow": [], "body": 1 << 20, "files": 3, "pixels": 1000, "elsewhere": ["cloud"]}
ADDRESSES = {
    "public.example": ["93.184.216.34", "2606:2800:220:1::1"],
    "inside.example": ["10.1.2.3"],
    "both.example": ["93.184.216.34", "127.0.0.1"],
    "images.lan": ["192.168.7.7"],
    "wide.lan": ["192.168.7.7", "10.1.2.3"],
}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file as a module, whose names are looked up in ADDRESSES; what is an address already, as always."""
    monkeypatch.delenv("http_proxy", raising=False)
    spec = importlib.util.spec_from_file_location("media_under_test", envs.INSIDE / "litellm_media.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    really = made.resolve

    def resolve(host: str) -> list[Any]:
        if host in ADDRESSES:
            return [made.ipaddress.ip_address(one) for one in ADDRESSES[host]]
        return list(really(host)) if host == "localhost" or not host[-1:].isalpha() or host[:2] == "0x" else []

    monkeypatch.setattr(made, "resolve", resolve)
    return made


class Server:
    """Takes a request, in pieces of ``step`` bytes, as a server of ASGI does; ``got`` is what the application got."""

    def __init__(self, module: Any, **settings: Any) -> None:
        self.got: list[bytes] = []
        self.media = module.Media(self._app, {**SETTINGS, **settings})

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.got.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    def post(self, body: Any, path: str = CHAT, *, step: int = 1 << 16, **scope: Any) -> tuple[int, dict[str, Any]]:
        """The status and the answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        pieces = [raw[at : at + step] for at in range(0, len(raw), step)] or [b""]
        sent: list[Any] = []

        async def receive() -> Any:
            if not pieces:
                await asyncio.sleep(60)  # a client that waits for the answer
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            sent.append(message)

        whole = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", **scope}

        async def bounded() -> None:
            async with asyncio.timeout(10):
                await self.media(whole, receive, send)

        asyncio.run(bounded())
        answer = json.loads(sent[1]["body"])
        assert (sent[0]["status"] == 200) == (self.got == [raw]), "what is passed on is what came"
        return sent[0]["status"], answer

    def said(self, body: Any, **more: Any) -> str:
        """Why it was refused; empty where it was not."""
        status, answer = self.post(body, **more)
        return "" if status == 200 else str(answer["error"]["message"])


def chat(*parts: Any, model: str = "glm", **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "what is http://127.0.0.1/ ?"}, *parts]
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


# Addresses ------------------------------------------------------------------------------------------------------------

PRIVATE = [
    "http://169.254.169.254/latest/meta-data/",
    "http://127.0.0.1:8000/v1/models",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://0.0.0.0/",
    "http://10.0.0.1/",
    "https://172.16.0.1/x.png",
    "http://192.168.0.1",
    "http://100.64.0.1/",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    "http://224.0.0.1/",
    "http://[::1]:8000/",
    "http://[::]/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[::127.0.0.1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://240.0.0.1/",
    "HTTP://LOCALHOST/",
    "http://localhost./",
    "http://user:word@localhost/x",
    "http://inside.example/",
    "http://INSIDE.example./",
    "http://both.example/",
    "http://unknown.example/",
]
STRANGE = [
    "http://public.example\\@127.0.0.1/",
    "http://public.example@x@127.0.0.1/",
    "http://%31%32%37.0.0.1/",
    "http://public.example\t.lan/",
    "http://①②⑦.0.0.1/",
    "http://faß.example/",
    "http://[fe80::1%25eth0]/",
    "http:///127.0.0.1/",
    "http:127.0.0.1",
    "http://",
    " http://127.0.0.1/",
    "\nhttp://127.0.0.1/",
    "httpx://127.0.0.1/",
    "http://public.example:port/",
]
FINE = [
    "https://public.example/a b.png?x=http://127.0.0.1/#y",
    "http://PUBLIC.example:8080",
    "http://93.184.216.34/x",
    "https://user:word@public.example/x",
    "http://127.0.0.1%2f@public.example/",
    "data:image/png;base64,AAAA",
    "file:///etc/passwd",  # vLLM's to refuse: it takes files of one folder, and only if it was told so
    "AAAA",
]


@pytest.mark.parametrize("url", [*PRIVATE, *STRANGE])
def test_an_address_inside_is_not_fetched(module: Any, url: str) -> None:
    said = Server(module).said(chat(image(url)))
    assert ("nothing is fetched from there" in said) if url in PRIVATE else ("no address that can be fetched" in said)
    assert "10.1.2.3" not in said, "what a name means inside is told nobody"


@pytest.mark.parametrize("url", FINE)
def test_an_address_outside_is(module: Any, url: str) -> None:
    assert Server(module).said(chat(image(url))) == ""


EVIL = "http://127.0.0.1/"
WAYS: dict[str, tuple[str, Any]] = {
    "an image": (CHAT, chat(image(EVIL))),
    "an image, shortly": (CHAT, chat({"type": "image_url", "image_url": EVIL})),
    "a video": (CHAT, chat({"type": "video_url", "video_url": {"url": EVIL}})),
    "a sound": (CHAT, chat({"type": "audio_url", "audio_url": {"url": EVIL}})),
    "a file": (CHAT, chat({"type": "file", "file": {"file_id": EVIL, "format": "video/mp4"}})),
    "a file's data": (CHAT, chat({"type": "file", "file": {"file_data": EVIL}})),
    "without a type": (CHAT, chat({"image_url": EVIL})),
    "the second": (CHAT, chat(image("https://public.example/"), image(EVIL))),
    "deep": (CHAT, {"model": "glm", "extra_body": {"messages": [{"content": [[{"x": image(EVIL)}]]}]}}),
    "a tool's answer": (CHAT, {"model": "glm", "messages": [{"role": "tool", "content": [image(EVIL)]}]}),
    "Responses": (
        "/v1/responses",
        {"model": "glm", "input": [{"content": [{"type": "input_image", "image_url": EVIL}]}]},
    ),
    "a file's name of Responses": (
        "/v1/responses",
        {"model": "glm", "input": [{"type": "input_file", "file_id": EVIL}]},
    ),
    "Google": (
        "/v1beta/models/glm:generateContent",
        {"contents": [{"parts": [{"fileData": {"mimeType": "image/png", "fileUri": EVIL}}]}]},
    ),
    "a file of Responses": ("/v1/responses", {"model": "glm", "input": [{"type": "input_file", "file_url": EVIL}]}),
    "Anthropic": (
        "/v1/messages",
        {"model": "glm", "messages": [{"content": [{"type": "image", "source": {"type": "url", "url": EVIL}}]}]},
    ),
    "a document": (
        "/v1/messages",
        {"model": "glm", "messages": [{"content": [{"type": "document", "source": {"type": "url", "url": EVIL}}]}]},
    ),
    "another path": ("/engines/glm/chat/completions", chat(image(EVIL), model="cloud")),
    "a model in the query": (CHAT, chat(image(EVIL), model="cloud")),
    "a fallback": (CHAT, chat(image(EVIL), model="cloud", fallbacks=["glm"])),
    "no model": (CHAT, {"messages": chat(image(EVIL))["messages"]}),
    "several models": (CHAT, chat(image(EVIL), model="cloud,glm")),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_name_one(module: Any, way: str) -> None:
    path, body = WAYS[way]
    query = b"model=glm" if "query" in way else b""
    status, answer = Server(module).post(body, path, query_string=query)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    if path == "/v1/messages":
        assert answer["type"] == "error"
    else:
        assert answer["error"]["code"] == "400"


def escaped(body: Any) -> bytes:
    """JSON in which a key is written in another way."""
    return json.dumps(body).replace('"image_url"', '"image\\u005furl"').encode()


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        (escaped(chat(image(EVIL))), []),
        (json.dumps(chat(image(EVIL))).replace("http:", "\\u0068ttp:").encode(), []),
        (json.dumps(chat(image(EVIL))).encode(), [(b"content-type", b"text/plain")]),
        (json.dumps(chat(image(EVIL))).encode(), [(b"content-type", JSON), (b"content-type", b"multipart/form-data")]),
        (json.dumps(chat(image(EVIL), note="\\ud83d")).replace("\\\\ud83d", "\\ud83d").encode(), []),
    ],
)  # fmt: skip
def test_other_ways_to_write_it(module: Any, raw: bytes, headers: Any) -> None:
    assert "nothing is fetched from there" in Server(module).said(raw, headers=headers, step=7)


NOT_FETCHED = [
    chat(model="cloud") | chat(image(EVIL), model="cloud"),
    chat(tools=[{"type": "mcp", "server_url": EVIL}]),
    chat(tools=[{"function": {"name": "f", "parameters": {"image_url": EVIL}}}]),
    chat(metadata={"image_url": EVIL}),
    {"model": "glm", "messages": [{"role": "assistant", "annotations": [{"url_citation": {"url": EVIL}}]}]},
    {"model": "glm", "messages": [{"content": [{"type": "search_result", "source": EVIL}]}]},
    {"model": "glm", "messages": [{"role": "user", "content": EVIL}]},
    {"model": "glm", "prompt": EVIL},
    [image(EVIL)],
    b"",
    b"{",
    b'{"image_url": ',
    b"\xff\xfe_url",
    b"[" * 100_000 + b'"_url"',
]


@pytest.mark.parametrize("body", NOT_FETCHED)
def test_what_no_engine_fetches_is_passed_on(module: Any, body: Any) -> None:
    assert Server(module).said(body) == ""


@pytest.mark.parametrize(
    ("allow", "fine"),
    [
        ([], ""),
        (["images.lan"], "images.lan"),
        (["*.lan"], "images.lan wide.lan"),
        (["192.168.0.0/16"], "images.lan 192.168.7.9"),
        (["192.168.7.7"], "images.lan"),
        (["10.0.0.0/8", "192.168.0.0/16"], "images.lan wide.lan inside.example 192.168.7.9"),
        ("all", "images.lan wide.lan inside.example 192.168.7.9 unknown.example"),
    ],
)
def test_hosts_that_are_allowed(module: Any, allow: Any, fine: str) -> None:
    hosts = ("images.lan", "wide.lan", "inside.example", "192.168.7.9", "unknown.example")
    taken = [host for host in hosts if not Server(module, allow=allow).said(chat(image(f"http://{host}/x.png")))]
    assert " ".join(taken) == fine


def test_behind_a_proxy_names_may_be_unknown_here(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert Server(module).said(chat(image("http://unknown.example/"))) == ""
    assert Server(module).said(chat(image("http://inside.example/"))) != ""


def test_a_resolver_that_hangs_holds_a_request_only_so_long(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKUP", 0.1)
    monkeypatch.setattr(module, "LOOKUPS", 3)
    free = threading.Event()

    def resolve(host: str) -> list[Any]:
        free.wait(10)
        return []

    monkeypatch.setattr(module, "resolve", resolve)
    server = Server(module)

    async def scene() -> list[str]:
        async def one(host: str) -> str:
            with pytest.raises(module.Refused) as refused:
                await server.media._hosts.check({host})
            return str(refused.value)

        return await asyncio.gather(*(one(f"host{number}.example") for number in range(5)))

    began = time.monotonic()
    said = asyncio.run(scene())
    free.set()
    assert time.monotonic() - began < 5
    assert sum("too many names are being looked up" in text for text in said) == 2


def test_a_name_is_looked_up_once(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    public = [module.ipaddress.ip_address("93.184.216.34")]
    monkeypatch.setattr(module, "resolve", lambda host: asked.append(host) or public)
    server = Server(module)
    for _ in range(3):
        server.got.clear()
        assert server.said(chat(image("http://a.example/1"), image("http://a.example/2"))) == ""
    assert asked == ["a.example"]


# Sizes ----------------------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def jpeg(width: int, height: int, before: int = 0) -> bytes:
    other = b"\xff\xe1" + struct.pack(">H", 0xFFFF) + bytes(0xFFFD)
    frame = b"\xff\xff\xc2" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + other * before + b"\xff\xc4\x00\x04ab" + frame


IMAGES = {
    "png": png(70, 3),
    "jpeg": jpeg(70, 3),
    "jpeg, far behind": jpeg(70, 3, before=8),
    "gif": b"GIF89a" + struct.pack("<HH", 70, 3),
    "bmp": b"BM" + bytes(16) + struct.pack("<ii", 70, -3),
    "webp": b"RIFF    WEBPVP8 " + bytes(10) + struct.pack("<HH", 70 | 0x4000, 3),
    "webp, lossless": b"RIFF    WEBPVP8L" + bytes(5) + struct.pack("<I", 69 | 2 << 14),
    "webp, extended": b"RIFF    WEBPVP8X" + bytes(8) + (69).to_bytes(3, "little") + (2).to_bytes(3, "little"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_the_pixels_of_an_image(module: Any, kind: str) -> None:
    text = base64.b64encode(IMAGES[kind] + bytes(30)).decode()
    assert module.pixels(text) == module.pixels(text.rstrip("=")) == 210
    assert module.pixels(text[:40] + "\n" + text[40:]) == 210


def test_what_is_no_image_has_no_pixels(module: Any) -> None:
    random.seed(7)
    for head in (b"", *(image[:10] for image in IMAGES.values())):
        for size in (0, 1, 30, 5000):
            text = base64.b64encode(head + random.randbytes(size)).decode()
            assert module.pixels(text) >= 0
    for text in ("", "A", "====", "ä", "!" * 10000):
        assert module.pixels(text) == 0


def inline(*images: bytes) -> Iterable[dict[str, Any]]:
    return [image("data:image/png;base64," + base64.b64encode(one).decode()) for one in images]


@pytest.mark.parametrize("asked", ["OpenAI", "Anthropic"])
def test_the_pixels_of_a_request(module: Any, asked: str) -> None:
    def body(*images: bytes) -> Any:
        if asked == "OpenAI":
            return chat(*inline(*images))
        sources = [
            {"type": "base64", "media_type": "image/png", "data": base64.b64encode(one).decode()} for one in images
        ]
        return {"model": "glm", "messages": [{"content": [{"type": "image", "source": one} for one in sources]}]}

    assert Server(module).said(body(png(10, 50), png(10, 50))) == ""
    said = Server(module).said(body(png(10, 50), png(10, 51)))
    assert said == "the images of the request have 1010 pixels; this gateway takes 1000"


def test_the_number_of_a_requests_images(module: Any) -> None:
    url = "https://public.example/"
    assert Server(module).said(chat(*[image(url)] * 3)) == ""
    assert "has 4 images, videos and sounds; this gateway takes 3" in Server(module).said(chat(*[image(url)] * 4))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1])
def test_the_size_of_a_request(module: Any, known: bool, size: int) -> None:
    headers = [(b"content-length", str(size).encode())] if known else []
    said = Server(module).said(b" " * size, headers=headers, step=100_000)
    assert said == (
        "" if size == 1 << 20 else "the request is larger than 1048576 bytes, the most that this gateway takes"
    )


def test_a_client_that_goes_is_not_answered(module: Any) -> None:
    server = Server(module)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    asyncio.run(server.media({"type": "http", "method": "POST", "path": CHAT, "headers": []}, receive, None))
    assert server.got == []


def test_files_and_questions_are_passed_on_as_they_come(module: Any) -> None:
    body = b"--x\r\n\r\nimage_url http://127.0.0.1/"
    form = [(b"content-type", b'Multipart/Form-Data; boundary="x"')]
    assert Server(module).said(body, path="/v1/audio/transcriptions", headers=form) == ""
    assert Server(module).said(json.dumps(chat(image(EVIL))).encode(), method="GET") == ""


def test_what_it_costs(module: Any) -> None:
    """A megabyte of text, and an image of a megabyte: a few milliseconds, and not many more on a busy machine."""
    turns = [{"role": role, "content": "some words " * 50} for role in ("user", "assistant") * 900]
    text = json.dumps({"model": "glm", "messages": turns}).encode()
    picture = json.dumps(chat(*inline(png(10, 10) + random.randbytes(750_000)))).encode()
    server = Server(module)
    took = {}
    for name, raw in (("text", text), ("image", picture)):
        times = []
        for _ in range(20):
            began = time.perf_counter()
            asyncio.run(server.media._look({"path": CHAT}, raw))
            times.append(time.perf_counter() - began)
        took[name] = min(times)
    assert took["text"] < 0.1 and took["image"] < 0.1
