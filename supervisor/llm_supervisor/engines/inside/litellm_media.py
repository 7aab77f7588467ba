"""What clients may have an engine fetch, and how much they may send. Part of a LiteLLM replica, by path.

vLLM fetches every image, video and sound that a request names by its address, from inside of this network. So requests
are looked at before LiteLLM gets them: one that names a private address, or is too large, is answered 400 that says so.
A name is looked up here and once more by vLLM; who answers differently the second time gets through, which only
vLLM's own ``allowed-media-domains`` prevents.

Standard library, and orjson where it is there, which LiteLLM itself parses with: the body is parsed once more, which
takes a millisecond or two for a megabyte.
"""

from __future__ import annotations

import asyncio
import binascii
import ipaddress
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from fnmatch import fnmatchcase
from typing import Any

try:
    from orjson import loads
except ImportError:
    from json import loads

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Keys of a request under which is what an engine fetches or decodes, in the words of OpenAI, Anthropic and Google
MEDIA = frozenset(
    "image_url video_url audio_url file_url input_audio image video audio file file_id file_data fileData".split()
)
# Where an address is for others than the engine, or no address at all
NOT_FETCHED = frozenset("tools functions tool_choice metadata litellm_metadata response_format".split())
# Where the model is the one that the body names, and no other
BY_BODY = frozenset(
    f"{version}/{what}"
    for version in ("", "/v1")
    for what in ("chat/completions", "completions", "responses", "messages", "embeddings")
)
FORMS = (b"application/x-www-form-urlencoded", b"multipart/form-data")

# Strict as to the host: of a \ or a second @, of an encoded or a foreign letter, another reader may make another host
URL = re.compile(r"https?://(?:[^@/\\?#\s]*@)?(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{0,5})?(?:[/?#].*)?", re.I | re.S)
LOOKS_LIKE_URL = re.compile(r"[\x00-\x20]*http", re.I)
# Of clouds' own services, which Python takes for public
NOT_PUBLIC = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
NAT64 = ipaddress.ip_network("64:ff9b::/96")

HOSTS = 32  # in one request
LOOKUPS = 32  # at a time
LOOKUP = 3.0  # seconds that the resolver gets
KEPT = 10.0  # seconds for which its answer is used
DRAIN = 30.0  # seconds for which the rest of a refused body is taken, so that the client reads the answer
HEADER = 1 << 20  # characters of an image in which its size must be


class Refused(Exception):
    """The request is answered 400; the text is for the client. ``unread``: it is still being sent."""

    def __init__(self, text: str, *, unread: bool = False) -> None:
        super().__init__(text)
        self.unread = unread


# What is in a request -------------------------------------------------------------------------------------------------


def contents(body: Mapping[str, Any]) -> Iterator[list[tuple[str, str]]]:
    """For each image, video or sound of a request all texts that say where it is or what, each with its key."""
    stack: list[Any] = [{key: value for key, value in body.items() if key not in NOT_FETCHED}]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += [item for item in value if isinstance(item, (dict, list))]
            continue
        for key, item in value.items():
            if key in MEDIA or (key == "source" and isinstance(item, dict)):
                yield list(_texts(key, item))
            elif isinstance(item, (dict, list)):
                stack.append(item)


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    stack = [(key, value)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            stack += value.items()
        elif isinstance(value, list):
            stack += [(key, item) for item in value]


def host_of(url: str) -> str:
    """The host of an address, without a final dot. Raises Refused where readers of addresses could disagree on it."""
    found = URL.fullmatch(url)
    if found is None:
        raise Refused(f"{url[:100]!r} is no address that can be fetched; write https://HOST/PATH")
    return found[1].strip("[]").rstrip(".").lower()


def image_in(key: str, text: str) -> str | None:
    """The base64 of an image that is in the request itself; None for anything else."""
    if text[:11].lower() == "data:image/":
        return text.partition(",")[2]
    return text if key == "data" else None


def pixels(encoded: str) -> int:
    """Width x height as the head of an image says it (PNG, JPEG, GIF, WebP, BMP); 0 where that is not known."""
    for length in (4096, HEADER):
        if (size := _size(_decoded(encoded[:length]))) or len(encoded) <= length:
            return size
    return 0


def _decoded(part: str) -> bytes:
    """The bytes of the beginning of a base64, as far as they can be told."""
    for cut in range(4):  # up to three characters of the last group may be there
        try:
            return binascii.a2b_base64(part[: len(part) - cut])
        except ValueError:
            continue
    return b""


def _size(head: bytes) -> int:
    try:
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack(">II", head[16:24])
        elif head[:3] == b"GIF":
            width, height = struct.unpack("<HH", head[6:10])
        elif head[:2] == b"BM":
            width, height = map(abs, struct.unpack("<ii", head[18:26]))
        elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            width, height = _webp(head)
        elif head[:2] == b"\xff\xd8":
            width, height = _jpeg(head)
        else:
            return 0
    except (struct.error, IndexError):
        return 0
    return int(width * height)


def _webp(head: bytes) -> tuple[int, int]:
    match head[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _jpeg(head: bytes) -> tuple[int, int]:
    at = 2
    while True:
        while head[at] == 0xFF and head[at + 1] == 0xFF:  # padding
            at += 1
        if head[at] != 0xFF:
            return 0, 0
        kind, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return width, height
        at += 2 + max(length, 2)


# Where addresses lead -------------------------------------------------------------------------------------------------


def is_public(address: Address) -> bool:
    """Whether it is an address of the internet, in whatever way it is written as an address of IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    unusual = address.is_multicast or address.is_reserved or getattr(address, "is_site_local", False)
    return address.is_global and not unusual and not any(_within(address, one) for one in NOT_PUBLIC)


def _within(address: Address, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return address.version == network.version and address in network


class Hosts:
    """Which hosts may be fetched from. ``allow``: names (with ``*``), addresses and networks that may be although
    they are private; ``all``: any. ``proxied``: engines fetch by a proxy, which looks names up itself."""

    def __init__(self, allow: list[str] | str, *, proxied: bool) -> None:
        self._all = allow == "all"
        self._names: list[str] = []
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for one in [] if isinstance(allow, str) else allow:
            try:
                self._networks.append(ipaddress.ip_network(one, strict=False))
            except ValueError:
                self._names.append(one.lower())
        self._proxied = proxied
        self._known: dict[str, tuple[float, list[Address]]] = {}
        self._pending = 0

    async def check(self, hosts: set[str]) -> None:
        """Raises Refused where one of them may not be fetched from."""
        asked = [host for host in hosts if not self._all and not self._is_named(host)]
        if len(asked) > HOSTS:
            raise Refused(f"the request names {len(asked)} hosts; {HOSTS} are allowed")
        for host, fine in zip(asked, await asyncio.gather(*map(self._may, asked)), strict=True):
            if not fine:
                # the same words for both, so that nobody learns which names there are inside
                raise Refused(
                    f"{host} is at a private address, or unknown: nothing is fetched from there. Send the content "
                    "itself as base64; the operator can allow the host under `gateway.media.allow_hosts`"
                )

    def _is_named(self, host: str) -> bool:
        return any(fnmatchcase(host, name) for name in self._names)

    async def _may(self, host: str) -> bool:
        addresses = await self._addresses(host)
        if not addresses:
            return self._proxied
        return all(is_public(one) or self._in_network(one) for one in addresses)

    def _in_network(self, address: Address) -> bool:
        return any(_within(address, one) for one in self._networks)

    async def _addresses(self, host: str) -> list[Address]:
        """All addresses of a host; none where it has none, or the resolver is too slow."""
        now = time.monotonic()
        until, known = self._known.get(host, (0.0, []))
        if now < until:
            return known
        if self._pending >= LOOKUPS:
            raise Refused("too many names are being looked up; ask again in a few seconds")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Address]] = loop.create_future()

        def done(found: list[Address]) -> None:
            self._pending -= 1
            if not answer.done():
                answer.set_result(found)

        def look() -> None:
            found = resolve(host)
            try:
                loop.call_soon_threadsafe(done, found)
            except RuntimeError:
                return  # the loop has ended

        self._pending += 1
        # a thread of its own: a resolver that hangs must not take those of LiteLLM
        threading.Thread(target=look, name="look-up", daemon=True).start()
        try:
            async with asyncio.timeout(LOOKUP):
                found = await answer
        except TimeoutError:
            return []
        self._known = {name: said for name, said in self._known.items() if said[0] > now}
        self._known[host] = (now + KEPT, found)
        return found


def resolve(host: str) -> list[Address]:
    """All addresses of a name, or of an address in any notation that the system's library knows; may take long."""
    try:
        rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows]
    except (OSError, ValueError):  # a UnicodeError, for a name that can be none, is a ValueError
        return []


# The application ------------------------------------------------------------------------------------------------------


class Media:
    """An ASGI application around LiteLLM's. ``settings``: see ``gateway.media`` in the configuration; ``elsewhere``
    are the groups that never lead to an engine of ours."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], settings: Mapping[str, Any]) -> None:
        self._app = app
        self._body, self._files, self._pixels = (int(settings[name]) for name in ("body", "files", "pixels"))
        self._elsewhere = frozenset(settings["elsewhere"])
        proxied = any(os.environ.get(name) for one in ("http", "https", "all") for name in _proxy(one))
        self._hosts = Hosts(settings["allow"], proxied=proxied)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            await self._app(scope, receive, send)
            return
        try:
            if (length := _length(scope)) is not None and length > self._body:
                raise self._too_long(unread=not _all(scope, b"expect"))
            kinds = [kind.partition(b";")[0].strip().lower() for kind in _all(scope, b"content-type")]
            if kinds and all(kind in FORMS for kind in kinds):
                # a file, or fields without structure: nothing is fetched for it
                await self._app(scope, receive, send)
                return
            body = await self._whole(receive)
            if body is None:
                return  # the client has gone
            await self._look(scope, body)
        except Refused as refused:
            if refused.unread:
                await _drain(receive)
            await _refuse(scope, send, str(refused))
            return
        await self._app(scope, _again(body, receive), send)

    def _too_long(self, *, unread: bool) -> Refused:
        text = f"the request is larger than {self._body} bytes, the most that this gateway takes"
        return Refused(text, unread=unread)

    async def _whole(self, receive: Receive) -> bytes | None:
        """The whole body; None where the client does not finish it. Raises Refused."""
        chunks, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = bool(message.get("more_body"))
            if size > self._body:
                raise self._too_long(unread=more)
            if not more:
                return b"".join(chunks)

    async def _look(self, scope: Message, body: bytes) -> None:
        """Look at what is in the request. Raises Refused."""
        request = parsed(body)
        if request is None or self._is_elsewhere(scope, request):
            return
        count = total = 0
        hosts: set[str] = set()
        for texts in contents(request):
            count += 1
            for key, text in texts:
                if LOOKS_LIKE_URL.match(text):
                    hosts.add(host_of(text))
                elif (image := image_in(key, text)) is not None:
                    total += pixels(image)
        if count > self._files:
            raise Refused(f"the request has {count} images, videos and sounds; this gateway takes {self._files}")
        if total > self._pixels:
            raise Refused(f"the images of the request have {total} pixels; this gateway takes {self._pixels}")
        if hosts:
            await self._hosts.check(hosts)

    def _is_elsewhere(self, scope: Message, request: Mapping[str, Any]) -> bool:
        """Whether no engine of ours will get it: its body names such a group, and nothing names another one."""
        model = request.get("model")
        named = isinstance(model, str) and model in self._elsewhere
        by_body = scope["path"] in BY_BODY and not scope.get("query_string")
        return named and by_body and not any("fallback" in key for key in request)


def _all(scope: Message, name: bytes) -> list[bytes]:
    """The values of all headers of that name."""
    return [value for key, value in scope["headers"] if key.lower() == name]


def _length(scope: Message) -> int | None:
    """The length of the body in bytes, where the client says it beforehand."""
    said = _all(scope, b"content-length")
    return int(said[0]) if said and said[0].isdigit() else None


def _proxy(scheme: str) -> tuple[str, str]:
    return f"{scheme}_proxy", f"{scheme.upper()}_PROXY"


def parsed(body: bytes) -> dict[str, Any] | None:
    """The request as LiteLLM will read it; None where LiteLLM will refuse it."""
    try:
        said = loads(body)
    except ValueError:
        try:
            said = json.loads(body.decode())
        except (ValueError, RecursionError):
            return None
    except RecursionError:
        return None
    return said if isinstance(said, dict) else None


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read already, then what comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _drain(receive: Receive) -> None:
    """Take what the client still sends: it may read no answer before."""
    try:
        async with asyncio.timeout(DRAIN):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass
    except TimeoutError:
        return


async def _refuse(scope: Message, send: Send, text: str) -> None:
    """Answer 400 in the words of the API that was asked."""
    error: dict[str, Any] = {"type": "invalid_request_error", "message": text}
    if scope["path"].rstrip("/").endswith("/messages"):
        answer: dict[str, Any] = {"type": "error", "error": error}
    else:
        answer = {"error": {**error, "param": None, "code": "400"}}
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
