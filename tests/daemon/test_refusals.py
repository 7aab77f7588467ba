"""Wrong input and taken places: exit 2, every problem with its place, nothing spawned, no traceback."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_supervisor import paths
from llm_supervisor.cli import main
from tests.daemon.conftest import Make, program
from tests.support.harness import Daemon
from tests.support.programs import free_port

pytestmark = pytest.mark.slow


def touching(folder: Path) -> dict[str, Any]:
    """A program that leaves a file behind when it is ever started."""
    return {"command": ["sh", "-c", f"touch '{folder}/started'; exec sleep 1000"], "ready": {"after": 0}}


def refused(daemon: Daemon, tmp_path: Path) -> str:
    """What the daemon says when it does not start; asserts all that is true of every such end."""
    daemon.start()
    assert daemon.wait_ended(20) == 2
    said = daemon.stderr()
    assert "Traceback" not in said
    assert daemon.stdout() == ""
    assert not (tmp_path / "started").exists()
    assert daemon.children() == {}
    assert not (daemon.runtime / "control.sock").exists()
    return said


def test_every_problem_with_file_line_and_path(make: Make, tmp_path: Path) -> None:
    daemon = make({"p": touching(tmp_path)}, start=False)
    daemon.config_file.write_text(
        f"""\
gateway:
  prot: 4000
  port: 8000
models:
  a: {{model: ./none, port: 8000}}
  b: {{model: ./none, port: http}}
programs:
  p: {yaml.safe_dump(touching(tmp_path), default_flow_style=True, width=1000).strip()}
"""
    )
    said = refused(daemon, tmp_path)
    file = str(daemon.config_file)
    assert said.splitlines() == [
        f"{file}:2: gateway.prot: unknown key (did you mean port?)",
        f"{file}:5: models.a.model: no such folder: {daemon.folder}/none",
        f"{file}:5: models.a.port: port 8000 is already used by gateway",
        f"{file}:6: models.b.model: no such folder: {daemon.folder}/none",
        f"{file}:6: models.b.port: must be a whole number, not 'http'",
        "llm-supervisor: 5 problems; nothing was started",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a: [", "is not valid YAML"),
        ("gateway: {}\n\tb: 1", "indent with spaces"),
        ("- a", "must be a mapping"),
        ("zzz: 1", "zzz: unknown key"),
        ("gateway: {litellm_config: none.yaml}", "gateway.litellm_config: no such file"),
        ("env_file: none.env", "env_file: "),
    ],
)
def test_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str) -> None:
    """In this process; the many rows are in tests/config."""
    file = tmp_path / "supervisor.yaml"
    file.write_text(text)
    assert main.main(["check", "-c", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(str(file))
    assert words in err
    assert main.main(["check", "--json", "-c", str(file)]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["ok"], err) == (False, "")
    assert set(found["problems"][0]) == {"severity", "file", "line", "path", "message", "advice"}


def test_no_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "CONFIGS", ("supervisor.yaml", str(tmp_path / "etc/supervisor.yaml")))
    assert main.main(["check"]) == 2
    assert "no configuration: there is no supervisor.yaml and no " in capsys.readouterr().err
    assert main.main(["check", "-c", "none.yaml"]) == 2
    assert capsys.readouterr().err == f"{tmp_path}/none.yaml: no such file\n"


def test_a_taken_port_names_its_holder(make: Make, engines: dict[str, Any], tmp_path: Path) -> None:
    """Of the gateway and of a model, both at once, before anything is spawned."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [sock.getsockname()[1] for sock in (one, two)]
        models = {"a": {"model": "org/a", "port": ports[1]}, "b": {"model": "org/b", "port": free_port()}}
        daemon = make(
            {"p": touching(tmp_path)}, start=False, gateway={"port": ports[0]}, models=models, engines=engines
        )
        daemon.ports = []  # they are ours
        said = refused(daemon, tmp_path).splitlines()

    assert len(said) == 3
    for line, port, path in zip(said, ports, ("gateway.port", "models.a.port"), strict=False):
        assert f": {path}: port {port} is taken by pid {os.getpid()} (" in line
        assert line.startswith(f"{daemon.config_file}:")
    assert said[2] == "llm-supervisor: 2 problems; nothing was started"


def test_an_address_that_is_not_ours(make: Make, engines: dict[str, Any], tmp_path: Path) -> None:
    gateway = {"host": "192.0.2.1", "port": free_port()}
    daemon = make({"p": touching(tmp_path)}, start=False, gateway=gateway, engines=engines)
    assert f"gateway.port: port {gateway['port']} cannot be bound on 192.0.2.1" in refused(daemon, tmp_path)


def test_an_unset_key(make: Make, engines: dict[str, Any], tmp_path: Path) -> None:
    gateway = {"port": free_port(), "litellm_config": "native.yaml"}
    daemon = make({"p": touching(tmp_path)}, start=False, gateway=gateway, engines=engines)
    native = daemon.folder / "native.yaml"
    native.write_text(yaml.safe_dump({"general_settings": {"master_key": "os.environ/NOT_THERE"}}))
    said = refused(daemon, tmp_path)
    assert f"{native}:2: general_settings.master_key: os.environ/NOT_THERE is not set" in said


def test_engines_that_are_not_installed(make: Make, tmp_path: Path) -> None:
    models = {"a": {"model": "org/a", "port": free_port()}}
    daemon = make({"p": touching(tmp_path)}, start=False, gateway={"port": free_port()}, models=models)
    assert "llm-supervisor install vllm litellm" in refused(daemon, tmp_path)


def test_a_second_daemon_is_refused_and_names_the_first(make: Make, tmp_path: Path) -> None:
    first = make({"p": program("obedient")})
    pid = first.wait("p", state="RUNNING")["pid"]
    second = make({"p": touching(tmp_path)}, start=False, folder="second")
    second.runtime = first.runtime
    second.env["RUNTIME_DIRECTORY"] = str(first.runtime)
    second.start()
    assert second.wait_ended(20) == 2
    assert first.process is not None
    assert f"pid {first.process.pid}" in second.stderr()
    assert "Traceback" not in second.stderr()
    assert not (tmp_path / "started").exists()
    assert first.program("p")["pid"] == pid, "the first goes on as if nothing had been"
    assert first.end() == 0


def test_a_dead_daemons_lock_and_socket_do_not_keep_the_next_one_out(make: Make) -> None:
    daemon = make({"p": program("obedient")})
    daemon.wait("p", state="RUNNING")
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    assert (daemon.runtime / "control.sock").exists()
    assert daemon.cli("status").returncode == 4
    daemon.start()
    daemon.wait("p", state="RUNNING")


def test_a_runtime_folder_with_a_long_name(make: Make, tmp_path: Path) -> None:
    """Longer than a socket's address; the command reaches it all the same."""
    daemon = make({"p": program("obedient")}, start=False)
    daemon.runtime = tmp_path / ("r" * 150)
    daemon.env["RUNTIME_DIRECTORY"] = str(daemon.runtime)
    daemon.start()
    daemon.wait("p", state="RUNNING")
    assert daemon.cli("status").returncode == 0
    # and it is ours alone
    assert daemon.runtime.stat().st_mode & 0o777 == 0o700
    assert (daemon.runtime / "control.sock").stat().st_mode & 0o777 == 0o600
    for path in daemon.runtime.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0 or path.is_dir(), path
