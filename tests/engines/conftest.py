"""The real engines: environments made by ``llm-supervisor install``, a tiny model, and a daemon over them.

One set of engines at a time: two cores and the memory of one set is all there is. So the daemon is shared by the tests
of a module, which leave it ready.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
    """The demo's configuration on free ports, with engines that may be killed again and again: no restart waits."""
    demo = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    for program in (demo["gateway"], demo["models"][ALIAS]):
        program["restart"] = {"backoff": 0, "intensity": 1000}
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


KEEPER = "keeper"


class Shared(Daemon):
    """One daemon for the tests of many modules, each of which has its own configuration: the next one is taken by a
    reload. Its engines are started by the fork server of the one before, so that a start takes 3 s and not 30.

    A fork server is kept for as long as a program is configured that could be started by it. So there is always a model
    more, ``keeper``, which was started once and is stopped. And it is another one for another path of a model: so all
    models are at the same path, ``model``, which is a symbolic link to the model of the moment. What is not in the
    environment of the keeper, too, or at another path, is started cold, as elsewhere.
    """

    def __init__(self, folder: Path, engines: Engines) -> None:
        self.current, self.model = folder / "current", folder / "model"
        self._engines = engines
        self._keeper = {
            "model": str(self.model),
            "port": free_port(),
            "autostart": False,
            "warm": "full",
            "gpus": [],
            "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
            "vllm": {"dtype": "bfloat16", "enforce-eager": True, "max-model-len": 2048},
        }
        self._empty = {"gateway": {"port": free_port()}}
        self._link(engines.model)
        self._make_empty()
        super().__init__(folder, self._changes({}), base=self.current / "supervisor.yaml")
        self.start()

    def _link(self, model: Path) -> None:
        self.model.unlink(missing_ok=True)
        self.model.symlink_to(model)

    def _make_empty(self) -> None:
        self.current.mkdir()
        (self.current / "supervisor.yaml").write_text(yaml.safe_dump(self._empty))

    def _reload(self) -> None:
        done = self.cli("reload", timeout=300)
        assert done.returncode in (0, 3), done.stdout + done.stderr

    def _changes(self, more: dict[str, Any]) -> dict[str, Any]:
        return {
            "engines": {"vllm": {"python": str(self._engines.vllm)}, "litellm": {"python": str(self._engines.litellm)}},
            **more,
            "models": {**more.get("models", {}), KEEPER: self._keeper},
        }

    def warm_up(self) -> None:
        """Start the keeper, wait for the fork server that is made of it, and stop it."""
        self.wait_up()
        started = self.cli("start", KEEPER, timeout=300)
        assert started.returncode == 0, started.stdout + started.stderr
        self.wait_for(lambda: (self.program(KEEPER)["fork_server"] or {}).get("state") == "ready", "a fork server", 120)
        assert self.cli("stop", KEEPER).returncode == 0

    def config(self) -> dict[str, Any]:
        """The demo's configuration on free ports, with the model that is at ``model`` and a fork server for it."""
        settings: dict[str, Any] = config(self._engines)
        settings["models"][ALIAS] |= {name: self._keeper[name] for name in ("model", "warm", "gpus", "env")}
        return settings

    @contextmanager
    def using(self, changes: dict[str, Any], model: Path | None = None, *, ready: bool = True) -> Iterator[Shared]:
        """Take what is in ``current`` and these changes of it, with that model at ``model``; all is ready then.

        Afterwards only the keeper is there, so that nothing of this configuration runs beside what comes next: there is
        memory for one set of engines. And nothing is known of a program that has the same name in the next one."""
        self._link(model or self._engines.model)
        self.write(self._changes(changes))
        self._reload()
        try:
            if ready:
                self.wait_ready(timeout=300)
            yield self
        finally:
            self.cli("stop", *(one["name"] for one in self.status()["programs"] if one["kind"] == "vllm"))
            shutil.rmtree(self.current)
            self._make_empty()
            self.write(self._changes({}))
            self._reload()

    def using_config(
        self, settings: dict[str, Any], model: Path | None = None, *, ready: bool = True
    ) -> AbstractContextManager[Shared]:
        """The same with this configuration."""
        (self.current / "supervisor.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        return self.using({}, model, ready=ready)


@pytest.fixture(scope="session")
def shared(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """See ``Shared``. Nothing of it is left after the last test that uses it."""
    with Shared(tmp_path_factory.mktemp("shared"), engines).started() as daemon:
        assert isinstance(daemon, Shared)
        daemon.warm_up()
        yield daemon


@pytest.fixture(scope="module")
def daemon(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with both engines ready; nothing of it is left afterwards."""
    with Daemon(tmp_path_factory.mktemp("daemon"), config(engines)) as running:
        running.wait_ready(timeout=300)
        yield running


def chat(daemon: Daemon, alias: str = ALIAS) -> dict[str, Any]:
    """The answer of a model through the gateway, with the key that the daemon has made."""
    key = (daemon.home / "master_key").read_text().strip()
    body = {"model": alias, "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
    url, headers = f"{daemon.status()['endpoint']}/v1/chat/completions", {"Authorization": f"Bearer {key}"}
    answer = httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def cold(settings: dict[str, Any]) -> dict[str, Any]:
    """That configuration without fork servers, which are made for nothing where no start is to be warm."""
    for block in (settings.get("gateway"), *settings.get("models", {}).values()):
        if block is not None:
            block["warm"] = "off"
    return settings


def pasted_curl(daemon: Daemon) -> str:
    """The curl that the daemon printed, as a person would paste it."""
    return next(line for line in daemon.stdout().splitlines() if line.startswith("curl "))


def run_in_shell(command: str, timeout: float = 60) -> str:
    """What a shell prints for a pasted command."""
    assert shlex.split(command)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=timeout, check=True)
    return done.stdout
