"""An example request for a model group: a curl command with an inline image, to be pasted into a shell. Pure."""

from __future__ import annotations

import json

from llm_supervisor.engines.canary import chat


def curl(endpoint: str, model: str, key: str, vision: bool) -> str:
    """The command for a shell. ``key`` is how the shell gets the key, never the key itself."""
    text = "Describe this image." if vision else "Say hello."
    body = json.dumps(chat(model, text, vision=vision, max_tokens=32), separators=(",", ":"))
    return (
        f'curl -sS {endpoint}/v1/chat/completions -H "Authorization: Bearer {key}" '
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
