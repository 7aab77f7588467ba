"""uv, the installer that `install` uses: where it is, and what it has to know from pip's configuration.

uv does not read pip's configuration, and on many hosts that is the only place which names the company's mirror, its
certificate or a folder of wheels. So pip is asked for its settings, and each is given to uv as the environment variable
that means the same, unless the user has told uv itself otherwise (a UV_* variable, or a uv.toml).
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PYPI = "https://pypi.org/simple"  # where pip looks when nobody says otherwise
PIP_PATIENCE = 30.0  # seconds that `pip config list` may take
_CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
_INDEX_KEYS = ("index", "index-url", "extra-index-url")


def binary() -> str:
    """The path of uv, which comes with the package `uv`. Raises FileNotFoundError where it is missing."""
    import uv

    return str(uv.find_uv_bin())


def environment(environ: Mapping[str, str], data_dir: Path) -> dict[str, str]:
    """The environment variables for uv: those of `environ`, and pip's settings in uv's words.

    The hashes of the lock decide what may be installed, whichever index it comes from. The cache is uv's own, or below
    `data_dir` where that cannot be written.
    """
    own = _uv_toml(environ)
    made = dict(environ)
    for name, value in _translated(pip_settings(environ), environ, own).items():
        made.setdefault(name, value)
    made["UV_PYTHON_DOWNLOADS"] = "never"  # environments are made with the Python that the daemon runs with
    made["UV_NO_PROGRESS"] = "1"
    if "UV_CACHE_DIR" not in environ and "cache-dir" not in own and not _cache_is_writable(environ):
        made["UV_CACHE_DIR"] = str(data_dir / "cache" / "uv")
    return made


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's settings for `pip install` as pip itself reports them: files, then PIP_* variables. Empty without pip.

    Keys are option names such as ``index-url``; a value that is a list has one entry a line or a word, as pip allows.
    """
    for command in _pips(environ):
        try:
            done = subprocess.run(
                [*command, "config", "list"],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PIP_PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return parse_pip_settings(done.stdout)
    return parse_pip_settings("\n".join(f":env:.{_option(name)}={value!r}" for name, value in _pip_variables(environ)))


def parse_pip_settings(listing: str) -> dict[str, str]:
    """What `pip config list` prints, as a mapping. Of the sections that concern `pip install` the later one wins."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        place, equals, value = line.partition("=")
        section, dot, option = place.rpartition(".")
        if not equals or not dot or section not in sections:
            continue
        try:
            sections[section][option] = str(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            sections[section][option] = value
    return {**sections["global"], **sections["install"], **sections[":env:"]}


def _pips(environ: Mapping[str, str]) -> list[list[str]]:
    """The commands that may be pip: of the daemon's own environment first, then of the Python it was made from."""
    pythons = dict.fromkeys((sys.executable, getattr(sys, "_base_executable", sys.executable)))
    found = [[python, "-m", "pip"] for python in pythons if python]
    for name in ("pip3", "pip"):
        if path := shutil.which(name, path=environ.get("PATH")):
            found.append([path])
    return found


def _pip_variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in environ.items() if name.startswith("PIP_") and name != "PIP_CONFIG_FILE"]


def _option(variable: str) -> str:
    return variable.removeprefix("PIP_").lower().replace("_", "-")


def _translated(pip: Mapping[str, str], environ: Mapping[str, str], own: Mapping[str, Any]) -> dict[str, str]:
    """pip's settings as uv's variables, without those about which uv was told something itself."""
    found: dict[str, str] = {}
    told_index = any(f"UV_{name}" in environ for name in ("DEFAULT_INDEX", "INDEX_URL", "INDEX", "EXTRA_INDEX_URL"))
    if not told_index and not any(key in own for key in _INDEX_KEYS):
        found.update(_indexes(pip.get("index-url", "").strip(), pip.get("extra-index-url", "").split()))
    if "find-links" not in own:
        # pip passes over a folder that is not there, uv ends there
        links = [link for link in pip.get("find-links", "").split() if ":" in link or Path(link).expanduser().exists()]
        if links:
            found["UV_FIND_LINKS"] = ",".join(
                str(Path(link).expanduser()) if ":" not in link else link for link in links
            )
    if "allow-insecure-host" not in own and (hosts := pip.get("trusted-host", "").split()):
        found["UV_INSECURE_HOST"] = " ".join(hosts)
    if (
        pip.get("no-index", "").strip().lower() in ("1", "true", "yes", "on")
        and "no-index" not in own
        and not told_index
    ):
        found["UV_NO_INDEX"] = "1"
    for timeout in (pip.get("timeout"), pip.get("default-timeout")):
        if timeout and "http-timeout" not in own:
            found["UV_HTTP_TIMEOUT"] = timeout.strip()
            break
    found.update(_connection(pip, environ, own))
    return found


def _indexes(main: str, extra: Sequence[str]) -> dict[str, str]:
    """pip's indexes for uv. pip looks at every index for every wheel of a release; uv takes all wheels of a release
    from one index, and the additional ones come first there. A partial mirror among them (seen: one that has only the
    wheel without the shared library) would hide the right wheel. So the main index is made the first one."""
    if not extra:
        return {"UV_DEFAULT_INDEX": main} if main else {}
    *first, last = [main or PYPI, *extra]
    return {"UV_INDEX": " ".join(first), "UV_DEFAULT_INDEX": last, "UV_INDEX_STRATEGY": "unsafe-first-match"}


def _connection(pip: Mapping[str, str], environ: Mapping[str, str], own: Mapping[str, Any]) -> dict[str, str]:
    """How to reach the indexes: certificates and a proxy."""
    found: dict[str, str] = {}
    told = {"SSL_CERT_FILE", "SSL_CERT_DIR", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS"} & set(environ)
    if not told and not {"system-certs", "native-tls"} & set(own):
        if cert := pip.get("cert", "").strip():
            found["SSL_CERT_DIR" if Path(cert).is_dir() else "SSL_CERT_FILE"] = cert
        elif any(Path(bundle).exists() for bundle in _CA_BUNDLES):
            # pip (from 24.2 on) trusts what the system trusts: a company's own authority is there
            found["UV_SYSTEM_CERTS"] = "1"
    if client := pip.get("client-cert", "").strip():
        found["SSL_CLIENT_CERT"] = client
    proxies = {"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"}
    if (proxy := pip.get("proxy", "").strip()) and not proxies & set(environ):
        found["HTTPS_PROXY"] = found["HTTP_PROXY"] = proxy
    return found


def _uv_toml(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the user's and the system's uv.toml set, [pip] included, by key; a broken one is uv's own to complain
    about."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
    files = ["/etc/xdg/uv/uv.toml", "/etc/uv/uv.toml", os.path.join(home, "uv", "uv.toml")]
    if named := environ.get("UV_CONFIG_FILE"):
        files = [named]
    elif environ.get("UV_NO_CONFIG"):
        files = []
    found: dict[str, Any] = {}
    for file in files:
        try:
            said = tomllib.loads(Path(file).read_text())
        except (OSError, ValueError):
            continue
        found |= said | (said["pip"] if isinstance(said.get("pip"), dict) else {})
    return found


def _cache_is_writable(environ: Mapping[str, str]) -> bool:
    """Whether uv's own cache folder can be used: it, or the nearest folder above it that is there, can be written."""
    base = environ.get("XDG_CACHE_HOME") or (os.path.join(environ["HOME"], ".cache") if environ.get("HOME") else "")
    if not base:
        return False
    folder = Path(base) / "uv"
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def install_command(
    python: Path, requirements: Path, environ: Mapping[str, str], more: Sequence[str] = ()
) -> list[str]:
    """`uv pip install` of a lock file, nothing but what it lists, nothing without one of its hashes."""
    command = [binary(), "pip", "install", "--python", str(python), "--no-deps", "--require-hashes"]
    if environ.get("UV_NO_INDEX"):
        command.append("--no-index")  # uv has no variable for it
    return [*command, *more, "-r", str(requirements)]
