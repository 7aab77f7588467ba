"""Engines that are none: they are started as the real ones are, answer as they do, and misbehave on demand.

A model's ``env: {FAKE_VLLM: scenario(...)}`` (the gateway's: FAKE_LITELLM) says how it behaves from the start, ``tell``
changes that while it runs, and ``told`` shows what it was asked.
"""

from __future__ import annotations

import http.client
import json
import sys
from pathlib import Path
from typing import Any

# For ``engines: {vllm: {python: VLLM}}``
VLLM = Path(__file__).with_name("fake_vllm.py")
_LITELLM = Path(__file__).with_name("fake_litellm.py")


def litellm_python(folder: Path) -> Path:
    """For ``engines: {litellm: {python: ...}}``: the fake under this test's own Python, which has yaml."""
    wrapper = folder / "litellm-python"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{_LITELLM}" "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def scenario(**facts: Any) -> str:
    """A value for FAKE_VLLM or FAKE_LITELLM."""
    return json.dumps(facts)


def tell(port: int, **facts: Any) -> None:
    """From now on the fake at that port behaves so."""
    _talk(port, "POST", facts)


def told(port: int, path: str = "/") -> list[dict[str, Any]]:
    """What it was posted so far: {path, headers, body}."""
    asked: list[dict[str, Any]] = _talk(port, "GET")
    return [one for one in asked if one["path"].startswith(path)]


def _talk(port: int, method: str, body: object = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, "/fake", None if body is None else json.dumps(body))
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()
