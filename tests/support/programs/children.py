"""Child programs for tests: each behaves like one sort of child, and prints what the test waits for.

Run by path (``python -I -S children.py NAME ...``): standard library only, quick to start. All output is unbuffered and
goes to standard output, one line at a time, as ``WORD PID``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator

LINE = 64  # bytes of every numbered line, its line feed included


def numbered(first: int, last: int) -> Iterator[bytes]:
    """Blocks of numbered lines ``first`` .. ``last`` - 1; what ``chatty`` writes, and what a test compares with."""
    block = 4096
    for start in range(first, last, block):
        yield b"".join(b"%012d %s\n" % (n, b"x" * (LINE - 14)) for n in range(start, min(start + block, last)))


def say(word: str) -> None:
    """One line, at once."""
    os.write(1, f"{word} {os.getpid()}\n".encode())


def write_all(data: bytes) -> None:
    """All of it to standard output, however little the pipe takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def wait_for_ever() -> None:
    """Until a signal ends us."""
    while True:
        signal.pause()


def pass_gate(options: argparse.Namespace) -> None:
    """Until somebody opens the gate, a FIFO, for writing."""
    if options.gate:
        open(options.gate).close()


def leave(signum: int, frame: object) -> None:
    """What an obedient program does on SIGTERM."""
    say("bye")
    os._exit(0)


def obedient(options: argparse.Namespace) -> None:
    """Leaves when it is asked to."""
    signal.signal(signal.SIGTERM, leave)
    say("ready")
    wait_for_ever()


def stubborn(options: argparse.Namespace) -> None:
    """Does not."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    say("ready")
    wait_for_ever()


def exiter(options: argparse.Namespace) -> None:
    """Says so and ends, with a status or by a signal."""
    say("ending")
    if options.signal:
        os.kill(os.getpid(), options.signal)
    os._exit(options.status)


def stray(options: argparse.Namespace) -> None:
    """Makes a descendant that shakes off the traces it is told to, and then ends (or stays, with ``--stay``).

    The descendant writes its pid to ``--report`` (a descriptor) or standard output once it is what it should be.
    """
    if options.go:
        os.read(options.go, 1)
    # the new process is a child of init (or of the nearest subreaper) unless the leader stays
    if os.fork() == 0:
        if options.double and os.fork() != 0:
            os._exit(0)
        if options.setsid:
            os.setsid()
        report = options.report
        if report is None:
            report = os.dup(1)
            os.set_inheritable(report, True)
        if options.redirect:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
        argv = [sys.executable, "-I", "-S", __file__, "settled", "--report", str(report)]
        argv += ["--stubborn"] if options.stubborn else []
        argv += ["--tag", options.tag] if options.tag else []
        os.execve(sys.executable, argv, {} if options.wipe else dict(os.environ))
    if options.stay:
        say("leader")
        wait_for_ever()
    if options.linger:  # end only when the descendant is what it should be
        os.read(options.linger, 1)
    os._exit(options.status)


def settled(options: argparse.Namespace) -> None:
    """The descendant of ``stray``, with everything shaken off."""
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(options.report, f"stray {os.getpid()}\n".encode())
    os.close(options.report)
    wait_for_ever()


def chatty(options: argparse.Namespace) -> None:
    """Numbered lines: so many, at a rate, or all at once."""
    pass_gate(options)
    if not options.rate:
        for block in numbered(0, options.lines):
            write_all(block)
    else:
        began = time.monotonic()
        for n in range(options.lines):
            pause = began + n / options.rate - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            write_all(b"".join(numbered(n, n + 1)))
    if options.stay:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        say("end")
        wait_for_ever()


def listener(options: argparse.Namespace) -> None:
    """Listens on a loopback port, and with ``--http`` answers 200; after SIGUSR1, 503."""
    say("starting")
    pass_gate(options)
    server = socket.create_server(("127.0.0.1", options.port))
    status = 200

    def worse(signum: int, frame: object) -> None:
        nonlocal status
        status = 503

    signal.signal(signal.SIGUSR1, worse)
    say("listening")
    while True:
        connection, _ = server.accept()
        with connection:
            if options.http and connection.recv(65536):
                connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)


def introspect(options: argparse.Namespace) -> None:
    """Everything about itself that a parent decides, as one line of JSON."""
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    fds = {}
    for fd in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        try:
            fds[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the listing's own descriptor
    with open("/proc/self/environ", "rb") as file:
        environ = [item.decode() for item in file.read().split(b"\0") if item]
    said = {
        "pid": os.getpid(),
        "sid": os.getsid(0),
        "pgid": os.getpgid(0),
        "argv": sys.argv,
        "cwd": os.getcwd(),
        "environ": environ,
        "fds": fds,
        **{key: status[key] for key in ("SigBlk", "SigIgn", "SigCgt")},
    }
    write_all(json.dumps(said).encode() + b"\n")


def main() -> None:
    top = argparse.ArgumentParser()
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("obedient")
    commands.add_parser("stubborn")
    one = commands.add_parser("exiter")
    one.add_argument("--status", type=int, default=0)
    one.add_argument("--signal", type=int, default=0)
    # presets of ``stray``, by the names of the trade; all of them keep the standard output
    presets = {
        "stray": {},
        "forker": {},
        "daemoniser": {"setsid": True, "double": True},
        "leaver": {"setsid": True, "wipe": True},
    }
    for name, preset in presets.items():
        one = commands.add_parser(name)
        for flag in ("setsid", "double", "wipe", "redirect", "stubborn", "stay"):
            one.add_argument(f"--{flag}", action="store_true", default=preset.get(flag, False))
        one.add_argument("--report", type=int)
        one.add_argument("--go", type=int, default=0, metavar="FD", help="begin when something comes here")
        one.add_argument("--linger", type=int, default=0, metavar="FD", help="end when something comes here")
        one.add_argument("--status", type=int, default=0)
        one.add_argument("--tag", default="", help="words for the descendant's command line")
        one.set_defaults(command="stray")
    one = commands.add_parser("settled")
    one.add_argument("--report", type=int, required=True)
    one.add_argument("--stubborn", action="store_true")
    one.add_argument("--tag")
    one = commands.add_parser("chatty")
    one.add_argument("--lines", type=int, required=True)
    one.add_argument("--rate", type=float, default=0.0, help="lines a second; default: all at once")
    one.add_argument("--gate", metavar="FIFO", help="begin when somebody opens it for writing")
    one.add_argument("--stay", action="store_true", help="say `end` and wait for SIGTERM")
    one = commands.add_parser("listener")
    one.add_argument("--port", type=int, required=True)
    one.add_argument("--http", action="store_true")
    one.add_argument("--gate", metavar="FIFO", help="listen when somebody opens it for writing")
    commands.add_parser("introspect").add_argument("rest", nargs="*")
    options, rest = top.parse_known_args()
    if rest and options.command != "introspect":
        top.error(f"what is {rest}?")
    globals()[options.command](options)


if __name__ == "__main__":
    main()
