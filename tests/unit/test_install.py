"""The making of the engines' environments, with pip and venv played by a fake; the real ones are tried elsewhere.

What is real here: files, flock, child processes, and the import hook in an interpreter of its own beside fake torch
packages. No network, no sleep.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.oneshot import install as installing
from llm_supervisor.oneshot.install import (
    INSIDE,
    InstallError,
    environment,
    install,
    is_complete,
    make_tiny_model,
    pins,
    run,
    vllm_distribution,
)

DISTRIBUTIONS = ["vllm-cpu", "vllm", "litellm"]
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


class Killed(BaseException):
    """What a SIGKILL is to the code that it ends: nothing after it runs, nothing catches it."""


class FakeMachine:
    """Plays the commands: `failing` maps a command's kind to its output and status, `kill_at` ends us in the n-th."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.pip_arguments: list[list[str]] = []
        self.failing: dict[str, list[tuple[str, int]]] = {}
        self.kill_at: int | None = None
        self.platform = "cpu"

    def __call__(
        self,
        command: list[str | Path],
        log: Path,
        *,
        hear: Callable[[str], object] = lambda line: None,
        extra: dict[str, str] | None = None,
        timeout: float = 0,
    ) -> int:
        words = [str(word) for word in command]
        kind = next(
            kind for kind in ("venv", "--version", "install", "self_test.py") if any(kind in w for w in words[1:])
        )
        self.commands.append(kind)
        root = log.parent
        site = root / "lib" / "python3.11" / "site-packages"
        killed = self.kill_at == len(self.commands)
        if kind == "venv":
            (root / "bin").mkdir()
            (root / "bin" / "python").touch()
            (root / "pyvenv.cfg").touch()
            site.mkdir(parents=True)
            if killed:
                raise Killed
            self.unpack(site, "pip")
        output, status = self.failing.get(kind, []).pop(0) if self.failing.get(kind) else ("", 0)
        if kind == "install":
            self.pip_arguments.append(words)
            assert not [torn for torn in site.glob("*.dist-info") if not (torn / "RECORD").exists()]
            if status == 0:
                self.pip_install(site, root.name.rsplit("-", 2)[0], killed)
        if killed:
            raise Killed
        if kind == "self_test.py" and status == 0:
            tested = {"vllm": {"platform": self.platform}, "litellm": {"uvicorn": "0.54.0"}}[words[-1]]
            output = f"a warning first\n{json.dumps(tested)}"
        with log.open("a") as record:
            record.write(output + "\n")
        for line in output.splitlines():
            hear(line)
        return status

    def pip_install(self, site: Path, distribution: str, killed: bool) -> None:
        for index, name in enumerate(pins(distribution)):
            if not list(site.glob(f"{name}-*.dist-info")):
                self.unpack(site, name, torn=killed and index == 5)
            if killed and index == 5:
                return

    @staticmethod
    def unpack(site: Path, name: str, *, torn: bool = False) -> None:
        metadata = site / f"{name}-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").touch()
        if not torn:
            (metadata / "RECORD").touch()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> FakeMachine:
    """A machine where every command is played, and the locks are short."""
    locks = tmp_path_factory.mktemp("locks")
    for distribution in DISTRIBUTIONS:
        packages = [distribution, "torch", "fastapi", "uvicorn", "rich", "httpx", "numpy", "pillow"]
        (locks / f"{distribution}.txt").write_text("".join(f"{name}==1.2.3\n" for name in packages))
    fake = FakeMachine()
    monkeypatch.setattr(installing, "LOCKS", locks)
    monkeypatch.setattr(installing, "run", fake)
    monkeypatch.setenv("LLM_SUPERVISOR_VLLM", "cpu")
    return fake


@pytest.fixture
def said() -> list[str]:
    return []


# The locks


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_lock_is_resolved_from_the_requirement_in_pyproject(distribution: str) -> None:
    (requirement,) = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"][distribution]
    header = (installing.LOCKS / f"{distribution}.txt").read_text().splitlines()[0]
    assert header.startswith(f"# resolved from {requirement} with Python 3.")
    assert pins(distribution)[distribution] == requirement.split("==")[1]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_lock_pins_each_package_once_and_nothing_else(distribution: str) -> None:
    lines = (installing.LOCKS / f"{distribution}.txt").read_text().splitlines()
    locked = [line for line in lines if not line.startswith("#")]
    names = [re.sub(r"[-_.]+", "-", name).lower() for name in pins(distribution)]
    assert len(locked) == len(set(names)) > 100
    assert "pip" not in names


def test_the_cpu_lock_has_torchs_cpu_build_first_and_the_cuda_lock_has_not() -> None:
    assert next(iter(pins("vllm-cpu"))) == "torch"
    assert pins("vllm-cpu")["torch"].endswith("+cpu")
    # == would take 2.13.0+cpu, the newer version to pip, where it is at hand.
    assert "\ntorch===2.13.0\n" in (installing.LOCKS / "vllm.txt").read_text()


# Where, and which


@pytest.mark.parametrize(("wanted", "distribution"), [("cpu", "vllm-cpu"), ("cuda", "vllm")])
def test_the_build_of_vllm_can_be_chosen(wanted: str, distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SUPERVISOR_VLLM", wanted)
    assert vllm_distribution() == distribution


@pytest.mark.parametrize(("gpu", "distribution"), [(True, "vllm"), (False, "vllm-cpu")])
def test_the_build_of_vllm_follows_the_machine(gpu: bool, distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_SUPERVISOR_VLLM", raising=False)
    monkeypatch.setattr(installing, "_gpu_found", lambda: gpu)
    assert vllm_distribution() == distribution


def test_another_build_of_vllm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SUPERVISOR_VLLM", "rocm")
    with pytest.raises(InstallError, match="LLM_SUPERVISOR_VLLM=rocm: it must be cpu or cuda"):
        vllm_distribution()


def test_an_environment_is_named_after_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = environment("litellm", tmp_path)
    assert re.fullmatch(r"litellm-\d+\.\d+\.\d+-[0-9a-f]{8}", env.path.name)
    assert env.path.parent == tmp_path / "envs"
    assert env.python == env.path / "bin" / "python"
    assert not env.path.exists()

    locks = shutil.copytree(installing.LOCKS, tmp_path / "locks")
    with (locks / "litellm.txt").open("a") as lock:
        lock.write("one-more==1\n")
    monkeypatch.setattr(installing, "LOCKS", locks)
    assert environment("litellm", tmp_path).path != env.path


# Making one


def test_an_environment_is_made_tested_and_stamped(tmp_path: Path, machine: FakeMachine, said: list[str]) -> None:
    env = install("litellm", tmp_path, say=said.append)
    assert is_complete(env)
    assert machine.commands == ["venv", "--version", "install", "self_test.py"]
    assert json.loads((env.path / "llm-supervisor.json").read_text())["tested"] == {"uvicorn": "0.54.0"}
    assert said[0].startswith(f"litellm: making {env.path} (")
    assert said[-1].startswith("litellm: ready: uvicorn 0.54.0 (")


def test_a_complete_one_is_left_alone(tmp_path: Path, machine: FakeMachine, said: list[str]) -> None:
    install("litellm", tmp_path, say=said.append)
    machine.commands.clear()
    said.clear()
    install("litellm", tmp_path, say=said.append)
    assert (machine.commands, said) == ([], [])


@pytest.mark.parametrize("engine", ["litellm", "vllm"])
@pytest.mark.parametrize("command", [1, 2, 3, 4])
def test_an_install_killed_in_any_command_is_finished_by_the_next(
    engine: str, command: int, tmp_path: Path, machine: FakeMachine, said: list[str]
) -> None:
    machine.kill_at = command
    with pytest.raises(Killed):
        install(engine, tmp_path, say=said.append)
    assert not is_complete(environment(engine, tmp_path))

    machine.kill_at = None
    env = install(engine, tmp_path, say=said.append)
    assert is_complete(env)
    assert len(list(env.site_packages.glob("*.dist-info/RECORD"))) == len(pins(env.distribution)) + 1
    assert not (env.path / "tmp").exists()
    assert (env.site_packages / "llm_supervisor_cpu_torch.pth").exists() == (engine == "vllm")


def test_what_was_half_unpacked_is_removed_and_the_rest_is_kept(
    tmp_path: Path, machine: FakeMachine, said: list[str]
) -> None:
    env = install("litellm", tmp_path, say=said.append)
    (env.path / "llm-supervisor.json").unlink()
    torn, whole = env.site_packages / "uvicorn-1.dist-info", env.site_packages / "fastapi-1.dist-info"
    (torn / "RECORD").unlink()
    (torn / "left-from-before").touch()
    (whole / "left-from-before").touch()
    (env.path / "tmp").mkdir()
    machine.commands.clear()
    install("litellm", tmp_path, say=said.append)
    assert machine.commands == ["--version", "install", "self_test.py"]
    assert (torn / "RECORD").exists()
    assert not (torn / "left-from-before").exists()
    assert (whole / "left-from-before").exists()


@pytest.mark.parametrize("broken", ["pyvenv.cfg", "bin/python", "lib/python3.11/site-packages/pip-1.dist-info/RECORD"])
def test_a_broken_venv_is_made_anew(broken: str, tmp_path: Path, machine: FakeMachine, said: list[str]) -> None:
    env = install("litellm", tmp_path, say=said.append)
    (env.path / "llm-supervisor.json").unlink()
    (env.path / broken).unlink()
    machine.commands.clear()
    install("litellm", tmp_path, say=said.append)
    assert machine.commands == ["venv", "--version", "install", "self_test.py"]
    assert any("removing a broken environment" in line for line in said)


def test_a_changed_hook_makes_an_environment_unfinished(
    tmp_path: Path, machine: FakeMachine, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = install("vllm", tmp_path, say=said.append)
    inside = shutil.copytree(INSIDE, tmp_path / "inside")
    (inside / "llm_supervisor_cpu_torch.py").write_text("# another\n")
    monkeypatch.setattr(installing, "INSIDE", inside)
    assert not is_complete(env)
    install("vllm", tmp_path, say=said.append)
    assert (env.site_packages / "llm_supervisor_cpu_torch.py").read_text() == "# another\n"


@pytest.mark.parametrize("stamp", ["", "[]", "{}", '{"made_from": {}}'])
def test_a_stamp_that_is_not_ours_counts_for_nothing(
    stamp: str, tmp_path: Path, machine: FakeMachine, said: list[str]
) -> None:
    env = install("litellm", tmp_path, say=said.append)
    (env.path / "llm-supervisor.json").write_text(stamp)
    assert not is_complete(env)


def test_two_installs_take_turns(tmp_path: Path, machine: FakeMachine) -> None:
    env = environment("litellm", tmp_path)
    env.path.parent.mkdir(parents=True)
    other = (env.path.parent / f".{env.path.name}.lock").open("a")
    fcntl.flock(other, fcntl.LOCK_EX)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            assert machine.commands == []
            other.close()  # the other one is done
        else:
            with open(other.name) as third, pytest.raises(BlockingIOError):
                fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)

    install("litellm", tmp_path, say=say)
    assert said[0] == f"{env.path} is being made by another process: waiting for it"
    assert is_complete(env)


# pip, and what a person reads when it fails


def test_pips_output_becomes_progress(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    env = environment("litellm", tmp_path)
    env.path.joinpath("lib/python3.11/site-packages/a-1.dist-info").mkdir(parents=True)
    (env.site_packages / "a-1.dist-info" / "RECORD").touch()
    progress = installing.Progress(env, said.append)
    monkeypatch.setattr(progress, "EVERY", 0)
    output = """\
        Collecting aiohttp==3.14.5 (from -r litellm.txt (line 3))
          Downloading aiohttp-3.14.5-cp311-cp311-manylinux_2_28_x86_64.whl (1.9 MB)
        Processing /wheels/anyio-4.16.0-py3-none-any.whl (from -r litellm.txt (line 7))
        Requirement already satisfied: attrs==26.1.0 in ./lib/python3.11/site-packages

        Installing collected packages: aiohttp, anyio

    """
    for line in textwrap.dedent(output).splitlines():
        progress.hear(line)
    total = len(pins("litellm"))
    assert [re.sub(r" \(\d+ s\)", "", line) for line in said] == [
        f"litellm: 1 of {total} packages: collecting aiohttp==3.14.5",
        f"litellm: 1 of {total} packages: downloading aiohttp-3.14.5",
        f"litellm: 2 of {total} packages: processing anyio-4.16.0",
        f"litellm: 3 of {total} packages: requirement already satisfied: attrs==26.1.0",
        f"litellm: 3 of {total} packages: requirement already satisfied: attrs==26.1.0",
        f"litellm: 1 of {total} packages: installing",
        f"litellm: 1 of {total} packages: installing",
    ]


def test_torchs_cpu_build_is_looked_for_in_pytorchs_index_last(
    tmp_path: Path, machine: FakeMachine, said: list[str]
) -> None:
    missing = "ERROR: No matching distribution found for torch==2.13.0+cpu"
    machine.failing["install"] = [(missing, 1)]
    install("vllm", tmp_path, say=said.append)
    first, second = machine.pip_arguments
    assert "--extra-index-url" not in first
    assert second == [*first, "--extra-index-url", "https://download.pytorch.org/whl/cpu"]

    shutil.rmtree(tmp_path / "envs")
    machine.failing["install"] = [(missing, 1), (missing, 1)]
    with pytest.raises(InstallError, match=r"from where pip looks or from https://download\.pytorch\.org/whl/cpu"):
        install("vllm", tmp_path, say=said.append)


def test_a_failed_pip_shows_its_last_lines_and_what_to_do(
    tmp_path: Path, machine: FakeMachine, said: list[str]
) -> None:
    noise = "WARNING: Location 'file:///mirror/rich/' is ignored: it is neither a file nor a directory.\n"
    error = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    machine.failing["install"] = [(f"{error}\n{noise * 30}", 1)]
    with pytest.raises(InstallError) as raised:
        install("litellm", tmp_path, say=said.append)
    log = environment("litellm", tmp_path).log
    assert str(raised.value) == (
        "litellm: pip could not install its packages (exit status 1). The last lines:\n"
        f"    {error}\n"
        f"The whole output is in {log}. Put right what it names. "
        "Run the same command again: it goes on where it stopped."
    )


@pytest.mark.parametrize(
    ("kind", "output", "expected"),
    [
        ("venv", "ensurepip is not available", "ensurepip is not available\nOn Debian and Ubuntu that is in"),
        ("self_test.py", "ImportError: libnuma.so.1", "the self-test failed (exit status 1). The last lines:\n    Imp"),
    ],
)
def test_other_failures_show_theirs(
    kind: str, output: str, expected: str, tmp_path: Path, machine: FakeMachine, said: list[str]
) -> None:
    machine.failing[kind] = [(output, 1)]
    with pytest.raises(InstallError, match=re.escape(expected)):
        install("litellm", tmp_path, say=said.append)
    assert not is_complete(environment("litellm", tmp_path))


def test_a_build_of_vllm_for_another_platform_is_not_accepted(
    tmp_path: Path, machine: FakeMachine, said: list[str]
) -> None:
    machine.platform = ""
    with pytest.raises(InstallError, match="vLLM finds the platform 'unknown' here, not 'cpu'"):
        install("vllm", tmp_path, say=said.append)


def test_a_full_disk_is_told_before_anything_is_made(
    tmp_path: Path, machine: FakeMachine, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InstallError, match=r"litellm needs about 1\.5 GiB, and .*/envs has 1\.0 GiB free"):
        install("litellm", tmp_path, say=said.append)
    assert machine.commands == []


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(InstallError, match=re.escape(str(tmp_path / "data"))):
        install("litellm", tmp_path / "data", say=said.append)


# Real commands


def test_a_command_is_heard_line_by_line_and_logged(tmp_path: Path, said: list[str]) -> None:
    script = "import os, sys; print('one'); print('two', file=sys.stderr); print(os.environ['X']); sys.exit(3)"
    assert run([sys.executable, "-uc", script], tmp_path / "log", hear=said.append, extra={"X": "three"}) == 3
    assert said == ["one", "two", "three"]
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


def test_a_silent_command_is_a_pulse_and_a_slow_one_ends(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "PULSE", 0.01)
    with pytest.raises(TimeoutError, match="it took longer than 0 s"):
        run(["sleep", "600"], tmp_path / "log", hear=said.append, timeout=0.03)
    assert set(said) == {""}


def test_an_interruption_ends_the_command(tmp_path: Path) -> None:
    pids: list[int] = []

    def hear(line: str) -> None:
        pids.extend(int(word) for word in line.split())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", "sleep 600 & echo $$ $!; wait"], tmp_path / "log", hear=hear)
    for pid in pids:
        wait_until_dead(pid)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_install_leaves_no_command_behind(sent: signal.Signals, tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from llm_supervisor.oneshot.install import run
        run(["sh", "-c", "echo $$; exec sleep 600"], Path(sys.argv[1]), hear=lambda line: print(line, flush=True))
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as killed:
        assert killed.stdout is not None
        pid = int(killed.stdout.readline())
        killed.send_signal(sent)
        killed.wait()
        wait_until_dead(pid)


def wait_until_dead(pid: int) -> None:
    """Return when the process has ended, be it a zombie that nobody reaps."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([watched], [], [], 10)[0], f"{pid} lives on"
    os.close(watched)


# The import hook


TORCH = """
    from types import SimpleNamespace
    defined, loaded = [], []

    def load_library(path):
        loaded.append(path)
        if BROKEN:
            raise OSError(f"Could not load this library: {path}")
        for name in ("nms", "qnms"):
            setattr(ops.torchvision, name, name)

    ops = SimpleNamespace(load_library=load_library, torchvision=SimpleNamespace())
    library = SimpleNamespace(define=lambda name, schema: defined.append(name))
    version = SimpleNamespace(cuda=None if BROKEN else "13.0")
"""
SHELVES = {
    "torch/cuda/__init__.py": "from .graphs import is_current_stream_capturing",
    "torch/cuda/graphs.py": "def is_current_stream_capturing():\n    return 'asked'",
    "torchvision/__init__.py": "import torch\nat_import = list(torch.defined)",
    "torchvision/_C.so": "",
    "torchaudio/__init__.py": "from torchaudio._extension import loaded",
    "torchaudio/_extension/__init__.py": "from .utils import _load_lib\nloaded = _load_lib('libtorchaudio')",
    "torchaudio/_extension/utils.py": "import torch\ndef _load_lib(name):\n    return not torch.ops.load_library(name)",
    "torchcodec/__init__.py": "import torch\ntorch.ops.load_library('libtorchcodec')",
}


@pytest.fixture
def interpreter(tmp_path: Path) -> Callable[..., Any]:
    """Run a script beside fake torch packages whose extensions load or do not; returns what it prints, as JSON."""

    def interpret(script: str, *, loads: bool) -> Any:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "__init__.py").write_text(f"BROKEN = {not loads}\n{textwrap.dedent(TORCH)}")
        for name, text in SHELVES.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        begin = f"""
            import json, sys
            before = set(sys.modules)
            sys.path += [{str(tmp_path)!r}, {str(INSIDE)!r}]
            {(INSIDE / "llm_supervisor_cpu_torch.pth").read_text()}
            brought = sorted(set(sys.modules) - before)
        """
        whole = textwrap.dedent(begin) + textwrap.dedent(script)
        done = subprocess.run([sys.executable, "-ISc", whole], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return interpret


IMPORT_ALL = """
    import torchvision, torchaudio, torch
    codec = []
    for _ in range(2):
        try:
            import torchcodec
            codec.append("here")
        except ImportError as problem:
            codec.append(str(problem))
    print(json.dumps([torchvision.at_import, torchaudio.loaded, codec]))
"""


def test_the_hook_lets_cuda_builds_be_imported_beside_a_cpu_torch(interpreter: Callable[..., Any]) -> None:
    operators, audio, codec = interpreter(IMPORT_ALL, loads=False)
    assert operators == ["torchvision::nms", "torchvision::qnms"]
    assert audio is False
    assert codec == ["torchcodec does not load beside this torch: Could not load this library: libtorchcodec"] * 2


def test_the_hook_changes_nothing_where_the_extensions_load(interpreter: Callable[..., Any]) -> None:
    assert interpreter(IMPORT_ALL, loads=True) == [[], True, ["here", "here"]]


@pytest.mark.parametrize(("loads", "said"), [(False, False), (True, "asked")])
def test_the_hook_knows_that_nothing_records_without_cuda(
    interpreter: Callable[..., Any], loads: bool, said: object
) -> None:
    script = """
        import torch.cuda
        print(json.dumps(torch.cuda.is_current_stream_capturing()))
    """
    assert interpreter(script, loads=loads) == said


def test_the_hook_costs_nothing_until_it_is_needed(interpreter: Callable[..., Any]) -> None:
    script = """
        from importlib.util import find_spec
        print(json.dumps([brought, find_spec("torchvision") is not None, "torch" in sys.modules]))
    """
    assert interpreter(script, loads=False) == [["llm_supervisor_cpu_torch"], True, False]


# The tiny model


def test_a_tiny_model_that_is_there_is_left_alone(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    monkeypatch.setattr(installing, "run", pytest.fail)
    assert make_tiny_model(Path("python"), tmp_path, say=said.append) == tmp_path
    assert said == []


def test_a_tiny_model_is_made_by_vllms_python(tmp_path: Path, said: list[str]) -> None:
    python, target = tmp_path / "python", tmp_path / "models" / "tiny"
    python.write_text('#!/bin/sh\nmkdir "$3" && echo "$2" > "$3/made_by"')
    python.chmod(0o755)
    assert make_tiny_model(python, target, say=said.append) == target
    assert (target / "made_by").read_text() == f"{INSIDE / 'tiny_glm41v.py'}\n"
    assert not (tmp_path / "models" / "tiny.log").exists()


def test_a_tiny_model_that_cannot_be_made_says_why(tmp_path: Path, said: list[str]) -> None:
    python = tmp_path / "python"
    with pytest.raises(InstallError, match=r"could not be made: .*No such file or directory"):
        make_tiny_model(python, tmp_path / "tiny", say=said.append)
    python.write_text("#!/bin/sh\necho ModuleNotFoundError: torch\nexit 1")
    python.chmod(0o755)
    with pytest.raises(
        InstallError, match=r"could not be made \(exit status 1\)\. The last lines:\n    ModuleNotFound"
    ):
        make_tiny_model(python, tmp_path / "tiny", say=said.append)
