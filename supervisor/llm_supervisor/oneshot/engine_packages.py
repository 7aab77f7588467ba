"""What is installed in an engine's environment, by its files alone: its version, and releases that are known to be
malicious or broken. No interpreter is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llm_supervisor.engines import known_releases, site_packages
from llm_supervisor.oneshot.finding import Finding, Verdict, fine

MALICIOUS = (
    "do not start it: remove that environment, and replace every key that this machine could read "
    "(providers' keys, cloud and SSH keys, tokens)"
)


def version(python: Path, distribution: str) -> str | None:
    """The version of a distribution beside that interpreter, which is not started; None where it is not found."""
    return known_releases.version_of(site_packages.distributions(site_packages.folders(python)), distribution)


def judge_version(engine: str, found: str | None, python: str) -> Finding:
    """An environment of the user's own against the versions that were tested. One between those is as good."""
    newest, *older = known_releases.TESTED[engine]
    tested = f"{newest} and {' and '.join(older)} are the tested versions"
    if found is None:
        detail = f"no {engine} is found beside {python}, or its version cannot be told"
        return Finding("engine", engine, Verdict.WARNING, detail, tested)
    detail = f"{found} in {python}; {tested}"
    if known_releases.meets(found, f">={older[-1]}") and known_releases.meets(newest, f">={found}"):
        return fine("engine", engine, detail)
    return Finding("engine", engine, Verdict.WARNING, detail, "its options and messages may differ")


def is_malicious(python: Path) -> bool:
    """Whether a release that is known to be malicious is installed beside that interpreter, which is not started."""
    return any(finding.verdict is Verdict.ERROR for finding in wrong_packages("", python))


def wrong_packages(engine: str, python: Path) -> Iterator[Finding]:
    """What is wrong with an environment, by its files alone: releases that are malicious or broken, and code that
    runs at each start of its interpreter although no installed package brought it."""
    places = site_packages.folders(python)
    installed = site_packages.distributions(places)
    for what, entry in known_releases.malicious(installed, lambda file: any((one / file).exists() for one in places)):
        detail = f"{what} beside {python} is malicious: {entry.does}, see {entry.source}"
        yield Finding("package", engine, Verdict.ERROR, detail, MALICIOUS)
    for what, pair in known_releases.broken(installed):
        detail = f"{what} beside {python}: {pair.symptom}, see {pair.source}"
        yield Finding("package", engine, Verdict.WARNING, detail, pair.advice)
    for file in site_packages.startup_files(places):
        detail = f"{file} runs at each start of {python}, and no installed package lists it"
        advice = "a .pth file is how the hijacked LiteLLM 1.82.8 ran: read it, and remove it if nobody here wrote it"
        yield Finding("package", engine, Verdict.WARNING, detail, advice)
