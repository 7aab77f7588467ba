"""What LiteLLM itself says of its file, with the lines of the file; LiteLLM's Python is a stand-in that says it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.cli import main
from llm_supervisor.config import plan, rehearsed
from llm_supervisor.config.specs import Pythons
from llm_supervisor.engines.litellm import dry_run
from tests.config.conftest import Place

NATIVE = """\
model_list:
  - {model_name: cloud, litellm_params: {model: anthropic/c, api_key: os.environ/NOT_SET}}
  - {model_name: own, litellm_params: {model: nosuch/x, api_key: no-key}}
router_settings:
  routing_strategy: round-robin
"""
TEXT = """\
gateway: {litellm_config: native.yaml}
engines: {litellm: {python: bin/python}}
models:
  glm: {model: ./tiny, port: 8000}
"""
FINE: dict[str, Any] = {"providers": ["openai"], "refused": [], "said": []}


def answering(place: Place, answer: Any) -> Path:
    """A Python that gives this answer, whatever it is asked, and counts how often."""
    text = answer if isinstance(answer, str) else f"cat <<'EOF'\n{json.dumps(answer)}\nEOF"
    heard = f"echo asked >> {place.folder}/asked\ncat > {place.folder}/question"
    return place.write(f"#!/bin/sh\n{heard}\n{text}\n", "bin/python", 0o755)


def said(place: Place, answer: Any, environ: dict[str, str] | None = None) -> tuple[list[str], str]:
    python = answering(place, answer)
    place.write(NATIVE, "native.yaml", 0o600)
    config = place.load(TEXT, environ)
    made = plan(config, runtime=Path("/run/x"), pythons=Pythons("v", str(python), False), master_key="sk-key")
    problems, untried = rehearsed(config, made, str(python), place.folder / "data")
    return [str(one).replace(f"{place.folder}/", "") for one in problems], untried


def refused(text: str, where: list[object], kind: str = "ValueError") -> dict[str, Any]:
    return {**FINE, "refused": [{"type": kind, "text": text, "at": "litellm/x.py:1", "where": where}]}


WHERE = ["router_settings", "routing_strategy"]
ROWS = [
    (
        refused("Invalid 'round-robin'. Valid: ['simple-shuffle', 'round_robin']", list(WHERE)),
        "native.yaml:5: router_settings.routing_strategy: LiteLLM does not start with this: Invalid 'round-robin'. "
        "Valid: ['simple-shuffle', 'round_robin'] (did you mean round_robin?)",
    ),
    (
        refused("5", [], "KeyError"),
        "supervisor.yaml:1: gateway.litellm_config: LiteLLM does not start with this: KeyError: 5",
    ),
    # the local model comes first in the file that LiteLLM gets, and the deployment without a key is not in it
    (
        {**FINE, "said": [{"text": "it is left out", "where": ["model_list", 1, "litellm_params", "model"]}]},
        "native.yaml:3: model_list[1].litellm_params.model: LiteLLM says: it is left out",
    ),
    (
        {**FINE, "said": [{"text": "it is odd", "where": ["model_list", 0]}]},
        "supervisor.yaml:4: models.glm.litellm: LiteLLM says: it is odd",
    ),
]


@pytest.mark.parametrize(("answer", "line"), ROWS, ids=[row[1][:30] for row in ROWS])
def test_a_complaint_has_its_line(place: Place, answer: dict[str, Any], line: str) -> None:
    assert said(place, answer) == ([line], "")


def test_what_it_is_given(place: Place) -> None:
    assert said(place, FINE) == ([], "")
    question = json.loads((place.folder / "question").read_text())
    assert [one["model_name"] for one in question["config"]["model_list"]] == ["glm", "own"]
    assert question["modules"] == str(place.folder)


def test_an_answer_is_kept_until_something_changes(place: Place) -> None:
    def asked() -> int:
        return len((place.folder / "asked").read_text().splitlines())

    module = place.write("", "callbacks.py")
    answer = {**FINE, "files": [str(module)]}
    for _ in range(3):
        assert said(place, answer, {"A": "1"}) == ([], "")
    assert asked() == 1
    said(place, answer, {"A": "2"})
    assert asked() == 2, "another environment"
    module.write_text(f"# {time.monotonic_ns()}\n")
    os_touch(module)
    said(place, answer, {"A": "2"})
    assert asked() == 3, "another module"


def os_touch(file: Path) -> None:
    """Make it newer, whatever the clock of the file system is."""
    import os

    when = file.stat().st_mtime_ns + 1_000_000_000
    os.utime(file, ns=(when, when))


def test_a_licence_or_a_network_that_it_wants_is_told_as_untried(place: Place) -> None:
    assert said(place, {**FINE, "kept_from": ["use the network"]}) == ([], "loading it wants to use the network")
    assert said(place, "exit 1") == ([], "LiteLLM's Python gave no answer")
    assert said(place, "echo '[]'") == ([], "LiteLLM's Python gave no answer")


def test_it_may_take_too_long(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "PATIENCE", 0.2)
    assert said(place, "exec sleep 30") == ([], "it took longer than 0 s")


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (refused("Invalid 'round-robin'", list(WHERE)), 2, "does not start with this"),
        ("exit 1", None, "was not tried: LiteLLM's Python gave no answer"),
    ],
)
def test_check_asks_it(
    place: Place,
    answer: Any,
    status: int | None,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LLM_SUPERVISOR_HOME", str(place.folder / "home"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(place.folder / "run"))
    answering(place, answer)
    place.write("router_settings: {routing_strategy: round-robin}\n", "native.yaml", 0o600)
    file = place.write(TEXT.partition("models:")[0], mode=0o600)
    found = main.main(["check", "-c", str(file), "--json"])
    assert words in capsys.readouterr().out
    assert status is None or found == status


def test_providers_are_asked_once(place: Place) -> None:
    python, data = str(answering(place, FINE)), place.folder / "data"
    assert dry_run.known_providers(python, data) is None
    assert dry_run.learn_providers(python, data) == {"openai"}
    assert dry_run.known_providers(python, data) == {"openai"}
