"""The command line that is made of ``vllm:`` against the installed vLLM's own parser."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor import paths
from llm_supervisor.config import ConfigError, load
from llm_supervisor.engines.vllm import installed_options
from llm_supervisor.engines.vllm import options as engine_options
from llm_supervisor.engines.vllm.installed_options import Options
from tests.config.test_wrong_by_people import OPTIONS
from tests.engines.conftest import ALIAS, Engines, config
from tests.support.harness import Daemon

# What is written, and what vLLM makes of it, by its own names
ROWS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"allowed-origins": ["*"]}, {"allowed_origins": ["*"]}),
    ({"allowed_methods": ["GET", "POST"]}, {"allowed_methods": ["GET", "POST"]}),
    ({"custom-histogram-buckets": {"a": [0.5, 1]}}, {"custom_histogram_buckets": {"a": [0.5, 1]}}),
    ({"limit-mm-per-prompt": {"image": 2}}, {"limit_mm_per_prompt": {"image": 2}}),
    ({"limit-mm-per-prompt": "image=2, video=1"}, {"limit_mm_per_prompt": {"image": 2, "video": 1}}),
    ({"limit-mm-per-prompt.image": 2}, {"limit_mm_per_prompt": {"image": 2}}),
    ({"override-generation-config.temperature": 0.5}, {"override_generation_config": {"temperature": 0.5}}),
    ({"hf_overrides": {"a": {"b": False}}}, {"hf_overrides": {"a": {"b": False}}}),
    ({"hf-overrides.some_key.b": False}, {"hf_overrides": {"some_key": {"b": False}}}),
    ({"structured-outputs-config.backend": "xgrammar"}, {"structured_outputs_config": {"backend": "xgrammar"}}),
    ({"middleware": ["a.b", "c.d"]}, {"middleware": ["a.b", "c.d"]}),
    ({"middleware": "a.b"}, {"middleware": ["a.b"]}),
    ({"middleware": []}, {}),
    ({"cudagraph-capture-sizes": [1, 2]}, {"cudagraph_capture_sizes": [1, 2]}),
    ({"cudagraph-capture-sizes": 4}, {"cudagraph_capture_sizes": [4]}),
    ({"allowed-media-domains": ["a.example", "b.example"]}, {"allowed_media_domains": ["a.example", "b.example"]}),
    ({"lora-modules": [{"name": "a", "path": "b"}]}, {"lora_modules": [{"name": "a", "path": "b"}]}),
    ({"lora-modules": ["a=b", "c=d"]}, {"lora_modules": [{"name": "a", "path": "b"}, {"name": "c", "path": "d"}]}),
    ({"device-ids": [0, 1]}, {"device_ids": [0, 1]}),
    ({"watermark": -0.5}, {"watermark": -0.5}),
    ({"max-model-len": -1}, {"max_model_len": -1}),
    ({"enforce_eager": True, "trust-remote-code": False}, {"enforce_eager": True}),
    ({"no-enforce-eager": True}, {}),
    ({"moe-backend": "FlashInfer-TRTLLM"}, {"moe_backend": "flashinfer_trtllm"}),
]  # fmt: skip
# Of a configuration object only that
COMPILATION: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"compilation-config.cudagraph_mode": "NONE"}, {"cudagraph_mode": "NONE"}),
    ({"compilation_config.cudagraph_capture_sizes": [1, 2]}, {"cudagraph_capture_sizes": [1, 2]}),
    ({"compilation-config.splitting_ops+": ["a", "b"]}, {"splitting_ops": ["a", "b"]}),
    ({"compilation-config": {"cudagraph_capture_sizes": [1, 2]}}, {"cudagraph_capture_sizes": [1, 2]}),
    ({"compilation-config.pass_config.fuse_norm_quant": False}, {"pass_config": {"fuse_norm_quant": False}}),
]
# What vLLM refuses, or takes in part for something else
REFUSED: list[dict[str, Any]] = [
    {"tokenizer": ["a", "b"]},
    {"tokenizer": {"a": "b"}},
    {"dtype": {"a": 1}},
    {"dtype": "bf16"},
    {"cudagraph-capture-sizes": [1, "x"]},
    {"cudagraph-capture-sizes": "x"},
    {"cudagraph-capture-sizes": []},
    {"compilation-config": "x"},
    {"compilation-config": 3},
    {"compilation-config": [1]},
    {"pooler-config": "x"},
    {"allowed-media-domains": []},
    {"allowed-origins": "*"},
    {"max-model-len": ""},
    {"max-num-seqs": "None"},
    {"gpu-memory-utilization": ""},
    {"no-enforce-eager": False},
    {"collect-detailed-traces": ["model", "workers"]},
]


def ask(engines: Engines, lines: list[list[str]]) -> list[dict[str, Any]]:
    """vLLM's answers."""
    script = Path(__file__).parent / "parse.py"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VLLM_"))}
    done = subprocess.run(
        [str(engines.vllm), str(script)],
        input=json.dumps(lines).encode(),
        capture_output=True,
        env=environ,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr.decode()
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def there(engines: Engines) -> Options:
    """What its parser says of itself."""
    found = installed_options.learn(str(engines.vllm), paths.data_dir(os.environ))
    assert found is not None
    return found


def test_what_the_parser_understands(engines: Engines, there: Options) -> None:
    """The same whether its options are known or not."""
    rows = [*ROWS, *((given, {"compilation_config": want}) for given, want in COMPILATION)]
    lists = {name: one.lists for name, one in there.items()}
    lines = [engine_options.flags(given, known) for known in (None, lists) for given, _ in rows]
    usual, *answers = ask(engines, [[], *lines])
    for (given, want), answer in zip(rows * 2, answers, strict=True):
        assert "error" not in answer, (given, answer)
        said = {name: value for name, value in answer["said"].items() if usual["said"].get(name) != value}
        if "compilation_config" in want:
            assert _within(want, said), given
        else:
            assert said == want, given
        assert "model_tag" not in said, "no word became the model"


def _within(want: Any, said: Any) -> bool:
    if isinstance(want, dict) and isinstance(said, dict):
        return all(name in said and _within(value, said[name]) for name, value in want.items())
    return bool(want == said)


def said_of(folder: Path, there: Options, given: dict[str, Any]) -> list[str]:
    """What ``check`` says of such options."""
    file = folder / "supervisor.yaml"
    model = {"model": "org/a", "port": 8111, "vllm": given}
    file.write_text(json.dumps({"gateway": {"port": 4777}, "models": {"a": model}}))
    try:
        problems = load(file, {}, lambda python: there).warnings
    except ConfigError as error:
        problems = tuple(error.problems)
    return [str(problem) for problem in problems if not problem.warning]


def test_check_refuses_what_the_parser_refuses(engines: Engines, there: Options, tmp_path: Path) -> None:
    for given, _ in [*ROWS, *COMPILATION]:
        assert said_of(tmp_path, there, given) == [], given
    for given in REFUSED:
        assert said_of(tmp_path, there, given) != [], given
    # the argv of today is of no help where it is a list that one value is made of
    lines = [engine_options.flags(given) for given in REFUSED if "tokenizer" not in given]
    assert [line for line, answer in zip(lines, ask(engines, lines), strict=True) if "error" not in answer] == []


def test_the_installed_vllm_tells_its_options(engines: Engines, tmp_path: Path) -> None:
    """So that a wrong one is found before anything runs; whatever else there is, those of the guides are."""
    known = installed_options.learn(str(engines.vllm), tmp_path)
    assert known is not None
    assert len(known) > 150
    guides = """max-model-len limit-mm-per-prompt trust-remote-code enforce-eager dtype gpu-memory-utilization
        reasoning-parser allowed-local-media-path tensor-parallel-size tool-call-parser enable-auto-tool-choice
        hf-overrides chat-template"""
    assert set(guides.split()) <= known.keys()
    assert known["enforce-eager"].takes == "flag"
    assert known["enforce-eager"].negatable
    assert "bfloat16" in (known["dtype"].choices or ())
    assert {name: known[name] for name in OPTIONS} == OPTIONS, "what the tests without an engine take for them"
    settings = config(engines)
    settings["models"][ALIAS]["vllm"]["max-model-length"] = 5
    place = Daemon(tmp_path, settings)
    done = place.cli("check")
    assert done.returncode == 2
    assert "max-model-length: is no option of the installed vLLM (did you mean max-model-len?)" in done.stderr
