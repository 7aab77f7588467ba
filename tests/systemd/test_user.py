"""The unit's own user and its restrictions: what the service cannot do, and that everything else works all the same."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.systemd.inside import NAME, RUNTIME
from tests.support.systemd.machine import AS_USER, ROOT, UNIT, Machine
from tests.systemd.test_no_daemon import DROPIN, without_daemon
from tests.systemd.test_unit import CLI, KILL, PAIR, PORT, living

EXPOSURE = 4.0  # of at most 10; systemd calls this "OK", and a unit without any restriction has 9.6
# What of a status is looked at: no capability, no new ones, and the filter of system calls
STATUS = ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")


def pid_of(machine: Machine, name: str) -> int:
    ((pid,),) = machine.inside("look")["programs"][name].values()
    return int(pid)


def as_root() -> str:
    """The drop-in that the document shows, without its head."""
    blocks = re.findall(r"```ini\n\[Service\]\n(.*?)```", (ROOT / "docs/operating.md").read_text(), re.DOTALL)
    (found,) = [block for block in blocks if "User=root" in block]
    return str(found)


def test_systemd_finds_it_restricted_and_what_is_left_out_is_explained(machine: Machine) -> None:
    machine.install(PAIR)
    analyze = f"systemd-analyze security --no-pager --offline=true /run/systemd/system/{NAME}.service"
    said = machine.run(f"{analyze} --threshold={EXPOSURE * 10:.0f}")
    overall = re.search(r"Overall exposure level for .*: ([\d.]+)", said)
    assert overall is not None
    assert float(overall[1]) <= EXPOSURE
    rows: list[dict[str, Any]] = json.loads(machine.run(f"{analyze} --json=short"))
    missing = {row["name"].partition("=")[0] for row in rows if row["set"] is False}
    assert "PrivateDevices" in missing
    unexplained = [name for name in sorted(missing) if f"{name}=" not in UNIT.read_text()]
    assert not unexplained


def test_every_process_is_of_that_user_and_can_do_no_more(machine: Machine) -> None:
    machine.install(PAIR)
    machine.start("web", "plain")
    groups = {machine.run(f"getent group {name} | cut -d: -f3") for name in (NAME, "video", "render")}
    for pid in (machine.main_pid, pid_of(machine, "plain")):
        status = dict(line.split(":", 1) for line in machine.run(f"cat /proc/{pid}/status").splitlines())
        assert machine.run(f"stat -c %U /proc/{pid}") == NAME
        assert [int(status[name], 16) for name in STATUS] == [0, 0, 1, 2]
        assert set(status["Groups"].split()) == groups
    owners = machine.run(f"stat -c %U {RUNTIME} {RUNTIME}/control.sock /var/lib/{NAME} /var/log/{NAME}")
    assert set(owners.split()) == {NAME}


def test_what_a_program_can_reach(machine: Machine) -> None:
    places = f"/tmp /var/tmp /dev/shm /var/lib/{NAME} /etc /usr /opt /home /srv /var/lib"
    writes = f'for place in {places}; do (: > $place/made) 2>/dev/null && echo "writes $place"; done'
    calls = "mount -t tmpfs none /mnt 2>/dev/null && echo mounts; unshare --user true 2>/dev/null && echo unshares"
    kills = "kill -0 1 2>/dev/null && echo kills"
    machine.run("chmod 777 /etc /opt /srv")  # so that it is not the rights of the folder that decide
    machine.install({"p": living("sh", "-c", f"{writes}; {calls}; {kills}; echo done; exec sleep 1000")})
    machine.start("p")
    log = f"cat /var/log/{NAME}/p/*.log"
    machine.until(lambda: "done" in machine.run(log, check=False).split(), "its answers")
    machine.run("chmod 755 /etc /opt /srv; rm -f /tmp/made /var/tmp/made /dev/shm/made")
    reached = [f"writes {place}" for place in ("/tmp", "/var/tmp", "/dev/shm", f"/var/lib/{NAME}")]
    assert machine.run(log).splitlines() == [*reached, "done"]


def test_a_program_keeps_the_usual_umask(machine: Machine) -> None:
    machine.install({"p": living("sh", "-c", "umask; exec sleep 1000")})
    machine.start("p")
    assert machine.run(f"cat /var/log/{NAME}/p/*.log").strip() == "0022"
    assert machine.run(f"stat -c %a /var/log/{NAME}/p /var/log/{NAME}/p/00000001.log").split() == ["750", "640"]


def test_root_ends_what_a_dead_daemon_of_that_user_has_left(machine: Machine) -> None:
    machine.install(PAIR, dropin=DROPIN)
    machine.start("web", "plain")
    pid = pid_of(machine, "plain")

    def sweep() -> None:
        assert "plain: 1 process ended" in machine.run(f"{CLI} stop --orphans")
        assert machine.run(f"test -d /proc/{pid} && echo lives", check=False) == ""

    without_daemon(machine, sweep)
    machine.whole("web", "plain")


def test_the_user_itself_and_root_can_ask_and_nobody_else(machine: Machine) -> None:
    machine.install(PAIR)
    machine.start("web", "plain")
    environ = f"env RUNTIME_DIRECTORY={RUNTIME} HOME=/var/lib/{NAME}"
    assert "plain" in machine.run(f"{AS_USER} {environ} {CLI} status")
    assert "RUNNING" in machine.run(f"{CLI} status"), "and so can root"
    refused = machine.run(
        f"setpriv --reuid=nobody --regid=nogroup --clear-groups {environ} {CLI} status; echo exit $?", check=False
    )
    assert refused.endswith("exit 4")


def test_root_stays_possible(machine: Machine) -> None:
    machine.install(PAIR, dropin=as_root())
    before = machine.start("web", "plain")
    paths = f"{RUNTIME}/control.sock /proc/{pid_of(machine, 'plain')}"
    assert set(machine.run(f"stat -c %U {paths}").split()) == {"root"}
    machine.run(KILL)
    machine.until(lambda: machine.show("NRestarts") == ["1"], "another daemon")
    assert machine.whole("web", "plain") == before
    machine.run(f"systemctl stop {NAME}")
    machine.assert_nothing_left(PORT)
    # and back: systemd gives the folders to the user
    machine.install(PAIR)
    machine.start("web", "plain")
    assert machine.run(f"stat -c %U /var/lib/{NAME} /var/log/{NAME}/plain/00000001.log").split() == [NAME, NAME]


@pytest.mark.parametrize("how", ["kill", "upgrade"])
def test_adoption_and_upgrade_keep_everything(machine: Machine, how: str) -> None:
    machine.install(PAIR)
    before = machine.start("web", "plain")
    if how == "kill":
        machine.install(PAIR, dropin=DROPIN)
        without_daemon(machine, lambda: None)
    else:
        assert machine.run(f"{CLI} upgrade").startswith("upgraded: ")
    assert machine.whole("web", "plain") == before
    machine.run(f"systemctl stop {NAME}")
    machine.assert_nothing_left(PORT)
