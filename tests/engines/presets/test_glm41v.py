"""GLM-4.1V-9B-Thinking: several images, a video, files of a folder, vLLM's own parameters, and the names of coding
clients."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import openai
import pytest

from llm_supervisor.engines import canary
from tests.engines.conftest import KEEPER, Engines, Shared
from tests.engines.presets.conftest import ASK, Preset, by_url, image, running, said, served, tokens_of

ALIAS = "glm-4.1v"
CLIENTS = ("claude-code", "codex", "gemini-cli")
# Run by vLLM's Python, which can write what vLLM can read
FILM = """
import sys, cv2, numpy
film = cv2.VideoWriter(sys.argv[1], cv2.VideoWriter_fourcc(*"mp4v"), 4, (112, 112))
for frame in range(8):
    film.write(numpy.full((112, 112, 3), int(sys.argv[2]) + 8 * frame, numpy.uint8))
film.release()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("glm41v")


@pytest.fixture(scope="module")
def media(folder: Path) -> Path:
    """The only folder whose files may be in requests."""
    made = folder / "media"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def glm(shared: Shared, media: Path) -> Iterator[Preset]:
    changes = {"vllm": {"allowed-local-media-path": str(media)}}
    with running("glm-4.1v-9b-thinking", shared, {ALIAS: changes}) as preset:
        yield preset


def film(name: str) -> dict[str, object]:
    return {"type": "video_url", "video_url": {"url": name}}


def test_its_command_line(glm: Preset, media: Path) -> None:
    words = glm.argv(ALIAS)
    assert "--served-model-name GLM-4.1V-9B-Thinking" in words
    assert "--max-model-len 25000" in words
    assert '--limit-mm-per-prompt {"image":32,"video":1}' in words
    assert f"--allowed-local-media-path {media}" in words
    assert "--reasoning-parser glm45" in words


def test_what_it_thinks_is_not_its_answer(glm: Preset) -> None:
    """The template opens a <think> block, which the tiny model never closes."""
    message = glm.chat("Say hello.").choices[0].message
    assert not message.content
    assert said(glm.chat("Say hello.")), "it is in reasoning_content"


def test_completions(glm: Preset) -> None:
    answer = glm.client.completions.create(model=ALIAS, prompt="Hello", max_tokens=5, temperature=0)
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, bool(answer.choices[0].text)) == (5, True)


def test_an_image_is_looked_at(glm: Preset) -> None:
    seen = {said(glm.chat(ASK, image(blue))) for blue in (0, 96, 255)}
    assert len(seen | {said(glm.chat(ASK))}) == 4, "another picture, another answer"
    with served(canary.png(blue=255)) as url:
        assert said(glm.chat(ASK, by_url(url))) == said(glm.chat(ASK, image(255))), "from wherever it comes"


def test_several_images(glm: Preset) -> None:
    sizes = [glm.prompt_tokens(ASK, *[image()] * count) for count in range(4)]
    steps = {after - before for before, after in pairwise(sizes)}
    assert len(steps) == 1 and steps.pop() > 2, sizes
    assert said(glm.chat(ASK, image(0), image(255))) != said(glm.chat(ASK, image(255), image(0))), "each in its place"
    assert glm.prompt_tokens(ASK, *[image()] * 32) == sizes[0] + 32 * (sizes[1] - sizes[0])
    assert "At most 32 image(s)" in glm.refused(ASK, *[image()] * 33)


def test_a_video(glm: Preset, engines: Engines, media: Path) -> None:
    for name, grey in (("dark.mp4", 0), ("light.mp4", 180)):
        subprocess.run([engines.vllm, "-c", FILM, media / name, str(grey)], check=True, timeout=60)
    dark, light = (film(f"file://{media}/{name}.mp4") for name in ("dark", "light"))
    assert glm.prompt_tokens(ASK, dark) > glm.prompt_tokens(ASK)
    assert said(glm.chat(ASK, dark)) != said(glm.chat(ASK, light))
    assert glm.prompt_tokens(ASK, dark, image()) > glm.prompt_tokens(ASK, dark), "and an image beside it"
    assert "At most 1 video(s)" in glm.refused(ASK, dark, light)


def test_files_of_one_folder(glm: Preset, folder: Path, media: Path) -> None:
    for place in (media, folder):
        (place / "picture.png").write_bytes(canary.png(blue=255))
    assert said(glm.chat(ASK, by_url(f"file://{media}/picture.png"))) == said(glm.chat(ASK, image(255)))
    outside = f"file://{folder}/picture.png"
    around = f"file://{media}/../picture.png"
    (media / "link.png").symlink_to(folder / "picture.png")
    for wrong in (outside, around, f"file://{media}/link.png", "file:///etc/hostname"):
        assert "allowed-local-media-path" in glm.refused(ASK, by_url(wrong)), wrong


def test_vllms_own_parameters_reach_it(glm: Preset, engines: Engines) -> None:
    tokens = tokens_of(engines.model)
    words = said(glm.chat(ASK, image())).split()
    stop = tokens[f" {words[2]}"]
    assert words.index(words[2]) == 2
    stopped = glm.chat(ASK, image(), extra_body={"stop_token_ids": [stop]})
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage is not None and stopped.usage.completion_tokens == 3

    # a token that says nothing, which it is made to say; not in a chat, whose reasoning parser needs to see them all
    special = "<|begin_of_image|>"
    for skipped in (False, True):
        forced = glm.client.completions.create(
            model=ALIAS,
            prompt="Hello",
            max_tokens=2,
            logit_bias={str(tokens[special]): 100},
            extra_body={"skip_special_tokens": skipped},
        )
        assert (special in forced.choices[0].text) is not skipped

    long = {"max_tokens": 40}
    plain = said(glm.chat(ASK, image(), **long)).split()
    penalised = said(glm.chat(ASK, image(), **long, extra_body={"repetition_penalty": 5.0})).split()
    assert len(set(plain)) < len(plain), "it repeats itself"
    assert len(penalised) - len(set(penalised)) < len(plain) - len(set(plain))
    assert "repetition_penalty" in glm.refused(ASK, extra_body={"repetition_penalty": -1.0})


@pytest.mark.parametrize("name", CLIENTS)
def test_the_names_that_coding_clients_ask_for(glm: Preset, name: str) -> None:
    assert name in {model.id for model in glm.client.models.list()}
    assert glm.groups()[name]["supports_vision"] is True
    assert said(glm.chat(ASK, image(), model=name)) == said(glm.chat(ASK, image()))


def test_all_is_ready_and_verified(glm: Preset) -> None:
    models = glm.daemon.wait_for(
        lambda: (seen := glm.models()) and all(one["ready"] for one in seen) and seen, "all routes"
    )
    assert [(one["name"], one["local"], one["vision"]) for one in models] == [
        (name, True, True) for name in (ALIAS, *CLIENTS)
    ]
    assert {program["health"] for program in glm.daemon.status()["programs"] if program["name"] != KEEPER} <= {
        "ready",
        "busy",
    }
    seen = glm.verified()
    assert {f"{ALIAS} image (file)", f"{ALIAS} two images", f"{ALIAS} video", "codex chat"} <= seen.keys()


def test_a_wrong_key_is_none(glm: Preset) -> None:
    stranger = glm.client.with_options(api_key="sk-somebody-elses")
    with pytest.raises(openai.APIStatusError) as refused:
        stranger.models.list()
    assert refused.value.status_code in (400, 401)
