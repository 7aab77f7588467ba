"""Calls that the kernel or a driver may never answer. Each runs in a thread that can be left behind.

NVML of a GPU that has fallen off the bus, ``/proc/PID/environ`` of a process that hangs in the kernel, a folder on a
dead network disk: such a call may take minutes or for ever, and nothing can end it. Whoever asks here gets an answer
or, after a time limit, ``NoAnswer``. A thing that does not answer is not asked again before its call has come back, so
that it costs one thread, and everybody else learns at once that it does not answer. The threads do not keep the
process from ending; asyncio's own executor would, which is why it is not used for such calls.

What is asked is named for people: "GPU 0", "the folder /models".
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
MOST_IDLE = 4  # threads that wait for the next call
MOST_LEFT = 3  # things that one call of ``each`` leaves behind before it gives up the rest


class NoAnswer(TimeoutError):
    """The thing was asked and has not answered within the time limit, or has not answered a call before."""

    def __init__(self, thing: str) -> None:
        super().__init__(f"{thing} does not answer")
        self.thing = thing


class _Call:
    """One call in a thread, for everybody who asks the same meanwhile."""

    def __init__(self, thing: str, key: Hashable, work: Callable[[], Any]) -> None:
        self.thing, self.key, self.began = thing, key, time.monotonic()
        self.over = threading.Event()
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self._then: list[Callable[[], None]] = []

    def run(self) -> None:
        """Make the call, in a thread of its own, and tell everybody who still waits."""
        try:
            self._result = self._work()
        except BaseException as error:  # it is raised where the answer is waited for
            self._error = error
        with _lock:
            _calls.pop(self.key, None)
            _left.pop(self, None)
            self.over.set()
            then, self._then = self._then, []
        for tell in then:
            tell()

    def when_over(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` from some thread when the call is over."""
        with _lock:
            if not self.over.is_set():
                self._then.append(tell)
                return
        tell()

    def leave(self) -> bool:
        """Give the call up; False when it has come back just now."""
        with _lock:
            if self.over.is_set():
                return False
            _left[self] = self.thing
            return True

    def answer(self) -> Any:
        """What the call returned. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result


_lock = threading.Lock()
_calls: dict[Hashable, _Call] = {}  # on their way
_left: dict[_Call, str] = {}  # those that were given up and have not come back
_idle: list[SimpleQueue[_Call]] = []  # threads that wait for a call
_numbers = itertools.count()


def call(thing: str, function: Callable[..., T], *arguments: Hashable, within: float) -> T:
    """The answer of ``function``. Blocks for at most ``within`` seconds: for what is quick unless it hangs.

    Raises NoAnswer, and what the function raises."""
    asked = _begin(thing, function, arguments)
    if not asked.over.wait(within) and asked.leave():
        raise NoAnswer(thing)
    answer: T = asked.answer()
    return answer


async def ask(thing: str, function: Callable[..., T], *arguments: Hashable, within: float) -> T:
    """The same without blocking the event loop."""
    asked = _begin(thing, function, arguments)
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not answered.done():
            answered.set_result(None)

    def tell() -> None:
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:
            pass  # the loop has ended meanwhile

    asked.when_over(tell)
    try:
        async with asyncio.timeout(within):
            await answered
    except TimeoutError:
        if asked.leave():
            raise NoAnswer(thing) from None
    answer: T = asked.answer()
    return answer


def each(function: Callable[[K], T], things: Mapping[K, str], *, within: float) -> dict[K, T]:
    """The answers about many things (what is asked, and its name), for the price of one thread. What does not answer
    within so many seconds is left out; after a few of those, so is the rest."""
    answers: dict[K, T] = {}
    silent = {thing for thing, _ in not_answering()}
    rest = [one for one, name in things.items() if name not in silent]
    for _ in range(MOST_LEFT):
        if not rest:
            break
        stuck = _one_after_the_other(function, rest, things, answers, within)
        if stuck is None:
            break
        rest = rest[rest.index(stuck) + 1 :]
    return answers


def _one_after_the_other(
    function: Callable[[K], T], rest: list[K], things: Mapping[K, str], answers: dict[K, T], within: float
) -> K | None:
    """Ask the rest in one thread, as far as that comes; the thing at which it is stuck, None when it is through."""
    places = iter(rest)
    place = next(places)  # what is asked about at present
    given_up = False

    def work() -> None:
        nonlocal place
        while True:
            answer = function(place)
            with _lock:
                if given_up:
                    return
                answers[place] = answer
                following = next(places, None)
                if following is None:
                    return
                place = following

    asked = _Call(things[place], next(_numbers), work)
    _start(asked)
    while True:
        before = place
        if asked.over.wait(within):
            asked.answer()
            return None
        with _lock:
            if place == before and not asked.over.is_set():
                given_up = True
                asked.thing = things[place]
                _left[asked] = asked.thing
                return place


def not_answering() -> list[tuple[str, float]]:
    """What does not answer at present: its name, and for how many seconds, the longest first."""
    now = time.monotonic()
    with _lock:
        found: dict[str, float] = {}
        for asked, thing in _left.items():
            found[thing] = max(found.get(thing, 0.0), now - asked.began)
    return sorted(found.items(), key=lambda one: -one[1])


def _begin(thing: str, function: Callable[..., Any], arguments: Iterable[Hashable]) -> _Call:
    """The call on its way: that of somebody who asks the same now, or a new one. Raises NoAnswer where the thing has
    not answered another one."""
    key = (thing, function, tuple(arguments))
    with _lock:
        if thing in _left.values():
            raise NoAnswer(thing)
        asked = _calls.get(key)
        if asked is not None:
            return asked
        asked = _calls[key] = _Call(thing, key, lambda: function(*key[2]))
    try:
        _start(asked)
    except BaseException:
        with _lock:
            _calls.pop(key, None)
        raise
    return asked


def _start(asked: _Call) -> None:
    """Let a thread make the call. Raises OSError where the machine gives us no thread."""
    with _lock:
        inbox = _idle.pop() if _idle else None
    if inbox is None:
        inbox = SimpleQueue()
        try:
            threading.Thread(target=_work, args=(inbox,), name="bounded", daemon=True).start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, f"no thread to ask {asked.thing}: {error}") from error
    inbox.put(asked)


def _work(inbox: SimpleQueue[_Call]) -> None:
    """A thread: one call after the other, as long as few others are idle."""
    while True:
        inbox.get().run()
        with _lock:
            if len(_idle) >= MOST_IDLE:
                return
            _idle.append(inbox)
