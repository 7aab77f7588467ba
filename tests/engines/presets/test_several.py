"""Several local models: one name over two engines, of which either may be down, and a text model beside them.

Never more than two engines at once: that is all the memory there is.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.engines.conftest import Engines, Shared
from tests.engines.presets.conftest import ASK, Preset, image, running, said, tiny

GROUP, ENGINES, TEXT = "vision", ("vision-1", "vision-2"), "text"


@pytest.fixture(scope="module")
def several(engines: Engines, shared: Shared) -> Iterator[Preset]:
    reading = {"model": str(tiny(engines, "qwen3")), "autostart": False}
    with running("several", shared, {ENGINES[0]: {}, ENGINES[1]: {}, TEXT: reading}) as preset:
        yield preset


def answered(several: Preset, name: str) -> float:
    """Requests that this engine has answered."""
    port = several.argv(name).partition("--port ")[2].split()[0]
    page = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    found = re.findall(r"^vllm:request_success_total\{.*\} ([0-9.e+]+)$", page, re.MULTILINE)
    return sum(map(float, found))


def test_one_name_is_balanced_over_both(several: Preset) -> None:
    """Each of 24 goes to one by chance: that one of them gets none happens once in eight million times."""
    assert several.groups()[GROUP]["supports_vision"] is True

    def shown() -> tuple[bool, bool]:
        model = next(one for one in several.daemon.status()["models"] if one["name"] == GROUP)
        return model["local"], model["ready"]

    several.daemon.wait_for(lambda: shown() == (True, True), f"{GROUP} is local and ready")
    before = [answered(several, name) for name in ENGINES]
    answers = {said(several.chat(ASK, image(), model=GROUP)) for _ in range(24)}
    gained = [answered(several, name) - old for name, old in zip(ENGINES, before, strict=True)]
    assert min(gained) > 0, gained
    assert len(answers) == 1, "the same weights, the same answer"


def test_a_clients_mistake_costs_the_others_nothing(several: Preset) -> None:
    """LiteLLM would not ask an engine for 5 s after a 404, and answer everybody 429."""
    for _ in range(4):
        with pytest.raises(openai.APIStatusError) as refused:
            several.client.embeddings.create(model=GROUP, input="hello")
        assert refused.value.status_code == 404
    assert said(several.chat(ASK, image(), model=GROUP))


def test_one_may_be_down(several: Preset) -> None:
    """What the killed one had in hand, and all that comes while it starts, is answered by the other, without a retry of
    the client's."""
    daemon, (down, _) = several.daemon, ENGINES
    before = daemon.program(down)["restarts"]
    killed = threading.Event()

    def ask(number: int) -> str:
        """Until it has been answered some times after the kill."""
        last, left = "", 6
        while left:
            left -= killed.is_set()
            last = said(several.chat(ASK, image(), model=GROUP, max_tokens=4))
            assert last
        return last

    with ThreadPoolExecutor(2) as clients:
        asking = clients.map(ask, range(2))
        for pid in daemon.tree(down):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed.set()
        daemon.wait_for(lambda: daemon.program(down)["restarts"] > before, f"{down} was seen to be gone")
        seen = {model["name"]: model["ready"] for model in daemon.status()["models"]}
        assert (seen[down], seen[GROUP]) == (False, True)
        assert len(set(asking)) == 1
    daemon.wait(down, timeout=300, state="RUNNING")


def test_text_and_vision_together(several: Preset) -> None:
    """The second engine makes room for the text model; the name over both is answered by the first, which was down
    before."""
    daemon = several.daemon
    assert daemon.cli("stop", ENGINES[1]).returncode == 0
    done = daemon.cli("start", TEXT, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    with ThreadPoolExecutor(2) as clients:
        reading = clients.submit(lambda: [said(several.chat("Say hello.", model=TEXT)) for _ in range(8)])
        seeing = clients.submit(lambda: [said(several.chat(ASK, image(), model=GROUP)) for _ in range(8)])
        read, seen = reading.result(), seeing.result()
    assert all(read) and all(seen)
    assert set(read).isdisjoint(seen)
    assert several.groups()[TEXT]["supports_vision"] is False
    rows = several.verified(GROUP, ENGINES[0], TEXT)
    assert {f"{GROUP} image (base64)", f"{ENGINES[0]} two images", f"{TEXT} stream"} <= rows.keys()
