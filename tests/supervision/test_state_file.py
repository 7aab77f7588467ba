"""The state file: what version 2 has written is read exactly, and what is written is read again.

``state_version_2.json`` was written by a daemon with played engines and plain programs, in the middle of an upgrade.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.recovery import Remnant
from llm_supervisor.core.serialize import from_record
from llm_supervisor.core.spec import StopSpec
from llm_supervisor.core.state import Phase, State, Wanted
from llm_supervisor.host.output.pump import Pump
from llm_supervisor.host.process import boot_id, identify
from llm_supervisor.supervision import state_file
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.state_file import STATE, Entry, Handover, StateFile
from tests.support.stage import Stage

RECORDED = Path(__file__).parent / "state_version_2.json"


def recorded(runtime: Path) -> dict[str, Any]:
    """The recorded file, as if this process had written it in this boot and for that runtime folder."""
    data: dict[str, Any] = json.loads(RECORDED.read_text().replace("/run/llm-supervisor", str(runtime)))
    me = identify(os.getpid())
    assert me is not None
    return data | {"boot": boot_id(), "daemon": {"pid": me.pid, "started": me.started}}


def read(folder: Path, data: object) -> state_file.Former:
    (folder / STATE).write_text(json.dumps(data))
    former = state_file.read(folder)
    assert former is not None
    return former


def test_an_engine_of_version_2(tmp_path: Path) -> None:
    glm = read(tmp_path, recorded(tmp_path)).programs["glm"]
    assert replace(glm, state=None) == Entry(
        cookie="glm/8a18004be96e456aa6937934017f25b9",
        next="glm/7d81ec9797ef4fdd82f41f50fd507dae",
        pid=9848,
        started=153375,
        fifo=f"{tmp_path}/fifo/glm.017f25b9",
        number=1,
        digest="dfc529c5091ee913",
        port=42121,
        began=1795867003.0296896,
        log_from=(1, 0),
        members=((9893, 153406, "VLLM::EngineCor"), (9895, 153406, "VLLM::Worker")),
        stop=StopSpec(signal=15, grace=30.0, start_grace=3.0, sweep_grace=0.0, kill_grace=30.0),
    )
    assert glm.leader == (9848, 153375)
    assert glm.state is not None
    assert (glm.state.phase, glm.state.wanted, glm.state.incarnation) == (Phase.RUNNING, Wanted.UP, 1)


def test_every_program_of_version_2(tmp_path: Path) -> None:
    data = recorded(tmp_path)
    programs = read(tmp_path, data).programs
    assert list(programs) == ["calm", "gateway", "glm", "stopped", "waiting", "wrong"]
    for name, entry in programs.items():
        assert entry.state == from_record(data["programs"][name]["state"]), name
    assert programs["gateway"].listener == ("127.0.0.1", data["programs"]["gateway"]["listener"][1])
    assert programs["gateway"].uds == f"{tmp_path}/gateway.sock"
    assert programs["stopped"].leader is None
    waiting = programs["waiting"].state
    assert waiting is not None and waiting.phase is Phase.BACKOFF
    assert waiting.exited == ExitStatus(3)
    assert waiting.failure == Failure(
        "exited",
        "it exited with status 3, and its log does not say why",
        "Read the end of its log.",
        incident="20261128T115643-000",
    )
    assert waiting.deadline is not None and waiting.history.failures


def test_the_handover_of_version_2_is_for_the_same_process_only(tmp_path: Path) -> None:
    data = recorded(tmp_path)
    former = read(tmp_path, data)
    assert former.limits == (52428800, 10)
    handover = former.handover
    assert handover is not None
    assert (handover.lock, handover.control, handover.upgrades, handover.replace) == (3, 11, 1, ())
    assert [event["id"] for event in handover.events] == [event["id"] for event in data["handover"]["events"]]
    assert handover.listeners == tuple(tuple(one) for one in data["handover"]["listeners"])
    assert handover.fifos == data["handover"]["fifos"]
    data["daemon"]["pid"] += 1
    assert read(tmp_path, data).handover is None


def test_what_older_daemons_did_not_write(tmp_path: Path) -> None:
    data = recorded(tmp_path)
    del data["handover"]["replace"]
    del data["programs"]["glm"]["stop"]
    former = read(tmp_path, data)
    assert former.handover is not None and former.handover.replace == ()
    assert former.handover.umask == 0o022, "its own one is not that of its children"
    assert former.programs["glm"].stop is None and former.programs["glm"].state is not None


def test_of_an_entry_that_is_not_understood_the_traces_are_kept(tmp_path: Path) -> None:
    data = recorded(tmp_path)
    data["programs"]["glm"]["state"]["phase"] = "dancing"
    data["programs"]["calm"]["members"] = 3
    data["limits"] = "none"
    former = read(tmp_path, data)
    glm, calm = former.programs["glm"], former.programs["calm"]
    assert (glm.leader, glm.state, glm.port, glm.stop) == ((9848, 153375), None, None, None)
    assert (calm.cookie, calm.state) == ("calm/4def00dd15d1474f83872dac4727cbc7", None)
    assert former.limits is None and former.handover is not None
    assert former.programs["gateway"].state is not None, "the others are not concerned"


def test_of_another_version_only_the_traces_are_read(tmp_path: Path) -> None:
    former = read(tmp_path, recorded(tmp_path) | {"version": 3})
    assert former.handover is None and former.limits is None
    assert former.programs["glm"].leader == (9848, 153375)
    assert all(entry.state is None for entry in former.programs.values())


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", '{"boot": "another", "version": 2, "programs": {}}', "[" * 100000],
    ids=["empty", "no keys", "a list", "null", "another boot", "deep"],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE).write_text(text)
    assert state_file.read(tmp_path) is None


@pytest.mark.parametrize("entry", [3, None, {}, {"cookie": "p/1"}])
def test_an_entry_without_its_traces_makes_the_file_useless(tmp_path: Path, entry: object) -> None:
    (tmp_path / STATE).write_text(json.dumps(recorded(tmp_path) | {"programs": {"p": entry}}))
    assert state_file.read(tmp_path) is None


def test_what_is_written_is_what_version_2_wrote(tmp_path: Path) -> None:
    """The same values under the same names, so that the daemon before an upgrade and the one after it agree."""
    data = recorded(tmp_path)
    former = read(tmp_path, data)
    assert former.handover is not None
    writer = StateFile(
        tmp_path,
        living=lambda: {name: entry for name, entry in former.programs.items() if entry.cookie},
        accepting=lambda: {name: entry.listener for name, entry in former.programs.items() if entry.listener},
        limits=lambda: (52428800, 10),
    )
    writer.inherit(former)

    async def note() -> None:
        for name, entry in former.programs.items():
            assert entry.stop is not None
            writer.note_stop(name, entry.stop)
        writer.close()

    asyncio.run(note())
    writer.save()
    written = json.loads((tmp_path / STATE).read_text())
    assert list(written) == list(data)
    for program in written["programs"].values():
        assert program["state"]["history"].pop("permanent") == []  # newer; an older daemon leaves it out
        assert (program["state"]["history"].pop("unexplained"), program["state"]["history"].pop("in_a_row")) == ("", 0)
        assert program.pop("scratch") == ""  # the same
    assert written == data | {"handover": None}
    assert state_file.read(tmp_path) == replace(former, handover=None)


def test_a_handover_that_fails_is_taken_back(tmp_path: Path) -> None:
    writer = StateFile(tmp_path, living=dict, accepting=dict, limits=lambda: (1, 2))
    fds = os.pipe()
    handover = Handover(fds[0], fds[1], ({"id": 1},), 1, 0.5, ("gateway",))
    try:
        writer.hand_over(handover)
        assert [os.get_inheritable(fd) for fd in fds] == [True, True]
        former = state_file.read(tmp_path)
        assert former is not None and former.handover == handover
        writer.take_back()
        assert [os.get_inheritable(fd) for fd in fds] == [False, False]
        former = state_file.read(tmp_path)
        assert former is not None and former.handover is None
    finally:
        for fd in fds:
            os.close(fd)


def test_a_cookie_is_on_disk_before_it_is_used(tmp_path: Path) -> None:
    writer = StateFile(tmp_path, living=dict, accepting=dict, limits=lambda: (1, 2))
    cookie = writer.reserve_cookie("p")
    assert writer.reserve_cookie("p") == cookie
    assert json.loads((tmp_path / STATE).read_text())["programs"]["p"]["next"] == cookie
    writer.cookie_used("p")
    assert writer.reserve_cookie("p") != cookie
    os.rename(tmp_path, tmp_path.with_name("gone"))
    with pytest.raises(OSError, match="No such file"):
        writer.reserve_cookie("q")
    os.rename(tmp_path.with_name("gone"), tmp_path)
    assert "q" not in json.loads((tmp_path / STATE).read_text())["programs"]


def test_a_process_of_version_2_is_adopted_and_ended(stage: Stage) -> None:
    leader = stage.spawn("obedient")
    runtime = stage.folder / "run"
    (runtime / "fifo").mkdir(parents=True)
    os.link(stage.fifo, runtime / "fifo" / "program.1")
    data = recorded(runtime)
    data["programs"]["program"] = data["programs"].pop("calm") | {
        "cookie": stage.cookie,
        "next": "",
        "pid": leader.pid,
        "started": leader.identity.started,
        "fifo": str(runtime / "fifo" / "program.1"),
    }
    data["handover"] = None

    async def scene() -> None:
        former = read(runtime, data)
        pump = Pump(runtime / "logs")
        state_file.reopen(former, runtime, pump, {})
        world = LocalWorld(runtime, pump, own_environ={}, engine_environs={}, incidents=runtime / "incidents")
        world.inherit(former)
        assert list(former.pipes) == ["program"]
        assert world.running()["program"] == data["programs"]["program"]["digest"]
        assert world.adopt("program", 1, lambda event: None) == Remnant(leader.pid, remains=True, began=True)
        assert world.adopt("glm", 1, lambda event: None) == Remnant(None, remains=False, began=True)
        state = former.programs["program"].state
        assert isinstance(state, State)
        assert (await world.end("program", 10.0, 10.0)).found == 1
        assert "program" not in world.incarnations
        await world.close()

    asyncio.run(scene())
