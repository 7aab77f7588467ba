"""Real failures, provoked on the real engines: each is named, and FATAL after one attempt where it is for good."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines.conftest import ALIAS, Engines, alone, config
from tests.support import faults
from tests.support.harness import Daemon, free_port


def edited(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a model folder's config.json."""
    file = model / "config.json"
    settings = json.loads(file.read_text())
    change(settings)
    file.write_text(json.dumps(settings))


def needs_remote_code(model: Path) -> None:
    (model / "configuration_own.py").write_text("raise RuntimeError('must not run')\n")

    def change(settings: dict[str, Any]) -> None:
        settings["auto_map"] = {"AutoConfig": "configuration_own.OwnConfig"}
        settings["model_type"] = "own"

    edited(model, change)


def unsupported(model: Path) -> None:
    edited(model, lambda settings: settings.update(architectures=["NobodyKnowsForCausalLM"]))


def claims_more(model: Path) -> None:
    """A context for which a gigabyte of KV cache is not enough."""
    edited(model, lambda settings: settings["text_config"].update(max_position_embeddings=4_400_000))


def truncate(model: Path) -> None:
    file = model / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)


@dataclass(frozen=True)
class Case:
    """A wrong model: what is wrong, and what must be said of it."""

    kind: str
    permanent: bool
    says: str  # in summary or advice
    options: dict[str, object] = field(default_factory=dict)
    change: Callable[[Path], object] | None = None
    env: dict[str, str] = field(default_factory=dict)
    model: str | None = None


NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}
CASES = {
    "unknown-flag": Case("bad_arguments", True, "no-such-flag", {"no-such-flag": 1}),
    "gone-folder": Case("model_folder_missing", True, "", change=shutil.rmtree),
    # a hub that refuses at once: the real one would be tried for half a minute
    "no-network": Case("network", False, "HF_HUB_OFFLINE", model="nobody/nothing-of-the-kind", env=NO_HUB),
    "too-long": Case("max_model_len_too_large", True, "65536", {"max-model-len": 999999}),
    "no-cache": Case("kv_cache_too_small", True, "max-model-len", {"max-model-len": 4_400_000}, change=claims_more),
    "remote-code": Case("trust_remote_code_needed", True, "trust-remote-code", change=needs_remote_code),
    "unknown-model": Case("unsupported_architecture", True, "NobodyKnowsForCausalLM", change=unsupported),
    "truncated": Case("truncated_weights", True, "cut off", change=truncate),
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system with no room on it."""
    with faults.small_disk(tmp_path_factory.mktemp("disk") / "full", "64k") as disk:
        if disk is None:
            pytest.skip("no small disk can be mounted by this user")
        yield disk


def compiled(daemon: Daemon, disk: Path) -> dict[str, Any]:
    """A model that is compiled, with the caches for it on that disk."""
    (base,) = yaml.safe_load(daemon.config_file.read_text())["models"].values()
    options = {name: value for name, value in base["vllm"].items() if name != "enforce-eager"}
    caches = ("TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR")
    return {**base, "vllm": options, "env": dict.fromkeys(caches, str(disk))}


@pytest.fixture(scope="module")
def wrong(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a model of each sort, none of which is started yet."""
    folder = tmp_path_factory.mktemp("wrong")
    settings = alone(config(engines), folder)
    base = settings["models"].pop(ALIAS)
    for name, case in CASES.items():
        model = folder / f"model-{name}"
        shutil.copytree(engines.model, model)
        settings["models"][name] = {
            **base,
            "model": case.model or str(model),
            "port": free_port(),
            "served_model_name": name,
            "autostart": False,
            "vllm": {**base["vllm"], **case.options},
            "env": case.env,
        }
    with Daemon(folder, settings) as daemon:
        daemon.wait("gateway", timeout=120, state="RUNNING")
        yield daemon


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_model_is_named_and_not_tried_again(wrong: Daemon, name: str) -> None:
    case = CASES[name]
    if case.change is not None:
        case.change(wrong.folder / f"model-{name}")
    wrong.cli("start", name, "--no-wait")
    end = time.monotonic() + 240
    while (seen := wrong.program(name))["failure"] is None:
        assert time.monotonic() < end, seen
        time.sleep(0.2)
    seen = wrong.wait(name, timeout=10, state="FATAL" if case.permanent else "BACKOFF")
    wrong.cli("stop", name)
    failure = seen["failure"]
    assert failure["kind"] == case.kind, failure
    assert failure["permanent"] is case.permanent
    assert case.says in failure["summary"] + failure["advice"]
    assert failure["advice"]
    assert seen["restarts"] == 0, "one attempt was enough"
    explained = wrong.cli("explain", name)
    assert explained.returncode == 0
    assert failure["summary"] in explained.stdout
    assert failure["advice"] in explained.stdout
    facts = json.loads(wrong.cli("explain", name, "--json").stdout)
    assert facts["evidence"], "the lines of the log that say so"
    assert facts["id"] == failure["incident"]


def test_a_taken_port_is_waited_for_without_a_strike(wrong: Daemon) -> None:
    """The holder is named; when it is gone the start goes on."""
    name = "unknown-flag"
    port = yaml.safe_load(wrong.config_file.read_text())["models"][name]["port"]
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        wrong.cli("start", name, "--no-wait")
        seen = wrong.wait(name, timeout=20, state="BACKOFF")
        assert seen["failure"]["kind"] == "port_taken"
        assert str(os.getpid()) in seen["failure"]["summary"], "by this very process"
    wrong.wait(name, timeout=60, state="FATAL")
    assert wrong.program(name)["failure"]["kind"] == "bad_arguments"
    wrong.cli("stop", name)


@pytest.mark.soak
def test_a_full_disk_is_named_and_waited_for(engines: Engines, tmp_path: Path, full: Path) -> None:
    settings = alone(config(engines), tmp_path)
    daemon = Daemon(tmp_path, settings)
    settings["models"][ALIAS] = compiled(daemon, full)
    daemon.write(settings)
    with daemon:
        seen = daemon.wait(ALIAS, timeout=180, state="BACKOFF")
        assert (seen["failure"]["kind"], seen["failure"]["permanent"]) == ("disk_full", False)
        assert "space" in seen["failure"]["advice"]
        assert "No space left on device" in " ".join(evidence(daemon))


def evidence(daemon: Daemon) -> list[str]:
    """The lines that the last incident quotes."""
    facts: dict[str, Any] = json.loads(daemon.cli("explain", ALIAS, "--json").stdout)
    return list(facts["evidence"])


def limited(kibibytes: int) -> list[str]:
    """A prefix: no process may have more memory than that."""
    return ["/bin/sh", "-c", f'ulimit -v {kibibytes}; exec "$@"', "sh"]


def test_a_limit_of_memory_is_named(engines: Engines, tmp_path: Path) -> None:
    with Daemon(tmp_path, alone(config(engines), tmp_path), prefix=limited(3_300_000)) as daemon:
        daemon.wait_for(lambda: daemon.program(ALIAS).get("failure"), "its failure", 180)
        failure = daemon.program(ALIAS)["failure"]
        assert (failure["kind"], failure["permanent"]) == ("host_out_of_memory", False)
        assert "emory" in failure["advice"]
        assert "allocate memory" in " ".join(evidence(daemon))


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A group whose processes may have 700 MiB together, which is not enough for what vLLM imports."""
    # version 1 or 2 of the controller, whichever this machine has
    for parent, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(parent) / f"llm-supervisor-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(700 * 1024 * 1024))
            break
        except OSError:
            if group.is_dir():
                group.rmdir()
    else:
        pytest.skip("no memory control group can be made by this user")
    try:
        yield group
    finally:
        end = time.monotonic() + 30
        while True:
            try:
                group.rmdir()
                break
            except OSError:
                assert time.monotonic() < end, "somebody is left in it"
                time.sleep(0.1)


def test_the_kernels_oom_killer_is_named(engines: Engines, tmp_path: Path, control_group: Path) -> None:
    prefix = ["/bin/sh", "-c", f'echo $$ > {control_group}/cgroup.procs; exec "$@"', "sh"]
    with Daemon(tmp_path, alone(config(engines), tmp_path), prefix=prefix) as daemon:
        daemon.wait_for(lambda: daemon.program(ALIAS).get("failure"), "its failure", 180)
        failure = daemon.program(ALIAS)["failure"]
        if not os.access("/dev/kmsg", os.R_OK):
            pytest.skip("the kernel's log cannot be read here")
        assert (failure["kind"], failure["permanent"]) == ("host_out_of_memory", False), failure
        assert "the kernel killed" in failure["summary"]
        assert "Killed process" in " ".join(evidence(daemon)), "in the kernel's own words"
