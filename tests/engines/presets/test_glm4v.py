"""GLM-4V-9B: code of its repository, another architecture than that says, and one image a request."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from llm_supervisor.engines import canary
from tests.engines.conftest import Engines, Shared
from tests.engines.presets.conftest import ASK, Preset, by_url, image, running, said, served, tiny

ALIAS = "glm-4v"


@pytest.fixture(scope="module")
def glm(engines: Engines, shared: Shared) -> Iterator[Preset]:
    """With the limit as the guides write it."""
    model = tiny(engines, "glm-4v-9b")
    assert json.loads((model / "config.json").read_text())["architectures"] == ["ChatGLMModel"], "as on the hub"
    changes = {"vllm": {"limit-mm-per-prompt": "image=1"}}
    with running("glm-4v-9b", shared, {ALIAS: changes}, model) as preset:
        yield preset


def test_its_command_line(glm: Preset) -> None:
    words = glm.argv(ALIAS)
    assert "--trust-remote-code --dtype auto --max-model-len 8192 --enforce-eager" in words
    assert '--hf-overrides {"architectures":["GLM4VForCausalLM"]}' in words
    assert '--limit-mm-per-prompt {"image":1}' in words
    done = glm.daemon.cli("check", *glm.files)
    assert done.returncode == 1, "a warning"
    assert "'image=1' is the old form, which vLLM no longer reads" in done.stdout + done.stderr
    assert "write {image: 1}" in done.stdout + done.stderr


def test_an_image_is_looked_at(glm: Preset) -> None:
    seen = {said(glm.chat(ASK, image(blue))) for blue in (0, 96, 255)}
    assert len(seen | {said(glm.chat(ASK))}) == 4, "another picture, another answer"
    assert glm.prompt_tokens(ASK, image()) > glm.prompt_tokens(ASK)
    with served(canary.png(blue=255)) as url:
        assert said(glm.chat(ASK, by_url(url))) == said(glm.chat(ASK, image(255)))


def test_two_images_are_refused_clearly(glm: Preset) -> None:
    assert "At most 1 image(s) may be provided in one prompt" in glm.refused(ASK, image(0), image(255))
    assert said(glm.chat(ASK, image(0))), "and one is still answered"


def test_all_is_verified(glm: Preset) -> None:
    assert glm.groups()[ALIAS]["supports_vision"] is True
    assert "refused, as it should be" in glm.verified()[f"{ALIAS} two images"]["detail"]
