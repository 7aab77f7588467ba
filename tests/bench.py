"""Figures of the machinery, on plain programs: `make bench`. Ratios matter; absolute times are this machine's.

respawn   SIGKILL of a child to its successor's first instruction, sweep included, backoff zero (ms)
capture   how fast 256 MiB from one child reach their file (MiB/s), and the daemon's memory meanwhile
status    `llm-supervisor status` as a whole process (ms), beside a bare `python -c pass`
fleet     respawn again, with 200 programs
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.support.harness import Daemon

BEACON = r"""
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
  struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
  char line[64]; int n = snprintf(line, sizeof line, "%lld %d\n", t.tv_sec * 1000000000LL + t.tv_nsec, getpid());
  int fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (write(fd, line, n) != n) return 1;
  for (;;) pause();
}
"""


def beacon(folder: Path) -> str:
    """A child whose first instructions write down when it was."""
    if shutil.which("cc") is None:
        sys.exit("bench: needs a C compiler (cc) for a child that starts in no time")
    (folder / "beacon.c").write_text(BEACON)
    subprocess.run(["cc", "-O2", "-o", folder / "beacon", folder / "beacon.c"], check=True)
    return str(folder / "beacon")


def stamps(file: Path) -> list[tuple[int, int]]:
    """(nanoseconds, pid) of every start so far."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(at), int(pid)) for at, pid in (line.split() for line in lines)]


def wait_for(file: Path, count: int) -> list[tuple[int, int]]:
    """Its stamps, once there are that many."""
    end = time.monotonic() + 60
    while len(found := stamps(file)) < count:
        assert time.monotonic() < end, f"{file}: {len(found)} of {count} starts"
        time.sleep(0.0005)
    return found


def respawn(folder: Path, programs: int, kills: int) -> list[float]:
    """Latencies in ms."""
    child = beacon(folder)
    files = [folder / f"stamp{n}" for n in range(programs)]
    config = {
        "programs": {
            f"p{n}": {"command": [child, str(file)], "restart": {"backoff": 0}} for n, file in enumerate(files)
        }
    }
    took = []
    with Daemon(folder / "daemon", config) as daemon:
        for file in files:
            wait_for(file, 1)
        daemon.wait_ready()
        for n in range(kills):
            file = files[n % programs]
            before = stamps(file)
            time.sleep(1.1)  # until it counts as ready again
            began = time.monotonic_ns()
            os.kill(before[-1][1], signal.SIGKILL)
            took.append((wait_for(file, len(before) + 1)[-1][0] - began) / 1e6)
    return took


def capture(folder: Path, mib: int) -> tuple[float, float, int]:
    """MiB/s into the file, growth of the daemon's memory (KiB), bytes that arrived."""
    done = folder / "done"
    line = "x" * 99
    code = (
        f"import os,sys,time; block=(b'{line}\\n'*5000); t=time.monotonic()\n"
        f"for _ in range({mib} * 1048576 // len(block)): os.write(1, block)\n"
        f"open({str(done)!r}, 'w').write(str(time.monotonic()-t)); time.sleep(1000)"
    )
    config = {
        "logs": {"max_bytes": "64MB", "backups": 100},
        "programs": {"spew": {"command": [sys.executable, "-c", code], "autostart": False}},
    }
    with Daemon(folder / "daemon", config) as daemon:
        while daemon.status()["supervisor"] is None:
            time.sleep(0.05)
        before = rss(daemon)
        daemon.cli("start", "spew")
        while not done.exists() or not done.read_text():
            time.sleep(0.05)
        time.sleep(0.5)
        size = sum(path.stat().st_size for path in (daemon.home / "logs/spew").glob("*.log"))
        return mib / float(done.read_text()), rss(daemon) - before, size


def rss(daemon: Daemon) -> int:
    """Resident KiB of the daemon."""
    assert daemon.process is not None
    text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def milliseconds(argv: list[str], env: dict[str, str] | None = None) -> float:
    """Median wall time of a command."""
    took = []
    for _ in range(9):
        began = time.monotonic()
        subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, check=False)
        took.append((time.monotonic() - began) * 1000)
    return statistics.median(took)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        for name in ("one", "many", "spew", "status"):
            (folder / name / "daemon").mkdir(parents=True)
        took = respawn(folder / "one", 1, 20)
        print(json.dumps({"respawn_ms": {"p50": round(statistics.median(took), 2), "max": round(max(took), 2)}}))
        took = respawn(folder / "many", 200, 20)
        print(json.dumps({"respawn_ms_of_200": {"p50": round(statistics.median(took), 2), "max": round(max(took), 2)}}))
        speed, grown, size = capture(folder / "spew", 256)
        print(json.dumps({"capture_mib_s": round(speed), "daemon_grew_kib": grown, "bytes": size}))
        config = {"programs": {"sleeper": {"command": ["sleep", "1000"]}}}
        with Daemon(folder / "status/daemon", config) as daemon:
            daemon.wait_ready()
            command = str(Path(sys.executable).parent / "llm-supervisor")
            status = milliseconds([command, "status"], daemon.env)
            bare = milliseconds([sys.executable, "-c", "pass"])
            print(
                json.dumps(
                    {"status_ms": round(status), "python_ms": round(bare), "rss_mib": round(rss(daemon) / 1024, 1)}
                )
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
