"""What ``check`` says when it has the installed vLLM judge the options: one run for all of these.

The first rows of each kind are what people wrote, the others come from vLLM's own sources. `RIGHT` are command lines
of vLLM's documentation and recipes, in our words, which must pass.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_supervisor import paths
from llm_supervisor.config import ConfigError, Problem, load
from llm_supervisor.engines.vllm import installed_options, judgement
from tests.engines.conftest import Engines

# What is written under a model, and the place, a part of the message and of the advice that is said of it
WRONG: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "nested: three at once": (
        """
        compilation-config: {level: 3}
        kv-transfer-config: {kv_connector: X, kv_roles: kv_both}
        structured-outputs-config: {backend: outline}
        """,
        [
            ("compilation-config.level", "is no key of compilation-config", "write mode: 3"),
            ("kv-transfer-config.kv_roles", "is no key of kv-transfer-config", "did you mean kv_role?"),
            ("structured-outputs-config.backend", "Input should be 'auto'", "did you mean outlines?"),
        ],
    ),
    "nested: with dots": (
        "structured-outputs-config.backend: outline",
        [("structured-outputs-config.backend", "Input should be", "did you mean outlines?")],
    ),
    "nested: as JSON": (
        """kv-events-config: '{"enable_kv_cache_event": true}'""",
        [("kv-events-config", "enable_kv_cache_event is no key", "did you mean enable_kv_cache_events?")],
    ),
    "nested: a value of another type": (
        "eplb-config: {window_size: many}",
        [("eplb-config.window_size", "Input should be a valid integer", "")],
    ),
    "nested: what becomes an object with the model": (
        "speculative-config: {method: ngramm, num_speculative_tokens: 3}",
        [("speculative-config.method", "Input should be 'ngram'", "did you mean ngram?")],
    ),
    "nested: a key of that": (
        "speculative-config: {method: ngram, ngram_prompt_lookup_max: 4}",
        [("speculative-config.ngram_prompt_lookup_max", "is no key", "write prompt_lookup_max: 4")],
    ),
    "nested: deeper": (
        "compilation-config: {pass_config: {fuse_norms: true}}",
        [("compilation-config.pass_config.fuse_norms", "fuse_norms is no key of compilation-config", "")],
    ),
    "template: relative to the file": (
        "chat-template: templates/tools.jinja",
        [("chat-template", "{here}/templates/tools.jinja", "")],
    ),
    "template: of another machine": (
        "chat_template: /etc/no-such-template.jinja",
        [("chat_template", "/etc/no-such-template.jinja) appears path-like, but doesn't exist", "")],
    ),
    "pair: tools without a parser": (
        "enable-auto-tool-choice: true",
        [("enable-auto-tool-choice", "requires --tool-call-parser", "")],
    ),
    "pair: outputs without requests": (
        "enable-log-outputs: true",
        [("enable-log-outputs", "requires --enable-log-requests", "")],
    ),
    "pair: measured requests without statistics": (
        "enable-per-request-metrics: true\ndisable-log-stats: true",
        [("enable-per-request-metrics", "remove --disable-log-stats", "disable-log-stats")],
    ),
    "a number that is refused": (
        "sse-keep-alive-interval: -1",
        [("sse-keep-alive-interval", "must be a non-negative integer", "")],
    ),
    "parser: of tools": (
        "enable-auto-tool-choice: true\ntool-call-parser: hermess",
        [("tool-call-parser", "is no tool-call-parser of this vLLM", "did you mean hermes?")],
    ),
    "parser: of reasoning": (
        "reasoning-parser: glm-45",
        [("reasoning-parser", "is no reasoning-parser of this vLLM", "did you mean glm45?")],
    ),
    "a port of the other frontend": ("grpc-port: 50051", [("grpc-port", "requires VLLM_USE_RUST_FRONTEND=1", "")]),
}
# The same of a model whose files are here
WITH_MODEL: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "longer than the model": ("max-model-len: 999999", [("max-model-len", "greater than the derived", "")]),
    "parts that do not divide": (
        "tensor-parallel-size: 3",
        [("tensor-parallel-size", "must be divisible by tensor parallel size", "")],
    ),
    "a budget below a request": (
        "max-model-len: 4096\nmax-num-batched-tokens: 16\nenable-chunked-prefill: false",
        [("max-num-batched-tokens", "is smaller than max_model_len", "enable-chunked-prefill")],
    ),
    "a connector that is not there": (
        "kv-transfer-config: {kv_connector: X, kv_role: kv_both}",
        [("kv-transfer-config", "Unsupported connector type: X", "")],
    ),
    "a quantisation that the model does not have": ("quantization: awq", [("quantization", "awq", "")]),
}
# From vLLM's documentation and recipes, and what people wrote
RIGHT = {
    "many": """
        limit-mm-per-prompt: '{"image": 6, "video": 2}'
        reasoning-parser: qwen3
        enable-prompt-tokens-details: true
        max_log_len: 128
        mm-encoder-tp-mode: data
        mm-processor-cache-type: shm
        default-chat-template-kwargs: '{"enable_thinking": false}'
        """,
    "tools": "enable-auto-tool-choice: true\ntool-call-parser: hermes\nchat-template: template_chatml.jinja",
    "tools of Llama": "enable-auto-tool-choice: true\ntool-call-parser: llama3_json",
    "tools of Mistral": """
        tokenizer-mode: mistral
        config-format: mistral
        load-format: mistral
        enable-auto-tool-choice: true
        tool-call-parser: mistral
        """,
    "a template as text": 'chat-template: "{% for m in messages %}{{ m.content }}{% endfor %}"',
    "a template beside the file": "chat-template: own/template.jinja",
    "long contexts": """
        max-model-len: 131072
        hf-overrides: {rope_parameters: {rope_type: yarn, factor: 4.0, original_max_position_embeddings: 32768}}
        """,
    "free mappings": """
        hf-overrides: {anything: {at: all}}
        additional-config: {of: a plugin}
        mm-processor-kwargs: {max_pixels: 1003520}
        override-generation-config: {temperature: 0.6, top_p: 0.95}
        media-io-kwargs: {video: {num_frames: 32}}
        """,
    "speculation by n-grams": (
        "speculative-config: {method: ngram, num_speculative_tokens: 5, prompt_lookup_max: 4, prompt_lookup_min: 2}"
    ),
    "speculation by a head": (
        "speculative-config: {method: eagle3, model: yuhuili/EAGLE3-LLaMA3.1-Instruct-8B, num_speculative_tokens: 3}"
    ),
    "speculation by the model": "speculative-config: {method: mtp, num_speculative_tokens: 1}",
    "disaggregated prefill": "kv-transfer-config: {kv_connector: NixlConnector, kv_role: kv_both}",
    "events of the cache": """
        kv-events-config: {enable_kv_cache_events: true, publisher: zmq, endpoint: "tcp://*:5557", topic: kv-events}
        """,
    "expert parallelism": """
        tensor-parallel-size: 8
        enable-expert-parallel: true
        enable-eplb: true
        eplb-config: {window_size: 1000, step_interval: 3000, num_redundant_experts: 2}
        """,
    "data parallelism": "data-parallel-size: 4\ntensor-parallel-size: 2\napi-server-count: 4",
    "data parallelism over machines": """
        data-parallel-size: 4
        data-parallel-size-local: 2
        data-parallel-address: 10.99.48.128
        data-parallel-rpc-port: 13345
        """,
    "graphs": """
        compilation-config: {mode: 3, cudagraph_mode: FULL_AND_PIECEWISE, cudagraph_capture_sizes: [1, 2, 4, 8]}
        """,
    "graphs with dots": "compilation-config.cudagraph_mode: PIECEWISE\ncompilation-config.custom_ops+: [+rms_norm]",
    "structured outputs": "structured-outputs-config: {backend: xgrammar, disable_any_whitespace: true}",
    "embeddings": "runner: pooling\nconvert: embed\npooler-config: {pooling_type: MEAN, use_activation: true}",
    "adapters": """
        enable-lora: true
        max-loras: 4
        max-lora-rank: 64
        lora-modules: [sql=org/sql-adapter, {name: chat, path: org/chat-adapter, base_model_name: org/base}]
        """,
    "memory": """
        gpu-memory-utilization: 0.85
        kv-cache-dtype: fp8
        cpu-offload-gb: 4
        max-num-seqs: 128
        enable-prefix-caching: true
        block-size: 32
        """,
    "numbers in short": "max-model-len: 128k\nmax-num-batched-tokens: 8K",
    "attention": "attention-config: {backend: FLASH_ATTN}",
    "profiling": "profiler-config: {profiler: torch, torch_profiler_dir: traces}",
    "access": """
        api-key: [one-of-two, another]
        allowed-origins: ["*"]
        allowed-media-domains: [upload.example.org]
        disable-access-log-for-endpoints: /health,/metrics
        """,
}
# Never warned of: that the model is not in the cache
_PORT = 8111


def written(folder: Path, models: dict[str, dict[str, Any]]) -> Path:
    file = folder / "supervisor.yaml"
    file.write_text(yaml.safe_dump({"gateway": {"port": 4777}, "models": models}, sort_keys=False))
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def said(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Problem]]:
    """What is said of each row, by its name."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "own").mkdir()
    (folder / "own/template.jinja").write_text("{{ messages }}")
    rows = {**{name: row for name, (row, _) in (WRONG | WITH_MODEL).items()}, **RIGHT}
    models = {
        f"m{number}": {
            "model": str(engines.model) if name in WITH_MODEL else "org/name",
            "port": _PORT + number,
            "vllm": yaml.safe_load(row),
        }
        for number, (name, row) in enumerate(rows.items())
    }
    data, python = paths.data_dir(os.environ), str(engines.vllm)
    options = installed_options.learn(python, data)
    try:
        config = load(
            written(folder, models),
            {},
            lambda _: options,
            judge_of=lambda _, questions: judgement.judge(python, folder / "kept", questions),
        )
        problems = list(config.warnings)
    except ConfigError as error:
        problems = error.problems
    assert (folder / "kept").is_dir()
    found: dict[str, list[Problem]] = {name: [] for name in rows}
    for problem in problems:
        number = int(problem.path.split(".")[1].removeprefix("m"))
        found[list(rows)[number]].append(problem)
    return found


@pytest.mark.parametrize("name", [*WRONG, *WITH_MODEL])
def test_what_vllm_refuses_is_said_with_its_place(said: dict[str, list[Problem]], name: str) -> None:
    _, expected = (WRONG | WITH_MODEL)[name]
    problems = said[name]
    assert [problem.path.partition(".vllm.")[2] for problem in problems] == [place for place, _, _ in expected]
    for problem, (_, message, advice) in zip(problems, expected, strict=True):
        assert message.replace("{here}", str(Path(problem.file).parent)) in problem.message
        assert advice in problem.advice
        assert problem.line > 0
        assert not problem.warning
        assert "errors.pydantic.dev" not in problem.message


@pytest.mark.parametrize("name", RIGHT)
def test_what_vllm_takes_is_no_problem(said: dict[str, list[Problem]], name: str) -> None:
    assert [str(problem) for problem in said[name]] == []


def test_a_second_check_asks_nobody(engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = str(engines.vllm)
    wrong = judgement.Question("org/a", None, (("dtype", ("--dtype", "bf16")),), {})
    first = judgement.judge(python, tmp_path, [wrong])
    assert first is not None and first[0] is not None
    assert "bf16" in json.dumps([one.text for one in first[0]])
    monkeypatch.setattr(judgement, "_ask", None)
    assert judgement.judge(python, tmp_path, [wrong]) == first
