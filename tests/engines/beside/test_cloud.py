"""The preset ``cloud`` on the real LiteLLM, with servers on loopback that speak the providers' wires: what reaches
them.

Only the addresses, the keys, and other names for two groups are not the preset's own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from llm_supervisor.engines import canary
from tests.engines.conftest import Engines, FromPreset
from tests.support.wires import WORDS, Anthropic, Asked, Gemini, OpenAI, Wire

pytestmark = pytest.mark.slow

KEYS = {
    "ANTHROPIC_API_KEY": "sk-ant-loopback",
    "OPENAI_API_KEY": "sk-openai-loopback",
    "GEMINI_API_KEY": "gemini-loopback",
}
GROUPS = ("claude-code", "codex", "gemini-cli")
TEXT = "".join(WORDS)
IMAGE = canary.image_url()
PIXELS = IMAGE.partition(",")[2]


@dataclass
class Cloud:
    """The gateway, and the providers by the group that goes to them."""

    daemon: FromPreset
    wires: dict[str, Wire]

    def client(self) -> openai.OpenAI:
        return self.daemon.openai()

    def one(self, group: str) -> Asked:
        """The only request that reached any provider: that group's."""
        reached = {name: len(wire.asked) for name, wire in self.wires.items()}
        assert reached == {name: int(name == group) for name in GROUPS}
        return self.wires[group].asked[0]

    def params(self, group: str) -> dict[str, Any]:
        """What the preset says of it."""
        entries = {entry["model_name"]: entry["litellm_params"] for entry in self.daemon.native["model_list"]}
        params: dict[str, Any] = entries[group]
        return params


@pytest.fixture(scope="module")
def running(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """As a person has it who has two of the three keys."""
    with Anthropic() as claude, OpenAI() as gpt, Gemini() as gemini:
        wires = dict(zip(GROUPS, (claude, gpt, gemini), strict=True))

        def to_loopback(native: dict[str, Any]) -> None:
            for entry in native["model_list"]:
                entry["litellm_params"]["api_base"] = wires[entry["model_name"]].base
            aliases = {"sonnet": "claude-code", "gpt": "codex"}
            native["router_settings"] = {"model_group_alias": aliases, "fallbacks": [{"claude-code": ["codex"]}]}

        keys = {**KEYS, "OPENAI_API_KEY": ""}
        with FromPreset(tmp_path_factory.mktemp("cloud"), engines, "cloud", to_loopback, keys) as daemon:
            daemon.wait_ready(timeout=120)
            yield Cloud(daemon, wires)


@pytest.fixture
def some(running: Cloud) -> Cloud:
    """The same, of which nothing was asked yet."""
    for wire in running.wires.values():
        wire.asked.clear()
    return running


@pytest.fixture
def cloud(some: Cloud) -> Cloud:
    """With all three keys."""
    if any(model["state"] == "disabled" for model in some.daemon.status()["models"]):
        some.daemon.set_keys(**KEYS)
        assert some.daemon.cli("reload").returncode == 0
        some.daemon.wait_ready(timeout=120)
    return some


def test_a_group_without_its_key_is_disabled_and_the_others_serve(some: Cloud) -> None:
    some.daemon.set_keys(**{**KEYS, "OPENAI_API_KEY": ""})
    assert some.daemon.cli("reload").returncode == 0
    status = some.daemon.wait_ready(timeout=120)
    states = {model["name"]: (model["state"], model["reason"]) for model in status["models"]}
    reason = "OPENAI_API_KEY is not set"
    assert states == {
        **dict.fromkeys(("claude-code", "gemini-cli", "sonnet"), ("ready", None)),
        **dict.fromkeys(("codex", "gpt"), ("disabled", reason)),
    }
    with some.daemon.http() as http:
        listed = sorted(one["id"] for one in http.get("/v1/models").json()["data"])
    assert listed == ["claude-code", "gemini-cli", "sonnet"]
    for group in listed:
        assert said(some.client(), group) == TEXT
    for group in ("codex", "gpt"):
        with pytest.raises(openai.BadRequestError, match="Invalid model name"):
            said(some.client(), group)
    assert some.wires["codex"].asked == []

    some.daemon.set_keys(**KEYS)
    assert some.daemon.cli("reload").returncode == 0
    assert [model["state"] for model in some.daemon.wait_ready(timeout=120)["models"]] == ["ready"] * 5
    assert said(some.client(), "codex") == said(some.client(), "gpt") == TEXT


def said(client: openai.OpenAI, group: str) -> str | None:
    messages: Any = [{"role": "user", "content": "hello"}]
    return client.chat.completions.create(model=group, messages=messages, max_tokens=16).choices[0].message.content


# What reaches a provider ----------------------------------------------------------------------------------------


def check_head(cloud: Cloud, group: str, asked: Asked, *, stream: bool) -> None:
    """Path, model, key and version, in the provider's own words, and no other key."""
    name = cloud.params(group)["model"].partition("/")[2]
    others = set(KEYS.values())
    match group:
        case "claude-code":
            assert asked.path == "/v1/messages"
            assert (asked.body["model"], bool(asked.body.get("stream"))) == (name, stream)
            assert asked.headers["x-api-key"] == KEYS["ANTHROPIC_API_KEY"]
            assert asked.headers["anthropic-version"] == "2023-06-01"
            others.remove(KEYS["ANTHROPIC_API_KEY"])
        case "codex":
            assert asked.path == "/v1/responses", "the only one that this model has"
            assert (asked.body["model"], bool(asked.body.get("stream"))) == (name, stream)
            assert asked.headers["authorization"] == f"Bearer {KEYS['OPENAI_API_KEY']}"
            others.remove(KEYS["OPENAI_API_KEY"])
        case "gemini-cli":
            verb = "streamGenerateContent" if stream else "generateContent"
            assert asked.path == f"/v1beta/models/{name}:{verb}"
            assert (asked.query.get("alt") == "sse") == stream
            assert asked.headers["x-goog-api-key"] == KEYS["GEMINI_API_KEY"]
            assert asked.body["safetySettings"] == cloud.params(group)["safety_settings"]
            assert {one["threshold"] for one in asked.body["safetySettings"]} == {"BLOCK_ONLY_HIGH"}
            others.remove(KEYS["GEMINI_API_KEY"])
    gateways = cloud.client().api_key
    sent = json.dumps([asked.headers, asked.query, asked.body])
    assert not [key for key in (*others, gateways) if key in sent]


def blocks(group: str, asked: Asked) -> list[Any]:
    """The parts of the last message."""
    match group:
        case "claude-code":
            content = asked.body["messages"][-1]["content"]
        case "codex":
            content = asked.body["input"][-1]["content"]
        case _:
            content = asked.body["contents"][-1]["parts"]
    return list(content)


def check_image(group: str, asked: Asked) -> None:
    """The picture, in the provider's own form."""
    parts = blocks(group, asked)
    match group:
        case "claude-code":
            source = {"type": "base64", "media_type": "image/png", "data": PIXELS}
            assert {"type": "image", "source": source} in [
                {key: part.get(key) for key in ("type", "source")} for part in parts
            ]
        case "codex":
            assert [part["image_url"] for part in parts if part["type"] == "input_image"] == [IMAGE]
        case _:
            inline = [part.get("inline_data") or part.get("inlineData") for part in parts]
            (picture,) = [one for one in inline if one]
            assert picture["data"] == PIXELS
            assert (picture.get("mime_type") or picture.get("mimeType")) == "image/png"
    assert base64.b64decode(PIXELS).startswith(b"\x89PNG")


@pytest.mark.parametrize("picture", [False, True], ids=["text", "image"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("group", GROUPS)
def test_chat_completions(cloud: Cloud, group: str, stream: bool, picture: bool) -> None:
    parts: list[Any] = [{"type": "text", "text": "hello"}]
    parts += [{"type": "image_url", "image_url": {"url": IMAGE}}] if picture else []
    messages: Any = [{"role": "user", "content": parts}]
    client = cloud.client()
    if stream:
        chunks = client.chat.completions.create(model=group, messages=messages, max_tokens=16, stream=True)
        words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert [word for word in words if word] == list(WORDS), "piece by piece"
    else:
        answer = client.chat.completions.create(model=group, messages=messages, max_tokens=16)
        assert answer.choices[0].message.content == TEXT
        assert (answer.usage and answer.usage.completion_tokens, answer.model) == (len(WORDS), group)
    asked = cloud.one(group)
    check_head(cloud, group, asked, stream=stream)
    if picture:
        check_image(group, asked)
    else:
        assert "hello" in json.dumps(blocks(group, asked))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("group", GROUPS)
def test_anthropics_messages(cloud: Cloud, group: str, stream: bool) -> None:
    """As Claude Code asks, whichever provider it is; with a picture."""
    source = {"type": "base64", "media_type": "image/png", "data": PIXELS}
    parts = [{"type": "text", "text": "hello"}, {"type": "image", "source": source}]
    body = {"model": group, "max_tokens": 16, "messages": [{"role": "user", "content": parts}], "stream": stream}
    with cloud.daemon.http() as http:
        answer = http.post("/v1/messages", json=body)
    assert answer.status_code == 200, answer.text
    if stream:
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        deltas = [event["delta"].get("text") for event in events if event["type"] == "content_block_delta"]
        assert "".join(filter(None, deltas)) == TEXT
        assert events[-1]["type"] == "message_stop"
    else:
        assert [part["text"] for part in answer.json()["content"] if part["type"] == "text"] == [TEXT]
    asked = cloud.one(group)
    check_head(cloud, group, asked, stream=stream)
    check_image(group, asked)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_openais_responses(cloud: Cloud, stream: bool) -> None:
    """As Codex asks."""
    client = cloud.client()
    if stream:
        events = list(client.responses.create(model="codex", input="hello", stream=True))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
        assert events[-1].type == "response.completed"
    else:
        assert client.responses.create(model="codex", input="hello").output_text == TEXT
    asked = cloud.one("codex")
    check_head(cloud, "codex", asked, stream=stream)
    assert "hello" in json.dumps(asked.body["input"])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_googles_generate_content(cloud: Cloud, stream: bool) -> None:
    """As the Gemini CLI asks: the safety settings go along there too."""
    verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
    parts = [{"text": "hello"}, {"inlineData": {"mimeType": "image/png", "data": PIXELS}}]
    with cloud.daemon.http() as http:
        answer = http.post(f"/v1beta/models/gemini-cli:{verb}", json={"contents": [{"role": "user", "parts": parts}]})
    assert answer.status_code == 200, answer.text
    pieces = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    texts = [one["candidates"][0]["content"]["parts"][0]["text"] for one in (pieces if stream else [answer.json()])]
    assert "".join(texts) == TEXT
    asked = cloud.one("gemini-cli")
    check_head(cloud, "gemini-cli", asked, stream=stream)
    check_image("gemini-cli", asked)


def test_the_tour(cloud: Cloud) -> None:
    done = cloud.daemon.cli("verify", "--cloud")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "25 of 25 passed"
