"""Split a log into lines, and put its tracebacks together. Pure, and linear in the size of the log. Bounded: only the
first and the last few hundred KiB are looked at, and only the first 2,000 characters of a line.

vLLM writes ``(EngineCore pid=12) ERROR 11-20 09:02:54 [core.py:1510] text`` and repeats that prefix on each line of a
message; what is not logged (an uncaught traceback, argparse, C++) has none. uvicorn, LiteLLM and glog have theirs on
the first line only. Several processes write into one log, so tracebacks are put together per prefix."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import NamedTuple

FIRST, LAST = 192 * 1024, 320 * 1024  # what is looked at, in characters
FIRST_LINES, LAST_LINES = 10_000, 20_000  # a log of very short lines costs as much as its lines are many
WIDTH = 2000  # of a line
MESSAGE_LINES, MESSAGE_CHARACTERS = 40, 6000  # of an exception
FOREIGN = 30  # lines of others inside an unprefixed traceback
NEAR = 6  # lines from a logger's line to the traceback that belongs to it

# journald's syslog escapes and terminals that were copied by hand write ESC in other ways
_ANSI = re.compile(r"(?:\x1b|\^\[|#033)\[[0-9;?]{0,16}[A-Za-z]")
_BLANKS = re.compile(r"\n{4,}")
# the process may be named twice, where a worker's output passes through its parent; before 0.8 the place had no "["
_VLLM = re.compile(
    r"(?:\([A-Za-z][\w.\- ]{0,60}? pid=\d{1,9}\) (?=\())?"
    r"(?:\((?P<process>[A-Za-z][\w.\- ]{0,60}?) pid=(?P<pid>\d{1,9})(?:, ip=[\d.:a-f]{1,40})?\) ?)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d(?:,\d{1,6})? "
    r"(?:\[[^\]\n]{1,120}\]|[\w./\-]{1,80}:\d{1,6}\]) ?)?"
)
_LITELLM = re.compile(r"(?:\d\d:\d\d:\d\d - )?LiteLLM[\w ]{0,30}:(?P<level>[A-Z]{1,10}): [^\s:]{1,80}:\d{1,6} - ")
_RANK = re.compile(r"\[(?P<process>rank\d{1,5})\]: ?")  # torch puts it before what an exception prints
_UVICORN = re.compile(r"(?P<level>INFO|WARNING|ERROR|CRITICAL|DEBUG):\s{1,10}")
_GLOG = re.compile(r"(?:\[(?P<process>rank\d{1,5})\]:)?\[(?P<level>[IWEF])\d{4} [\d:.]{8,20} [\w./\-]{1,80}:\d{1,6}\] ")
_GLOG_LEVELS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "ERROR"}

_TRACEBACK = "Traceback (most recent call last):"
_FRAME = re.compile(r'\s{1,8}File "(?P<file>[^"\n]{1,400})", line \d{1,7}(?:, in (?P<function>[^\n]{1,200}))?')
_INNER_FRAME = re.compile(r'  File "[^"\n]{1,400}", line \d{1,7}, in ')
_RAISED = re.compile(
    r"(?P<type>(?:[A-Za-z_]\w{0,60}\.){0,8}(?:[A-Z_]\w{0,80}|[a-z]{1,40}(?:error|timeout|exit|Again)))"
    r"(?::(?: (?P<message>.*))?)?$"
)
_CHAINED = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
# vLLM runs a model's inspection in a process of its own and puts that one's whole stderr into a message
_CARRIED = "Error raised in subprocess:"
_NEW_TOPIC = re.compile(r"nanobind: |Process [\w\-]{1,60}:$|Loading safetensors|usage: |\S{0,300}Warning: |Exception ")


# A first line without a message, or whose message is a place or an announcement of what follows
_SAYS_LITTLE = re.compile(
    r"^[\w.]{1,200}:?\s{0,4}$|:\s{0,4}$|: at \d{1,6}:\d{1,6}|validation errors? for|build failed|^\S{1,200}: "
    r"Error building"
)
_SAYS_WHAT = re.compile(
    r"(?i)\b(?:fatal|error|unsupported|unknown|undefined|invalid|missing|cannot|can't|could not|not (?:supported|found|"
    r"defined|allowed|divisible)|no such|must|expected|failed to|refused|denied)\b|\w(?:Error|Exception)\b"
)
_BUILD_NOISE = re.compile(r"ninja: |FAILED: |\[\d{1,5}/\d{1,5}\] |\s{0,8}\d{0,6} \| ")


class Line(NamedTuple):
    """``stamp`` is the prefix (empty: none), ``text`` what follows it, ``raw`` the whole line."""

    number: int
    process: str
    level: str
    stamp: str
    text: str
    raw: str


@dataclass(slots=True)
class Raised:
    """One exception of a chain. ``lines`` are its own: the first says "Type: message"."""

    type: str
    lines: list[Line]
    frames: str
    code: str = ""  # the line of source that raised it, where the traceback shows it

    @property
    def text(self) -> str:
        """What the rows are matched against. An assertion without a message is known by its line of source."""
        if self.code.startswith("assert ") and self.lines[0].text.rstrip(": ") == "AssertionError":
            return f"AssertionError: {self.code}"
        return "\n".join(line.text for line in self.lines)[:MESSAGE_CHARACTERS].rstrip()

    @property
    def telling(self) -> Line:
        """The line that says most: the first, unless that one only says where, or that something failed."""
        first = self.lines[0]
        if len(self.lines) == 1 or not _SAYS_LITTLE.search(first.text):
            return first
        said = [line for line in self.lines[1:] if line.text.strip() and not _BUILD_NOISE.match(line.text)]
        return next((line for line in said if _SAYS_WHAT.search(line.text)), said[0] if said else first)

    @property
    def place(self) -> str:
        """Where it was raised: "function (folder/file.py)", empty when the traceback has no frame."""
        file, _, function = self.frames.rpartition("\n")[2].rpartition(" ")
        short = "/".join(file.replace("\\", "/").split("/")[-2:])
        return f"{function} ({short})" if function and short else short


@dataclass(slots=True)
class Fault:
    """A traceback with what it was chained to, the root first. ``context`` is the line before it: a logger's message,
    ``Process EngineCore:``, or None."""

    process: str
    level: str
    context: Line | None
    first: int
    chain: list[Raised] = field(default_factory=list)

    @property
    def head(self) -> str:
        return self.context.text.strip() if self.context is not None else ""


def text_of(log: bytes | str) -> str:
    """The part of the log that is looked at, without colours, with ``\\n`` at each line's end."""
    first, last = log[:FIRST], log[max(len(log) - LAST, FIRST) :]
    text = _decoded(first)
    if log[:2] in (b"\xff\xfe", b"\xfe\xff"):  # what PowerShell's > writes
        text = log[: 2 * (FIRST + LAST)].decode("utf-16", "replace")  # type: ignore[union-attr]
    elif len(log) > FIRST + LAST:
        text = text.rpartition("\n")[0] + "\n" + _decoded(last).partition("\n")[2]
    else:
        text = _decoded(log)
    return _BLANKS.sub("\n\n\n", without_colours(text.removeprefix("\ufeff")))


def without_colours(text: str) -> str:
    """The text without escape sequences, with ``\\n`` at each line's end."""
    return _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(part: bytes | str) -> str:
    return part if isinstance(part, str) else part.decode("utf-8", "replace")


def lines_of(raws: list[str]) -> list[Line]:
    """Every line, its prefix taken apart. A line of JSON (vLLM's and LiteLLM's other format) becomes those it
    stands for."""
    lines: list[Line] = []
    if len(raws) > FIRST_LINES + LAST_LINES:
        raws = raws[:FIRST_LINES] + raws[-LAST_LINES:]
    for raw in raws:
        if raw.startswith("{") and '"message"' in raw:
            lines.extend(_unfolded(raw, len(lines)))
        else:
            lines.append(_line(raw[:WIDTH], len(lines)))
    return lines


def _line(raw: str, number: int) -> Line:
    start = raw[:1]
    if start == "(" or start in "DIWEC":
        found = _VLLM.match(raw)
        if found is not None and found.end():
            process, level, stamp, text = found["process"] or "", found["level"] or "", found[0], raw[found.end() :]
            # uvicorn's own lines inside a process's prefix
            if not level and (found := _UVICORN.match(text)) is not None:
                level, text = found["level"], text[found.end() :]
            return Line(number, process, level, stamp, text, raw)
        found = _UVICORN.match(raw)
        if found is not None:
            return Line(number, "", found["level"], "", raw[found.end() :], raw)
    elif start == "[":
        found = _GLOG.match(raw)
        if found is not None:
            return Line(number, found["process"] or "", _GLOG_LEVELS[found["level"]], "", raw[found.end() :], raw)
        found = _RANK.match(raw)
        if found is not None:
            return Line(number, found["process"], "", found[0], raw[found.end() :], raw)
    elif start == "L" or start.isdigit():
        found = _LITELLM.match(raw)
        if found is not None:
            return Line(number, "", found["level"], "", raw[found.end() :], raw)
    return Line(number, "", "", "", raw, raw)


def _unfolded(raw: str, number: int) -> Iterator[Line]:
    try:
        record = json.loads(raw[: 16 * WIDTH])
        message = str(record["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        yield _line(raw[:WIDTH], number)
        return
    level = str(record.get("levelname") or record.get("level") or "").upper()
    process = str(record.get("processName") or "")
    trace = record.get("exc_info") or record.get("stacktrace") or ""
    stamp = f"json {process} {record.get('process', '')} {number}"
    for index, text in enumerate(f"{message}\n{trace}".rstrip("\n").split("\n")):
        yield Line(number + index, process, level, stamp, text[:WIDTH], text[:WIDTH])


class _Stream:
    """Puts the tracebacks of one prefix together, line by line."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.mode = "idle"  # frames, message, between (a chain's connector was read), closed (only a connector fits)
        self.context: Line | None = None
        self.fault: Fault | None = None
        self.frames: list[str] = []
        self.code = ""
        self.foreign = 0
        self.blank = False

    def feed(self, line: Line) -> None:
        text = line.text
        if text[:80].lstrip().startswith(_TRACEBACK):
            self._begin(line)
        elif text.endswith(f", {_TRACEBACK}"):  # "Exception in worker ...: MESSAGE, Traceback (most recent call last):"
            self.mode, self.context = "idle", line
            self._begin(line)
        elif self.mode in ("idle", "closed") and _INNER_FRAME.match(text):
            self._begin(line)  # the beginning of the log is gone, and with it the traceback's first line
            self._frame(line)
        elif line.level and not line.stamp:
            # a logger that has its prefix on the first line only: a message of its own
            if self.mode != "frames" or line.level == "ERROR":
                self.mode, self.context = "idle", line
        elif self.mode == "frames":
            self._frame(line)
        elif self.mode == "idle":
            if text.strip() and not self._belongs(line):
                self.context = line
        elif text.strip() in _CHAINED:
            self.mode = "between"
        elif self.mode == "message":
            self._message(line)
        elif self.mode == "closed" and text.strip():
            self.context = line

    def _belongs(self, line: Line) -> bool:
        """Is this one of the further lines of a message whose first has a logger's prefix?"""
        context = self.context
        return (
            context is not None
            and bool(context.level)
            and not context.stamp
            and context.level != "INFO"
            and line.number - context.number < NEAR
            and not _NEW_TOPIC.match(line.text)
        )

    def interrupt(self) -> None:
        """Another process wrote in between: what follows does not belong to the exception."""
        if self.mode == "message":
            self.mode = "closed"

    def _begin(self, line: Line) -> None:
        carried = self.fault is not None and self.mode == "message" and _CARRIED in self.fault.chain[-1].text
        if not (carried or (self.mode == "between" and self.fault is not None)):
            self.fault = Fault(line.process, line.level, self._context(line), line.number)
        self.mode, self.frames, self.code, self.foreign = "frames", [], "", 0

    def _context(self, line: Line) -> Line | None:
        """What stands right before a traceback says what it is about. uvicorn logs some tracebacks without a message:
        then the prefix is on the traceback itself."""
        if self.context is None or (line.level and not line.stamp):
            return None
        return self.context if line.number - self.context.number <= (FOREIGN if line.stamp else NEAR) else None

    def _frame(self, line: Line) -> None:
        text = line.text
        if not text.strip():
            return
        if text[0] in " \t":
            found = _FRAME.match(text)
            if found is not None and len(self.frames) < 200:
                self.frames.append(f"{found['file']} {found['function'] or ''}")
                self.code = ""
            elif found is None and not self.code:
                self.code = text.strip()[:200]
            return
        found = _RAISED.match(text)
        if found is None or self.fault is None:
            self.foreign += 1
            if self.foreign > FOREIGN:
                self.mode = "idle"
            return
        if not self.fault.chain:
            self.faults.append(self.fault)
        self.fault.chain.append(Raised(found["type"], [line], "\n".join(self.frames), self.code))
        self.mode, self.blank = "message", False

    def _message(self, line: Line) -> None:
        assert self.fault is not None
        lines, empty = self.fault.chain[-1].lines, not line.text.strip()
        if (empty and self.blank) or len(lines) >= MESSAGE_LINES or _NEW_TOPIC.match(line.text):
            self.mode, self.context = "closed", None if empty else line
            return
        self.blank = empty
        lines.append(line)


def last_words(lines: list[Line]) -> list[Fault]:
    """The last line that is an exception's, of a log that has no traceback: somebody has kept only its end. With what
    follows it in its message."""
    for index in range(len(lines) - 1, -1, -1):
        line = lines[index]
        found = _RAISED.match(line.text)
        if found is not None and found["message"] and found["type"].endswith(("Error", "Exception", "error")):
            own = [line, *takewhile(partial(_goes_on, line), lines[index + 1 : index + MESSAGE_LINES])]
            return [Fault(line.process, line.level, None, line.number, [Raised(found["type"], own, "")])]
    return []


def _goes_on(first: Line, line: Line) -> bool:
    """Whether a line may be one more of a message that begins so."""
    return line.stamp == first.stamp and (line.level == "" or bool(line.stamp)) and not _NEW_TOPIC.match(line.text)


def faults_of(lines: list[Line]) -> list[Fault]:
    """Every traceback that ends in an exception, in the order in which they begin."""
    streams: dict[str, _Stream] = {"": _Stream()}
    bare = streams[""]
    for line in lines:
        if line.stamp:
            bare.interrupt()
            stream = streams.get(line.stamp)
            if stream is None:
                stream = streams[line.stamp] = _Stream()
            stream.feed(line)
        else:
            bare.feed(line)
    return sorted((fault for stream in streams.values() for fault in stream.faults), key=lambda fault: fault.first)
