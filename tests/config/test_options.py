"""Options of vLLM against what its own parser knows."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from llm_supervisor.config import ConfigError, load
from llm_supervisor.config.checks import vllm_options
from llm_supervisor.engines.vllm import installed_options
from llm_supervisor.engines.vllm import options as engine_options
from llm_supervisor.engines.vllm.installed_options import Option, Options
from tests.config.conftest import Place

KNOWN: Options = {
    "max-model-len": Option("value", False, None),
    "enforce-eager": Option("flag", True, None),
    "old-flag": Option("flag", False, None),
    "dtype": Option("value", False, ("auto", "bfloat16", "half")),
    "limit-mm-per-prompt": Option("value", False, None, "json"),
    "compilation-config": Option("value", False, None),
    "middleware": Option("values", False, None),
    "allowed-local-media-path": Option("value", False, None),
    "shutdown-timeout": Option("value", False, None),
    "allowed-origins": Option("value", False, None, "json"),
    "additional-config": Option("value", False, None, "mapping or text"),
    "capture-sizes": Option("values", False, None, "int"),
    "device-ids": Option("value", False, None, "commas"),
    "log": Option("maybe", False, None, "text"),
    "log-len": Option("value", False, None, "int", optional=True),
    "modules": Option("values", False, None),
    "moe-backend": Option("value", False, ("auto", "flashinfer_trtllm"), "word"),
    "none-or-more": Option("any", False, None, "text"),
    "plugins": Option("each", False, None, "text"),
    "pooler-config": Option("value", False, None, "object", optional=True),
    "traces": Option("values", False, ("all", "model", "None"), "text", optional=True),
    "watermark": Option("value", False, None, "float"),
}


def said(place: Place, written: str, there: Options | None = KNOWN) -> list[str]:
    """What is said of one option."""
    file = place.write(
        f"gateway: {{}}\nmodels:\n  a:\n    model: org/a\n    port: 8000\n    vllm:\n      {written}\n", mode=0o600
    )
    try:
        problems = list(load(file, {}, lambda python: there).warnings)
    except ConfigError as error:
        problems = error.problems
    assert all((problem.file, problem.line) == (str(file), 7) for problem in problems)
    return [f"{problem.path.rpartition('.')[2]} {problem.message} ({problem.advice})" for problem in problems]


RIGHT = [
    "max-model-len: 1000",
    "max_model_len: 25k",
    "--max-model-len: 1",
    "enforce-eager: true",
    "enforce_eager: false",
    "no-enforce-eager: true",
    "old-flag: true",
    "max-model-len: null",
    "dtype: half",
    "limit-mm-per-prompt: {image: 32, video: 1}",
    "limit-mm-per-prompt: {image: 0, audio: {count: 2, length: 1000}, video: {num_frames: 4}, vision_chunk: 1}",
    "limit-mm-per-prompt: '{\"image\": 1}'",
    "limit-mm-per-prompt: {}",
    "limit-mm-per-prompt.image: 2",
    "limit-mm-per-prompt.image: '2'",
    "limit-mm-per-prompt.image.count: 2",
    "compilation-config: {level: 3}",
    "compilation-config.level: 3",
    "middleware: [a, b]",
    "api-key: secret",
    "allowed-local-media-path: /usr",
    "allowed-local-media-path: ''",
    "allowed-origins: ['*']",
    "allowed-origins: '[\"*\"]'",
    "additional-config: {a: 1}",
    "additional-config: some.module",
    "additional-config.some_key: 1",
    "capture-sizes: [1, -1, '2']",
    "capture-sizes: 4",
    "device-ids: [0, 1]",
    "device-ids: 0,1",
    "log: true",
    "log: a",
    "log-len: ''",
    "log-len: None",
    "modules: [{name: a, path: b}, c=d]",
    "modules: {name: a}",
    "moe-backend: FlashInfer-TRTLLM",
    "none-or-more: []",
    "plugins: [a, -b]",
    "plugins: []",
    "plugins: a",
    "pooler-config: {a: [1]}",
    "pooler-config: ''",
    "pooler-config: '{\"a\": 1k}'",
    "pooler-config.a: false",
    "traces: [model, all]",
    "traces: model",
    "watermark: -0.5",
    "no-enforce-eager: null",
]
WRONG = {
    "additional-config: [1]": "additional-config must be a mapping, not a list (write `key: value` lines)",
    "additional-config: '{a: 1}'": "additional-config is text that is no JSON (write a mapping)",
    "traces: [model, workers]": "traces[1] must be one of all, model, None, not 'workers' ()",
    "plugins: [[a]]": "plugins[0] takes a single value, not a list (write a)",
    "moe-backend: trtllm": "moe-backend must be one of auto, flashinfer_trtllm, not 'trtllm' ()",
    "none-or-more.x: 1": "x none-or-more has no keys (write none-or-more)",
    "pooler-config: none": "pooler-config must be a mapping, not 'none' (write `key: value` lines)",
    "no-enforce-eager: 1": "no-enforce-eager is a flag (write true or false)",
    "max-model-length: 1": "max-model-length is no option of the installed vLLM (did you mean max-model-len?)",
    "zzz: 1": "zzz is no option of the installed vLLM (see `vllm serve --help`)",
    "no-old-flag: true": "no-old-flag is no option of the installed vLLM (did you mean old-flag?)",
    "enforce-eager: 1": "enforce-eager is a flag (write true or false)",
    "enforce-eager: 'yes'": "enforce-eager is a flag (write true or false)",
    "old-flag: false": "old-flag cannot be switched off (leave it out)",
    "max-model-len: true": "max-model-len takes a value, not true ()",
    "max-model-len: false": "max-model-len takes a value, not false (leave it out for vLLM's default)",
    "dtype: bf16": "dtype must be one of auto, bfloat16, half, not 'bf16' (did you mean bfloat16?)",
    "limit-mm-per-prompt: image=1": (
        "limit-mm-per-prompt 'image=1' is the old form, which vLLM no longer reads: it is given a mapping "
        "(write {image: 1})"
    ),
    "limit_mm_per_prompt: image=4,video=1": (
        "limit_mm_per_prompt 'image=4,video=1' is the old form, which vLLM no longer reads: it is given a mapping "
        "(write {image: 4, video: 1})"
    ),
    **{
        f"allowed-local-media-path: {root}": (
            "allowed-local-media-path shows every file of this machine that vLLM can read to whoever has a key of the "
            "gateway (name the folder with the media)"
        )
        for root in ("/", "//", "/usr/..")
    },
    **{
        f"allowed-local-media-path: {nowhere}": (
            f"allowed-local-media-path no such folder: {nowhere}; vLLM refuses every image without it "
            "(make it, or name another one)"
        )
        for nowhere in ("/no/where", "/etc/hostname")
    },
}


@pytest.mark.parametrize("written", RIGHT)
def test_right(place: Place, written: str) -> None:
    assert said(place, written) == []


@pytest.mark.parametrize("written", WRONG)
def test_wrong(place: Place, written: str) -> None:
    assert said(place, written) == [WRONG[written]]


def test_where_nothing_is_known_of_it_nothing_is_said(place: Place) -> None:
    assert said(place, "zzz: 1", None) == []
    assert said(place, "limit-mm-per-prompt: image=1", None) != [], "that is wrong whatever the version"


def an_environment(folder: Path, answer: str) -> str:
    """A Python whose vLLM answers that."""
    (folder / "bin").mkdir(parents=True)
    (folder / "lib/python3.11/site-packages").mkdir(parents=True)
    python = folder / "bin/python"
    python.write_text(f"#!/bin/sh\necho asked >> {folder}/asked\n{answer}\n")
    python.chmod(0o755)
    return str(python)


def test_it_is_asked_once_until_something_is_installed(tmp_path: Path) -> None:
    one = {"takes": "value", "negatable": False, "choices": ["auto"], "kind": "", "optional": False}
    told = json.dumps({"dtype": one})
    python, data = an_environment(tmp_path / "env", f"echo '{told}'"), tmp_path / "data"
    assert installed_options.known(python, data) is None
    for _ in range(2):
        assert installed_options.learn(python, data) == {"dtype": Option("value", False, ("auto",))}
    assert installed_options.known(python, data) == installed_options.learn(python, data)
    assert (tmp_path / "env/asked").read_text() == "asked\n"
    (tmp_path / "env/lib/python3.11/site-packages/new").mkdir()
    assert installed_options.known(python, data) is None
    assert installed_options.learn(python, data)
    assert (tmp_path / "env/asked").read_text() == "asked\n" * 2


@pytest.mark.parametrize("answer", ["exit 1", "echo nonsense", "echo '[1]'", "echo '{\"a\": {}}'"])
def test_one_that_gives_no_answer(tmp_path: Path, answer: str) -> None:
    assert installed_options.learn(an_environment(tmp_path / "env", answer), tmp_path / "data") is None
    assert installed_options.learn(str(tmp_path / "nothing"), tmp_path / "data") is None
    assert installed_options.learn(sys.executable, tmp_path / "data") is None, "a Python without vLLM"


def test_the_old_form_reaches_vllm_as_a_mapping() -> None:
    assert engine_options.flags({"limit_mm_per_prompt": "image=4, video=1"}) == [
        "--limit-mm-per-prompt",
        '{"image":4,"video":1}',
    ]
    assert engine_options.flags({"limit-mm-per-prompt": '{"image": 1}'}) == ["--limit-mm-per-prompt", '{"image": 1}']


def lists(there: Options) -> dict[str, str]:
    return {name: one.lists for name, one in there.items()}


@pytest.mark.parametrize("there", [{}, KNOWN], ids=["nothing known", "known"])
def test_a_list_never_becomes_the_model(there: Options) -> None:
    """Of one that takes no list a second word would be that."""
    options_ = {"allowed-origins": ["*"], "max_model_len": [1, 2], "custom-histogram-buckets": [0.5, 1]}
    assert engine_options.flags(options_, lists(there)) == [
        *("--allowed-origins", '["*"]', "--max-model-len", "[1,2]", "--custom-histogram-buckets", "[0.5,1]")
    ]


def test_lists_as_the_option_wants_them() -> None:
    given = {"cudagraph-capture-sizes": [1, 2], "middleware": ["a.b", "c.d"], "device_ids": [0, 1]}
    want = ["--cudagraph-capture-sizes", "1", "2", "--middleware", "a.b", "--middleware", "c.d", "--device-ids", "0,1"]
    assert engine_options.flags(given) == want, "where nothing is known"
    known = {
        "cudagraph-capture-sizes": Option("any", False, None, "int"),
        "middleware": Option("each", False, None, "text"),
        "device-ids": Option("value", False, None, "commas"),
    }
    assert engine_options.flags(given, lists(known)) == want
    assert engine_options.flags(given, {"middleware": "values"})[3:6] == ["--middleware", "a.b", "c.d"]
    assert engine_options.flags({"middleware": []}) == []
    modules = [{"name": "a", "path": "b"}, "c=d"]
    assert engine_options.flags({"lora-modules": modules}) == ["--lora-modules", '{"name":"a","path":"b"}', "c=d"]


def test_what_is_behind_a_dot_is_json() -> None:
    given = {
        "compilation_config.cudagraph_mode": "NONE",
        "compilation-config.pass_config.fuse_norm_quant": False,
        "compilation-config.cudagraph_capture_sizes": [1, 2],
        "compilation-config.inductor_compile_config": {"a": True},
        "compilation-config.splitting_ops+": ["a", "b"],
        "compilation-config.mode": 3,
    }
    assert engine_options.flags(given) == [
        *("--compilation-config.cudagraph_mode", "NONE"),
        *("--compilation-config.pass_config.fuse_norm_quant", "false"),
        *("--compilation-config.cudagraph_capture_sizes", "[1,2]"),
        *("--compilation-config.inductor_compile_config", '{"a":true}'),
        *("--compilation-config.splitting_ops+", "a,b"),
        *("--compilation-config.mode", "3"),
    ]


def test_a_value_that_begins_with_a_dash_is_no_option() -> None:
    given = {"watermark": -0.5, "max-model-len": -1, "cudagraph-capture-sizes": [-1], "response-role": "--x"}
    want = ["--watermark=-0.5", "--max-model-len=-1", "--cudagraph-capture-sizes=-1", "--response-role=--x"]
    assert engine_options.flags(given) == want


def test_a_long_word_is_looked_at_quickly() -> None:
    began = time.process_time()
    assert vllm_options._as_limits("x" * 10**6) == "write a mapping"
    assert vllm_options._as_limits(["image=1", "video=2"]) == "write {image: 1, video: 2}"
    assert time.process_time() - began < 1
