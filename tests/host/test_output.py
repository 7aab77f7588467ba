"""The pump: bytes identical and in order, whatever happens to the disk, the daemon or the child."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_supervisor.host.output import pump as output_pump
from llm_supervisor.host.output import reader as output_reader
from llm_supervisor.host.output import sink as output_sink
from llm_supervisor.host.output.pump import Pump, make_fifo, pending
from llm_supervisor.host.output.reader import read_from, split_lines, tail
from llm_supervisor.host.output.segments import Position, segments
from llm_supervisor.host.process import Child, spawn
from tests.support.programs import Lines, gone, open_gate, until
from tests.support.programs.children import LINE, numbered
from tests.support.stage import Stage

MIB = 1024 * 1024


@contextmanager
def pumping(logs: Path, segment_bytes: int = 50 * MIB, kept: int = 1000) -> Iterator[Pump]:
    """A pump that runs, and is stopped."""
    pump = Pump(logs, segment_bytes=segment_bytes, kept=kept)
    pump.start()
    try:
        yield pump
    finally:
        pump.stop()


def everything(folder: Path) -> bytes:
    """A program's log as a whole."""
    return b"".join(path.read_bytes() for path in segments(folder))


def assert_numbered(folder: Path, lines: int) -> None:
    """The log is exactly what ``chatty`` wrote, compared without having it all in memory."""
    paths = iter(segments(folder))
    rest = b""
    for block in numbered(0, lines):
        while len(rest) < len(block):
            path = next(paths, None)
            assert path is not None, f"the log ends in the middle: {rest[-100:]!r} instead of {block[:100]!r}"
            rest += path.read_bytes()
        assert rest.startswith(block), f"{rest[:100]!r} instead of {block[:100]!r}"
        rest = rest[len(block) :]
    assert rest == b""
    assert next(paths, None) is None or not any(path.stat().st_size for path in paths)


def rss() -> int:
    """Our resident memory in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


# Moving -----------------------------------------------------------------------------------------------------


def test_bytes_are_identical_across_segments(stage: Stage, tmp_path: Path) -> None:
    """Anything at all: not text, not lines, not in pieces of any size."""
    dice = random.Random(1)
    data = dice.randbytes(3 * MIB)
    with pumping(tmp_path / "logs", segment_bytes=200_000) as pump:
        writer = os.open(stage.fifo, os.O_WRONLY)
        pump.add("noise", os.dup(stage.pipe))
        at = 0
        while at < len(data):
            at += os.write(writer, data[at : at + dice.randint(1, 100_000)])
        os.close(writer)
    folder = tmp_path / "logs/noise"
    assert everything(folder) == data
    sizes = [path.stat().st_size for path in segments(folder)]
    assert len(sizes) == len(data) // 200_000 + 1
    # a pipe's buffer is moved as a whole: a segment may be a page too long
    assert all(200_000 <= size <= 200_000 + 4096 for size in sizes[:-1]), sizes
    assert [path.name for path in segments(folder)] == [f"{n:08d}.log" for n in range(1, len(sizes) + 1)]


def test_a_hundred_mib_at_once(stage: Stage, tmp_path: Path) -> None:
    """Complete, in order, rotated; and neither the daemon nor its buffers grow."""
    lines = 100 * MIB // LINE
    with pumping(tmp_path / "logs", segment_bytes=16 * MIB) as pump:
        pump.add("flood", os.dup(stage.pipe))
        before = rss()
        writer = stage.spawn("chatty", "--lines", lines)
        most = before
        while pump.position("flood") != Position(7, lines * LINE - 6 * 16 * MIB):
            most = max(most, rss())
            seen = pump.moved("flood")
            until(lambda seen=seen: pump.moved("flood") > seen or not pending(stage.pipe))
        gone(writer.pid)
        assert max(most, rss()) - before < 8 * MIB
    assert_numbered(tmp_path / "logs/flood", lines)


def test_five_hundred_lines_a_second(stage: Stage, tmp_path: Path) -> None:
    """Each is in the file soon after it was said. The minute of it is in tests/daemon."""
    with pumping(tmp_path / "logs", segment_bytes=5000) as pump:
        pump.add("steady", os.dup(stage.pipe))
        writer = stage.spawn("chatty", "--lines", 1000, "--rate", 500)
        gone(writer.pid)
        until(lambda: not pending(stage.pipe))
    assert_numbered(tmp_path / "logs/steady", 1000)
    assert len(segments(tmp_path / "logs/steady")) >= 10


def test_one_that_floods_does_not_silence_another(stage: Stage, tmp_path: Path) -> None:
    quiet = make_fifo(tmp_path / "quiet", 4096)
    with pumping(tmp_path / "logs", segment_bytes=8 * MIB, kept=1) as pump:
        pump.add("flood", os.dup(stage.pipe))
        pump.add("quiet", os.dup(quiet))
        child = Child.open(spawn(["yes"], stage.env, output=stage.fifo))
        assert child is not None
        stage.children.append(child)
        until(lambda: pump.moved("flood") > 20)
        for n in range(20):
            os.write(quiet, b"line %d\n" % n)
            words = b"".join(b"line %d\n" % m for m in range(n + 1))
            assert until(lambda words=words: everything(tmp_path / "logs/quiet") == words, patience=2)
        child.signal(signal.SIGKILL)
        gone(child.pid)
    os.close(quiet)


def test_the_child_is_never_blocked_by_a_pump_that_starts_late(stage: Stage, tmp_path: Path) -> None:
    """What a pipe holds is held; what comes later is moved when the pump comes."""
    writer = stage.spawn("chatty", "--lines", 3 * MIB // LINE)
    until(lambda: pending(stage.pipe) > 0)
    with pumping(tmp_path / "logs") as pump:
        pump.add("late", os.dup(stage.pipe))
        gone(writer.pid)
    assert_numbered(tmp_path / "logs/late", 3 * MIB // LINE)


def test_remove_takes_the_last_words(stage: Stage, tmp_path: Path) -> None:
    """There is no end of file: what waits when a child is dead is what was left to say."""
    pump = Pump(tmp_path / "logs")  # its thread does not even run
    pipe = os.dup(stage.pipe)
    pump.add("last", pipe)
    writer = stage.spawn("chatty", "--lines", 1000)
    gone(writer.pid)
    pump.remove(pipe)
    assert_numbered(tmp_path / "logs/last", 1000)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe)
    pump.remove(pipe)  # a second time does nothing
    pump.stop()


def test_a_second_incarnation_continues_the_log(stage: Stage, tmp_path: Path) -> None:
    with pumping(tmp_path / "logs") as pump:
        for _ in range(2):
            pipe = os.dup(stage.pipe)
            pump.add("again", pipe)
            gone(stage.spawn("chatty", "--lines", 10).pid)
            pump.remove(pipe)
    assert everything(tmp_path / "logs/again") == b"".join(numbered(0, 10)) * 2
    assert len(segments(tmp_path / "logs/again")) == 1


def test_old_segments_are_dropped(stage: Stage, tmp_path: Path) -> None:
    with pumping(tmp_path / "logs", segment_bytes=64 * 1024, kept=3) as pump:
        pump.add("short", os.dup(stage.pipe))
        gone(stage.spawn("chatty", "--lines", MIB // LINE).pid)
        until(lambda: not pending(stage.pipe))
        kept = until(lambda: len(found := segments(tmp_path / "logs/short")) == 3 and found)
    assert kept[-1].stem in ("00000016", "00000017"), "the next one may have just been begun"
    text = everything(tmp_path / "logs/short")
    assert b"".join(numbered(0, MIB // LINE)).endswith(text)
    assert len(text) >= 2 * 64 * 1024


@pytest.mark.parametrize("name", ["redis", "glm-4.1v", "a.b.c", "v1.0", "9"])
def test_the_link_points_at_the_newest_segment(tmp_path: Path, name: str) -> None:
    """``tail -F NAME.log``; a name may have dots of its own."""
    pipe = make_fifo(tmp_path / "fifo", 4096)
    pump = Pump(tmp_path / "logs", segment_bytes=4096)
    pump.add(name, pipe)
    link = tmp_path / "logs" / f"{name}.log"
    assert os.readlink(link) == f"{name}/00000001.log"
    for words in (b"a" * 4096, b"newest"):
        os.write(pipe, words)
        pump._sinks[name].take(pipe)
    assert os.readlink(link) == f"{name}/00000002.log"
    assert link.read_bytes() == b"newest"
    pump.stop()
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == sorted([name, f"{name}.log"])


def test_names_that_begin_alike_have_logs_of_their_own(tmp_path: Path) -> None:
    names = ["a", "a.b", "a.b.c", "b"]
    pump = Pump(tmp_path / "logs")
    for name in names:
        pipe = make_fifo(tmp_path / f"{name}.fifo", 4096)
        pump.add(name, pipe)
        os.write(pipe, name.encode())
    pump.stop()
    assert {name: everything(tmp_path / "logs" / name).decode() for name in names} == {name: name for name in names}


def test_a_folder_where_the_link_should_be_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "logs/x.log").mkdir(parents=True)
    pipe = make_fifo(tmp_path / "fifo", 4096)
    pump = Pump(tmp_path / "logs")
    pump.add("x", pipe)
    os.write(pipe, b"words")
    pump.stop()
    assert everything(tmp_path / "logs/x") == b"words"


def test_foreign_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "logs/x"
    folder.mkdir(parents=True)
    for name in ("notes.txt", "old.log", "00000001.log.gz"):
        (folder / name).write_text("mine")
    pipe = make_fifo(tmp_path / "fifo", 4096)
    pump = Pump(tmp_path / "logs", segment_bytes=4096, kept=1)
    pump.add("x", pipe)
    for _ in range(3):
        os.write(pipe, b"x" * 4096)
        pump._sinks["x"].take(pipe)
    pump.stop()
    assert {path.name for path in folder.iterdir()} == {
        "notes.txt", "old.log", "00000001.log.gz", "00000003.log", "00000003.times",
    }  # fmt: skip


def test_a_log_that_cannot_be_opened_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its program writes as if it were there; why it is not is named, and it is opened as soon as that can be done."""
    monkeypatch.setattr(output_sink, "REOPEN", 0.01)
    wrong = tmp_path / "logs"
    wrong.write_text("a file where the folder should be")
    pipe = make_fifo(tmp_path / "fifo", 4096)
    with pumping(wrong) as pump, open(os.dup(pipe), "wb", buffering=0) as writer:
        pump.add("x", pipe)
        assert pump.problems() == {"x": "Not a directory"} or pump.problems() == {"x": "File exists"}
        for _ in range(32):
            until(lambda: pending(pipe) == 0)
            writer.write(b"y" * 4096)
        until(lambda: pending(pipe) == 0)
        wrong.unlink()
        until(lambda: (writer.write(b"z"), pump.problems() == {})[1])
        until(lambda: everything(wrong / "x").endswith(b"z"))
    assert f"[llm-supervisor: {32 * 4096}".encode()[:-2] in everything(wrong / "x"), "the gap is marked"


ANY_ERROR = [
    *(OSError(number, os.strerror(number)) for number in (
        errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.ENOMEM, errno.ETIMEDOUT, errno.ENODEV, errno.EIO, errno.EBADF,
        errno.EMFILE, errno.EACCES,
    )),
    MemoryError(),
    RuntimeError("a defect"),
]  # fmt: skip


@pytest.mark.parametrize("error", ANY_ERROR, ids=[getattr(one, "strerror", None) or repr(one) for one in ANY_ERROR])
@pytest.mark.parametrize("call", ["splice", "open", "write"])
def test_no_error_of_the_disk_stops_the_pump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, call: str
) -> None:
    """While it lasts the pipe is emptied and the others are served; afterwards the log goes on with a mark."""
    monkeypatch.setattr(output_sink, "REOPEN", 0.01)
    broken = threading.Event()

    def faulty(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            if broken.is_set():
                raise error
            return real(*arguments, **named)

        return act

    fakes = {name: faulty(getattr(os, name)) if name == call else getattr(os, name) for name in dir(os)}
    pipe = make_fifo(tmp_path / "fifo", 4096)
    with pumping(tmp_path / "logs", segment_bytes=1000) as pump, open(os.dup(pipe), "wb", buffering=0) as writer:
        pump.add("x", pipe)
        monkeypatch.setattr(output_sink, "os", SimpleNamespace(**fakes))
        writer.write(b"before")
        until(lambda: everything(tmp_path / "logs/x") == b"before")
        broken.set()
        for _ in range(20):
            writer.write(b"y" * 4096)  # would block for ever once the pipe is full
        until(lambda: pending(pipe) == 0)
        assert pump.alive
        broken.clear()
        until(lambda: (writer.write(b"z"), everything(tmp_path / "logs/x").endswith(b"z"))[1])
        assert pump.problems() == {}


def wrote(pipe: int, data: bytes) -> bool:
    """Write if there is room for it: ends of ours do not block."""
    try:
        return os.write(pipe, data) == len(data)
    except BlockingIOError:
        return False


def test_a_write_that_hangs_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread goes on without that log; when the write comes back, so does the log."""
    monkeypatch.setattr(output_pump, "HUNG", 0.1)
    release, real = threading.Event(), os.splice
    pipes = {name: make_fifo(tmp_path / name, 4096) for name in ("hangs", "works")}
    writers = {name: os.dup(pipe) for name, pipe in pipes.items()}

    def hang(source: int, *arguments: Any, **named: Any) -> int:
        if source == pipes["hangs"]:
            assert release.wait(30)
        return real(source, *arguments, **named)

    monkeypatch.setattr(
        output_sink, "os", SimpleNamespace(**{name: getattr(os, name) for name in dir(os)} | {"splice": hang})
    )
    with pumping(tmp_path / "logs") as pump:
        for name, pipe in pipes.items():
            pump.add(name, pipe)
        os.write(writers["hangs"], b"stuck")
        until(lambda: (pump.look_after(), "hangs" in pump.problems())[1])
        began = time.monotonic()
        for _ in range(20):
            for writer in writers.values():
                until(lambda writer=writer: wrote(writer, b"y" * 2048))
        until(lambda: len(everything(tmp_path / "logs/works")) == 20 * 2048)
        pump.limit(1000, 3)
        assert pump.position("hangs") == Position(1, 0)
        assert time.monotonic() - began < 5
        release.set()
        until(lambda: pump.problems() == {})
        until(lambda: wrote(writers["hangs"], b"z") and everything(tmp_path / "logs/hangs").endswith(b"z"))
    for writer in writers.values():
        os.close(writer)


@pytest.mark.parametrize("whole", [True, False], ids=["the folder", "the file"])
def test_a_log_that_is_removed_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """Else all output would go into a file without a name, without a limit."""
    monkeypatch.setattr(output_pump, "LOOK", 0.02)
    folder = tmp_path / "logs/x"
    pipe = make_fifo(tmp_path / "fifo", 4096)
    with pumping(tmp_path / "logs") as pump, open(os.dup(pipe), "wb", buffering=0) as writer:
        pump.add("x", pipe)
        writer.write(b"before")
        until(lambda: everything(folder) == b"before")
        shutil.rmtree(folder) if whole else segments(folder)[0].unlink()
        until(lambda: segments(folder))
        writer.write(b"after")
        until(lambda: everything(folder) == b"after")
        assert pump.position("x") == Position(2, 5), "the number grows, so that a reader sees that something is missing"


def test_make_fifo(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    first = make_fifo(path, 64 * 1024)
    os.write(first, b"waiting")
    second = make_fifo(path, 64 * 1024)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert pending(second) == 7
    assert os.read(second, 100) == b"waiting", "what a dead reader left is there for the next"
    with pytest.raises(BlockingIOError):
        os.read(second, 100)
    os.close(first)
    os.close(second)
    (tmp_path / "plain").write_text("")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="is not a FIFO"):
        make_fifo(tmp_path / "plain", 4096)
    assert os.listdir("/proc/self/fd") == before
    os.close(make_fifo(tmp_path / "large", 1 << 40))  # more than the kernel gives is no error


# A full disk ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("a small file system can only be mounted by root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("segment_bytes", [50 * MIB, 100 * 1024], ids=["one segment", "rotating"])
def test_a_full_disk_never_blocks_a_child(stage: Stage, small_disk: Path, segment_bytes: int) -> None:
    """It drains, marks the gap, and goes on when there is room again."""
    (small_disk / "ballast").write_bytes(b"x" * (512 * 1024))
    folder = small_disk / "logs/full"
    with pumping(small_disk / "logs", segment_bytes=segment_bytes) as pump:
        pump.add("full", os.dup(stage.pipe))
        writer = stage.spawn("chatty", "--lines", 10 * MIB // LINE)
        gone(writer.pid)  # it could say all of it
        until(lambda: not pending(stage.pipe))
        assert pump.alive
        (small_disk / "ballast").unlink()
        for n in range(3):
            writer = stage.spawn("chatty", "--lines", 1)
            gone(writer.pid)
            until(lambda n=n: everything(folder).endswith(b"".join(numbered(0, 1)) * n))
    text = everything(folder)
    first, mark, rest = text.partition(b"[llm-supervisor: ")
    assert mark, "the gap is marked"
    assert b"".join(numbered(0, 10 * MIB // LINE)).startswith(first.rstrip(b"\n")), "what was kept is in order"
    lost = sum(int(part.split()[0]) for part in text.split(b"[llm-supervisor: ")[1:])
    assert b" bytes lost here: no room for the log]\n" in rest
    assert rest.endswith(b"".join(numbered(0, 1)) * 3), "later lines are there"
    assert lost + len(text) > 10 * MIB, "and so many bytes are missing"
    position = pump.position("full")
    assert position.segment == int(segments(folder)[-1].stem)


def test_a_disk_without_room_for_a_new_segment(tmp_path: Path) -> None:
    """Rotation fails, for lack of inodes or of the folder: the present segment goes on, and so does its number."""
    pipe = make_fifo(tmp_path / "fifo", 4096)
    pump = Pump(tmp_path / "logs", segment_bytes=4096)
    pump.add("x", pipe)
    sink = pump._sinks["x"]
    rotate_from, sink.folder = sink.folder, tmp_path / "fifo/nowhere"
    for _ in range(3):
        os.write(pipe, b"y" * 4096)
        assert sink.take(pipe)
    assert pump.position("x") == Position(1, 3 * 4096)
    sink.folder = rotate_from
    os.write(pipe, b"z")
    assert sink.take(pipe)
    assert pump.position("x") == Position(2, 1)
    pump.stop()
    assert everything(tmp_path / "logs/x") == b"y" * 3 * 4096 + b"z"


def test_a_file_system_that_cannot_splice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "splice", refuse)
    data = b"".join(numbered(0, 3000))
    pipe = make_fifo(tmp_path / "fifo", 4096)
    writer = os.open(tmp_path / "fifo", os.O_WRONLY)
    with pumping(tmp_path / "logs", segment_bytes=50_000) as pump:
        pump.add("copied", pipe)
        at = 0
        while at < len(data):
            at += os.write(writer, data[at : at + 10_000])
    os.close(writer)
    assert everything(tmp_path / "logs/copied") == data
    assert len(segments(tmp_path / "logs/copied")) > 2


# The daemon may die -----------------------------------------------------------------------------------------


PUMP = """
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from llm_supervisor.host.output.pump import Pump, make_fifo
logs, fifo = Path(sys.argv[1]), Path(sys.argv[2])
pump = Pump(logs, segment_bytes=300_000, kept=100_000)
pump.add("x", make_fifo(fifo, 256 * 1024))
pump.start()
print("pumping", flush=True)
sys.stdin.read()
pump.stop()
"""


@pytest.mark.slow
def test_a_reader_that_is_killed_loses_and_repeats_nothing(stage: Stage, tmp_path: Path) -> None:
    """Twenty SIGKILLs in the middle of a stream; the child lives on, so the FIFO keeps what it holds."""
    lines = 2_000_000
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    writer = stage.spawn("chatty", "--lines", lines, "--gate", gate, "--stay")
    folder = tmp_path / "logs/x"
    dice = random.Random(2)

    def reader() -> subprocess.Popen[bytes]:
        started = subprocess.Popen(
            [sys.executable, "-c", PUMP, str(tmp_path / "logs"), str(stage.fifo)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **stage.env},
        )  # fmt: skip
        assert started.stdout is not None
        assert Lines(started.stdout.fileno()).next() == "pumping"
        return started

    def size() -> int:
        return sum(path.stat().st_size for path in segments(folder))

    current = reader()
    open_gate(gate)
    for _ in range(20):
        enough = size() + dice.randint(1, 4 * MIB)
        until(lambda enough=enough: size() >= enough)
        current.kill()
        current.communicate()
        current = reader()
    assert size() < lines * LINE, "the stream was cut twenty times, not only its end"
    total = lines * LINE + len(f"end {writer.pid}\n")
    until(lambda: size() >= total)
    current.communicate(timeout=20)
    assert current.returncode == 0
    writer.signal(signal.SIGTERM)
    gone(writer.pid)
    last = segments(folder)[-1]
    text = last.read_bytes()
    assert text.endswith(f"end {writer.pid}\n".encode())
    last.write_bytes(text[: -len(f"end {writer.pid}\n")])
    assert_numbered(folder, lines)


def test_stopping_takes_what_waits_everywhere(tmp_path: Path) -> None:
    pump = Pump(tmp_path / "logs")
    pump.start()
    for n in range(20):
        pipe = make_fifo(tmp_path / f"fifo{n}", 4096)
        pump.add(f"p{n}", pipe)
        os.write(pipe, b"last words of %d" % n)
    pump.stop()
    assert not pump.alive
    for n in range(20):
        assert everything(tmp_path / f"logs/p{n}") == b"last words of %d" % n


def test_the_pump_closes_what_it_opened(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    threads = threading.active_count()
    for _ in range(3):
        pump = Pump(tmp_path / "logs")
        pump.start()
        pump.add("x", make_fifo(tmp_path / "fifo", 4096))
        pump.stop()
    assert os.listdir("/proc/self/fd") == before
    assert threading.active_count() == threads


# Reading back -----------------------------------------------------------------------------------------------


def write_segments(folder: Path, *texts: bytes, first: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts, first):
        (folder / f"{number:08d}.log").write_bytes(text)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"one", [b"one"]),
        (b"one\n", [b"one"]),
        (b"one\ntwo", [b"one", b"two"]),
        (b"\n\none\n", [b"", b"", b"one"]),
        (b"dos\r\nline\r\n", [b"dos", b"line"]),
        (b" 10%\r 50%\r100%\n", [b"100%"]),
        (b" 10%\r 50%\r", [b" 50%"]),
        (b"\r\r\n", [b""]),
        (b"a\rb\r\n", [b"b"]),
        (b"\xff\xfe\0\n", [b"\xff\xfe\0"]),
    ],
)
def test_split_lines(data: bytes, lines: list[bytes]) -> None:
    assert split_lines(data) == lines


def test_the_tail_of_no_log(tmp_path: Path) -> None:
    assert tail(tmp_path / "none", 10) == ([], Position(0, 0))
    write_segments(tmp_path / "empty", b"")
    assert tail(tmp_path / "empty", 10) == ([], Position(1, 0))
    assert read_from(tmp_path / "none", Position(0, 0)) == (b"", Position(0, 0))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 100])
def test_the_tail_across_segments(tmp_path: Path, count: int) -> None:
    """Segments end wherever they are full: in the middle of a line, too."""
    texts = [b"one\ntwo\nth", b"ree\n", b"", b"four\nfi", b"ve\nsix"]
    write_segments(tmp_path / "x", *texts)
    every = b"".join(texts).split(b"\n")
    assert tail(tmp_path / "x", count) == (every[-count:] if count else [], Position(5, 6))


def test_the_tail_of_large_logs(tmp_path: Path) -> None:
    lines = [b"%07d" % n + b"." * (n % 90) for n in range(50_000)]
    text = b"\n".join(lines) + b"\n"
    cut = len(text) // 3
    write_segments(tmp_path / "x", text[:cut], text[cut : 2 * cut], text[2 * cut :])
    for count in (1, 10, 777, 20_000, 49_999, 50_000, 60_000):
        assert tail(tmp_path / "x", count)[0] == lines[-count:]


def test_the_tail_of_one_huge_line_is_bounded(tmp_path: Path) -> None:
    write_segments(tmp_path / "x", b"old\n" + b"y" * (3 * MIB))
    (line,), end = tail(tmp_path / "x", 1, limit=MIB)
    assert line == b"y" * len(line)
    assert MIB <= len(line) < MIB + 65536
    assert end == Position(1, 3 * MIB + 4)


def test_the_tail_while_the_oldest_segments_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_segments(tmp_path / "x", b"one\n", b"two\n", b"three\n")
    found = segments(tmp_path / "x")
    monkeypatch.setattr(output_reader, "segments", lambda folder: found)
    found[0].unlink()
    assert tail(tmp_path / "x", 10)[0] == [b"two", b"three"]
    assert read_from(tmp_path / "x", Position(1, 0)) == (b"two\nthree\n", Position(3, 6))


def test_reading_on_from_a_place(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    write_segments(folder, b"0123456789", b"abcdef")
    assert read_from(folder, Position(0, 0)) == (b"0123456789abcdef", Position(2, 6))
    assert read_from(folder, Position(1, 8)) == (b"89abcdef", Position(2, 6))
    assert read_from(folder, Position(2, 6)) == (b"", Position(2, 6))
    write_segments(folder, b"ghi", first=3)
    assert read_from(folder, Position(2, 6)) == (b"ghi", Position(3, 3))
    # bounded, and nothing is left out between the pieces
    at, pieces = Position(0, 0), []
    for _ in range(20):
        data, at = read_from(folder, at, limit=3)
        assert len(data) <= 3
        pieces.append(data)
    assert b"".join(pieces) == b"0123456789abcdefghi"
    # a segment that was dropped meanwhile is skipped
    (folder / "00000001.log").unlink()
    assert read_from(folder, Position(1, 3)) == (b"abcdefghi", Position(3, 3))


def test_reading_on_while_the_pump_writes_and_drops_nothing(stage: Stage, tmp_path: Path) -> None:
    """A follower sees every byte once, across every rotation."""
    lines = 8 * MIB // LINE
    seen, at = 0, Position(0, 0)
    blocks = b"".join(numbered(0, lines))
    with pumping(tmp_path / "logs", segment_bytes=70_000) as pump:
        pump.add("x", os.dup(stage.pipe))
        stage.spawn("chatty", "--lines", lines)

        def more() -> bytes:
            nonlocal at
            data, at = read_from(tmp_path / "logs/x", at)
            return data

        while seen < len(blocks):
            data = until(more)
            assert blocks.startswith(data, seen)
            seen += len(data)
    assert more() == b""


# When ---------------------------------------------------------------------------------------------------------------


def segment(folder: Path, number: int, text: str, notes: str | None = None) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{number:08d}.log").write_text(text)
    if notes is not None:
        (folder / f"{number:08d}.times").write_text(notes)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (0, "one\ntwo\nthree\nfour\nfive\n"),
        (100, "one\ntwo\nthree\nfour\nfive\n"),
        (111.5, "two\nthree\nfour\nfive\n"),
        (112, "three\nfour\nfive\n"),
        (150, "three\nfour\nfive\n"),
        (161, "four\nfive\n"),
        (200, "four\nfive\n"),
        (300, "five\n"),
        (311, ""),
    ],
)
def test_since_when(tmp_path: Path, moment: float, expected: str) -> None:
    """Of what was written within ten seconds of a note it cannot be told when: it is shown."""
    folder = tmp_path / "p"
    segment(folder, 1, "one\ntwo\nthree\n", "100 0\n101 4\n150 6\n")  # the last note is in the middle of a line
    segment(folder, 2, "four\nfive\n", "200 0\n300 5\n")
    data, _ = output_reader.read_from(folder, output_reader.since(folder, moment))
    assert data.decode() == expected


def test_since_without_notes(tmp_path: Path) -> None:
    """Of another version, or with a note that was cut off: a whole segment, or none of it."""
    folder = tmp_path / "p"
    segment(folder, 1, "old\n")
    os.utime(folder / "00000001.log", (100, 100))
    segment(folder, 2, "new\n", "1")
    os.utime(folder / "00000002.log", (200, 200))
    for moment, expected in ((50, b"old\nnew\n"), (150, b"new\n"), (250, b"")):
        assert output_reader.read_from(folder, output_reader.since(folder, moment))[0] == expected
    segment(folder, 2, "new\nnewer\n", "15\n300 4\n")  # half a note, and the beginning from before there were any
    for moment, expected in ((250, b"new\nnewer\n"), (301, b"newer\n"), (400, b"")):
        assert output_reader.read_from(folder, output_reader.since(folder, moment))[0] == expected
    assert output_reader.since(tmp_path / "nobody", 0) == Position(0, 0)


def test_the_pump_notes_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a second at most, seldom while little is written, and at the beginning of each segment."""
    now = 0.0
    clock = SimpleNamespace(time=lambda: 1000 + now, monotonic=lambda: now)
    monkeypatch.setattr(output_sink, "time", clock)
    monkeypatch.setattr(output_sink, "_LITTLE", 6)
    pump = Pump(tmp_path, segment_bytes=20, kept=2)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    pump.add("p", reader)
    sink = pump._sinks["p"]
    folder = tmp_path / "p"
    for at in (0.0, 0.5, 1.2, 2.4, 3.6, 14.0, 14.1, 14.2):
        now = at
        os.write(writer, b"ab\n")
        assert sink.take(reader)
    assert (folder / "00000001.times").read_text() == "1000 0\n1001 6\n1003 12\n1014 15\n"
    assert (folder / "00000002.times").read_text() == "1014 0\n", "a segment begins with one"
    for _ in range(8):
        now += 5
        os.write(writer, b"0123456789" * 2)
        assert sink.take(reader)
    names = [path.name for path in sorted(folder.iterdir())]
    assert [name.partition(".")[2] for name in names] == ["log", "times"] * 2, "they go with their segments"
    os.close(writer)
    pump.stop()
