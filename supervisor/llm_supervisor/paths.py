"""Where the data, runtime and log folders are: named by the usual variables, else a place of our own.

Reads the environment it is given and looks at folders; makes one only when asked to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from llm_supervisor.ownership import NotOurs, require_own_folder, require_own_place

NAME = "llm-supervisor"
_LONGEST_NAME = 200  # characters of a folder's name; file systems take 255 bytes
SOCKET = "control.sock"  # in the runtime folder
CONFIGS = ("supervisor.yaml", "/etc/llm-supervisor/supervisor.yaml")


def data_dir(environ: Mapping[str, str]) -> Path:
    """``$LLM_SUPERVISOR_HOME``; /var/lib/llm-supervisor for root where systemd runs; else the user's data folder."""
    if home := environ.get("LLM_SUPERVISOR_HOME"):
        return Path(home).absolute()
    if os.geteuid() == 0 and os.path.isdir("/run/systemd/system"):
        return Path("/var/lib") / NAME
    base = environ.get("XDG_DATA_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local/share")
    return Path(base) / NAME


def runtime_dirs(environ: Mapping[str, str]) -> list[Path]:
    """Places where a daemon may have its runtime folder; the first is where a new one is made."""
    if given := environ.get("RUNTIME_DIRECTORY"):
        return [Path(given.partition(":")[0])]
    places = []
    if base := environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(base) / NAME)
    if os.geteuid() == 0:
        places.append(Path("/run") / NAME)
    places.append(Path(environ.get("TMPDIR") or "/tmp") / f"{NAME}-{os.geteuid()}")
    return places


def make_runtime_dir(environ: Mapping[str, str]) -> Path:
    """Make the runtime folder at the first place that allows it, for us alone (0700). Raises OSError when none does;
    NotOurs when a place that could be used belongs to somebody else, or can be changed by others."""
    refused: OSError | None = None
    failed: OSError | None = None
    for place in runtime_dirs(environ):
        try:
            make_own_folder(place)
            return place
        except NotOurs as error:
            refused = error  # the last one: a person can make that place usable
        except OSError as error:
            failed = error
    unusable = refused or failed
    assert unusable is not None
    raise unusable


def make_own_folder(place: Path) -> None:
    """Make a folder for us alone (0700), or use the one that is there if it is ours. Raises NotOurs or OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    require_own_place(place)
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    require_own_folder(place)
    place.chmod(0o700)


def log_dir(environ: Mapping[str, str]) -> Path:
    """``$LOGS_DIRECTORY``, else ``logs`` in the data folder."""
    if given := environ.get("LOGS_DIRECTORY"):
        return Path(given.partition(":")[0])
    return data_dir(environ) / "logs"


def incident_dir(environ: Mapping[str, str], runtime: Path) -> Path:
    """Where the daemon with that runtime folder keeps its incidents: in ``incidents`` in the data folder, which several
    daemons may share, in a folder that is called like the runtime folder, with %2F for /."""
    name = quote(str(runtime), safe="")
    if len(name) > _LONGEST_NAME:
        name = "%" + sha256(str(runtime).encode()).hexdigest()
    return data_dir(environ) / "incidents" / name


def incident_dirs(environ: Mapping[str, str]) -> list[Path]:
    """Where incidents may be found, the likeliest first; the last is where older versions kept those of all daemons."""
    return [*(incident_dir(environ, place) for place in runtime_dirs(environ)), data_dir(environ) / "incidents"]


def find_config(given: Sequence[str] | None) -> list[Path]:
    """The configuration's files: the given ones, else the first of the usual places that exists; empty when none
    does."""
    if given:
        return [Path(name).absolute() for name in given]
    return [Path(name).absolute() for name in CONFIGS if Path(name).is_file()][:1]
