"""Which questions the tour asks, and what their answers mean."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.cli import connection, main
from llm_supervisor.config import load
from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.oneshot import verify
from llm_supervisor.oneshot.verify import Question
from llm_supervisor.ownership import Owner

CONFIG = """
gateway: {{}}
models:
  many:
    model: org/a
    port: 8000
    vision: true
    vllm: {{limit-mm-per-prompt: {{image: 32, video: 1}}, allowed-local-media-path: {media}}}
  single: {{model: org/b, port: 8001, vision: true, vllm: {{limit_mm_per_prompt: {{image: 1}}}}}}
  text: {{model: org/c, port: 8002}}
  base: {{model: org/d, port: 8003, chat: false}}
  embed: {{model: org/e, port: 8004, vllm: {{runner: pooling}}}}
"""


def asked(
    tmp_path: Path, name: str, local: bool = True, vision: bool | None = False, config: str = CONFIG
) -> dict[str, Question]:
    file = tmp_path / "supervisor.yaml"
    file.write_text(config.format(media=tmp_path))
    group = {"name": name, "local": local, "vision": vision}
    return {question.name: question for question in verify.plan(load(file, {}), [group])}


def test_each_group_is_asked_what_it_can(tmp_path: Path) -> None:
    basics = ["listed", "supports_vision", "chat", "stream"]
    text = [*basics, "completions"]
    pictures = ["image (base64)", "image (URL)"]
    assert list(asked(tmp_path, "many", vision=True)) == [*text, *pictures, "image (file)", "two images", "video"]
    assert list(asked(tmp_path, "single", vision=True)) == [*text, *pictures, "two images"]
    assert list(asked(tmp_path, "text")) == text
    assert list(asked(tmp_path, "base")) == ["listed", "supports_vision", "completions"]
    assert list(asked(tmp_path, "embed")) == ["listed", "supports_vision", "embeddings"]
    assert list(asked(tmp_path, "cloud", local=False, vision=None)) == ["listed", "chat", "stream"]
    assert list(asked(tmp_path, "cloud", local=False, vision=True)) == [*basics, "image (base64)"]
    assert asked(tmp_path, "single", vision=True)["two images"].refused, "one is all that it takes"
    assert not asked(tmp_path, "many", vision=True)["two images"].refused


@pytest.mark.parametrize(
    ("allow", "domains", "refused"),
    [
        ("[]", "", True),
        ("[images.lan, 10.0.0.0/8]", "", True),
        ("[127.0.0.1]", "", False),
        ("[127.0.0.0/8]", "", False),
        ("['*']", "", False),
        ("all", "", False),
        ("all", "a.example", True),
        ("all", "127.0.0.1", False),
    ],
)
def test_a_picture_of_this_machine_is_refused_unless_it_is_allowed(
    tmp_path: Path, allow: str, domains: str, refused: bool
) -> None:
    config = CONFIG.replace("gateway: {{}}", f"gateway: {{{{media: {{{{allow_hosts: {allow}}}}}}}}}")
    if domains:
        config = config.replace(
            "video: 1}},", f"video: 1}}}}, allowed-media-domains: [{domains}],".replace("}}}}", "}}")
        )
    assert asked(tmp_path, "many", vision=True, config=config)["image (URL)"].refused is refused


@pytest.mark.parametrize("listening", [True, False])
@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("ready", "No group was asked: --cloud asks the cloud groups"),
        ("disabled", "there is no group that can be asked"),
    ],
)
def test_where_no_group_is_asked_the_gateway_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: str,
    words: str,
    listening: bool,
) -> None:
    """Nothing failed, as nothing was asked, is no proof of anything."""
    (tmp_path / "supervisor.yaml").write_text("gateway: {}\n")
    listener = net_listener.bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    if listening:
        listener.listen()
        threading.Thread(target=answer_once, args=(listener,), daemon=True).start()
    else:
        listener.close()
    status = {
        "endpoint": f"http://127.0.0.1:{port}",
        "models": [{"name": "claude", "local": False, "vision": None, "state": state, "reason": "KEY is not set"}],
        "supervisor": {"config_files": [str(tmp_path / "supervisor.yaml")]},
    }
    gateway = connection.Gateway(status, Owner(os.geteuid(), trusted=True))
    monkeypatch.setattr(connection, "find_gateway", lambda: gateway)
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-something")
    assert main.main(["verify"]) == (0 if listening else 1)
    said = capsys.readouterr().out
    assert words in said
    assert ("FAILED" in said) is not listening
    listener.close()


def answer_once(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\nConnection: close\r\n\r\n{"data":[]}')


def test_another_name_of_a_group_is_asked_the_basics(tmp_path: Path) -> None:
    (tmp_path / "litellm.yaml").write_text("router_settings: {model_group_alias: {codex: many, find: embed}}\n")
    config = CONFIG.replace("gateway: {{}}", "gateway: {{litellm_config: litellm.yaml}}")
    assert list(asked(tmp_path, "codex", vision=True, config=config)) == [
        *("listed", "supports_vision", "chat"),
        "image (base64)",
    ]
    assert list(asked(tmp_path, "find", config=config)) == ["listed", "supports_vision", "embeddings"]


def test_a_clouds_embeddings_are_asked_for_embeddings(tmp_path: Path) -> None:
    """Where the native file says that they are; a chat would be refused."""
    entry = "{model_name: vectors, litellm_params: {model: openai/v}, model_info: {mode: embedding}}"
    others = "router_settings: {model_group_alias: {other: vectors}}\n"
    (tmp_path / "native.yaml").write_text(f"model_list: [{entry}]\n{others}")
    file = tmp_path / "supervisor.yaml"
    file.write_text("gateway: {litellm_config: native.yaml}\n")
    for name in ("vectors", "other"):
        questions = verify.plan(load(file, {}), [{"name": name, "local": False, "vision": None}])
        assert [question.name for question in questions] == ["listed", "embeddings"]


def completion(text: str | None = "hi", tokens: int = 2, **message: object) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text, **message}}], "usage": {"completion_tokens": tokens}}


CHAT = Question("m", "chat", "/v1/chat/completions", {})
TWO = Question("m", "two images", "/v1/chat/completions", {}, refused=True)
LISTED = Question("m", "listed", "/v1/models", expected="m")
VISION = Question("m", "supports_vision", "/model_group/info", expected=("m", True))
EMBED = Question("m", "embeddings", "/v1/embeddings", {})


@pytest.mark.parametrize(
    ("question", "status", "body", "ok", "detail"),
    [
        (CHAT, 200, completion(), True, '"hi"'),
        (CHAT, 200, completion(None, 2, reasoning_content="well"), True, '"well"'),
        (CHAT, 200, completion("", 0), False, '""'),
        (CHAT, 200, {"choices": [{"text": "so"}], "usage": {"completion_tokens": 1}}, True, '"so"'),
        (CHAT, 200, {"choices": []}, False, "not an answer"),
        (CHAT, 200, "text", False, "not an answer"),
        (CHAT, 500, {"error": {"message": "broken\nhere"}}, False, "500: broken here"),
        (CHAT, 401, {"error": "no"}, False, "401: no"),
        (TWO, 400, {"error": {"message": "at most 1 image"}}, True, "refused, as it should be (400: at most 1 image)"),
        (TWO, 200, completion(), False, "should be refused (200"),
        (TWO, 500, {"error": {"message": "oh"}}, False, "(500: oh)"),
        (LISTED, 200, {"data": [{"id": "m"}]}, True, ""),
        (LISTED, 200, {"data": [{"id": "n"}]}, False, "listed are ['n']"),
        (VISION, 200, {"data": [{"model_group": "m", "supports_vision": True}]}, True, "true"),
        (VISION, 200, {"data": [{"model_group": "m", "supports_vision": None}]}, False, "false"),
        (EMBED, 200, {"data": [{"embedding": [0.1, 0.2]}]}, True, "2 dimensions"),
        (EMBED, 200, {"data": [{"embedding": []}]}, False, "0 dimensions"),
    ],
)
def test_what_an_answer_means(question: Question, status: int, body: object, ok: bool, detail: str) -> None:
    verdict = verify.judge(question, status, json.dumps(body).encode())
    assert (verdict.ok, detail in verdict.detail) == (ok, True), verdict


ONE = "At most 1 image(s) may be provided in one prompt."


@pytest.mark.parametrize(
    ("status", "message", "ok"),
    [
        (400, ONE, True),
        (400, f"litellm.BadRequestError: Hosted_vllmException - {ONE}. Received Model Group=m", True),
        (422, "This model supports only one image per request.", True),
        (400, "Multiple images are not supported.", True),
        (400, "At most 16 image(s) may be provided in one prompt.", False),
        (400, "This model's maximum context length is 64 tokens.", False),
        (500, ONE, False),
    ],
)
def test_a_model_that_takes_one_image_by_its_nature_has_not_failed(status: int, message: str, ok: bool) -> None:
    body = json.dumps({"error": {"message": message}}).encode()
    limited = Question("m", "two images", "/v1/chat/completions", {}, limited=True)
    verdict = verify.judge(limited, status, body)
    assert verdict.ok is ok
    assert ("one image a request" in verdict.detail) is ok
    # where the configuration says how many it takes, a refusal of fewer is a failure
    assert not verify.judge(Question("m", "two images", "/v1/chat/completions", {}), status, body).ok


def test_only_where_the_configuration_sets_no_limit_a_refusal_may_be_the_models_nature(tmp_path: Path) -> None:
    config = CONFIG.replace("limit_mm_per_prompt: {{image: 1}}", "max-model-len: 4096")
    assert asked(tmp_path, "single", vision=True, config=config)["two images"].limited
    assert not asked(tmp_path, "many", vision=True)["two images"].limited
