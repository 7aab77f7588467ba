"""The real engines: environments made by ``llm-supervisor install``, a tiny model, and a daemon over them.

One vLLM at a time: two cores and the memory of one is all there is. So a running set of engines is shared by the tests
of a module, which leave it ready, and the daemon by many modules (``shared``). What needs no vLLM that runs, or needs
one that fails to start, is in ``beside/``: another process runs it meanwhile.
"""

from __future__ import annotations

import copy
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
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
from llm_supervisor.host.process import read_rows, shared_memory
from tests.daemon.conftest import played
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


def config(engines: Engines, **more: object) -> dict[str, Any]:
    """The demo's configuration on free ports, with engines that may be killed again and again: no restart waits."""
    demo: dict[str, Any] = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
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
    models are at the same path, ``model``, a folder of links to the files of the model of the moment. (Not a link
    itself: the daemon follows it.) What is not in the environment of the keeper, too, or at another path, is started
    cold, as elsewhere.

    Its engines are stopped by SIGKILL, which takes a moment; by SIGTERM they take five seconds. Other modules do that.
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
            "stop": {"signal": "KILL"},
            # right for every model that comes to be at that path: vLLM judges the options of all models at each reload
            "vllm": {"dtype": "bfloat16", "enforce-eager": True, "trust-remote-code": True},
        }
        self._empty = {"gateway": {"port": free_port()}}
        self._link(engines.model)
        self._make_empty()
        super().__init__(folder, self._changes({}), base=self.current / "supervisor.yaml")
        self.start()

    def _link(self, model: Path) -> None:
        shutil.rmtree(self.model, ignore_errors=True)
        self.model.mkdir()
        for file in model.resolve().iterdir():
            (self.model / file.name).symlink_to(file)

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
        settings = config(self._engines)
        settings["models"][ALIAS] |= self.like_the_keeper
        return settings

    @property
    def like_the_keeper(self) -> dict[str, Any]:
        """What a model must have to be started by the keeper's fork server, and how it is stopped."""
        return copy.deepcopy({name: self._keeper[name] for name in ("model", "warm", "gpus", "env", "stop")})

    @contextmanager
    def using(self, changes: dict[str, Any], model: Path | None = None, *, ready: bool = True) -> Iterator[Shared]:
        """Take what is in ``current`` and these changes of it, with that model at ``model``; all is ready then.

        Afterwards no engine runs, so that none runs beside what comes next: there is memory for one set of engines."""
        if self._models():
            self._forget()
        self._link(model or self._engines.model)
        self.write(self._changes(changes))
        self._reload()
        try:
            if ready:
                self.wait_ready(timeout=300)
                self._check_warm()
            yield self
        finally:
            self.cli("stop", *(one["name"] for one in self._models()))
            shutil.rmtree(self.current)
            self._make_empty()

    def _models(self) -> list[dict[str, Any]]:
        return [one for one in self.status()["programs"] if one["kind"] == "vllm" and one["name"] != KEEPER]

    def _forget(self) -> None:
        """Reload with nothing but the keeper, so that nothing is known of programs whose names or ports come again."""
        following = self.current.rename(self.current.with_name("following"))
        self._make_empty()
        self.write(self._changes({}))
        self._reload()
        shutil.rmtree(self.current)
        following.rename(self.current)

    def _check_warm(self) -> None:
        """Whoever may be started warm has the keeper's fork server, else each start of it takes half a minute."""
        server = self.program(KEEPER)["fork_server"]["pid"]
        for one in self._models():
            if one["state"] == "RUNNING" and one["fork_server"]:
                assert one["fork_server"]["pid"] == server, f"{one['name']} has a fork server of its own"

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


def alone(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """That configuration with a vLLM that is started cold, and a stand-in for LiteLLM: where only vLLM matters."""
    settings["engines"]["litellm"] = played(folder)["litellm"]
    for model in settings["models"].values():
        del model["restart"]  # one that has failed is looked at while it waits
    return cold(settings)


def in_shared_memory(ours: Collection[int] = (), *, semaphores: bool = False) -> set[str]:
    """The names in /dev/shm, but for what living processes that are not ``ours`` have mapped: whoever else uses this
    machine has its own there."""
    names = {name for name in os.listdir("/dev/shm") if semaphores or not name.startswith("sem.mp-")}
    return names.difference(*(shared_memory.mapped(pid) for pid in read_rows().keys() - set(ours)))


def pasted_curl(daemon: Daemon) -> str:
    """The curl that the daemon printed, as a person would paste it."""
    return next(line for line in daemon.stdout().splitlines() if line.startswith("curl "))


def run_in_shell(command: str, timeout: float = 60) -> str:
    """What a shell prints for a pasted command."""
    assert shlex.split(command)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=timeout, check=True)
    return done.stdout
