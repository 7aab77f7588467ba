"""The daemon in a world that fails: ``python -m tests.support.failing_daemon run -c FILE``.

Every function and method of ``llm_supervisor.host`` is replaced by one that raises what it is told to, at its nth call.
What it is told comes over a unix socket (``FAILING_SOCKET``), one line of JSON for each request, or is given from the
start (``FAILING_PLAN``). See ``tests/daemon/test_failing_world.py``.
"""

from __future__ import annotations

import errno
import functools
import importlib
import inspect
import json
import os
import pkgutil
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from llm_supervisor import host

# The log is what an error is reported with, and the threads of `bounded` are what others fail in
LEFT_OUT = ("llm_supervisor.host.log",)
LEFT_OUT_NAMES = ("bounded._", "bounded.NoAnswer")


class Plan:
    """What is to fail, and how often each function was called."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.hits = 0
        self._armed: dict[str, Any] | None = None
        self._seen = 0
        self._lock = threading.Lock()

    def arm(self, armed: dict[str, Any] | None) -> int:
        """Fail like this from now on, or not any more; how often it has failed since it was told last."""
        with self._lock:
            hits, self.hits, self._seen, self._armed = self.hits, 0, 0, armed
        return hits

    def call(self, name: str) -> None:
        """A function is called: raise what it is to raise."""
        self.calls[name] += 1
        armed = self._armed
        if armed is None or armed["name"] != name:
            return
        with self._lock:
            self._seen += 1
            if not armed["nth"] <= self._seen < armed["nth"] + armed["times"]:
                return
            self.hits += 1
        raise made(armed["error"])


def made(error: str) -> Exception:
    """An error by its name: an errno, or ``RuntimeError``."""
    if error == "RuntimeError":
        return RuntimeError("a defect that somebody has made")
    number = getattr(errno, error)
    return OSError(number, os.strerror(number))


PLAN = Plan()


def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which fails when it is to."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def slowly(*arguments: Any, **named: Any) -> Any:
            PLAN.call(name)
            return await function(*arguments, **named)

        return slowly

    @functools.wraps(function)
    def at_once(*arguments: Any, **named: Any) -> Any:
        PLAN.call(name)
        return function(*arguments, **named)

    return at_once


def wrap_class(short: str, kind: type) -> None:
    """Wrap the methods of a class; properties and what Python calls by itself stay."""
    for name, value in list(vars(kind).items()):
        if name.startswith("__") or f"{short}.{kind.__name__}".startswith(LEFT_OUT_NAMES):
            continue
        label = f"{short}.{kind.__name__}.{name}"
        if inspect.isfunction(value):
            setattr(kind, name, wrapped(label, value))
        elif isinstance(value, (classmethod, staticmethod)):
            setattr(kind, name, type(value)(wrapped(label, value.__func__)))


def wrap_everything() -> None:
    """Wrap ``llm_supervisor.host``, before anything else has taken a function out of it."""
    found = [
        host,
        *(importlib.import_module(one.name) for one in pkgutil.walk_packages(host.__path__, "llm_supervisor.host.")),
    ]
    modules: list[ModuleType] = [one for one in found if one.__name__ not in LEFT_OUT]
    replaced: dict[Any, Any] = {}
    for module in modules:
        short = module.__name__.removeprefix("llm_supervisor.host.")
        for name, value in list(vars(module).items()):
            if getattr(value, "__module__", None) != module.__name__ or f"{short}.{name}".startswith(LEFT_OUT_NAMES):
                continue
            if inspect.isclass(value):
                wrap_class(short, value)
            elif inspect.isfunction(value):
                replaced[value] = wrapped(f"{short}.{name}", value)
    for module in modules:
        for name, value in list(vars(module).items()):
            if inspect.isfunction(value) and value in replaced:
                setattr(module, name, replaced[value])


def listen(path: Path) -> None:
    """Take requests, one for each connection, for ever."""
    path.unlink(missing_ok=True)
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(path))
    door.listen()
    while True:
        with door.accept()[0] as client:
            request = json.loads(client.makefile().readline())
            hits = PLAN.arm(request["arm"]) if "arm" in request else PLAN.hits
            client.sendall(json.dumps({"hits": hits, "calls": PLAN.calls}).encode() + b"\n")


if __name__ == "__main__":
    wrap_everything()
    if plan := os.environ.pop("FAILING_PLAN", None):
        PLAN.arm(json.loads(plan))
    threading.Thread(target=listen, args=(Path(os.environ["FAILING_SOCKET"]),), daemon=True).start()
    from llm_supervisor.cli.main import main

    sys.exit(main())
