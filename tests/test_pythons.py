"""The daemon's own fast tests on every other supported Python that is installed here.

Each gets an environment of its own, made with uv. `make test` asks the ends of the range, and of the tests those of the
modules that use the standard library for more than plain values; `make soak` asks each one for what `make check` runs.
The engines have their own Pythons.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llm_supervisor.oneshot import uv

ROOT = Path(__file__).parents[1]
OLDEST, BETWEEN, NEWEST = "3.11", "3.12", "3.13"
# Processes, sockets, asyncio, annotations that are read at run time: where versions of Python differ
PARTS = ["tests/control", "tests/host", "tests/inside", "tests/supervision"]
PARTS += ["tests/cli/test_main.py", "tests/config/test_plan.py", "tests/daemon/test_readiness.py"]
FAST = "not real and not slow and not systemd and not soak and not clients"


def interpreter(minor: str) -> str | None:
    """The path of that Python, if one is installed: where uv looks, or where pyenv keeps those that are not on PATH."""
    command = [uv.binary(), "python", "find", "--system", "--no-python-downloads", minor]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    kept = sorted(root.glob(f"versions/{minor}.*/bin/python"))
    return done.stdout.strip() if done.returncode == 0 else str(kept[-1]) if kept else None


@pytest.mark.slow
@pytest.mark.parametrize("minor", [OLDEST, NEWEST])
def test_the_parts_pass_where_versions_differ(minor: str, tmp_path: Path) -> None:
    check(minor, tmp_path, PARTS)


@pytest.mark.soak
@pytest.mark.parametrize("minor", [OLDEST, BETWEEN, NEWEST])
def test_the_fast_tests_pass(minor: str, tmp_path: Path) -> None:
    check(minor, tmp_path, ["tests"])


def check(minor: str, tmp_path: Path, parts: list[str]) -> None:
    """These tests pass on that Python."""
    if minor == f"{sys.version_info[0]}.{sys.version_info[1]}":
        pytest.skip("it is the Python that runs these tests")
    found = interpreter(minor)
    if found is None:
        pytest.skip(f"Python {minor} is not installed")
    environ = uv.environment(os.environ, tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    subprocess.run([uv.binary(), "venv", "-q", "--python", found, str(tmp_path / "venv")], check=True, env=environ)
    install = [uv.binary(), "pip", "install", "-q", "--python", str(python), "-e", str(ROOT), *wanted]
    subprocess.run(install, check=True, env=environ, cwd="/")
    command = [str(python), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", FAST, *parts]
    inner = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=inner, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(r"\d{3,} passed", done.stdout)
