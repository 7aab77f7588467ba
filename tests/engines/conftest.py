"""The real engines: environments made by ``llm-supervisor install``, a tiny model, and a daemon over them.

One set of engines at a time: two cores and the memory of one set is all there is. So the daemon is shared by the tests
of a module, which leave it ready.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from llm_supervisor import paths
from llm_supervisor.engines import install
from tests.daemon.harness import Daemon, free_port

ROOT = Path(__file__).parent.parent.parent
ALIAS = "glm-4.1v"


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
    return Engines(install.environment("vllm", data).python, install.environment("litellm", data).python, model)


def config(engines: Engines, **more: object) -> dict[str, object]:
    """The demo's configuration on free ports."""
    demo = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    demo["gateway"]["port"] = free_port()
    demo["models"][ALIAS] |= {"port": free_port(), "model": str(engines.model)}
    demo["engines"] = {"vllm": {"python": str(engines.vllm)}, "litellm": {"python": str(engines.litellm)}}
    return demo | more


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
