"""A folder for the temporary files of one incarnation of an engine, so that they go with it.

A vLLM that is killed leaves its unix sockets and ``vllm_dist_*`` files behind. They are made where ``TMPDIR`` and
``VLLM_RPC_BASE_PATH`` point: to a folder of the incarnation, below the place where temporary files would be anyway, so
that there is as much room for them as before. The folder is removed when the incarnation is gone.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

_ANY = Path("/tmp")
# The path of a unix socket has at most 107 bytes (unix(7)); vLLM appends a slash and 36 characters
LONGEST = 107 - 37


def name(cookie: str) -> str:
    """How the folder of the incarnation with that cookie is called."""
    return f"llm-supervisor.{cookie[-8:]}"


def usual(environ: Mapping[str, str]) -> Path:
    """Where a program with that environment makes its temporary files (Python's rule)."""
    given = next((value for key in ("TMPDIR", "TEMP", "TMP") if (value := environ.get(key))), None)
    return Path(os.path.abspath(given)) if given and os.access(given, os.W_OK | os.X_OK) else _ANY


def make(environ: Mapping[str, str], cookie: str) -> Path:
    """Make the folder, for us alone. It is below /tmp where the usual place has too long a path for a socket. Raises
    OSError."""
    folder = usual(environ) / name(cookie)
    if len(os.fsencode(folder)) > LONGEST:
        folder = _ANY / name(cookie)
    folder.mkdir(mode=0o700)
    return folder


def variables(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What leads an engine with that environment there. What torch has compiled stays where it is kept for every start;
    a place for sockets that somebody has chosen stays as well."""
    found = {} if "VLLM_RPC_BASE_PATH" in environ else {"VLLM_RPC_BASE_PATH": str(folder)}
    base = usual(environ)
    if folder.parent == base:
        found["TMPDIR"] = str(folder)
        user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())  # torch/_inductor/runtime/cache_dir_utils.py
        found["TORCHINDUCTOR_CACHE_DIR"] = environ.get("TORCHINDUCTOR_CACHE_DIR") or str(base / f"torchinductor_{user}")
    return found


def remove(folder: Path, cookie: str) -> None:
    """Remove the folder of that incarnation with all that is in it. Any other folder stays: one of another name, a
    link, one that is not ours."""
    if folder.name != name(cookie) or not folder.is_absolute():
        return
    try:
        there = os.lstat(folder)
    except OSError:
        return
    if stat.S_ISDIR(there.st_mode) and there.st_uid == os.geteuid():
        shutil.rmtree(folder, ignore_errors=True)
