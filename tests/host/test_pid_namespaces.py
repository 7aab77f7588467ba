"""The sweep's own tests once more, where the test process, which plays the daemon, is process 1, 2 or another one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_supervisor.host.process import read_rows

pytestmark = pytest.mark.slow

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
BEHIND = {1: [], 2: ["sh", "-c", '"$@"; exit $?', "sh"], 4: ["sh", "-c", 'true & true & wait; "$@"; exit $?', "sh"]}
TESTS = "tests/host/test_tree.py"


@pytest.mark.parametrize("number", BEHIND)
def test_the_sweep_as_process(number: int, tmp_path: Path) -> None:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespace of processes can be made here (unshare --pid --mount-proc)")
    options = ["-q", "-x", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "tests"), TESTS]
    script = f"import os, sys, pytest; assert os.getpid() == {number}; sys.exit(pytest.main({options!r}))"
    done = subprocess.run(
        [*NAMESPACE, *BEHIND[number], sys.executable, "-c", script],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_kernel_threads_are_known_by_their_flag() -> None:
    rows = read_rows().values()
    for row in rows:
        assert row.kernel == (not os.path.exists(f"/proc/{row.pid}/exe") and not _command(row.pid) and not row.dead), (
            row
        )


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b"?"
