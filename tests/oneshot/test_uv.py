"""What uv is told about the host: pip's settings in uv's words, unless uv was told something itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_supervisor.oneshot import uv

from .conftest import bare_host, configure_pip

MIRROR, EXTRA, THIRD = "https://mirror.example/simple", "https://extra.example/simple", "https://third.example/simple"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The settings that pip is made to report; change the mapping."""
    bare_host(monkeypatch, tmp_path)
    settings: dict[str, str] = {}
    monkeypatch.setattr(uv, "pip_settings", lambda environ: settings)
    monkeypatch.setattr(uv, "_CA_BUNDLES", ())
    return settings


def told(tmp_path: Path) -> dict[str, str]:
    """What uv is told that the environment does not say, the constant part aside."""
    made = uv.environment(os.environ, tmp_path / "data")
    always = {"UV_PYTHON_DOWNLOADS", "UV_NO_PROGRESS"}
    return {name: value for name, value in made.items() if os.environ.get(name) != value and name not in always}


SETTINGS = {
    "nothing": ({}, {}),
    "a mirror": ({"index-url": MIRROR}, {"UV_DEFAULT_INDEX": MIRROR}),
    # the main index first: uv takes all wheels of a release from one index
    "an additional index": (
        {"extra-index-url": EXTRA},
        {"UV_INDEX": "https://pypi.org/simple", "UV_DEFAULT_INDEX": EXTRA, "UV_INDEX_STRATEGY": "unsafe-first-match"},
    ),
    "a mirror and two more, a line each": (
        {"index-url": MIRROR, "extra-index-url": f"\n{EXTRA}\n{THIRD}"},
        {"UV_INDEX": f"{MIRROR} {EXTRA}", "UV_DEFAULT_INDEX": THIRD, "UV_INDEX_STRATEGY": "unsafe-first-match"},
    ),
    "a folder that is there, one that is not, and an address": (
        {"find-links": "/usr /no/such/folder https://wheels.example/torch"},
        {"UV_FIND_LINKS": "/usr,https://wheels.example/torch"},
    ),
    "only folders that are not there": ({"find-links": "/no/such/folder"}, {}),
    "hosts to trust": ({"trusted-host": "a.example b.example:8443"}, {"UV_INSECURE_HOST": "a.example b.example:8443"}),
    "a certificate": ({"cert": "/etc/hostname"}, {"SSL_CERT_FILE": "/etc/hostname"}),
    "a folder of certificates": ({"cert": "/etc"}, {"SSL_CERT_DIR": "/etc"}),
    "a certificate of our own": ({"client-cert": "/etc/me.pem"}, {"SSL_CLIENT_CERT": "/etc/me.pem"}),
    "a proxy": ({"proxy": "http://p:3128"}, {"HTTP_PROXY": "http://p:3128", "HTTPS_PROXY": "http://p:3128"}),
    "no index": ({"no-index": "true"}, {"UV_NO_INDEX": "1"}),
    "an index after all": ({"no-index": "false"}, {}),
    "patience": ({"timeout": "90"}, {"UV_HTTP_TIMEOUT": "90"}),
    "patience by its long name": ({"default-timeout": "180"}, {"UV_HTTP_TIMEOUT": "180"}),
    "what does not concern a lock file": ({"constraint": "/c.txt", "user": "true", "require-virtualenv": "1"}, {}),
}


@pytest.mark.parametrize(("settings", "expected"), SETTINGS.values(), ids=SETTINGS)
def test_a_setting_of_pips_in_uvs_words(
    settings: dict[str, str], expected: dict[str, str], pip: dict[str, str], tmp_path: Path
) -> None:
    pip.update(settings)
    assert told(tmp_path) == expected


ALL = {
    "index-url": MIRROR,
    "extra-index-url": EXTRA,
    "find-links": "/usr",
    "trusted-host": "a.example",
    "cert": "/etc/hostname",
    "proxy": "http://p:3128",
    "no-index": "yes",
    "timeout": "90",
}


@pytest.mark.parametrize(
    ("variable", "not_told"),
    [
        ("UV_DEFAULT_INDEX", ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_NO_INDEX")),
        ("UV_INDEX_URL", ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_NO_INDEX")),
        ("UV_INDEX", ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_NO_INDEX")),
        ("UV_EXTRA_INDEX_URL", ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_NO_INDEX")),
        ("UV_FIND_LINKS", ("UV_FIND_LINKS",)),
        ("UV_INSECURE_HOST", ("UV_INSECURE_HOST",)),
        ("SSL_CERT_FILE", ("SSL_CERT_FILE",)),
        ("UV_SYSTEM_CERTS", ("SSL_CERT_FILE", "UV_SYSTEM_CERTS")),
        ("https_proxy", ("HTTPS_PROXY", "HTTP_PROXY")),
        ("UV_HTTP_TIMEOUT", ("UV_HTTP_TIMEOUT",)),
    ],
)
def test_a_variable_wins_over_pips_setting(
    variable: str, not_told: tuple[str, ...], pip: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip.update(ALL)
    assert set(not_told) - {"UV_SYSTEM_CERTS"} <= set(told(tmp_path))
    monkeypatch.setenv(variable, "said by the user")
    assert not set(not_told) & set(told(tmp_path))
    assert uv.environment(os.environ, tmp_path)[variable] == "said by the user"


@pytest.mark.parametrize(
    ("written", "not_told"),
    [
        (f'index-url = "{MIRROR}"', ("UV_DEFAULT_INDEX", "UV_INDEX")),
        (f'[[index]]\nurl = "{MIRROR}"\ndefault = true', ("UV_DEFAULT_INDEX", "UV_INDEX")),
        (f'[pip]\nextra-index-url = ["{EXTRA}"]', ("UV_DEFAULT_INDEX", "UV_INDEX")),
        ('find-links = ["/opt"]', ("UV_FIND_LINKS",)),
        ('allow-insecure-host = ["b.example"]', ("UV_INSECURE_HOST",)),
        ("[pip]\nno-index = false", ("UV_NO_INDEX",)),
        ("native-tls = true", ("SSL_CERT_FILE",)),
    ],
)
@pytest.mark.parametrize("named", [False, True], ids=["the user's", "UV_CONFIG_FILE"])
def test_a_uv_toml_wins_over_pips_setting(
    written: str,
    not_told: tuple[str, ...],
    named: bool,
    pip: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pip.update(ALL)
    file = tmp_path / ("named.toml" if named else "home/.config/uv/uv.toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(written)
    if named:
        monkeypatch.setenv("UV_CONFIG_FILE", str(file))
    assert not set(not_told) & set(told(tmp_path))


def test_what_the_system_trusts_is_trusted(
    pip: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uv, "_CA_BUNDLES", ("/etc/hostname",))
    assert told(tmp_path) == {"UV_SYSTEM_CERTS": "1"}
    pip["cert"] = "/etc/hostname"
    assert told(tmp_path) == {"SSL_CERT_FILE": "/etc/hostname"}


def test_a_cache_that_cannot_be_written_is_kept_with_the_data(
    pip: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"UV_CACHE_DIR": str(tmp_path / "data" / "cache" / "uv")}
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert told(tmp_path) == own
    monkeypatch.setenv("UV_CACHE_DIR", "/elsewhere")
    assert told(tmp_path) == {}


# pip itself


def test_pip_tells_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare_host(monkeypatch, tmp_path)
    configure_pip(monkeypatch, tmp_path, f"index-url = {MIRROR}", "[install]", "find-links =", "    /a", "    /b")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "a.example")
    found = uv.pip_settings(os.environ)
    assert (found["index-url"], found["find-links"].split()) == (MIRROR, ["/a", "/b"])
    assert found["trusted-host"] == "a.example"
    monkeypatch.setenv("PIP_INDEX_URL", EXTRA)  # a variable wins over a file
    assert uv.pip_settings(os.environ)["index-url"] == EXTRA


def test_without_pip_its_variables_still_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare_host(monkeypatch, tmp_path)
    monkeypatch.setattr(uv, "_pips", lambda environ: [["/no/such/pip"], [sys.executable, "-c", "raise SystemExit(3)"]])
    monkeypatch.setenv("PIP_INDEX_URL", MIRROR)
    monkeypatch.setenv("PIP_FIND_LINKS", "/a /b")
    assert uv.pip_settings(os.environ) == {"index-url": MIRROR, "find-links": "/a /b"}


def test_the_sections_that_concern_an_install_are_read_in_pips_order() -> None:
    listing = f"""\
:env:.find-links='/env'
download.index-url='https://not.for.us'
global.find-links='/global'
global.index-url='{MIRROR}'
install.index-url='{EXTRA}'
nonsense
"""
    assert uv.parse_pip_settings(listing) == {"find-links": "/env", "index-url": EXTRA}


def test_uv_is_there_and_answers() -> None:
    done = subprocess.run([uv.binary(), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("uv ")
