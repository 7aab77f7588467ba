"""A vLLM that starts from a hub on loopback, or from what was pulled."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from llm_supervisor.config import load, not_cached
from tests.engines.beside.test_pull import MIB, Place, modelscope, place, scoped
from tests.engines.conftest import ALIAS, Engines, alone, config
from tests.support import hub as hubs
from tests.support.harness import Daemon
from tests.support.programs import until

__all__ = ["modelscope", "place"]  # fixtures


def settings(place: Place, engines: Engines, **env: str) -> dict[str, Any]:
    """The demo's configuration, with the model on the hub, and without a gateway's load on this machine."""
    made = alone(config(engines), place.folder)
    environ = {"HF_ENDPOINT": place.hub.url, "HF_HOME": str(place.home), **env}
    made["models"][ALIAS] |= {"model": "org/tiny-glm", "env": environ}
    return made


@pytest.mark.soak
def test_vllm_starts_from_it_without_a_network(place: Place, engines: Engines) -> None:
    place.hub.add("org/tiny-glm", hubs.from_folder(engines.model))
    made = settings(place, engines, HF_HUB_OFFLINE="1")
    (place.folder / "supervisor.yaml").write_text(yaml.safe_dump(made))
    code, out, err = place.ended(place.command(ALIAS))
    assert code == 0, err
    assert "org/tiny-glm: complete" in out
    asked = len(place.hub.asked)
    with Daemon(place.folder, made) as daemon:
        daemon.wait_ready(timeout=300)
        assert "llm-supervisor pull" not in (place.folder / "stderr").read_text()
    assert len(place.hub.asked) == asked, "it did not ask the hub"


@pytest.mark.soak
def test_vllm_starts_from_modelscope(place: Place, engines: Engines, modelscope: str) -> None:
    place.hub.add("org/tiny-glm-4.1v", hubs.from_folder(engines.model))
    made = settings(place, engines, HF_ENDPOINT="http://127.0.0.1:9", **scoped(place, modelscope))
    models: Any = made["models"]
    models[ALIAS] |= {"model": "org/tiny-glm-4.1v", "source": "modelscope"}
    (place.folder / "supervisor.yaml").write_text(yaml.safe_dump(made))
    code, _, err = place.ended(place.command(ALIAS))
    assert code == 0, err
    sent = place.hub.sent()
    with Daemon(place.folder, made) as daemon:
        daemon.wait_ready(timeout=150)
    assert place.hub.sent() == sent, "it downloaded nothing"


def test_a_start_that_downloads_says_so(place: Place, engines: Engines) -> None:
    # vLLM takes all small files, and its library writes 10 MiB at a time
    place.hub.add("org/tiny-glm", {**hubs.from_folder(engines.model), "notes.txt": bytes(60 * MIB)})
    place.hub.rate = 8 * MIB
    with Daemon(place.folder, settings(place, engines)) as daemon:
        until(
            lambda: (daemon.program(ALIAS).get("progress") or {}).get("step") == "downloading",
            "it says that it downloads",
            200,
        )
        place.hub.rate = None
        daemon.wait_ready(timeout=300)
        assert not_cached(load(daemon.config_file, place.environ())) == [], "what it took is what we know that it takes"
        said = (place.folder / "stderr").read_text()
    assert "org/tiny-glm is not in the cache" in said and f"llm-supervisor pull {ALIAS}" in said
