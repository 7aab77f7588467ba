"""`llm-supervisor pull`: download models into the cache that their engines will use."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llm_supervisor import paths
from llm_supervisor.cli.output import (
    FAILED,
    OK,
    complain,
    complain_no_config,
    complaint,
    print_problems,
    say,
    say_json,
    shown,
)
from llm_supervisor.config import Config, ConfigError, load
from llm_supervisor.engines import environment as envs
from llm_supervisor.oneshot import pull as pulling
from llm_supervisor.units import size_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def pull(options: argparse.Namespace) -> int:
    """Download the named models (default: all of the configuration), one after the other.

    One that fails does not keep the next from being tried; the exit status is then FAILED.
    """
    files = paths.find_config(options.config)
    try:
        config = load(files, os.environ) if files else None
        if config is None and not options.name:
            return complain_no_config()
        todo, folders = pulling.wanted(config, options.name, os.environ, options.source, options.revision)
    except ConfigError as error:
        return print_problems(error)
    except pulling.NoSuchName as error:
        return complain(str(error))
    python = _python(config)
    if python is None:
        return complain("downloads need vLLM's environment, which is not there: run `llm-supervisor install vllm`")
    rows: list[dict[str, Any]] = []
    said: list[str] = []  # printed to standard output when the bar is gone
    for name, folder in folders.items():  # load() has checked that it is complete
        rows.append({"name": name, "folder": str(folder), "ok": True, "error": None})
        said.append(f"{name}: is a folder, and complete: {folder}")
    with _progress() as show:
        for want in todo:
            row = {"name": want.name, "model": want.repository.id, "source": want.repository.source}
            try:
                done = pulling.pull(want, python, show, verify=options.verify)
            except pulling.PullError as error:
                rows.append({**row, "ok": False, "error": str(error)})
                show.note(complaint(str(error)))
                continue
            rows.append({**row, **_facts(want, done), "ok": True, "error": None})
            said.append(_line(want, done))
    ok = all(row["ok"] for row in rows)
    if options.json:
        say_json({"ok": ok, "models": rows})
    else:
        for line in said if rows else ["no model of the configuration is on a hub"]:
            say(line)
    return OK if ok else FAILED


def _python(config: Config | None) -> str | None:
    """The interpreter of vLLM's environment, whose libraries download: the configured one, else the one that
    `llm-supervisor install` made. None if there is none."""
    if config is not None and (engine := config.root.engines.vllm) is not None:
        return str(config.executable(engine.python))
    env = envs.environment("vllm", paths.data_dir(os.environ))
    return str(env.python) if envs.is_complete(env) else None


def _facts(want: pulling.Wanted, done: pulling.Pulled) -> dict[str, Any]:
    """What `pull --json` says about a complete repository."""
    sizes = {"files": done.files, "bytes": done.size, "downloaded_bytes": done.came}
    return {"revision": want.repository.revision, "commit": done.commit, "folder": str(done.folder), **sizes}


def _line(want: pulling.Wanted, done: pulling.Pulled) -> str:
    """The same as ``_facts`` for people."""
    came = f"{size_text(done.came)} downloaded" if done.came else "nothing to download"
    named = f"{want.name}: " if want.name != want.repository.id else ""
    return f"{named}{want.repository.id}: complete, {size_text(done.size)} ({came}): {done.folder}"


@contextmanager
def _progress() -> Iterator[pulling.Show]:
    """Shows the progress on standard error: as a bar on a terminal, else as a line every few seconds. The results go to
    standard output."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    doing = TextColumn("{task.description} {task.fields[doing]}", markup=False)
    console = Console(stderr=True)
    columns = (doing, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress)


class _Bar:
    """Progress on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._shown: tuple[str, str] | None = None
        self._task: TaskID | None = None

    def advance(self, what: str, doing: str, done: int, total: int) -> None:
        """Show ``done`` of ``total`` bytes, in a new bar when the repository or what is done with it has changed."""
        if self._shown != (what, doing):
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = None
            self._shown = (what, doing)
        if self._task is None:
            self._task = self._progress.add_task(what, doing=doing, completed=done, total=total)
        self._progress.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(shown(text), markup=False, highlight=False)


class _Lines:
    """Progress where standard error is a file or a pipe."""

    EVERY = 5.0  # seconds

    def __init__(self) -> None:
        self._told = 0.0

    def advance(self, what: str, doing: str, done: int, total: int) -> None:
        """Print ``done`` of ``total`` bytes, unless the last line is younger than EVERY."""
        if time.monotonic() - self._told >= self.EVERY:
            self._told = time.monotonic()
            self.note(f"{what}: {doing}: {size_text(done)} of {size_text(total)}")

    def note(self, text: str) -> None:
        """Print a line to standard error."""
        say(text, error=True, flush=True)
