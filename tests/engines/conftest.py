"""The real engines: environments made by ``llm-supervisor install``, a tiny model, and a daemon over them.

One set of engines at a time: two cores and the memory of one set is all there is. So the daemon is shared by the tests
of a module, which leave it ready.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from llm_supervisor import paths
from llm_supervisor.engines import environment as envs
from tests.support.harness import Daemon, free_port

ROOT = Path(__file__).parent.parent.parent
ALIAS = "glm-4.1v"
# What the person who runs the tests may have said, and what would go before keys.env
_PROVIDERS = (
    "ANTHROPIC_",
    "OPENAI_",
    "GEMINI_",
    "GOOGLE_",
    "LLM_PROVIDER",
    "LLM_MODEL",
    "LLM_TPM",
    "LLM_RPM",
    "EMBEDDING_",
)


@dataclass(frozen=True)
class Engines:
    """Interpreters of the engines' environments, and a tiny model."""

    vllm: Path
    litellm: Path
    model: Path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def engines() -> Engines:
    """Make what is missing, as a person would: by the command."""
    model = ROOT / ".demo/tiny-glm-4.1v"
    subprocess.run(
        [sys.executable, "-m", "llm_supervisor.cli", "install", "--tiny-model", str(model)], check=True, timeout=2400
    )
    data = paths.data_dir(os.environ)
    return Engines(envs.environment("vllm", data).python, envs.environment("litellm", data).python, model)


def config(engines: Engines, **more: object) -> dict[str, object]:
    """The demo's configuration on free ports."""
    demo = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    demo["gateway"]["port"] = free_port()
    demo["models"][ALIAS] |= {"port": free_port(), "model": str(engines.model)}
    demo["engines"] = {"vllm": {"python": str(engines.vllm)}, "litellm": {"python": str(engines.litellm)}}
    return demo | more


Native = Callable[[dict[str, Any]], None]


class FromPreset(Daemon):
    """A daemon over what ``init`` makes of a preset; ``change`` alters the native file, ``keys`` fill in keys.env."""

    def __init__(self, folder: Path, engines: Engines, preset: str, change: Native, keys: dict[str, str]) -> None:
        command = [sys.executable, "-m", "llm_supervisor.cli", "init", preset, str(folder)]
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
        settings = yaml.safe_load((folder / "supervisor.yaml").read_text())
        settings["gateway"]["port"] = free_port()
        settings["engines"] = {"litellm": {"python": str(engines.litellm)}}
        native = folder / "litellm_config.yaml"
        self.native: dict[str, Any] = yaml.safe_load(native.read_text())
        change(self.native)
        native.write_text(yaml.safe_dump(self.native))
        self._keys = folder / "keys.env"
        super().__init__(folder, settings)
        self.env = {name: value for name, value in self.env.items() if not name.startswith(_PROVIDERS)}
        self.set_keys(**keys)

    def set_keys(self, **keys: str) -> None:
        """These hold from the next reload on."""
        lines = [line for line in self._keys.read_text().splitlines() if line.partition("=")[0] not in keys]
        self._keys.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in keys.items())]) + "\n")

    def http(self) -> httpx.Client:
        """A client of the gateway."""
        key = next(line for line in self._keys.read_text().splitlines() if line.startswith("LITELLM_MASTER_KEY="))
        headers = {"Authorization": f"Bearer {key.partition('=')[2]}"}
        return httpx.Client(base_url=self.status()["endpoint"], headers=headers, timeout=60, trust_env=False)

    def openai(self) -> openai.OpenAI:
        """The same, by OpenAI's library; it never retries."""
        http = self.http()
        key = http.headers["Authorization"].removeprefix("Bearer ")
        return openai.OpenAI(base_url=f"{http.base_url}/v1", api_key=key, max_retries=0, http_client=http)


@pytest.fixture(scope="module")
def daemon(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with both engines ready; nothing of it is left afterwards."""
    with Daemon(tmp_path_factory.mktemp("daemon"), config(engines)) as running:
        running.wait_ready(timeout=300)
        yield running


def pasted_curl(daemon: Daemon) -> str:
    """The curl that the daemon printed, as a person would paste it."""
    return next(line for line in daemon.stdout().splitlines() if line.startswith("curl "))


def run_in_shell(command: str, timeout: float = 60) -> str:
    """What a shell prints for a pasted command."""
    assert shlex.split(command)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=timeout, check=True)
    return done.stdout
