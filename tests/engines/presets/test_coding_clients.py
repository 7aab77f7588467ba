"""Coding clients on a local model: each client's own way to ask, tools included; and one line takes one of them to its
cloud, while the model stays loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engines.conftest import KEEPER, Engines, Shared
from tests.engines.presets.conftest import ASK, Preset, image, running, said
from tests.support.wires import WORDS, Anthropic

ALIAS = "coder"
CLOUDS = ("claude", "gpt", "gemini")
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
# As each client writes a question with a tool, and where its answer has the tokens that it cost
CLIENTS: dict[str, tuple[str, dict[str, Any], tuple[str, str]]] = {
    "claude-code": (
        "/v1/messages",
        {
            "model": "claude-code",
            "max_tokens": 8,
            "system": "You write code.",
            "messages": [{"role": "user", "content": ASK}],
            "tools": [{"name": "read", "description": "Reads a file.", "input_schema": PARAMETERS}],
        },
        ("usage", "input_tokens"),
    ),
    "codex": (
        "/v1/responses",
        {
            "model": "codex",
            "max_output_tokens": 16,
            "instructions": "You write code.",
            "input": ASK,
            "tools": [{"type": "function", "name": "read", "description": "Reads a file.", "parameters": PARAMETERS}],
        },
        ("usage", "input_tokens"),
    ),
    "gemini-cli": (
        "/v1beta/models/gemini-cli:generateContent",
        {
            "systemInstruction": {"parts": [{"text": "You write code."}]},
            "contents": [{"role": "user", "parts": [{"text": ASK}]}],
            "tools": [
                {"functionDeclarations": [{"name": "read", "description": "Reads a file.", "parameters": PARAMETERS}]}
            ],
            "generationConfig": {"maxOutputTokens": 8},
        },
        ("usageMetadata", "promptTokenCount"),
    ),
}


@pytest.fixture(scope="module")
def folder(shared: Shared) -> Path:
    return shared.current


@pytest.fixture(scope="module")
def coder(engines: Engines, shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preset]:
    template = tmp_path_factory.mktemp("coding") / "with_tools.jinja"  # the tiny model's own says nothing of tools
    own = (engines.model / "chat_template.jinja").read_text()
    template.write_text(own.replace("<sop>", "<sop>{% if tools %}<|system|>{{ tools | tojson }}{% endif %}", 1))
    # and its configuration is of a shorter one
    longer = {"hf-overrides": {"text_config": {"max_position_embeddings": 65536}}, "chat-template": str(template)}
    with running("coding-clients", shared, {ALIAS: {"vllm": longer}}) as preset:
        yield preset


def post(coder: Preset, path: str, body: dict[str, Any]) -> httpx.Response:
    url, headers = str(coder.client.base_url).removesuffix("/v1/"), {"Authorization": f"Bearer {coder.client.api_key}"}
    return httpx.post(url + path, json=body, headers=headers, timeout=120, trust_env=False)


def test_its_command_line(coder: Preset) -> None:
    words = coder.argv(ALIAS)
    assert "--max-model-len 65536" in words
    assert "--enable-auto-tool-choice" in words
    assert "--tool-call-parser glm45" in words


@pytest.mark.parametrize("name", CLIENTS)
def test_it_is_asked_as_that_client_asks(coder: Preset, name: str) -> None:
    path, body, (usage, field) = CLIENTS[name]
    answer = post(coder, path, body)
    assert answer.status_code == 200, answer.text
    with_tool = answer.json()[usage][field]
    without = post(coder, path, {key: value for key, value in body.items() if key != "tools"})
    assert without.status_code == 200, without.text
    assert with_tool > without.json()[usage][field] > 0, "the tool has reached the model's prompt"


@pytest.mark.parametrize("name", CLIENTS)
def test_a_prompt_of_their_length_fits(coder: Preset, name: str) -> None:
    """Claude Code's alone has 20000 tokens."""
    usage = coder.chat("word " * 30000, model=name, max_tokens=2).usage
    assert usage is not None
    assert 30000 <= usage.prompt_tokens < 65536


def test_what_a_client_is_told(coder: Preset) -> None:
    for name in CLIENTS:
        done = coder.daemon.cli("env", name, "--json")
        assert done.returncode == 0, done.stderr
        assert name in done.stdout, "its own group, whoever answers it"
    shown = {model["name"]: model["state"] for model in coder.models()}
    assert shown == {ALIAS: "ready", **dict.fromkeys(CLIENTS, "ready"), **dict.fromkeys(CLOUDS, "disabled")}


def test_one_line_takes_a_client_to_its_cloud_and_back(coder: Preset, folder: Path) -> None:
    native, keys = folder / "litellm_config.yaml", folder / "keys.env"
    local, engine = native.read_text(), coder.daemon.program(ALIAS)["pid"]
    with Anthropic() as claude:
        # only for this test: the cloud is on this machine, and its key
        here = local.replace(
            "api_key: os.environ/ANTHROPIC_API_KEY", f"api_key: os.environ/ANTHROPIC_API_KEY, api_base: '{claude.base}'"
        )
        keys.write_text(keys.read_text().replace("ANTHROPIC_API_KEY=", "ANTHROPIC_API_KEY=sk-ant-loopback"))
        native.write_text(here.replace("claude-code: coder ", "claude-code: claude "))
        done = coder.daemon.cli("reload", "--json", timeout=120)
        actions = {one["program"]: one["action"] for one in json.loads(done.stdout)["changes"]}
        assert (done.returncode, actions) == (0, {ALIAS: "nothing", KEEPER: "nothing", "gateway": "rolling"})

        path, body, _ = CLIENTS["claude-code"]
        answer = post(coder, path, body)
        assert [part["text"] for part in answer.json()["content"]] == ["".join(WORDS)]
        assert [asked.body["tools"][0]["name"] for asked in claude.asked] == ["read"]
        assert said(coder.chat(ASK, image(), model="codex")), "the others stay"
        assert len(claude.asked) == 1

        native.write_text(here)
        assert coder.daemon.cli("reload", timeout=120).returncode == 0
        assert post(coder, path, body).status_code == 200
        assert len(claude.asked) == 1, "local again"
    assert coder.daemon.program(ALIAS)["pid"] == engine, "the model stayed loaded"
