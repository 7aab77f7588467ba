"""MiniCPM-V 2.6: code of its repository, an API key for vLLM itself, and where an answer ends."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import httpx
import pytest

from llm_supervisor.engines import canary
from tests.engines.conftest import Engines, Shared
from tests.engines.presets.conftest import ASK, Preset, by_url, image, running, said, served, tiny, tokens_of
from tests.support.programs import command_line

ALIAS = "minicpm-v"


@pytest.fixture(scope="module")
def minicpm(engines: Engines, shared: Shared) -> Iterator[Preset]:
    with running("minicpm-v-2.6", shared, {ALIAS: {}}, tiny(engines, "minicpm-v-2.6")) as preset:
        yield preset


def test_its_command_line(minicpm: Preset) -> None:
    words = minicpm.argv(ALIAS)
    assert "--trust-remote-code --dtype auto --max-model-len 2048 --gpu-memory-utilization 0.9" in words


def test_vllm_has_a_key_that_the_gateway_knows(minicpm: Preset) -> None:
    key = minicpm.keys["VLLM_KEY"]
    port = minicpm.argv(ALIAS).partition("--port ")[2].split()[0]
    asked = {"model": "MiniCPM-V-2_6", "prompt": "Hello", "max_tokens": 1}
    statuses = {}
    for given in (None, "sk-wrong", minicpm.keys["LITELLM_MASTER_KEY"], key):
        headers = {} if given is None else {"Authorization": f"Bearer {given}"}
        url = f"http://127.0.0.1:{port}/v1/completions"
        statuses[given] = httpx.post(url, json=asked, headers=headers, trust_env=False, timeout=60).status_code
    assert list(statuses.values()) == [401, 401, 401, 200]
    assert said(minicpm.chat("Say hello."))
    lines = [command_line(pid) for pid in minicpm.daemon.children()]
    assert len(lines) > 2
    assert not [line for line in lines if key in line], "no command line shows it"
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert key not in shown
    assert key not in (minicpm.daemon.runtime / "litellm_config.yaml").read_text()


def test_an_image_is_looked_at(minicpm: Preset) -> None:
    seen = {said(minicpm.chat(ASK, image(blue))) for blue in (0, 96, 255)}
    assert len(seen | {said(minicpm.chat(ASK))}) == 4, "another picture, another answer"
    with served(canary.png(blue=255)) as url:
        assert said(minicpm.chat(ASK, by_url(url))) == said(minicpm.chat(ASK, image(255)))
    with served(canary.png(width=112, height=56)) as url:
        assert minicpm.prompt_tokens(ASK, by_url(url)) > minicpm.prompt_tokens(ASK, image()), "a large one in parts"


def test_where_it_stops(minicpm: Preset, engines: Engines) -> None:
    words = said(minicpm.chat(ASK, image())).split()
    stop = tokens_of(tiny(engines, "minicpm-v-2.6"))[f" {words[2]}"]
    answer = minicpm.chat(ASK, image(), extra_body={"stop_token_ids": [stop]})
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.completion_tokens == words.index(words[2]) + 1


def test_all_is_verified(minicpm: Preset) -> None:
    assert minicpm.groups()[ALIAS]["supports_vision"] is True
    assert {f"{ALIAS} image (base64)", f"{ALIAS} image (URL)", f"{ALIAS} two images"} <= minicpm.verified().keys()
