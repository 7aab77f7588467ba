"""What a state file names and is not ours is left alone: paths and processes of others."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.daemon.orphans import sweep_orphans
from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.host.output.pump import open_fifo
from llm_supervisor.host.process import COOKIE, boot_id, cgroup, find, identify
from llm_supervisor.supervision import state_file
from llm_supervisor.supervision.resources import Refusal
from llm_supervisor.supervision.state_file import STATE, STATE_VERSION

UUID = "0123456789abcdef0123456789abcdef"
OTHER = UUID[::-1]
KILL_ME = "/sys/fs/cgroup/system.slice/sshd.service"


def entry(**changes: Any) -> dict[str, Any]:
    plain = {"cookie": f"p/{UUID}", "next": f"p/{OTHER}", "pid": None, "started": None, "fifo": "", "cgroup": ""}
    return plain | changes


def write(runtime: Path, **programs: dict[str, Any]) -> None:
    runtime.mkdir(exist_ok=True, mode=0o700)
    (runtime / STATE).write_text(json.dumps({"version": STATE_VERSION, "boot": boot_id(), "programs": programs}))


def read(runtime: Path, **changes: Any) -> state_file.Former:
    write(runtime, p=entry(**changes))
    former = state_file.read(runtime)
    assert former is not None
    return former


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("p", {"cookie": "p"}),
        ("p", {"cookie": "p/.."}),
        ("p", {"cookie": f"p/{UUID}" * 3}),
        ("p", {"cookie": "p/../../../etc"}),
        ("p", {"cookie": f"p/{UUID}/../../x"}),
        ("p", {"next": f"../{OTHER}"}),
        ("p", {"next": "p/" + "/" * 32}),
        ("../p", {"cookie": f"../p/{UUID}", "next": ""}),
        ("..", {"cookie": f"../{UUID}", "next": ""}),
        ("a b", {"cookie": f"a b/{UUID}", "next": ""}),
        ("", {"cookie": f"/{UUID}", "next": ""}),
    ],
)
def test_an_entry_whose_names_cannot_be_ours_is_left_alone(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    write(tmp_path, **{name: entry(**changes)}, good={**entry(), "cookie": f"good/{UUID}", "next": ""})
    former = state_file.read(tmp_path)
    assert former is not None
    assert list(former.programs) == ["good"]
    assert [one for one in former.refused if repr(name) in one] == list(former.refused) != []


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "{runtime}/state.json", "{runtime}/fifo/../state.json", "{runtime}/fifo/..", "{runtime}/fifo/a/b",
     "fifo/p.1", "{runtime}/fifo", "/"],
)  # fmt: skip
def test_a_pipe_elsewhere_is_not_opened(tmp_path: Path, path: str) -> None:
    former = read(tmp_path, fifo=path.format(runtime=tmp_path))
    assert former.programs["p"].fifo == ""
    assert "the pipe" in former.refused[0]
    assert former.paths(tmp_path) == []


@pytest.mark.parametrize(
    "path",
    [KILL_ME, "/etc", f"/tmp/p.{UUID}", f"{KILL_ME}/p.{UUID}/..", f"/sys/fs/cgroup/../../../tmp/p.{UUID}",
     "/sys/fs/cgroup"],
)  # fmt: skip
def test_a_control_group_that_is_not_ours_is_not_killed(tmp_path: Path, path: str) -> None:
    former = read(tmp_path, cgroup=path)
    assert former.programs["p"].tree().cgroup is None
    assert "the control group" in former.refused[0]


@pytest.mark.parametrize("kind", ["file", "foreign socket", "folder", "relative", "dots", "listener"])
def test_a_socket_elsewhere_that_is_not_ours_is_not_used(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "elsewhere"
    path = str(place)
    match kind:
        case "file":
            place.write_text("precious")
        case "folder":
            place.mkdir()
        case "relative":
            path = "elsewhere"
        case "dots":
            path = f"{tmp_path}/run/../elsewhere"
        case "listener":
            Path(f"{path}.listener").write_text("precious")
        case "foreign socket":
            if os.geteuid() != 0:
                pytest.skip("only root can make another user's socket")
            net_listener.bind_unix(path).close()
            os.chown(path, 54321, 54321)
    former = read(tmp_path / "run", uds=path)
    assert former.programs["p"].uds == ""
    assert "the socket" in former.refused[0]


def test_what_the_daemon_writes_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_mount", lambda: ("/", Path("/sys/fs/cgroup")))
    group = f"/sys/fs/cgroup/system.slice/llm-supervisor.service/p.{UUID}"
    configured = net_listener.bind_unix(str(tmp_path / "named.sock"))
    for uds in ("", f"{tmp_path}/run/p.sock", f"{tmp_path}/named.sock", f"{tmp_path}/gone.sock"):
        former = read(tmp_path / "run", fifo=f"{tmp_path}/run/fifo/p.89abcdef", cgroup=group, uds=uds)
        assert former.refused == ()
        assert (former.programs["p"].cgroup, former.programs["p"].uds) == (group, uds)
    configured.close()


def test_a_pipe_that_is_a_link_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError, match="symbolic links"):
        open_fifo(tmp_path / "link")


# Processes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that a test starts; they are ended after it."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for one in started:
        one.kill()
        one.wait()


def start(processes: list[subprocess.Popen[bytes]], cookie: str, *, session: bool) -> dict[str, Any]:
    """A process with that cookie: what a state file says of it as a leader."""
    env = {**os.environ, COOKIE: cookie} if cookie else {k: v for k, v in os.environ.items() if k != COOKIE}
    process = subprocess.Popen(["sleep", "1000"], env=env, start_new_session=session)
    processes.append(process)
    while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
        time.sleep(0.001)
    known = identify(process.pid)
    assert known is not None
    return {"pid": known.pid, "started": known.started}


@pytest.mark.parametrize(
    ("cookie", "session", "believed"),
    [
        (f"p/{UUID}", True, True),
        (f"p/{OTHER}", True, True),  # of the next incarnation, which nobody could write down
        ("", True, True),  # it has wiped its environment, and leads the session in which it was started
        ("", False, False),  # somebody's process: we start every leader in a session of its own
        (f"q/{UUID}", True, False),
        (f"p/{UUID[:-1]}0", True, False),
    ],
)
def test_a_leader_is_believed_with_its_cookie(
    tmp_path: Path, processes: list[subprocess.Popen[bytes]], cookie: str, session: bool, believed: bool
) -> None:
    former = read(tmp_path, **start(processes, cookie, session=session))
    tree = former.programs["p"].tree()
    assert (tree.leader is not None) is believed
    assert bool(find(tree)) is believed


def test_a_member_is_believed_with_its_cookie(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    mine, others = (start(processes, cookie, session=True) for cookie in (f"p/{UUID}", f"q/{UUID}"))
    members = [(one["pid"], one["started"], "sleep") for one in (mine, others)]
    tree = read(tmp_path, members=members).programs["p"].tree()
    assert tree.seen == {(mine["pid"], mine["started"])}
    assert [row.pid for row in find(tree)] == [mine["pid"]]


def test_a_start_time_that_differs_is_another_process(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    known = start(processes, "", session=True)
    tree = read(tmp_path, **known | {"started": known["started"] - 1}).programs["p"].tree()
    assert (tree.leader, find(tree)) == (None, [])


def test_the_daemon_itself_is_nobodys_leader(tmp_path: Path) -> None:
    me = identify(os.getpid())
    assert me is not None
    tree = read(tmp_path, pid=me.pid, started=me.started).programs["p"].tree()
    assert (tree.leader, tree.seen) == (None, set())


def test_stop_orphans_leaves_alone_what_is_not_ours(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    runtime, precious = tmp_path / "run", tmp_path / "precious"
    precious.write_text("precious")
    stranger = start(processes, f"q/{UUID}", session=True)
    mine = start(processes, f"p/{UUID}", session=True)
    write(
        runtime,
        p=entry(**mine, fifo=str(precious), uds=str(precious)),
        q={**entry(**stranger), "cookie": f"q/{OTHER}", "next": ""},
    )
    environ = {"RUNTIME_DIRECTORY": str(runtime), "LOGS_DIRECTORY": str(tmp_path / "logs"), "HOME": str(tmp_path)}
    with pytest.raises(Refusal, match=f"the pipe '{precious}' of p"):
        asyncio.run(sweep_orphans(environ))
    assert [process.poll() is None for process in processes] == [True, False]
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("user", [0, 54321])
def test_a_listening_socket_is_taken_from_our_own_user_only(tmp_path: Path, user: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can listen as another user")
    door = net_listener.bind_unix(str(tmp_path / "p.sock.listener"))
    offered = net_listener.bind("127.0.0.1", 0)
    os.seteuid(user)
    door.listen()
    os.seteuid(0)

    async def scene() -> socket.socket | None:
        asked = asyncio.create_task(net_listener.ask_for_listener(door.getsockname(), offered.getsockname()))
        door.setblocking(False)
        visitor, _ = await asyncio.get_running_loop().sock_accept(door)
        with visitor:
            try:
                socket.send_fds(visitor, [b"x"], [offered.fileno()])
            except BrokenPipeError:
                assert user != 0
            return await asked

    with door, offered:
        taken = asyncio.run(scene())
        assert (taken is not None) is (user == 0)
        if taken is not None:
            taken.close()
