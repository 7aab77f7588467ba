"""Take off what others put before each line of a log: Docker, journald, Kubernetes, pm2, Loki and the like. Pure.

A kind of prefix is taken off where most lines have it, and then the next kind, as several are put before each other
(a time before the name of a pod). Where the prefix names a source (a container, a program) and there are several, the
lines are parted by source, so that each engine's log can be read by itself. Nothing is guessed from a single line: code
and tables contain bars and dates, too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_supervisor.diagnosis.tracebacks import without_colours

TORN = 16 * 1024  # bytes: Docker and containerd cut longer lines into pieces of this size
_PREFIX_ROOM = 400  # bytes that a prefix adds to such a piece
_SAMPLE = 300  # lines at both ends from which the kind of prefix is told
_MOST = 0.5  # of the lines must have it
_DEPTH = 4  # kinds of prefixes before each other
# What the kernel and the service manager say is evidence for whatever log it stands beside; and what has no prefix
SHARED = frozenset({"", "kernel", "systemd"})

# Of the processes that the kernel killed, those that are no engine's: another program's death explains nothing
_OTHERS_DEATH = re.compile(
    r"[^\n]{0,80}Killed process \d{1,9} \((?!VLLM|vllm|python|pt_|ray|litellm|uvicorn|gunicorn|granian|prisma|query)"
)

_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?"
_PROGRAM = r"(?P<source>[\w@./\-]{1,100})(?:\[\d{1,9}\])?: ?"
_KINDS = tuple(
    re.compile(regex)
    for regex in (
        # containerd's and CRI-O's files: "TIME stdout F text"
        rf"{_TIME} (?:stdout|stderr) (?P<part>[FP])(?::\S{{0,20}})? ?",
        # journalctl: short, short-precise, short-iso, short-full, short-monotonic, short-unix
        rf"[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{{1,9}})? (?P<host>[\w.\-]{{1,100}}) {_PROGRAM}",
        rf"(?:[A-Z][a-z]{{2}} )?{_TIME}(?: [A-Z]{{2,5}})? (?P<host>[\w.\-]{{1,100}}) (?P<source>[\w@./\-]{{1,100}})"
        r"\[\d{1,9}\]: ?",
        rf"\[ {{0,12}}\d{{1,9}}\.\d{{6}}\] (?P<host>[\w.\-]{{1,100}}) {_PROGRAM}",
        rf"\d{{9,11}}\.\d{{6}} (?P<host>[\w.\-]{{1,100}}) {_PROGRAM}",
        # kubectl logs --prefix, and stern
        r"\[(?P<source>pod/[^\]\s]{1,250})\] ?",
        # pm2 logs, and docker compose logs; the second also as supervisor-stdout writes it ("NAME stdout | text")
        r"\d{1,4}\|(?P<source>[\w.\-]{1,80}) {0,60}\| ?",
        r"(?P<source>[A-Za-z][\w.\-]{0,100})(?: (?:stdout|stderr))? {0,60}\| ?",
        # docker logs -t, kubectl logs --timestamps, pm2's files, ts, GitHub's and GitLab's runners
        rf"{_TIME}:? ",
        # logcli: the labels after the time
        r"\{[a-z_]{1,60}=\"[^}\n]{0,500}\} ",
    )
)
# Where the text is in a record of JSON that carries a line, and where its source is
_TEXTS = ("log", "MESSAGE", "line", "textPayload", "message", "msg")
_SOURCES = ("SYSLOG_IDENTIFIER", "container_name", "container", "service", "com.docker.compose.service", "app", "job")
# A record with one of these is one of the engine's own
_OWN = frozenset({"levelname", "level", "exc_info", "stacktrace", "processName", "funcName"})


@dataclass(slots=True)
class Stream:
    """The lines of one source. ``source`` is empty where the lines do not say from where they are."""

    source: str
    lines: list[str] = field(default_factory=list)


def streams(lines: list[str]) -> list[Stream]:
    """The lines without what others have put before them, one stream for each source, the longest first."""
    carried = _unpacked(lines)
    for _ in range(_DEPTH):
        kind = _kind_of([text for _, text in carried])
        if kind is None:
            break
        carried = _stripped(carried, kind)
    return _by_source(carried)


def _kind_of(lines: list[str]) -> re.Pattern[str] | None:
    """The kind of prefix that most lines have."""
    said = [line for line in (lines if len(lines) <= 2 * _SAMPLE else lines[:_SAMPLE] + lines[-_SAMPLE:]) if line]
    for kind in _KINDS:
        found = sum(kind.match(line) is not None for line in said)
        if found > _MOST * len(said) and (found > 1 or len(said) == 1):
            return kind
    return None


def _stripped(carried: list[tuple[str, str]], kind: re.Pattern[str]) -> list[tuple[str, str]]:
    stripped: list[tuple[str, str]] = []
    torn: dict[str, int] = {}  # where the line is that a source has not ended yet
    for known, line in carried:
        found = kind.match(line)
        if found is None:
            stripped.append((known, line))
            continue
        groups = found.groupdict()
        source, text = groups.get("source") or known, line[found.end() :]
        if source in torn:
            place = torn.pop(source)
            stripped[place] = (source, stripped[place][1] + text)
        else:
            place = len(stripped)
            stripped.append((source, text))
        if groups.get("part") == "P" or _is_torn(line):
            torn[source] = place
    return stripped


def _is_torn(line: str) -> bool:
    """Whether it is as long as the pieces of a line that was cut."""
    return len(line) > TORN // 4 and TORN <= len(line.encode("utf-8", "replace")) <= TORN + _PREFIX_ROOM


def _unpacked(lines: list[str]) -> list[tuple[str, str]]:
    """Each line with its source; what is carried in records of JSON is taken out of them."""
    unpacked: list[tuple[str, str]] = []
    open_line = False
    for line in lines:
        text, source, ended = line, "", True
        if line.startswith("{") and line.rstrip().endswith("}"):
            text, source, ended = _record(line)
        if open_line and unpacked[-1][0] == source:
            unpacked[-1] = (source, unpacked[-1][1] + text)
        else:
            unpacked.extend((source, part) for part in text.split("\n"))
        open_line = not ended
    return unpacked


def _record(line: str) -> tuple[str, str, bool]:
    """The text that a record carries, its source, and whether the line ends there; an engine's own record stays."""
    try:
        record = json.loads(line[: 4 * TORN])
    except (ValueError, RecursionError):
        return line, "", True
    if not isinstance(record, dict):
        return line, "", True
    if isinstance(record.get("_source"), dict):
        record = record["_source"]
    key = next((key for key in _TEXTS if key in record), "")
    if not key or (key in ("message", "msg") and not _OWN.isdisjoint(record)):
        return line, "", True
    text = record[key]
    if isinstance(text, list):  # journald's way for text that has control characters
        text = bytes(one for one in text if isinstance(one, int) and 0 <= one < 256).decode("utf-8", "replace")
    if not isinstance(text, str):
        return line, "", True
    ended = key != "log" or "stream" not in record or text.endswith("\n")
    return without_colours(text.rstrip("\r\n")), _source_of(record), ended


def _source_of(record: Mapping[str, Any]) -> str:
    for place in (record, record.get("labels"), record.get("kubernetes"), record.get("resource")):
        if isinstance(place, Mapping):
            found = next((place[key] for key in _SOURCES if isinstance(place.get(key), str)), "")
            if found:
                return str(found)
    return ""


def _by_source(carried: list[tuple[str, str]]) -> list[Stream]:
    counts = Counter(source for source, text in carried if source not in SHARED)
    if len(counts) <= 1:
        return [Stream(next(iter(counts), ""), [text for _, text in carried])]
    parted = {source: Stream(source) for source, _ in counts.most_common()}
    for source, text in carried:
        if source in SHARED:
            if _OTHERS_DEATH.match(text):
                continue
            for stream in parted.values():
                stream.lines.append(text)
        else:
            parted[source].lines.append(text)
    return list(parted.values())
