"""What the kernel's log says about processes and GPUs: the OOM killer's victims, and NVIDIA's Xid errors.

Readable for root, and where ``kernel.dmesg_restrict`` is 0; elsewhere there is nothing to tell.
"""

from __future__ import annotations

import os
import re

_OOM = re.compile(r"(?:Out of memory|Memory cgroup out of memory): Killed process (\d+)")
_TELLING = re.compile(r"NVRM: Xid|Out of memory: Killed|Memory cgroup out of memory|oom-kill:")
_RECORDS = 20_000  # more than any ring holds that is worth reading


def telling_lines(since: float) -> list[str]:
    """The kernel's lines about memory and GPUs since then (seconds after boot), oldest first."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    lines = []
    try:
        for _ in range(_RECORDS):
            try:
                record = os.read(fd, 8192).decode(errors="replace")
            except BlockingIOError:
                break  # the end of what there is
            except OSError:
                continue  # EPIPE: overwritten while we read; the next read goes on after the gap
            head, _, text = record.partition(";")
            fields = head.split(",")
            if len(fields) > 2 and fields[2].isdecimal() and int(fields[2]) / 1e6 >= since and _TELLING.search(text):
                lines.append(text.split("\n", 1)[0])
    finally:
        os.close(fd)
    return lines


def oom_victims(lines: list[str]) -> set[int]:
    """The pids that the OOM killer took, by these lines."""
    return {int(found[1]) for line in lines if (found := _OOM.search(line))}
