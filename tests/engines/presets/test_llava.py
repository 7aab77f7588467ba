"""LLaVA behind LiteLLM: its clients are told that it takes images, and may write them in every way there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llm_supervisor.engines import canary
from tests.engines.conftest import Engines, Shared
from tests.engines.presets.conftest import ASK, Preset, image, running, said, tiny

ALIAS = "llava"


@pytest.fixture(scope="module")
def llava(engines: Engines, shared: Shared) -> Iterator[Preset]:
    with running("llava", shared, {ALIAS: {}}, tiny(engines, "llava")) as preset:
        yield preset


def test_clients_are_told_that_it_sees(llava: Preset) -> None:
    assert llava.groups()[ALIAS]["supports_vision"] is True


def test_an_image_is_looked_at(llava: Preset) -> None:
    seen = {said(llava.chat(ASK, image(blue))) for blue in (0, 96, 255)}
    assert len(seen | {said(llava.chat(ASK))}) == 4, "another picture, another answer"
    assert llava.prompt_tokens(ASK, image()) > llava.prompt_tokens(ASK)


@pytest.mark.parametrize(
    "written",
    [
        canary.image_url(255),
        {"url": canary.image_url(255)},
        {"url": canary.image_url(255), "detail": "low"},
        {"url": canary.image_url(255), "detail": "high"},
        {"url": canary.image_url(255), "format": "image/png"},
        {"url": canary.image_url(255), "detail": "auto", "format": "image/png"},
    ],
    ids=["string", "object", "low", "high", "format", "both"],
)
def test_ways_to_write_an_image(llava: Preset, written: str | dict[str, Any]) -> None:
    answer = llava.chat(ASK, {"type": "image_url", "image_url": written})
    assert said(answer) == said(llava.chat(ASK, image(255)))


def test_all_is_verified(llava: Preset) -> None:
    assert {f"{ALIAS} image (base64)", f"{ALIAS} image (URL)", f"{ALIAS} two images"} <= llava.verified().keys()
