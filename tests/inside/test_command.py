"""What LiteLLM's own command does before it serves, as a replica lets it: the real file, a stand-in for the command.

With the real LiteLLM: ``tests.engines.beside.test_start_litellm``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import uvicorn

from llm_supervisor.engines import environment as envs
from llm_supervisor.engines.litellm import probes
from tests.support.harness import free_port

SERVES = {"app": "x:app", "host": "0.0.0.0", "server_header": False, "log_config": {"version": 1}, "workers": 1}


class Command:
    """What stands in for ``litellm``: it does ``does``, and then serves with ``SERVES``."""

    def __init__(self) -> None:
        self.does: list[Callable[[], object]] = []
        self.words: list[str] = []
        self.migrations = 0
        self.builds = 0
        self.migrates_well: bool | BaseException = True
        self.saw: dict[str, str] = {}
        self.manager: Any = SimpleNamespace()

    def play(self, module: Any, file: str | None) -> Any:
        """One replica's start."""
        self.manager.setup_database, self.manager.start_request_log_index_build = self.setup, self.build
        return module.prepare("c.yaml", file)

    def main(self, words: list[str], *, prog_name: str, standalone_mode: bool) -> None:
        assert not standalone_mode, "else it ends the process"
        self.words, self.saw = words, dict(os.environ)
        for do in self.does:
            do()
        uvicorn.run(**SERVES)  # type: ignore[arg-type]

    def setup(self, **_: Any) -> bool:
        self.migrations += 1
        if isinstance(self.migrates_well, BaseException):
            raise self.migrates_well
        return self.migrates_well

    def build(self) -> None:
        self.builds += 1


@pytest.fixture
def command() -> Command:
    return Command()


@pytest.fixture
def module(command: Command, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file as a module, beside the stand-in."""
    names = ("litellm", "litellm.proxy", "litellm.proxy.db", "litellm.proxy.proxy_cli")
    stands: dict[str, Any] = {name: ModuleType(name) for name in (*names, "litellm_proxy_extras")}
    stands["litellm.proxy.proxy_cli"].run_server = command
    manager = command.manager
    stands["litellm.proxy.db.prisma_client"] = SimpleNamespace(PrismaManager=manager)
    stands["litellm_proxy_extras"].__file__ = "/nowhere/__init__.py"
    stands["litellm.proxy.db.check_migration"] = SimpleNamespace(check_prisma_schema_diff=lambda **_: None)
    for name, stand in stands.items():
        monkeypatch.setitem(sys.modules, name, stand)
    command.does.append(lambda: manager.setup_database(use_migrate=True) is True or sys.exit(1))
    command.does.append(lambda: manager.start_request_log_index_build())
    for name in [name for name in os.environ if name.startswith("DATABASE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    spec = importlib.util.spec_from_file_location("command_under_test", envs.INSIDE / "litellm_command.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def database(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Something that accepts connections at the database's address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("DATABASE_URL", f"postgresql://u:p@127.0.0.1:{server.getsockname()[1]}/litellm")
        yield server


def test_the_command_prepares_and_we_serve(module: Any, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the options of its server those are taken that say how it writes; ours has sockets of its own."""
    run, path = uvicorn.run, list(sys.path)
    monkeypatch.chdir("/")
    command.does = [lambda: sys.path.append("/nowhere")]
    given = command.play(module, None)
    assert given == {"server_header": False, "log_config": {"version": 1}}
    assert command.words[:2] == ["--config", "c.yaml"]
    assert uvicorn.run is run, "the real one is back"
    assert os.environ["PATH"].split(":")[0] == str(Path(sys.executable).parent), "prisma is called by its name"
    sys.path[:] = path


def test_options_of_a_server_of_its_own_are_named(
    module: Any, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command.does = []
    monkeypatch.setenv("PROMETHEUS_METRICS_PORT", "9000")
    monkeypatch.setenv("SSL_KEYFILE_PATH", "/key.pem")
    command.play(module, None)
    assert not {"PROMETHEUS_METRICS_PORT", "SSL_KEYFILE_PATH"} & set(command.saw)
    assert "PROMETHEUS_METRICS_PORT, SSL_KEYFILE_PATH has no effect" in capsys.readouterr().out
    assert os.environ["SSL_KEYFILE_PATH"] == "/key.pem", "they are other programs', too"


@pytest.mark.usefixtures("database")
def test_one_replica_migrates_for_all(module: Any, command: Command, tmp_path: Path) -> None:
    file = str(tmp_path / "migrated")
    for _ in range(2):
        command.play(module, file)
    assert command.migrations == 1
    assert command.builds == 1, "indexes are built by the one that migrated"


@pytest.mark.usefixtures("database")
def test_another_database_is_migrated_too(
    module: Any, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, url = str(tmp_path / "migrated"), os.environ["DATABASE_URL"]
    command.play(module, file)
    monkeypatch.setenv("DATABASE_URL", url.replace("u:p@", "u:another-token@"))
    command.play(module, file)
    assert command.migrations == 1, "another password is no other database"
    monkeypatch.setenv("DATABASE_URL", f"{url}?schema=other")
    command.play(module, file)
    assert command.migrations == 2


@pytest.mark.usefixtures("database")
def test_a_database_that_was_made_anew_is_migrated_again(module: Any, command: Command, tmp_path: Path) -> None:
    file, applied = str(tmp_path / "migrated"), [214]
    module.migrations_applied = lambda: applied[0]
    command.play(module, file)
    command.play(module, file)
    assert command.migrations == 1
    applied[0] = 0
    command.play(module, file)
    assert command.migrations == 2


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("fails", [False, RuntimeError("P3009"), SystemExit(2)])
def test_a_migration_that_failed_is_tried_by_the_next(
    module: Any, command: Command, tmp_path: Path, fails: bool | BaseException
) -> None:
    file = str(tmp_path / "migrated")
    command.migrates_well = fails
    with pytest.raises((SystemExit, RuntimeError)):
        command.play(module, file)
    command.migrates_well = True
    command.play(module, file)
    assert command.migrations == 2


@pytest.mark.usefixtures("database")
def test_a_replica_waits_for_the_one_that_migrates(
    module: Any, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, entered = str(tmp_path / "migrated"), threading.Event()
    with module.turn(file):
        other = threading.Thread(target=lambda: (entered.set(), command.play(module, file)))
        other.start()
        assert entered.wait(5)
        while "waiting" not in (said := capsys.readouterr().out):
            assert other.is_alive()
        assert command.migrations == 0
    other.join(10)
    assert command.migrations == 1
    step = probes.step(next(line for line in said.splitlines() if "waiting" in line).encode())
    assert step is not None and step.doing == "waiting for the replica that migrates the database"


def test_a_database_that_is_away_ends_the_start_with_its_name(
    module: Any, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    module.DATABASE_WAIT = 0.0
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:secret@127.0.0.1:{port}/litellm")
    with pytest.raises(SystemExit) as ended:
        command.play(module, str(tmp_path / "migrated"))
    assert ended.value.code == 3
    said = capsys.readouterr().err
    assert f"Can't reach database server at `127.0.0.1`:`{port}`" in said and "secret" not in said
    assert command.migrations == 0


def test_a_database_that_starts_meanwhile_is_waited_for(
    module: Any, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusals = ["Connection refused", "Connection refused", ""]
    module.PULSE, module.refusal_of = 0.01, lambda _: refusals.pop(0)
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@db.example.org/litellm")
    command.play(module, str(tmp_path / "migrated"))
    assert command.migrations == 1
    waited = [line for line in capsys.readouterr().out.splitlines() if "waiting" in line]
    steps = [probes.step(line.encode()) for line in waited]
    assert [step.doing for step in steps if step] == ["waiting for the database at db.example.org:5432"] * 2


def test_a_trial_of_the_configuration_leaves_the_database_alone(
    module: Any, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://127.0.0.1:{free_port()}/litellm")
    command.play(module, None)
    assert (command.migrations, command.builds) == (0, 0)


@pytest.mark.usefixtures("database")
def test_how_far_a_migration_is_is_shown(
    module: Any, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module.migrations_there, module.migrations_applied = (lambda: 214), (lambda: 57)
    command.play(module, str(tmp_path / "migrated"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "migrating" in line]
    step = probes.step(line.encode())
    assert step is not None and (step.doing, step.done, step.total) == ("migrating the database", 57, 214)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://u:p@db.example.org/x", ("db.example.org", 5432)),
        ("postgresql://u:p@[::1]:6000/x?schema=s", ("::1", 6000)),
        ("postgresql://u@localhost/x?host=/run/postgresql", None),
        ("postgresql:///x", None),
        ("postgresql://u:p@host:port/x", None),
        ("", None),
    ],
)
def test_where_a_database_is(module: Any, url: str, address: tuple[str, int] | None) -> None:
    assert module.address_of(url) == address


@pytest.mark.parametrize("text", ["", "not json", "[]", json.dumps(3)])
def test_notes_that_cannot_be_read_are_none(module: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "migrated").write_text(text)
    assert module.notes(str(tmp_path / "migrated")) == {}
