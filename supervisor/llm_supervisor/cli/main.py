"""argv -> the daemon, or one request to it. Prints; decides nothing.

Exit status: 0 done (status: all that is wanted is ready), 1 it failed, 2 wrong input or configuration, 3 status:
something is not ready, 4 no daemon answers. Imports are inside the commands: ``status`` must be quick.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llm_supervisor import __version__, paths

if TYPE_CHECKING:
    from llm_supervisor.daemon.daemon import Daemon, Show

OK, FAILED, WRONG, NOT_READY, NO_DAEMON = 0, 1, 2, 3, 4


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(WRONG, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    common = _Parser(add_help=False)
    common.add_argument(
        "-c", "--config", metavar="FILE", action="append",
        help="the configuration; default: ./supervisor.yaml, then /etc/llm-supervisor/supervisor.yaml; given several "
        "times: what a later file says holds",
    )  # fmt: skip
    top = _Parser(prog="llm-supervisor", description="Keeps one OpenAI-compatible endpoint alive.", parents=[common])
    top.add_argument("--version", action="version", version=f"llm-supervisor {__version__}")
    # given before or after the command, or both; argparse would overwrite the first by the second
    after = _Parser(add_help=False)
    after.add_argument(
        "-c", "--config", metavar="FILE", action="append", dest="more_config", default=[], help="the configuration"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[after])

    run = command("run", "run the daemon in the foreground")
    run.add_argument("--quiet", action="store_true", help="no progress on standard output")
    run.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)  # what `upgrade` does first, in a child
    install = command("install", "make the engines' environments")
    install.add_argument("engine", nargs="*", metavar="ENGINE", help="vllm, litellm (default: both)")
    install.add_argument(
        "--tiny-model", metavar="DIR", help="also make a tiny random GLM-4.1V there, for trying things out"
    )
    pull = command("pull", "download models into the cache that their engines will use")
    pull.add_argument(
        "name", nargs="*", metavar="NAME", help="a model of the configuration, or a hub id (default: all models)"
    )
    pull.add_argument("--source", choices=("huggingface", "modelscope"), help="the hub (default: as configured)")
    pull.add_argument("--revision", metavar="R", help="a branch, a tag or a commit (default: as configured)")
    pull.add_argument("--verify", action="store_true", help="also read and compare what is there already")
    pull.add_argument("--json", action="store_true")
    init = command("init", "write a configuration that works, from a preset")
    init.add_argument("preset", nargs="?", metavar="PRESET", help="without one: what there is")
    init.add_argument("folder", nargs="?", default=".", metavar="DIR", help="where to (default: here)")
    check = command("check", "check the configuration, and the host against it; start nothing")
    check.add_argument("--json", action="store_true")
    config = command("config", "the configuration as it will be used (show), or what it may say, for editors (schema)")
    config.add_argument("what", choices=("show", "schema"), nargs="?", default="show")
    config.add_argument("--json", action="store_true")
    status = command("status", "what runs, and how it is")
    status.add_argument("name", nargs="*", metavar="NAME")
    status.add_argument("--json", action="store_true")
    status.add_argument("--watch", action="store_true", help="again every second, until interrupted")
    logs = command("logs", "what the programs wrote")
    logs.add_argument("name", nargs="*", metavar="NAME")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")
    logs.add_argument(
        "-n", "--lines", type=_count, metavar="N", help="the last N lines of each (10; with --since: all since then)"
    )
    logs.add_argument(
        "--since", type=_moment, metavar="T", help="30s, 5m, 1h ago, 19:30, 2026-11-20 or '2026-11-20 19:30:05'"
    )
    events = command("events", "what happened, and why: every change of a state or a verdict")
    events.add_argument("name", nargs="*", metavar="NAME")
    events.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")
    events.add_argument("-n", "--lines", type=_count, default=20, metavar="N", help="the last N (20)")
    events.add_argument("--json", action="store_true", help="a line of JSON each")
    for action, text in (
        ("start", "start programs"),
        ("stop", "stop programs"),
        ("restart", "restart programs"),
    ):
        one = command(action, text + ", and wait until that is done")
        one.add_argument("name", nargs="*" if action == "stop" else "+", metavar="NAME", help="a program, or all")
        one.add_argument("--no-wait", action="store_true", help="return at once")
        if action == "stop":
            one.add_argument("--orphans", action="store_true", help="end what a dead daemon left running")
    reload = command("reload", "read the configuration again, and change only what it changes")
    reload.add_argument("--dry-run", action="store_true", help="show the plan; change nothing")
    reload.add_argument("--no-wait", action="store_true", help="return at once")
    reload.add_argument("--json", action="store_true")
    command("upgrade", "let the daemon become the version that is installed now; no program is restarted")
    env = command("env", "what to export so that a client uses the gateway")
    env.add_argument("client", choices=("claude-code", "codex", "gemini-cli", "openai"))
    env.add_argument("--model", metavar="NAME", help="default: the group of that name, else the first local one")
    env.add_argument("--write", action="store_true", help="also write the client's settings file, if there is none")
    env.add_argument("--json", action="store_true")
    verify = command("verify", "the tour: prove every group of the gateway with real requests")
    verify.add_argument("name", nargs="*", metavar="GROUP", help="default: all")
    verify.add_argument("--cloud", action="store_true", help="cloud groups too: that may cost money")
    verify.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds for each request (120)")
    verify.add_argument("--json", action="store_true")
    command("shutdown", "stop everything, and the daemon")
    explain = command("explain", "why a program failed, and what to do")
    explain.add_argument("name", metavar="NAME")
    explain.add_argument("--incident", metavar="ID", help="an older failure; default: the last")
    explain.add_argument("--json", action="store_true")
    diagnose = command("diagnose", "read a log on standard input, and say what went wrong as JSON")
    diagnose.add_argument("--component", choices=("vllm", "litellm", "command"), default="vllm")
    diagnose.add_argument("--exit-code", type=int, metavar="N", help="as a shell shows it: 137 is signal 9")
    return top


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def _moment(text: str) -> float:
    """Seconds since the epoch."""
    from datetime import datetime

    from llm_supervisor.units import seconds

    if not text.isdecimal() and (ago := seconds(text)) is not None:
        return time.time() - ago
    today = time.strftime("%Y-%m-%d ")
    for written in (text, today + text, today + text.rjust(5, "0")):
        try:
            return datetime.fromisoformat(written).timestamp()
        except (ValueError, OverflowError, OSError):
            continue
    raise argparse.ArgumentTypeError(f"{text!r} is no time; write 5m, 1h, 19:30 or '2026-11-20 19:30:05'")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name or a message may hold what a terminal or a pipe does not take
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(argv)
    options.config = [*(options.config or ()), *options.more_config]
    try:
        code: int = globals()[f"_{options.command}"](options)
        sys.stdout.flush()
    except BrokenPipeError:  # `llm-supervisor logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK
    except KeyboardInterrupt:
        return 130
    return code


def _complain(text: str) -> int:
    print(f"llm-supervisor: {text}", file=sys.stderr)
    return WRONG


def _no_config() -> int:
    return _complain(f"no configuration: there is no {' and no '.join(paths.CONFIGS)}; name one with -c FILE")


# The daemon -------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    # before anything that takes time: a stop must not kill a half-made daemon
    from llm_supervisor.daemon import bootstrap

    bootstrap.hold_signals()
    from llm_supervisor.config import ConfigError
    from llm_supervisor.daemon import daemon as main_daemon
    from llm_supervisor.daemon import upgrade as upgrading
    from llm_supervisor.host import log
    from llm_supervisor.supervision.resources import Refusal

    files = paths.find_config(options.config)
    if not files:
        return _no_config()
    environ = dict(os.environ)
    managed = "JOURNAL_STREAM" in environ or "NOTIFY_SOCKET" in environ
    showing = not options.quiet and not managed
    # what the terminal shows already need not be logged beside it
    log.configure(level="warning" if showing and sys.stderr.isatty() else "info")
    try:
        if options.rehearse:
            return upgrading.perform(files, paths.make_runtime_dir(environ), environ)
        return main_daemon.run(files, environ, _show if showing else None)
    except ConfigError as error:
        return _print_problems(error)
    except (Refusal, OSError) as error:
        return _complain(str(error))


def _print_problems(error: Any) -> int:
    for problem in error.problems:
        print(("warning: " if problem.warning else "") + str(problem), file=sys.stderr)
    count = sum(1 for problem in error.problems if not problem.warning)
    print(f"llm-supervisor: {count} problem{'s' if count != 1 else ''}; nothing was started", file=sys.stderr)
    return WRONG


def _show(daemon: Daemon) -> Show:
    """Tell a person in the foreground what goes on: one line a change."""
    from llm_supervisor.core import fleet
    from llm_supervisor.example import curl

    width = max((len(name) for name in daemon.plan.programs), default=0)
    told: dict[str, str] = {}
    announced = False

    def show(name: str, before: Any, state: Any) -> None:
        nonlocal announced
        doing = str(state.startup.loading) if state.startup.loading and state.word == "STARTING" else ""
        words = state.word if not doing else f"{state.word}  {doing}"
        if state.word in ("RUNNING", "BACKOFF", "FATAL", "EXITED") or (state.word == "STOPPING" and state.reason):
            words += f"  {state.health_word.value if state.word == 'RUNNING' else ''} {state.reason}".rstrip()
        if state.word == "FATAL" and state.failure and state.failure.advice:
            words += f" -- {state.failure.advice}"
        if told.get(name) != words:
            told[name] = words
            print(f"{time.strftime('%H:%M:%S')}  {name:<{width}}  {words}", flush=True)
        if (
            not announced
            and not daemon.ending
            and len(daemon.states) == len(daemon.plan.programs)
            and fleet.all_ready(daemon.states.values())
        ):
            announced = True
            _announce(daemon, curl)

    return show


def _announce(daemon: Daemon, curl: Any) -> None:
    from llm_supervisor.oneshot.clients import from_file

    if daemon.plan.endpoint is None:
        print("Ready.", flush=True)
        return
    print(f"\nReady: {daemon.plan.endpoint}/v1", flush=True)
    for group in daemon.plan.groups:
        if group.local:
            key = from_file(str(daemon.key_file)) if daemon.key_file else "$LITELLM_MASTER_KEY"
            image = "with an image" if group.vision else ""
            print(
                f"\nTry {group.name} {image}\n{curl(daemon.plan.endpoint, group.name, key, bool(group.vision))}\n",
                flush=True,
            )
            break
    print("Ctrl-C stops everything.", flush=True)


def _init(options: argparse.Namespace) -> int:
    from llm_supervisor.host import gpu
    from llm_supervisor.host.net import listener as net_listener
    from llm_supervisor.oneshot import presets
    from llm_supervisor.suggest import nearest

    known = presets.names()
    if options.preset is None:
        width = max(map(len, known))
        for name, what in known.items():
            print(f"{name:<{width}}  {what}")
        return OK
    if options.preset not in known:
        return _complain(nearest(options.preset, known, "preset"))
    none = isinstance(gpu.detect(), gpu.NoGpus)
    files = presets.made(
        options.preset, free=lambda port: net_listener.can_bind("127.0.0.1", port) is None, gpus=not none
    )
    folder = Path(options.folder)
    if there := [str(folder / name) for name in files if (folder / name).exists()]:
        return _complain(f"is there already, and is left as it is: {', '.join(there)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            secret = name == presets.KEYS
            fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
            with os.fdopen(fd, "w") as file:
                file.write(text)
    except OSError as error:
        return _complain(f"cannot be written: {error}")
    empty = [line[:-1] for line in files[presets.KEYS].splitlines() if line.endswith("=") and line[0] != "#"]
    for name in files:
        print(folder / name)
    steps = [f"put the values of {', '.join(empty)} into {folder / presets.KEYS}"] if empty else []
    steps += [f"llm-supervisor check -c {folder / presets.MAIN}", f"llm-supervisor run -c {folder / presets.MAIN}"]
    print("\nNext:\n" + "\n".join(f"  {step}" for step in steps))
    return OK


def _install(options: argparse.Namespace) -> int:
    from llm_supervisor.engines.environment import InstallError
    from llm_supervisor.oneshot import install
    from llm_supervisor.oneshot.progress import Lines

    unknown = [engine for engine in options.engine if engine not in ("vllm", "litellm")]
    if unknown:
        return _complain(f"no such engine: {', '.join(unknown)}; there are vllm and litellm")
    tiny_model = Path(options.tiny_model).absolute() if options.tiny_model else None
    try:
        install.install_all(
            tuple(dict.fromkeys(options.engine)) or ("litellm", "vllm"),
            paths.data_dir(os.environ),
            report=Lines(sys.stdout),
            tiny_model=tiny_model,
        )
    except InstallError as error:
        _complain(str(error))
        return FAILED
    return OK


def _learn_options(python: str | None) -> Any:
    """The options of that vLLM, asked of itself if need be: that takes some seconds, once."""
    from llm_supervisor.engines import environment as envs
    from llm_supervisor.engines.vllm import installed_options
    from llm_supervisor.oneshot import preflight

    data = paths.data_dir(os.environ)
    if python is None:
        env = envs.environment("vllm", data)
        if not envs.is_complete(env):
            return None
        python = str(env.python)
    if preflight.is_malicious(Path(python)):
        return None  # asking starts that interpreter; `check` says what is wrong with it
    return installed_options.learn(python, data)


def _check(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from llm_supervisor.config import ConfigError, load, not_cached
    from llm_supervisor.host import gpu
    from llm_supervisor.oneshot import preflight
    from llm_supervisor.oneshot.preflight import Verdict

    files = paths.find_config(options.config)
    if not files:
        return _no_config()
    problems: Sequence[Any]
    findings: list[Any] = []
    try:
        config = load(files, os.environ, _learn_options)
        problems = sorted([*config.warnings, *not_cached(config)])
        findings = preflight.Preflight(config, os.environ, gpu.detect()).findings()
        worst = preflight.worst(findings)
        if problems and worst is Verdict.FINE:
            worst = Verdict.WARNING
    except ConfigError as error:
        problems, worst = error.problems, Verdict.ERROR
    code = {Verdict.FINE: OK, Verdict.WARNING: FAILED, Verdict.ERROR: WRONG}[worst]
    if options.json:
        rows = [
            {
                "severity": "warning" if problem.warning else "error",
                "file": problem.file,
                "line": problem.line,
                "path": problem.path,
                "message": problem.message,
                "advice": problem.advice,
            }
            for problem in problems
        ]
        host = [asdict(finding) for finding in findings]
        answer = {"ok": code != WRONG, "verdict": worst, "config": str(files[0]), "problems": rows, "host": host}
        print(json.dumps(answer, indent=2))
        return code
    for problem in problems:
        print(("warning: " if problem.warning else "") + str(problem), file=sys.stderr)
    width = max((len(finding.subject) for finding in findings), default=0)
    for finding in findings:
        print(f"{finding.verdict:<8} {finding.check:<7} {finding.subject:<{width}}  {finding.detail}")
        if finding.advice:
            print(f"{'':<{width + 18}}{finding.advice}")
    verdicts = [finding.verdict for finding in findings]
    verdicts += [Verdict.WARNING if problem.warning else Verdict.ERROR for problem in problems]
    counts = [(verdicts.count(verdict), verdict) for verdict in (Verdict.ERROR, Verdict.WARNING)]
    said = ", ".join(f"{count} {verdict}{'s' if count > 1 else ''}" for count, verdict in counts if count)
    if findings:
        print(f"{', '.join(map(str, files))}: {said or 'fine'}")
    return code


def _config(options: argparse.Namespace) -> int:
    import yaml

    from llm_supervisor.config import ConfigError, load, plan, show

    if options.what == "schema":
        print(json.dumps(show.json_schema(), indent=2))
        return OK
    files = paths.find_config(options.config)
    if not files:
        return _no_config()
    try:
        config = load(files, os.environ, _learn_options)
    except ConfigError as error:
        return _print_problems(error)
    from llm_supervisor.supervision.resources import expected_pythons

    runtime = paths.runtime_dirs(os.environ)[0]
    from llm_supervisor.redaction import HIDDEN

    pythons = expected_pythons(config, paths.data_dir(os.environ))
    seen = show.shown(config, plan(config, runtime=runtime, pythons=pythons, master_key=HIDDEN))
    for problem in config.warnings:
        print(f"warning: {problem}", file=sys.stderr)
    if options.json:
        print(json.dumps(seen, indent=2, default=str))
        return OK
    import shlex

    def dump(data: Any) -> str:
        return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))

    print(f"# from {', '.join(seen['files'])}\n{dump(seen['config'])}")
    if seen["env_file"]:
        print(f"# set by env_file: {', '.join(seen['env_file'])}\n")
    for name, argv in seen["argv"].items():
        print(f"# {name}:\n{shlex.join(argv)}\n")
    if seen["litellm_config"] is not None:
        print(f"# the file that LiteLLM gets:\n{dump(seen['litellm_config'])}", end="")
    return OK


# Models ---------------------------------------------------------------------------------------------------------


def _pull(options: argparse.Namespace) -> int:
    from llm_supervisor.config import ConfigError, load
    from llm_supervisor.engines import environment as envs
    from llm_supervisor.oneshot import pull
    from llm_supervisor.units import size_text

    files = paths.find_config(options.config)
    try:
        config = load(files, os.environ) if files else None
        if config is None and not options.name:
            return _no_config()
        todo, folders = pull.wanted(config, options.name, os.environ, options.source, options.revision)
    except ConfigError as error:
        return _print_problems(error)
    except pull.NoSuchName as error:
        return _complain(str(error))
    engine = config.root.engines.vllm if config is not None else None
    env = envs.environment("vllm", paths.data_dir(os.environ))
    if config is not None and engine is not None:
        python = str(config.executable(engine.python))
    elif envs.is_complete(env):
        python = str(env.python)
    else:
        return _complain(
            "vLLM's environment, which speaks with the hubs, is not there: run `llm-supervisor install vllm`"
        )
    rows: list[dict[str, Any]] = []
    said: list[str] = []  # for standard output, when no bar stands there any more
    for name, folder in folders.items():  # load() has found it complete
        rows.append({"name": name, "folder": str(folder), "ok": True, "error": None})
        said.append(f"{name}: is a folder, and complete: {folder}")
    with _pulling() as show:
        for want in todo:
            row = {"name": want.name, "model": want.repository.id, "source": want.repository.source}
            try:
                done = pull.pull(want, python, show, verify=options.verify)
            except pull.PullError as error:
                rows.append({**row, "ok": False, "error": str(error)})
                show.note(f"llm-supervisor: {error}")
                continue
            sizes = {"files": done.files, "bytes": done.size, "downloaded_bytes": done.came}
            place = {"revision": want.repository.revision, "commit": done.commit, "folder": str(done.folder)}
            rows.append({**row, **place, **sizes, "ok": True, "error": None})
            came = f"{size_text(done.came)} downloaded" if done.came else "nothing to download"
            named = f"{want.name}: " if want.name != want.repository.id else ""
            said.append(f"{named}{want.repository.id}: complete, {size_text(done.size)} ({came}): {done.folder}")
    ok = all(row["ok"] for row in rows)
    if options.json:
        print(json.dumps({"ok": ok, "models": rows}, indent=2))
        return OK if ok else FAILED
    for line in said if rows else ["no model of the configuration is on a hub"]:
        print(line)
    return OK if ok else FAILED


@contextmanager
def _pulling() -> Iterator[Any]:
    """A bar on a terminal, a line every few seconds elsewhere; on standard error, as what was asked for goes to
    standard output."""
    from llm_supervisor.units import size_text

    if not sys.stderr.isatty():
        yield _PullLines(size_text)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    doing = TextColumn("{task.description} {task.fields[doing]}", markup=False)
    console = Console(stderr=True)
    columns = (doing, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _PullBar(progress)


class _PullBar:
    """See ``pull.Show``: on a terminal."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._shown: tuple[str, str] | None = None
        self._task: Any = None

    def advance(self, what: str, doing: str, done: int, total: int) -> None:
        """One bar for each repository and what is done with it."""
        if self._shown != (what, doing):
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._shown = (what, doing)
            self._task = self._progress.add_task(what, doing=doing, completed=done, total=total)
        self._progress.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """Above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)


class _PullLines:
    """See ``pull.Show``: in a log."""

    EVERY = 5.0  # seconds

    def __init__(self, size_text: Callable[[float], str]) -> None:
        self._size_text, self._told = size_text, 0.0

    def advance(self, what: str, doing: str, done: int, total: int) -> None:
        """A line, if the last is old."""
        if time.monotonic() - self._told >= self.EVERY:
            self._told = time.monotonic()
            self.note(f"{what}: {doing}: {self._size_text(done)} of {self._size_text(total)}")

    def note(self, text: str) -> None:
        """A line."""
        print(text, file=sys.stderr, flush=True)


# Requests ---------------------------------------------------------------------------------------------------


def _find() -> tuple[Path, Any]:
    """The runtime folder of the daemon that answers, and its status. Raises NoDaemon."""
    from llm_supervisor.control.client import NoDaemon, request

    last: NoDaemon | None = None
    for runtime in paths.runtime_dirs(os.environ):
        try:
            return runtime, request(runtime, "GET", "/v1/status")[1]
        except NoDaemon as error:
            last = last or error
    assert last is not None
    raise last


def _ask(method: str, path: str, timeout: float | None = 30.0) -> tuple[int, Any]:
    from llm_supervisor.control.client import NoDaemon, request

    last: NoDaemon | None = None
    for runtime in paths.runtime_dirs(os.environ):
        try:
            return request(runtime, method, path, timeout=timeout)
        except NoDaemon as error:
            last = last or error
    assert last is not None
    raise last


def _no_daemon(error: Exception) -> int:
    from llm_supervisor.supervision import state_file

    print(f"llm-supervisor: no daemon answers ({error})", file=sys.stderr)
    if orphans := state_file.orphans(os.environ):
        print(
            f"llm-supervisor: still running without it: {', '.join(orphans)}. Start the daemon again, or end them with "
            "`llm-supervisor stop --orphans`.",
            file=sys.stderr,
        )
    return NO_DAEMON


def _status(options: argparse.Namespace) -> int:
    """Once, or again and again: then the last one's exit status is that of the command."""
    while options.watch:
        if sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        code = _status_once(options)
        sys.stdout.flush()
        try:
            time.sleep(1.0)
        except KeyboardInterrupt:
            return code
    return _status_once(options)


def _status_once(options: argparse.Namespace) -> int:
    from llm_supervisor.control.client import NoDaemon
    from llm_supervisor.suggest import nearest

    try:
        _, answer = _ask("GET", "/v1/status")
    except NoDaemon as error:
        if options.json:
            print(json.dumps({"supervisor": None, "endpoint": None, "programs": [], "models": []}))
        return _no_daemon(error)
    programs = answer["programs"]
    if options.name:
        known = {program["name"]: program for program in programs}
        for name in options.name:
            if name not in known:
                return _complain(nearest(name, known))
        programs = answer["programs"] = [known[name] for name in options.name]
    ready = all(_is_fine(program) for program in programs)
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        _print_status(answer)
    return OK if ready else NOT_READY


def _is_fine(program: dict[str, Any]) -> bool:
    if program["wanted"] == "down":
        return bool(program["state"] == "STOPPED")
    if program["state"] == "EXITED":
        return bool(program["exit"] and program["exit"]["code"] == 0)
    return program["state"] == "RUNNING" and program["health"] in ("ready", "busy")


def _print_status(answer: dict[str, Any]) -> None:
    from llm_supervisor.units import clock_text

    programs = answer["programs"]
    width = max((len(program["name"]) for program in programs), default=0) + 2
    for program in programs:
        parts = []
        if program["pid"] is not None:
            parts.append(f"pid {program['pid']}, uptime {clock_text(program['uptime_s'])}")
        if program["progress"]:
            step = program["progress"]
            parts.append(step["step"] + (f" {step['done']}/{step['total']}" if step["total"] else ""))
        elif not _is_fine(program) or program["state"] == "EXITED":
            failure = program["failure"]
            parts.append(failure["summary"] if failure and program["state"] != "RUNNING" else program["reason"])
        elif program["fork_server"] is not None:
            parts += [f"started {program['started']}", _fork_server(program["fork_server"])]
        if program["retry_in_s"] is not None:
            parts.append(f"next start in {program['retry_in_s']:.0f} s")
        print(
            f"{program['name']:<{width}}{program['state']:<10}{program['health']:<11}{', '.join(p for p in parts if p)}"
        )
    for problem in answer["supervisor"]["config_problems"]:
        print(f"the configuration is wrong, the last good one is in use: {problem}", file=sys.stderr)
    if answer["endpoint"]:
        words = {"ready": "", "degraded": " (not ready)", "disabled": " (disabled)"}
        models = ", ".join(model["name"] + words[model["state"]] for model in answer["models"])
        print(f"\n{answer['endpoint']}/v1  {models}")
        for model in answer["models"]:
            if model["state"] == "disabled":
                print(_disabled(model))


def _fork_server(seen: dict[str, Any]) -> str:
    """Whether the next start may be warm, and what that costs."""
    if seen["state"] == "ready":
        held = seen["memory_bytes"]
        return "fork server" + (f" {held / 2**20:.0f} MiB" if held is not None else "")
    return f"fork server {seen['state']}" + (f" ({seen['reason']})" if seen["reason"] else "")


def _disabled(model: dict[str, Any]) -> str:
    return f"{model['name']} is disabled: {model['reason']}; set it, then `llm-supervisor reload`"


def _stop(options: argparse.Namespace) -> int:
    if not options.orphans:
        return _act(options) if options.name else _complain("stop: name a program, or all, or --orphans")
    import asyncio

    from llm_supervisor.daemon.orphans import sweep_orphans
    from llm_supervisor.supervision.resources import Refusal

    try:
        found = asyncio.run(sweep_orphans(os.environ))
    except Refusal as error:
        _complain(str(error))
        return FAILED
    for name, count in found.items():
        print(f"{name}: {count} process{'es' if count != 1 else ''} ended")
    if not found:
        print("nothing was left running")
    return OK


def _act(options: argparse.Namespace) -> int:
    from urllib.parse import urlencode

    from llm_supervisor.control.client import NoDaemon, lines

    query = urlencode([*(("name", name) for name in options.name), ("wait", int(not options.no_wait))])
    try:
        runtime, _ = _find()
        for line in lines(runtime, f"/v1/programs/{options.command}?{query}", "POST"):
            if "error" in line:
                return _complain(line["error"])
            if "program" not in line:  # the last one, about all of them
                return OK if line["ok"] else FAILED
            words = f"{line['program']}: {line['outcome']}"
            print(words, file=sys.stdout if line["ok"] else sys.stderr, flush=True)
        raise NoDaemon("it ended before it had answered")
    except NoDaemon as error:
        return _no_daemon(error)


_start = _restart = _act


def _reload(options: argparse.Namespace) -> int:
    from llm_supervisor.control.client import NoDaemon

    query = f"dry_run={int(options.dry_run)}&wait={int(not options.no_wait)}"
    try:
        _, answer = _ask("POST", f"/v1/reload?{query}", timeout=None)
    except NoDaemon as error:
        return _no_daemon(error)
    wrong = not answer["ok"] and not answer["changes"]
    code = OK if answer["ok"] else WRONG if wrong else FAILED
    if options.json:
        print(json.dumps(answer, indent=2))
        return code
    for problem in answer["problems"]:
        print(problem if wrong else f"warning: {problem}", file=sys.stderr)
    if wrong:
        return _complain(answer.get("error") or "the configuration is wrong; nothing was changed")
    width = max((len(line["program"]) for line in answer["changes"]), default=0)
    for line in answer["changes"]:
        words = f"{line['program']:<{width}}  {line['action']:<8}  {line['why']}"
        done = line.get("outcome")
        print(f"{words}: {done}" if done else words, file=sys.stdout if line.get("ok", True) else sys.stderr)
    return code


def _upgrade(options: argparse.Namespace) -> int:
    from llm_supervisor.control.client import NoDaemon

    try:
        _, before = _ask("GET", "/v1/status")
        pid, version = before["supervisor"]["pid"], before["supervisor"]["version"]
        try:
            daemon = os.pidfd_open(pid)
        except ProcessLookupError:
            daemon = -1
        _, answer = _ask("POST", "/v1/upgrade", timeout=None)
    except NoDaemon as error:
        return _no_daemon(error)
    if not answer["ok"]:
        _complain(f"not upgraded, everything is as it was: {answer['error']}")
        return FAILED
    return _await_upgrade(daemon, version, answer)


UPGRADE_WAIT = 60.0  # seconds


def _await_upgrade(daemon: int, version: str, answer: dict[str, Any]) -> int:
    """Until the new one answers, on the old one's socket."""
    import select

    from llm_supervisor.control.client import NoDaemon
    from llm_supervisor.supervision import state_file

    end = time.monotonic() + UPGRADE_WAIT
    while time.monotonic() < end:
        if daemon < 0 or select.select([daemon], [], [], 0)[0]:
            alive = state_file.orphans(os.environ)
            advice = "; its programs run on. Start the daemon again: it adopts them" if alive else ""
            _complain(f"the new version has ended at once{advice}")
            return FAILED
        try:
            _, after = _ask("GET", "/v1/status", timeout=5)
        except NoDaemon:
            time.sleep(0.05)
            continue
        if after["supervisor"]["upgrades"] > answer["upgrades"]:
            print(f"upgraded: {version} -> {after['supervisor']['version']}")
            return OK
        if after["supervisor"]["state"] == "stopping":
            _complain("not upgraded: the daemon was told to end")
            return FAILED
        time.sleep(0.05)
    _complain("not upgraded: it is still the old one that answers; see its log")
    return FAILED


def _key(status: dict[str, Any]) -> tuple[str | None, str | None]:
    """The gateway's key, and the file of ours that it is in, where it is in one. None where it cannot be found: it is
    read again from where it came from, as no answer of the daemon's has it."""
    kept = paths.data_dir(os.environ) / "master_key"
    from llm_supervisor.config import ConfigError, load

    try:
        given = load([Path(file) for file in status["supervisor"]["config_files"]], os.environ).master_key
    except ConfigError:
        given = None
    if given is not None:
        return given, None
    try:
        return kept.read_text(encoding="ascii").strip(), str(kept)
    except OSError:
        return None, None


def _client_model(status: dict[str, Any], client: str, asked: str | None) -> str | None:
    names = [model["name"] for model in status["models"]]
    if asked is not None:
        return asked if asked in names else None
    local = [model["name"] for model in status["models"] if model["local"]]
    enabled = [model["name"] for model in status["models"] if model["state"] != "disabled"]
    return next((name for name in (client, *local, *enabled, *names) if name in names), None)


def _gateway_status() -> dict[str, Any] | int:
    """The status of a daemon that has a gateway; else the exit status, and why is said."""
    from llm_supervisor.control.client import NoDaemon

    try:
        _, status = _ask("GET", "/v1/status")
    except NoDaemon as error:
        return _no_daemon(error)
    if status["endpoint"] is None:
        return _complain("there is no gateway in this configuration")
    return dict(status)


def _env(options: argparse.Namespace) -> int:
    from llm_supervisor.oneshot import clients
    from llm_supervisor.suggest import nearest

    status = _gateway_status()
    if isinstance(status, int):
        return status
    model = _client_model(status, options.client, options.model)
    if model is None:
        return _complain(nearest(options.model or "", [one["name"] for one in status["models"]], "group"))
    asked = next(one for one in status["models"] if one["name"] == model)
    if asked["state"] == "disabled":
        return _complain(f"{_disabled(asked)}, or name another group by --model")
    key, key_file = _key(status)
    if key is None:
        return _complain("the gateway's key cannot be read; run this as the daemon's user")
    made = clients.setup(options.client, status["endpoint"], key, model)
    if options.write:
        for name, content in made.settings:
            file = Path(name).expanduser()
            if file.exists():
                print(f"{file} is there already: add the lines below to it", file=sys.stderr)
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
            print(f"{file} written", file=sys.stderr)
    if options.json:
        print(json.dumps({"variables": made.variables, "settings": dict(made.settings), "use": made.use}, indent=2))
        return OK
    print(clients.script(made, key, key_file))
    return OK


def _verify(options: argparse.Namespace) -> int:
    import asyncio

    from llm_supervisor.config import ConfigError, load
    from llm_supervisor.oneshot import verify
    from llm_supervisor.suggest import nearest

    status = _gateway_status()
    if isinstance(status, int):
        return status
    known = [model["name"] for model in status["models"]]
    for name in options.name:
        if name not in known:
            return _complain(nearest(name, known, "group"))
    key, _ = _key(status)
    if key is None:
        return _complain("the gateway's key cannot be read; run this as the daemon's user")
    try:
        config = load([Path(file) for file in status["supervisor"]["config_files"]], os.environ)
    except ConfigError as error:
        return _print_problems(error)
    asked = [model for model in status["models"] if not options.name or model["name"] in options.name]
    disabled = [model for model in asked if model["state"] == "disabled"]
    if options.name and disabled:
        _complain("; ".join(map(_disabled, disabled)))
        return FAILED
    groups = [model for model in asked if model not in disabled]
    left_out = [model["name"] for model in groups if not model["local"] and not options.cloud]
    plan = verify.plan(config, [model for model in groups if model["name"] not in left_out])
    nothing = not plan
    plan = plan or [verify.ANSWERS]

    def show(row: verify.Row) -> None:
        if not options.json:
            print(row.line(width), flush=True)

    width = max([len(model["name"]) for model in groups] + [len(one.group) for one in plan], default=0)
    rows = asyncio.run(verify.run(status["endpoint"], key, plan, options.timeout, show))
    failed = [row for row in rows if not row.ok]
    if options.json:
        left_out += [model["name"] for model in disabled]
        message = {"ok": not failed, "endpoint": status["endpoint"], "left_out": left_out}
        print(json.dumps({**message, "rows": [row.message() for row in rows]}, indent=2))
    else:
        for name in left_out:
            print(f"{name:<{width}}  left out: a cloud's (--cloud asks it, which may cost money)")
        for model in disabled:
            print(_disabled(model))
        if nothing:
            why = "--cloud asks the cloud's groups" if groups else "there is no group that can be asked"
            print(f"No group was asked: {why}")
        else:
            print(f"{len(rows) - len(failed)} of {len(rows)} passed")
    return FAILED if failed else OK


def _shutdown(options: argparse.Namespace) -> int:
    import select

    from llm_supervisor.control.client import NoDaemon

    try:
        _, answer = _ask("GET", "/v1/status")
        pid = answer["supervisor"]["pid"]
        try:
            daemon = os.pidfd_open(pid)
        except ProcessLookupError:
            daemon = -1
        _ask("POST", "/v1/shutdown", timeout=None)
    except NoDaemon as error:
        return _no_daemon(error)
    if daemon >= 0:
        select.select([daemon], [], [], 60)
    print("everything is stopped")
    return OK


def _events(options: argparse.Namespace) -> int:
    from llm_supervisor.control.client import NoDaemon, lines
    from llm_supervisor.suggest import nearest

    try:
        runtime, status = _find()
        known = [program["name"] for program in status["programs"]]
        for name in options.name:
            if name not in known:
                return _complain(nearest(name, known))
        last = [event for event in lines(runtime, "/v1/events") if not options.name or event["program"] in options.name]
        for event in last[-options.lines :] if options.lines else []:
            _print_event(event, as_json=options.json)
        after = last[-1]["id"] if last else 0
        while options.follow:
            for event in lines(runtime, f"/v1/events?after={after}&follow=1"):
                after = event["id"]
                if not options.name or event["program"] in options.name:
                    _print_event(event, as_json=options.json)
            try:  # an upgrade ends the stream as well, and the same daemon goes on
                _, status = _find()
            except NoDaemon:
                break
            if status["supervisor"]["state"] == "stopping":
                break
    except NoDaemon as error:
        return _no_daemon(error)
    return OK


def _print_event(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(event), flush=True)
        return
    from datetime import datetime

    at = datetime.fromisoformat(event["at"]).astimezone().strftime("%H:%M:%S")
    print(f"{at}  {event['program']}  {event['state']}  {event['health']}  {event['reason']}", flush=True)


# Why ----------------------------------------------------------------------------------------------------------------


def _explain(options: argparse.Namespace) -> int:
    """From the incident's folder: so it works when no daemon lives, too."""
    from llm_supervisor.host import incident
    from llm_supervisor.host.output import reader as output_reader
    from llm_supervisor.suggest import nearest

    folder = paths.incident_dir(os.environ)
    known = {path.name for path in folder.glob("*")} if folder.is_dir() else set()
    if options.name not in known:
        from llm_supervisor.control.client import NoDaemon

        try:
            _, answer = _ask("GET", "/v1/status", timeout=5)
            known |= {program["name"] for program in answer["programs"]}
        except NoDaemon:
            pass
        if options.name not in known:
            return _complain(nearest(options.name, sorted(known)))
    ids = incident.ids(folder, options.name)
    if not ids:
        print(json.dumps(None) if options.json else f"{options.name}: no failure is known")
        return OK
    wanted = options.incident or ids[-1]
    try:
        facts = incident.read(folder, options.name, wanted)
    except (OSError, ValueError):
        return _complain(f"no such incident: {wanted}; there are: {', '.join(ids)}")
    if options.json:
        print(json.dumps(facts, indent=2))
        return OK
    lasting = {True: "permanent: an unchanged restart cannot help", False: "a restart may help", None: ""}
    print(f"{options.name}: {facts['summary']}")
    print(f"  {facts['kind']}, {facts['at']}{', ' + words if (words := lasting[facts['permanent']]) else ''}")
    if facts["left"] not in facts["summary"]:
        print(f"  it left because: {facts['left']}")
    if facts["advice"]:
        print(f"\nWhat to do:\n  {facts['advice']}")
    if facts["evidence"]:
        print("\nIts own words:")
        for line in facts["evidence"]:
            print(f"  {line}")
    if (stacks := incident.stacks_of(folder, options.name, wanted)) is not None:
        print(f"\nWhere its processes stood: {stacks}")
    if not facts["evidence"]:
        last = output_reader.split_lines(incident.log_of(folder, options.name, wanted))[-8:]
        if last:
            print("\nThe last lines of its log:")
            for raw in last:
                print(f"  {raw.decode(errors='replace')}")
    for one in facts.get("gpus") or ():
        if one["used"] is not None:
            by = ", ".join(f"pid {pid}: {used // 2**20} MiB" for pid, used in one["processes"].items()) or "by nobody"
            print(f"\nGPU {one['index']}: {one['used'] // 2**20} of {one['total'] // 2**20} MiB in use; {by}")
    if facts["tree"]:
        print(f"\nOutlived its leader, and swept: {', '.join(facts['tree'])}")
    others = f"; {len(ids) - 1} older: --incident {ids[0]} ..." if len(ids) > 1 else ""
    print(f"\n{folder / options.name / wanted}{others}")
    return OK


def _diagnose(options: argparse.Namespace) -> int:
    from llm_supervisor.diagnosis import diagnose, to_message

    code = options.exit_code
    signal = code - 128 if code is not None and 128 < code < 160 else -code if code is not None and code < 0 else None
    found = diagnose(sys.stdin.buffer.read(), options.component, exit_code=None if signal else code, exit_signal=signal)
    print(json.dumps(to_message(found), indent=2))
    return OK


# Logs -------------------------------------------------------------------------------------------------------


def _logs(options: argparse.Namespace) -> int:
    """Straight from the files: so the last words can be read when no daemon lives, too."""
    from llm_supervisor.control.client import NoDaemon
    from llm_supervisor.host.output import reader as output_reader
    from llm_supervisor.suggest import nearest

    folder, known = paths.log_dir(os.environ), []
    try:
        _, answer = _ask("GET", "/v1/status", timeout=5)
        folder = Path(answer["supervisor"]["logs"])
        known = [program["name"] for program in answer["programs"]]
    except NoDaemon:
        pass
    known = known or sorted(path.name for path in folder.glob("*") if path.is_dir())
    if not known:
        return _complain(f"no logs in {folder}")
    names = options.name or known
    for name in names:
        if name not in known:
            return _complain(nearest(name, known))
    prefix = _prefixes(names)
    places = {}
    out = sys.stdout.buffer
    rest = dict.fromkeys(names, b"")
    for name in names:
        if options.since is None:
            lines, places[name] = output_reader.tail(folder / name, 10 if options.lines is None else options.lines)
        elif options.lines is None:
            lines, places[name] = [], output_reader.since(folder / name, options.since)
        else:
            lines, places[name] = _last_since(folder / name, options.since, options.lines)
        if options.follow and lines and not output_reader.ends_a_line(folder / name, places[name]):
            rest[name] = lines.pop()  # shown when it is finished
        for line in lines:
            out.write(prefix[name] + line + b"\n")
    out.flush()
    behind = options.since is not None and options.lines is None
    while options.follow or behind:
        behind = False
        for name in names:
            data, places[name] = output_reader.read_from(folder / name, places[name])
            if data:
                behind = True
                *lines, rest[name] = (rest[name] + data).split(b"\n")
                for line in lines:
                    out.write(prefix[name] + line.rstrip(b"\r").rpartition(b"\r")[2] + b"\n")
        out.flush()
        if options.follow and not behind:
            time.sleep(0.1)
    for name in names:
        if rest[name]:
            out.write(prefix[name] + rest[name] + b"\n")
    return OK


def _last_since(folder: Path, moment: float, most: int) -> tuple[list[bytes], Any]:
    """The last lines of a log, of those since then, and where they end."""
    from collections import deque

    from llm_supervisor.host.output import reader as output_reader

    at, rest = output_reader.since(folder, moment), b""
    lines: deque[bytes] = deque(maxlen=most)
    while True:
        data, at = output_reader.read_from(folder, at)
        if not data:
            break
        *whole, rest = (rest + data).split(b"\n")
        lines.extend(whole)
    if rest:
        lines.append(rest)
    return [line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines], at


def _prefixes(names: Sequence[str]) -> dict[str, bytes]:
    """What stands before each line: nothing for one program, its name (coloured on a terminal) for several."""
    if len(names) == 1:
        return {names[0]: b""}
    width = max(len(name) for name in names)
    colours = (36, 33, 32, 35, 34, 31)
    found = {}
    for number, name in enumerate(names):
        text = f"{name:<{width}} | "
        if sys.stdout.isatty():
            text = f"\x1b[{colours[number % len(colours)]}m{text}\x1b[0m"
        found[name] = text.encode()
    return found
