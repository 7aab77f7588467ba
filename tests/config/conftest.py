"""Configurations in a folder of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from llm_supervisor.config import Config, ConfigError, Problem, load

# A native LiteLLM file as LiteLLM documents it
NATIVE = """\
model_list:
  - model_name: claude
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      api_key: os.environ/ANTHROPIC_API_KEY
  - model_name: "openai/*"
    litellm_params:
      model: "openai/*"
router_settings:
  num_retries: 2
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""

# The example of DESIGN, and what else there is
GOOD = """\
gateway:
  host: 127.0.0.1
  port: 4000
  replicas: 1
  litellm_config: native.yaml
  hold: auto
env_file: keys.env
ready_when: gateway
engines:
  vllm: {python: python}
models:
  glm-4.1v:
    model: THUDM/GLM-4.1V-9B-Thinking
    source: huggingface
    served_model_name: GLM-4.1V-9B-Thinking
    gpus: [0]
    port: 8000
    vision: true
    vllm:
      max-model-len: 25000
      limit-mm-per-prompt: {image: 32, video: 1}
    litellm: {rpm: 60, tpm: 80000}
    health: {period: 10s, timeout: 10s, failure_threshold: 3, startup_budget: 30m, startup_stall: 10m,
             stall_grace: 120s, canary: true, canary_interval: 300s, expect: null}
    restart: {policy: always, backoff: 5s, backoff_factor: 2, backoff_cap: 5m, intensity: 5, window: 1h}
    stop: {signal: TERM, grace: 30s}
    warm: auto
    env: {VLLM_LOGGING_LEVEL: DEBUG}
  tiny:
    model: ./tiny
    port: 8001
    autostart: false
programs:
  redis:
    command: [redis-server, --port, "6379"]
    ready: {tcp: "127.0.0.1:6379"}
  web:
    command: [serve, 1, true]
    cwd: tiny
    ready: {http: "http://localhost:8080/health"}
    env: {DEBUG: 1}
logs: {max_bytes: 10MB, backups: 3}
"""


@dataclass
class Place:
    """A folder with a configuration, a model and what else it names."""

    folder: Path

    def write(self, text: str, name: str = "supervisor.yaml", mode: int = 0o644) -> Path:
        """Write one file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def load(self, text: str, environ: Mapping[str, str] | None = None) -> Config:
        """The configuration; raises ConfigError."""
        return load(self.write(text, mode=0o600), environ or {})

    def problems(self, text: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
        """What is wrong with it, warnings included."""
        try:
            return list(self.load(text, environ).warnings)
        except ConfigError as error:
            return error.problems


Said = tuple[int, str, str, str]  # line, path, a part of the message, a part of the advice


def assert_said(place: Place, problems: list[Problem], file: str, expected: list[Said]) -> None:
    """These problems, no other, all of them in ``file`` (empty: wherever)."""
    assert [(problem.line, problem.path) for problem in problems] == [said[:2] for said in expected], problems
    for problem, (_, _, message, advice) in zip(problems, expected, strict=True):
        assert message.replace("{tmp}", str(place.folder)) in problem.message
        assert advice in problem.advice
        for noise in ("\n", "Input should", "instance of"):
            assert noise not in str(problem)
    if file:
        assert {problem.file for problem in problems} <= {str(place.folder / file)}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    here = Place(tmp_path)
    here.write("{}", "tiny/config.json")
    (tmp_path / "bare").mkdir()
    here.write(NATIVE, "native.yaml")
    here.write("ANTHROPIC_API_KEY=sk-ant-1\n", "keys.env", 0o600)
    here.write("#!/bin/sh\n", "python", 0o755)
    return here
