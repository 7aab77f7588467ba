"""Runtime folders, state files and sockets of other users: nothing in them is believed, and nobody there is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor import ownership, paths
from llm_supervisor.cli import main
from llm_supervisor.control.client import Distrusted, request
from llm_supervisor.host.process import boot_id, identify
from llm_supervisor.ownership import NotOurs
from llm_supervisor.supervision import leftovers, state_file
from tests.cli.conftest import FakeDaemon

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")
STRANGER, SERVICE = 54321, 54322
Spoil = Callable[[Path], None]


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """This process with the rights of that user."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def give(path: Path, uid: int) -> None:
    for one in [path, *path.rglob("*")]:
        os.chown(one, uid, uid, follow_symlinks=False)


def foreign(place: Path) -> None:
    place.mkdir(mode=0o700)
    give(place, STRANGER)


def link(place: Path) -> None:
    (place.parent / "elsewhere").mkdir()
    place.symlink_to(place.parent / "elsewhere")


def foreign_link(place: Path) -> None:
    link(place)
    os.chown(place, STRANGER, STRANGER, follow_symlinks=False)


def plain_file(place: Path) -> None:
    place.touch()


def group_has_written(place: Path) -> None:
    place.mkdir()
    os.chown(place, 0, STRANGER)
    place.chmod(0o770)
    (place / "control.sock").touch()


def everybody_has_written(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)
    (place / "control.sock").touch()


def parent_of_everybody(place: Path) -> None:
    place.parent.chmod(0o777)


def parent_of_a_stranger(place: Path) -> None:
    os.chown(place.parent, STRANGER, STRANGER)


REFUSED: dict[Spoil, str] = {
    foreign: "belongs to uid 54321, not to root (uid 0)",
    link: "is a symbolic link of root (uid 0)",
    foreign_link: "is a symbolic link of uid 54321",
    plain_file: "is not a folder",
    group_has_written: "can be written by its group",
    everybody_has_written: "can be written by everybody",
    parent_of_everybody: "can be written by everybody, who could replace it",
    parent_of_a_stranger: "belongs to uid 54321, who could replace it",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runtime folder is to be: the only place, below a folder of its own."""
    above = tmp_path / "above"
    above.mkdir(mode=0o755)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(above / "run"))
    return above / "run"


@pytest.mark.parametrize("spoil", REFUSED)
def test_a_daemon_does_not_use_it(place: Path, spoil: Spoil) -> None:
    spoil(place)
    with pytest.raises(NotOurs) as refused:
        paths.make_runtime_dir(os.environ)
    assert str(place) in str(refused.value)
    assert REFUSED[spoil] in str(refused.value)
    assert "RUNTIME_DIRECTORY" in str(refused.value) or "chmod" in str(refused.value)


@pytest.mark.parametrize("spoil", [foreign, link, group_has_written])
def test_run_ends_with_a_sentence_and_not_with_a_traceback(place: Path, tmp_path: Path, spoil: Spoil) -> None:
    spoil(place)
    (tmp_path / "supervisor.yaml").write_text("programs: {p: {command: [sleep, '1000']}}\n")
    argv = [sys.executable, "-m", "llm_supervisor.cli", "run", "-c", str(tmp_path / "supervisor.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert done.stderr.startswith(f"llm-supervisor: {place} ")
    assert "Traceback" not in done.stderr


def test_a_daemon_uses_what_only_it_can_change(place: Path) -> None:
    place.mkdir()
    os.chown(place, 0, STRANGER)
    place.chmod(0o770)  # others could have written there, and have not
    place.parent.chmod(0o1777)  # as /tmp
    assert paths.make_runtime_dir(os.environ) == place
    assert place.stat().st_mode & 0o777 == 0o700


def test_a_daemon_takes_the_next_place_when_the_first_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = tmp_path / "session"  # root has kept the variable of the user who became root
    session.mkdir(mode=0o700)
    give(session, STRANGER)
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(paths, "NAME", f"llm-supervisor-test-{os.getpid()}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(session)}
    made = paths.make_runtime_dir(environ)
    made.rmdir()
    assert made != session / paths.NAME
    assert not list(session.iterdir())


# Clients ------------------------------------------------------------------------------------------------------


@contextmanager
def answering(runtime: Path, owner: int, listener: int | None = None) -> Iterator[FakeDaemon]:
    """A daemon in the folder of that owner; ``listener`` is the user as whom it listens."""
    runtime.mkdir(mode=0o755, exist_ok=True)
    give(runtime, owner)
    fake = FakeDaemon(runtime)
    with acting_as(owner if listener is None else listener):
        fake._listener.listen()  # the kernel takes down whose socket it is
    thread = threading.Thread(target=fake.serve)
    thread.start()
    try:
        yield fake
    finally:
        fake.close()
        thread.join(10)


@pytest.fixture
def own_places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As without RUNTIME_DIRECTORY: a folder in a sticky one of everybody, as in /tmp."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are root's alone
        Path(folder).chmod(0o1777)
        runtime = Path(folder) / "llm-supervisor-0"
        monkeypatch.setattr(paths, "runtime_dirs", lambda environ: [runtime])
        yield runtime


def exit_and_words(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    code = main.main(argv)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize(
    "argv",
    [
        ["status"],
        ["status", "--json"],
        ["events"],
        ["stop", "p"],
        ["reload"],
        ["upgrade"],
        ["shutdown"],
        ["verify"],
        ["env", "openai"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("owner", [STRANGER, 0], ids=["in-his-folder", "in-ours"])
def test_nothing_is_sent_to_a_stranger(
    own_places: Path, capsys: pytest.CaptureFixture[str], argv: list[str], owner: int
) -> None:
    with answering(own_places, owner, listener=STRANGER) as fake:
        code, said = exit_and_words(capsys, *argv)
        assert (code, fake.asked) == (2, 0)
    assert str(own_places) in said
    assert "uid 54321" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("me", "owner", "listener", "allowed"),
    [
        (0, 0, 0, True),
        (STRANGER, STRANGER, STRANGER, True),
        (STRANGER, 0, 0, True),  # root's daemon, whose socket root has opened to a group
        (0, STRANGER, STRANGER, False),
        (STRANGER, SERVICE, SERVICE, False),
        (STRANGER, STRANGER, SERVICE, False),
        (STRANGER, 0, SERVICE, False),
    ],
)
def test_who_may_be_asked_by_whom(own_places: Path, me: int, owner: int, listener: int, allowed: bool) -> None:
    with answering(own_places, owner, listener):
        (own_places / "control.sock").chmod(0o666)
        with acting_as(me):
            if allowed:
                assert request(own_places, "GET", "/v1/status")[0] == 200
            else:
                with pytest.raises(Distrusted):
                    request(own_places, "GET", "/v1/status")


def test_sudo_asks_the_daemon_of_its_caller(
    own_places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(own_places, STRANGER):
        monkeypatch.setenv("SUDO_UID", str(SERVICE))
        assert exit_and_words(capsys, "status")[0] == 2
        monkeypatch.setenv("SUDO_UID", str(STRANGER))
        assert exit_and_words(capsys, "status")[0] == 0


def test_a_folder_that_a_person_names_is_asked_and_gets_no_key(
    own_places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(own_places))
    with answering(own_places, STRANGER) as fake:
        fake.status["endpoint"] = "http://127.0.0.1:9"
        assert exit_and_words(capsys, "status")[0] == 0
        for argv in (["verify"], ["env", "openai"]):
            code, said = exit_and_words(capsys, *argv)
            assert code == 2
            assert f"sudo -u '#{STRANGER}' env RUNTIME_DIRECTORY={own_places}" in said


@pytest.mark.parametrize("key_of", [SERVICE, 0], ids=["its-key", "our-key"])
@pytest.mark.parametrize("config_of", [SERVICE, 0], ids=["its-file", "our-file"])
def test_the_service_that_root_has_set_up_gets_its_own_key_and_no_other(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key_of: int,
    config_of: int,
) -> None:
    """As systemd makes /run/llm-supervisor for the unit's user."""
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setattr(paths, "runtime_dirs", lambda environ: [place])
    monkeypatch.setenv("LLM_SUPERVISOR_HOME", str(tmp_path))
    monkeypatch.setenv("ROOTS_SECRET", "sk-root")
    monkeypatch.delenv("LITELLM_MASTER_KEY", raising=False)
    (tmp_path / "master_key").write_text("sk-made\n")
    (tmp_path / "master_key").chmod(0o600)
    give(tmp_path / "master_key", key_of)
    config = tmp_path / "supervisor.yaml"
    config.write_text("gateway: {}\n" if config_of == 0 else "gateway: {master_key: '${ROOTS_SECRET}'}\n")
    give(config, config_of)
    with answering(place, SERVICE) as fake:
        fake.status["endpoint"] = "http://127.0.0.1:9"
        fake.status["models"] = [{"name": "m", "local": True, "vision": None, "state": "ready", "reason": ""}]
        fake.status["supervisor"]["config_files"] = [str(config)]
        assert exit_and_words(capsys, "status")[0] == 0
        code, said = exit_and_words(capsys, "env", "openai", "--json")
    assert code == (0 if key_of == SERVICE else 2), said
    assert "sk-root" not in said
    assert ("sk-made" in said) is (key_of == SERVICE)


# The state file -----------------------------------------------------------------------------------------------


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def state_naming(process: subprocess.Popen[bytes]) -> str:
    """A state file that says that this process is the leader of a program."""
    known = identify(process.pid)
    assert known is not None
    entry: dict[str, Any] = {"cookie": "p/1", "next": "", "pid": known.pid, "started": known.started, "fifo": ""}
    return json.dumps({"version": state_file.STATE_VERSION, "boot": boot_id(), "programs": {"p": entry}})


def test_stop_orphans_ends_nothing_that_a_stranger_names(
    own_places: Path, capsys: pytest.CaptureFixture[str], bystander: subprocess.Popen[bytes]
) -> None:
    own_places.mkdir(mode=0o755)
    (own_places / "state.json").write_text(state_naming(bystander))
    give(own_places, STRANGER)
    code, said = exit_and_words(capsys, "stop", "--orphans")
    assert code == 2
    assert f"{own_places}/state.json belongs to uid 54321: nothing that it names was ended" in said
    assert bystander.poll() is None
    assert (own_places / "state.json").exists()
    assert leftovers.orphans(os.environ) == []
    assert list(leftovers.living_pids(os.environ)) == []


def linked(state: Path) -> None:
    state.rename(state.with_name("other.json"))
    state.symlink_to("other.json")


def fifo(state: Path) -> None:
    state.unlink()
    os.mkfifo(state, 0o600)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda state: give(state, STRANGER), "belongs to uid 54321"),
        (lambda state: state.chmod(0o666), "can be written by everybody"),
        (linked, "is a symbolic link"),
        (fifo, "is not a regular file"),
    ],
)
def test_a_state_file_that_is_not_ours_alone_is_not_read(
    place: Path, bystander: subprocess.Popen[bytes], spoil: Spoil, words: str
) -> None:
    place.mkdir(mode=0o700)
    state = place / "state.json"
    state.write_text(state_naming(bystander))
    state.chmod(0o600)
    assert state_file.read(place) is not None
    spoil(state)
    with pytest.raises(NotOurs, match=words):
        state_file.read(place)
    with pytest.raises(NotOurs, match=words):
        ownership.read_file(state)
