"""The installed LiteLLM against what is known here of the packages that it needs for some settings only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_supervisor.engines.litellm.packages import CALLBACKS, LOCKED, Package
from tests.engines.conftest import Engines

EVERY = {one.distribution: one for one in (*LOCKED, *CALLBACKS.values())}


@pytest.fixture(scope="module")
def source(engines: Engines) -> str:
    """All of its Python."""
    (packages,) = (engines.litellm.parent.parent / "lib").glob("python3*/site-packages")
    files = [*(packages / "litellm").rglob("*.py"), *(packages / "litellm_enterprise").rglob("*.py")]
    return "\n".join(Path(file).read_text(errors="replace") for file in files)


@pytest.mark.parametrize("package", EVERY.values(), ids=EVERY)
def test_it_imports_what_it_is_said_to_need(source: str, package: Package) -> None:
    head, _, last = package.imports.rpartition(".")
    wanted = rf"^\s*(?:from|import) {re.escape(package.imports)}\b"
    if head:
        wanted += rf"|^\s*from {re.escape(head)} import [^\n]*\b{last}\b"
    assert re.search(wanted, source, re.MULTILINE)


@pytest.mark.parametrize("name", CALLBACKS)
def test_it_knows_the_loggers(source: str, name: str) -> None:
    assert re.search(rf'== "{name}"|"{name}" in |"{name}": |"{name}",', source)
