"""A request that works when it is pasted: a curl with an inline image. Pure."""

from __future__ import annotations

import base64
import json
import struct
import zlib


def png(width: int = 56, height: int = 56) -> bytes:
    """A small picture, red to the right and green downwards, as a PNG."""
    rows = b"".join(
        b"\0" + b"".join(bytes((x * 255 // width, y * 255 // height, 96)) for x in range(width)) for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def chat(model: str, *, vision: bool, max_tokens: int = 32) -> dict[str, object]:
    """A chat completion's body."""
    text = "Describe this image." if vision else "Say hello."
    content: object = text
    if vision:
        url = "data:image/png;base64," + base64.b64encode(png()).decode()
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
    return {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": content}]}


def curl(endpoint: str, model: str, key: str, vision: bool) -> str:
    """The command for a shell. ``key`` is how the shell gets the key, never the key itself."""
    body = json.dumps(chat(model, vision=vision), separators=(",", ":"))
    return (
        f'curl -sS {endpoint}/v1/chat/completions -H "Authorization: Bearer {key}" '
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
