"""The folder of an incarnation's temporary files: where it is, what leads there, and that nothing else is removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_supervisor.host import scratch

COOKIE = "glm/0123456789abcdef0123456789abcdef"
SOCKET = 107  # bytes of a unix socket's path


@pytest.fixture
def base() -> Iterator[Path]:
    """A place whose path is as short as those that people have."""
    place = Path(f"/tmp/scratch-{os.getpid()}")
    place.mkdir()
    yield place
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    place.rmdir()


def test_it_is_below_the_place_that_the_user_has_chosen(base: Path) -> None:
    environ = {"TMPDIR": str(base)}
    folder = scratch.make(environ, COOKIE)
    assert folder == base / "llm-supervisor.89abcdef"
    assert folder.stat().st_mode & 0o777 == 0o700
    said = scratch.variables(folder, environ)
    assert (said["TMPDIR"], said["VLLM_RPC_BASE_PATH"]) == (str(folder), str(folder))
    assert Path(said["TORCHINDUCTOR_CACHE_DIR"]).parent == base, "what is compiled is kept for the next start"
    (folder / "socket").touch()
    (folder / "deep").mkdir()
    (folder / "deep" / "vllm_dist_1").touch()
    scratch.remove(folder, COOKIE)
    assert not folder.exists()


@pytest.mark.parametrize("environ", [{}, {"TMPDIR": ""}, {"TMPDIR": "/nowhere"}, {"TEMP": "/tmp"}])
def test_it_is_in_tmp_otherwise(environ: dict[str, str]) -> None:
    assert scratch.usual(environ) == Path("/tmp")
    folder = scratch.make(environ, COOKIE)
    try:
        assert folder == Path("/tmp/llm-supervisor.89abcdef")
        assert len(f"{scratch.variables(folder, environ)['VLLM_RPC_BASE_PATH']}/") + 36 <= SOCKET
    finally:
        scratch.remove(folder, COOKIE)


def test_a_place_that_is_too_long_for_sockets_keeps_the_files_and_gets_no_sockets(base: Path) -> None:
    long = base / ("x" * 80)
    long.mkdir()
    environ = {"TMPDIR": str(long)}
    folder = scratch.make(environ, COOKIE)
    try:
        assert scratch.variables(folder, environ) == {"VLLM_RPC_BASE_PATH": "/tmp/llm-supervisor.89abcdef"}
    finally:
        scratch.remove(folder, COOKIE)


def test_what_somebody_has_chosen_stays(base: Path) -> None:
    environ = {"TMPDIR": str(base), "VLLM_RPC_BASE_PATH": "/x", "TORCHINDUCTOR_CACHE_DIR": "/cache"}
    folder = scratch.make(environ, COOKIE)
    said = scratch.variables(folder, environ)
    assert said == {"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": "/cache"}
    scratch.remove(folder, COOKIE)


def test_nothing_else_is_removed(base: Path) -> None:
    """The path comes from a file of a former daemon."""
    other, elsewhere = base / "other", base / "elsewhere"
    other.mkdir()
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    scratch.remove(other, COOKIE)
    assert other.exists(), "it is called otherwise"
    link = base / scratch.name(COOKIE)
    link.symlink_to(elsewhere)
    scratch.remove(link, COOKIE)
    assert (elsewhere / "kept").exists(), "a link is not followed"
    link.unlink()
    if os.geteuid() == 0:
        link.mkdir()
        os.chown(link, 12345, -1)
        scratch.remove(link, COOKIE)
        assert link.exists(), "it is another user's"
    scratch.remove(Path(scratch.name(COOKIE)), COOKIE)
