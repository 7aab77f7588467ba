"""An atomic write leaves the old content or the new, and nothing else in the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm_supervisor.host.files import write_atomically


def test_the_content_and_the_mode(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_atomically(file, b"one")
    write_atomically(file, b"two")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"two", 0o600)
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_full_disk_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state.json"
    write_atomically(file, b"one")
    write = os.write
    left = [2]

    def cut(fd: int, data: memoryview) -> int:
        if not left:
            raise OSError(28, "No space left on device")
        return write(fd, bytes(data[: left.pop()]))

    monkeypatch.setattr(os, "write", cut)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, b"longer")
    monkeypatch.undo()
    assert file.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["state.json"]
