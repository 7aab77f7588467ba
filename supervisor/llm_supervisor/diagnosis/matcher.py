"""Diagnose a failure from a log and an exit status. Pure.

What is looked for is the root: the first exception of an EngineCore or Worker process, not the wrapper in which the API
server reports it, not the exceptions that it was turned into on its way, not what the others say when they lose it, not
the noise of leaving, and no error of a single request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from llm_supervisor.diagnosis.carriers import streams
from llm_supervisor.diagnosis.incarnations import last_incarnation
from llm_supervisor.diagnosis.pattern import NONE, Component, Diagnosis, Pattern, Rank, filled
from llm_supervisor.diagnosis.tables import gpu, litellm, memory, models, options, process, quantisation, vllm
from llm_supervisor.diagnosis.tracebacks import Fault, Line, Raised, faults_of, last_words, lines_of, text_of
from llm_supervisor.redaction import redact_log

EVIDENCE, EVIDENCE_WIDTH = 6, 400
# They say what was not there; the exception that they were turned into may say what for
_MEANS = frozenset({"package_missing", "file_missing", "compile_failed"})
# Complaints about a part that was configured, and that the program serves without until it is started again
LEFT_OUT = frozenset({"guardrail_left_out"})
MOST_STREAMS = 6  # of the sources in one log that may be the program's
UNKNOWN_ADVICE = (
    "No known cause: the evidence is the first exception. It is tried again within the limits of `restart:`."
)

Standing = Literal["fatal", "uncaught", "logged", "none"]

_NOISE = re.compile(r"(?:\w+\.)*(?:KeyboardInterrupt|SystemExit|CancelledError|GeneratorExit)$")
_NOISE_HEADS = (
    "Exception ignored in",
    "Task exception was never retrieved",
    "--- Logging error ---",
    "Task was destroyed",
)


@dataclass(frozen=True, slots=True)
class Book:
    """How the log of one kind of program is read, and the patterns of its known failures."""

    rows: tuple[Pattern, ...]
    facts: Callable[[str], Mapping[str, str]]
    ready: str = ""
    leaving: tuple[str, ...] = ()
    request_heads: tuple[str, ...] = ()
    fatal_heads: Mapping[str, tuple[str, bool | None, str]] = field(default_factory=dict)
    # a logger's place where only the death of the engine is logged, whatever the message is
    fatal_places: re.Pattern[str] = re.compile(r"(?!)")
    died: tuple[str, bool | None, str] = ("unknown", None, "")
    wrappers: re.Pattern[str] = re.compile(r"(?!)")
    # what only this program writes, to find its lines among those of others
    marks: re.Pattern[str] = re.compile(r"(?!)")
    # what each incarnation says once, early
    begins: tuple[re.Pattern[str], ...] = ()
    # what only a program writes that is ready
    serves: re.Pattern[str] = re.compile(r"(?!)")
    # threads without which nothing is answered, in what Python says when one ends, and what that means
    threads: tuple[re.Pattern[str], tuple[str, bool | None, str]] | None = None


def _no_facts(text: str) -> Mapping[str, str]:
    return {}


BOOKS: Mapping[Component, Book] = {
    "vllm": Book(
        rows=(
            *models.ROWS,
            *quantisation.DIVIDING,
            *quantisation.QUANTISATION,
            *options.OPTIONS,
            *memory.ROWS,
            *gpu.ROWS,
            *vllm.SERVING,
            *process.ROWS,
        ),
        facts=vllm.facts,
        ready=vllm.READY,
        leaving=vllm.LEAVING,
        request_heads=vllm.REQUEST_HEADS,
        fatal_heads=vllm.FATAL_HEADS,
        fatal_places=vllm.FATAL_PLACES,
        died=vllm.DIED,
        wrappers=vllm.WRAPPERS,
        marks=vllm.MARKS,
        begins=vllm.BEGINS,
        serves=vllm.SERVES,
        threads=(vllm.THREADS, vllm.THREAD_DIED),
    ),
    "litellm": Book(
        rows=litellm.ROWS + process.ROWS,
        facts=litellm.facts,
        ready=litellm.READY,
        leaving=litellm.LEAVING,
        request_heads=litellm.REQUEST_HEADS,
        marks=litellm.MARKS,
        begins=litellm.BEGINS,
        serves=litellm.SERVES,
    ),
    "command": Book(rows=process.ROWS, facts=_no_facts),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be the root of the failure: how near to it, at which line, and how to make the diagnosis of it."""

    rank: Rank
    line: int
    finish: Callable[[], Diagnosis]


def diagnose(
    log: bytes | str,
    component: Component,
    *,
    exit_code: int | None = None,
    exit_signal: int | None = None,
    was_ready: bool = False,
    oom_killed: bool = False,
) -> Diagnosis:
    """Why the program that wrote ``log`` failed. ``exit_code`` and ``exit_signal``: how it ended, both None where that
    is not known or it still runs. ``was_ready``: it had been ready. ``oom_killed``: the kernel killed some of it.

    Ended by SIGTERM, SIGINT or SIGHUP, or with status 0 after being ready, and nothing in the log against it: ``none``.
    """
    if exit_code is not None and (exit_code < 0 or 128 < exit_code <= 192):  # as subprocess and a shell say a signal
        exit_signal = exit_signal or (-exit_code if exit_code < 0 else exit_code - 128)
        exit_code = None
    end = _End(exit_code, exit_signal, oom_killed)
    looks = [_Look(lines, BOOKS[component], was_ready) for lines in _parted(log, component)]
    return next((found for look in looks if (found := look.found(end)) is not None), None) or looks[0].by_status(end)


def left_out(log: bytes | str, component: Component) -> list[Diagnosis]:
    """What a program that serves says that it serves without, although it is configured; mostly nothing, which costs a
    search of the log for a few words."""
    rows = [pattern for pattern in BOOKS[component].rows if pattern.kind in LEFT_OUT]
    words = [pattern.needle if isinstance(log, str) else pattern.needle.encode() for pattern in rows]
    if not any(word in log for word in words):  # type: ignore[operator]
        return []
    found = [
        one.finish() for lines in _parted(log, component) for one in _Look(lines, BOOKS[component], True).complaints()
    ]
    return [one for one in found if one.kind in LEFT_OUT]


def _parted(log: bytes | str, component: Component) -> list[list[str]]:
    """The last incarnation of each stream that may be the program's, the likeliest first."""
    book = BOOKS[component]
    parted = streams(text_of(log).split("\n"))
    if len(parted) > 1:
        marked = {id(one): sum(book.marks.search(line[:200]) is not None for line in one.lines) for one in parted}
        named = [one for one in parted if component in one.source.lower()]
        likely = [one for one in parted if marked[id(one)]] or named or parted
        parted = sorted(likely, key=lambda one: -marked[id(one)])[:MOST_STREAMS]
    return [last_incarnation(one.lines, book.begins) for one in parted]


def _deaf(head: str, finish: Callable[[], Diagnosis]) -> Diagnosis:
    """The diagnosis of a thread that ended of an exception, while the process lives on. ``head``: Python's words."""
    found = finish()
    return replace(
        found, summary=f"{head.rstrip(':')}: the engine answers nobody until it is restarted: {found.summary}"
    )


@dataclass(frozen=True, slots=True)
class _End:
    """How the program ended: both None where that is not known, or where it still runs."""

    code: int | None
    signal: int | None
    oom_killed: bool

    @property
    def is_known(self) -> bool:
        return self.code is not None or self.signal is not None

    @property
    def crashed(self) -> bool:
        return self.signal is not None and self.signal not in process.ASKED_TO_LEAVE


class _Look:
    """One log, split into lines and tracebacks once, and what a book of patterns finds in it."""

    def __init__(self, lines: list[str], book: Book, was_ready: bool) -> None:
        text = "\n".join(lines)
        self.book = book
        self.lines = lines_of(lines)
        self.rows = [pattern for pattern in book.rows if pattern.needle in text]
        self.facts = {**process.facts(text), **book.facts(text)}
        self.faults = faults_of(self.lines)
        self.ready_at = self._ready_at(text, was_ready)
        self.ready = self.ready_at < len(self.lines)
        self.left_at = min(self._leaving(text), default=len(self.lines))
        self.left = self.left_at < len(self.lines)

    def _ready_at(self, text: str, was_ready: bool) -> int:
        """The line that says that the program is ready: -1 when it was ready and that line is gone, the number of lines
        when it was never ready. Without such a line, the first answered request tells."""
        gone = -1 if was_ready else len(self.lines)
        if self.book.ready and self.book.ready in text:
            said = (line.number for line in self.lines if line.text.startswith(self.book.ready))
            return next(said, gone)
        served = (line.number for line in self.lines if self.book.serves.match(line.text))
        return min(next(served, gone), gone)

    def _leaving(self, text: str) -> Iterator[int]:
        for marker in self.book.leaving:
            if marker in text:
                yield from (line.number for line in self.lines if line.text.startswith(marker))
        # SIGTERM before the server has its own handler
        yield from (fault.first for fault in self.faults if fault.chain[-1].type == "KeyboardInterrupt")

    def found(self, end: _End) -> Diagnosis | None:
        """What the log says, or None where it says nothing."""
        best = min(self.causes(end), key=lambda one: (one.rank, one.line), default=None)
        if end.oom_killed and (best is None or best.rank > Rank.PROOF):
            kind, permanent, summary, advice = process.OUT_OF_MEMORY
            return Diagnosis(kind, permanent, False, summary, advice, self.end())
        if best is None and not end.is_known and not self.left:
            best = min(self.complaints(), key=lambda one: one.line, default=None)
        return best.finish() if best is not None else None

    def by_status(self, end: _End) -> Diagnosis:
        """What the exit status alone says."""
        if not end.crashed and not (self.failed(end) and not self.left):
            return NONE
        if end.code == 0:
            summary = "it ended with status 0 before it was ready"
            return Diagnosis("exited_before_ready", None, False, summary, "Read the end of its log.", self.end())
        return process.from_status(end.code, end.signal, self.end())

    def failed(self, end: _End) -> bool:
        """Whether its exit status is one of a failure."""
        return end.code not in (None, 0) or (end.code == 0 and not self.ready and not self.left)

    def causes(self, end: _End) -> Iterator[Candidate]:
        """What the log says against the program, as far as it counts after this end of it."""
        failed = self.failed(end)
        for fault in self.faults or (last_words(self.lines[: self.left_at]) if failed else []):
            standing = self._standing(fault)
            counts = {
                "fatal": True,
                "uncaught": not end.crashed and (failed or not end.is_known),
                "logged": failed,
                "none": False,
            }
            if not counts[standing]:
                continue
            for candidate in self._of_fault(fault):
                deaf = self._ends_a_thread(fault)
                yield replace(candidate, finish=partial(_deaf, fault.head, candidate.finish)) if deaf else candidate
        # a process that runs on, or was told to leave, did not die of what its log complains about
        lively = self.ready and not failed and not end.crashed
        for pattern, line, match in self._of_lines(complaints=False):
            survived = 0 <= line.number < self.ready_at < len(self.lines) and pattern.rank is not Rank.PROOF
            if not survived and not (lively and pattern in process.ROWS and pattern.rank >= Rank.COARSE):
                yield self._found(pattern, match, line.number, [line])

    def complaints(self) -> Iterator[Candidate]:
        for pattern, line, match in self._of_lines(complaints=True):
            yield self._found(pattern, match, line.number, [line])

    def _standing(self, fault: Fault) -> Standing:
        """``fatal``: a process says that it dies of it. ``uncaught``: the interpreter printed it. ``logged``: somebody
        logged it and may have gone on. Else ``none``: of a request, of leaving, or survived."""
        head, book = fault.head, self.book
        if fault.first >= self.left_at or _NOISE.match(fault.chain[-1].type) or head.startswith(_NOISE_HEADS):
            return "none"
        if self._ends_a_thread(fault):
            return "fatal"
        if any(head.startswith(words) for words in book.fatal_heads) or self._is_logged_where_it_dies(fault):
            return "fatal" if not (fault.first < self.ready_at < len(self.lines)) else "none"
        if any(words in head for words in book.request_heads):
            return "none"
        if 0 <= fault.first < self.ready_at < len(self.lines):
            return "none"  # it became ready after that
        of_logger = fault.context is not None and bool(fault.context.level)
        bare = not fault.level or (fault.level == "ERROR" and not of_logger)
        if bare and not of_logger and not head.startswith("Exception in thread"):
            return "uncaught" if fault.first < self.ready_at else "logged"
        # what stands behind a message that all is well may be printed by nobody's logger
        printed = not fault.level and fault.context is not None and fault.context.level == "INFO"
        return "logged" if (fault.level == "ERROR" or printed) and fault.first < self.ready_at else "none"

    def _is_logged_where_it_dies(self, fault: Fault) -> bool:
        return fault.context is not None and self.book.fatal_places.search(fault.context.stamp) is not None

    def _ends_a_thread(self, fault: Fault) -> bool:
        """Whether a thread ended of it without which the program answers nobody."""
        return self.book.threads is not None and self.book.threads[0].match(fault.head) is not None

    def _of_fault(self, fault: Fault) -> Iterator[Candidate]:
        known = False
        context = [fault.context] if fault.context is not None and fault.context.level != "INFO" else []
        cause = ""  # the kind of the first one: what it was turned into on its way says less, unless it is the same
        for raised in fault.chain:
            text, root_kind = raised.text, cause
            for pattern in self.rows:
                if pattern.where == "exception" and self._fits(pattern, fault.first, raised):
                    match = pattern.regex.search(text)
                    if match is not None and root_kind in ("", pattern.kind) and self._holds(pattern, match):
                        known = True
                        if pattern.rank <= Rank.COARSE and pattern.kind not in _MEANS:
                            cause = cause or pattern.kind
                        root = raised.lines[min(text.count("\n", 0, match.end() - 1), len(raised.lines) - 1)]
                        yield self._found(pattern, match, raised.lines[0].number, [root, raised.lines[0], *context])
        last = fault.chain[-1]
        if not known and not self.book.wrappers.search(last.text):
            yield Candidate(Rank.UNKNOWN, fault.first, partial(self._unknown, fault, last, context))

    def _unknown(self, fault: Fault, last: Raised, context: list[Line]) -> Diagnosis:
        kind, permanent, advice = next(
            (what for words, what in self.book.fatal_heads.items() if fault.head.startswith(words)),
            self.book.died if self._is_logged_where_it_dies(fault) else ("unknown", None, ""),
        )
        if kind == "engine_died" and fault.first < self.ready_at:
            kind, permanent, advice = "unknown", None, ""
        if self.book.threads is not None and self._ends_a_thread(fault):
            kind, permanent, advice = self.book.threads[1]
        telling = last.telling
        words = last.lines[0].text.strip()
        if telling is not last.lines[0]:
            words = f"{words.rstrip(':')}: {telling.text.strip()}"
        elif words == last.type and last.code:
            words = f"{words}: {last.code}"
        if last.place:
            words = f"{words} (raised in {last.place})"
        evidence = self._shown([last.lines[0], telling, *context, *(raised.lines[0] for raised in fault.chain[:-1])])
        return Diagnosis(kind, permanent, False, redact_log(words), advice or UNKNOWN_ADVICE, evidence)

    def _of_lines(self, *, complaints: bool) -> Iterator[tuple[Pattern, Line, re.Match[str]]]:
        for pattern in self.rows:
            if pattern.where == "exception" or (pattern.rank is Rank.COMPLAINT) is not complaints:
                continue
            for line in self.lines[: self.left_at]:
                if pattern.needle not in line.text or (line.level in ("INFO", "DEBUG") and pattern.where != "notice"):
                    continue
                if not complaints and any(words in line.text for words in self.book.request_heads):
                    continue
                match = pattern.regex.search(line.text)
                if match is not None and complaints and self._has_healed(pattern, line):
                    continue
                if match is not None and self._fits(pattern, line.number, None) and self._holds(pattern, match):
                    yield pattern, line, match
                    break

    def _has_healed(self, pattern: Pattern, line: Line) -> bool:
        """Whether a later line says that what it complains about is over."""
        return pattern.healed is not None and any(
            pattern.healed.search(later.text) for later in self.lines[line.number + 1 : self.left_at]
        )

    def _fits(self, pattern: Pattern, line: int, raised: Raised | None) -> bool:
        if pattern.phase != "any" and (pattern.phase == "run") is not (line > self.ready_at):
            return False
        return pattern.frames is None or (raised is not None and pattern.frames.search(raised.frames) is not None)

    def _holds(self, pattern: Pattern, match: re.Match[str]) -> bool:
        try:
            return pattern.when is None or pattern.when(self._values(match))
        except (ValueError, ArithmeticError):
            return False  # a number of the log may be too long to be one

    def _values(self, match: re.Match[str]) -> dict[str, str]:
        return {**self.facts, **{name: value for name, value in match.groupdict().items() if value is not None}}

    def _found(self, pattern: Pattern, match: re.Match[str], line: int, evidence: list[Line]) -> Candidate:
        def finish() -> Diagnosis:
            values = self._values(match)
            try:
                values.update(pattern.derive(values) if pattern.derive is not None else {})
            except (ValueError, ArithmeticError):
                pass  # the same; the sentences that need what was derived are left out
            summary = next(iter(filled(pattern.summary, values)), pattern.kind.replace("_", " "))
            advice = " ".join(filled(pattern.advice, values))
            return Diagnosis(
                pattern.kind,
                pattern.permanent,
                pattern.busy,
                redact_log(summary),
                redact_log(advice),
                self._shown(evidence),
            )

        return Candidate(pattern.rank, line, finish)

    def end(self) -> tuple[str, ...]:
        """The last lines of the log that are not empty, as evidence."""
        said = [line for line in self.lines[-60:] if line.text.strip()]
        return self._shown(said[-EVIDENCE:])

    def _shown(self, lines: list[Line]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(redact_log(line.raw.rstrip())[:EVIDENCE_WIDTH] for line in lines))[:EVIDENCE]
