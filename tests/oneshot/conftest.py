"""An index of tiny packages, and engines' locks that name them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llm_supervisor.engines import environment as envs
from tests.support.package_index import PackageIndex

PROXY = {"litellm/__init__.py": "", "litellm/proxy/__init__.py": "", "litellm/proxy/proxy_server.py": "app = 1\n"}


@dataclass
class Said:
    """A Report that keeps what it is told."""

    lines: list[str] = field(default_factory=list)
    now: list[tuple[str, str]] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def doing(self, subject: str, text: str) -> None:
        self.now.append((subject, text))


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    made = PackageIndex()
    yield made
    made.close()


@pytest.fixture
def host(index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that knows the index only from its pip.conf, with nothing in uv's cache; its data folder. Its lock of
    LiteLLM names three tiny packages that pass the self-test."""
    index.add("fastapi", "0.1.0", {"fastapi.py": ""})
    index.add("uvicorn", "0.2.0", {"uvicorn.py": ""})
    index.add("litellm", "1.2.3", {**PROXY, "litellm/data.bin": b"x" * 300_000})
    locks = tmp_path / "locks"
    locks.mkdir()
    (locks / "litellm.txt").write_text(index.lock)
    monkeypatch.setattr(envs, "LOCKS", locks)
    bare_host(monkeypatch, tmp_path)
    configure_pip(monkeypatch, tmp_path, f"index-url = {index.simple}")
    return tmp_path / "data"


def bare_host(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nothing in the environment says where packages come from; uv's cache is empty."""
    import os

    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "SSL_CERT")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "home" / ".config"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (folder / "home").mkdir(exist_ok=True)


def configure_pip(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str) -> None:
    """The host's only pip.conf."""
    file = folder / "pip.conf"
    file.write_text("\n".join(["[global]", *lines]) + "\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
