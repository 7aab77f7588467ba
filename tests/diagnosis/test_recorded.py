"""Logs that the real vLLM 0.32 (CPU) and LiteLLM 1.106 wrote: healthy, stopped, and failing in ways that need no GPU.

Recorded with the tiny GLM-4.1V. Paths, pids and addresses are neutral; inner frames of long stacks, routes and most of
argparse's usage are left out; nothing else is changed. ``recorded.json`` says how each one ended.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_supervisor.diagnosis import Component, Diagnosis, diagnose

DATA = Path(__file__).parent / "data"
ENDS = json.loads((DATA / "recorded.json").read_text())


def recorded(name: str, *, with_status: bool = True) -> Diagnosis:
    end = ENDS[name]["exit"] if with_status else None
    component: Component = "vllm" if name.startswith("vllm") else "litellm"
    return diagnose(
        (DATA / f"{name}.log").read_bytes(),
        component,
        exit_code=end if end is not None and end >= 0 else None,
        exit_signal=-end if end is not None and end < 0 else None,
        was_ready=ENDS[name]["ready"] and with_status,
    )


# name, kind, permanent, busy, what summary or advice must say, a part of a line of evidence
FAILURES = [
    ("vllm_unknown_flag", "bad_arguments", True, False, "It knows --max-model-len.", "--max-model-length"),
    ("vllm_bad_choice", "bad_arguments", True, False, "fp8_e5m2", "invalid choice: 'fp7'"),
    ("vllm_bad_int", "bad_arguments", True, False, "--max-num-seqs", "invalid int value"),
    ("vllm_mm_limit", "mm_limit_not_json", True, False, '{"image": 5}', "Value image=5 cannot be converted"),
    ("vllm_missing_folder", "model_folder_missing", True, False, "/models/nothing-here", "Repo id must be in the form"),
    ("vllm_empty_folder", "model_config_missing", True, False, "/models/noconfig", "Invalid repository ID"),
    ("vllm_hub_offline", "hub_offline", True, False, "acme/tiny-nothing-7b", "outgoing traffic has been disabled"),
    ("vllm_hub_no_network", "network", False, False, "acme/tiny-nothing-7b", "locate the file on the Hub"),
    ("vllm_max_len", "max_model_len_too_large", True, False, "to 65536 or less", "max_model_len (99000)"),
    ("vllm_kv_small", "host_out_of_memory", False, False, "23.8 GiB", "can't allocate memory"),
    ("vllm_rlimit_as", "host_out_of_memory", False, False, "1.0 GiB", "can't allocate memory"),
    ("vllm_kv_cache_small", "kv_cache_too_small", True, False, "to 4194176 or less", "1.19 GiB KV cache is needed"),
    ("vllm_kv_huge", "host_memory_short", False, False, "4000.0 GiB", "less than requested memory for kv"),
    ("vllm_util", "host_memory_short", False, False, "14.19", "desired CPU memory utilization"),
    ("vllm_remote_code", "trust_remote_code_needed", True, False, "/models/minicpm", "contains custom code"),
    ("vllm_unsupported", "unsupported_architecture", True, False, "FooBarForCausalLM", "are not supported for now"),
    ("vllm_model_type", "unsupported_architecture", True, False, "brandnew9", "does not recognize this architecture"),
    ("vllm_inspect", "missing_library", True, False, "libcudart.so.9", "cannot open shared object file"),
    ("vllm_bad_json", "model_config_broken", True, False, "/models/badjson/config.json", "is not a valid JSON file"),
    ("vllm_truncated", "truncated_weights", True, False, "1 of 1", "file not fully covered"),
    ("vllm_truncated_header", "truncated_weights", True, False, "/models/trunc2", "invalid header length"),
    ("vllm_port_taken", "port_taken", False, True, "port 44559", "Address already in use"),
    ("vllm_tp", "tp_does_not_divide", True, False, "one of 1, 2", "must be divisible by tensor parallel size (3)"),
    ("vllm_quant", "bad_arguments", True, False, "marlin99", "Unknown quantization method"),
    ("vllm_quant_awq", "unknown", None, False, "static_scaled_fp8_quant", "expected at most 0 argument(s)"),
    ("vllm_bad_config_file", "bad_arguments", True, False, "/nonexistent/c.yaml", "Unable to read the config file"),
    ("vllm_hf_overrides", "bad_arguments", True, False, "valid dictionary", "Input should be a valid dictionary"),
    ("vllm_tool_parser", "bad_arguments", True, False, "hermes", "invalid tool call parser: nosuch"),
    ("vllm_template_file", "chat_template_missing", True, False, "/nonexistent/t.jinja", "appears path-like"),
    ("vllm_engine_killed", "engine_died", False, False, "kernel log", "engine core exited unexpectedly"),
    ("vllm_worker_killed", "worker_died", False, False, "VllmWorker-0", "died unexpectedly"),
    ("vllm_api_killed", "killed", False, False, "SIGKILL", "GET /health"),
    ("litellm_master_unset", "master_key_unset", True, False, "/etc/gateway/litellm_master_unset.yaml",
    "no master key is set"),
    ("litellm_master_weak", "master_key_weak", True, False, "LITELLM_MASTER_KEY", "publicly known default"),
    ("litellm_broken_yaml", "config_yaml", True, False, "line 3, column 4", "line 3, column 4"),
    ("litellm_cli_yaml", "config_yaml", True, False, "line 3, column 4", "line 3, column 4"),
    ("litellm_cli_missing", "config_missing", True, False, "/etc/gateway/absent.yaml", "Config file not found"),
    ("litellm_empty_file", "config_empty", True, False, "model_list", "Config cannot be None or Empty"),
    ("litellm_cli_empty", "config_empty", True, False, "model_list", "Config cannot be None or Empty"),
    ("litellm_malformed", "config_malformed", True, False, "litellm_params", "'str' object has no attribute 'items'"),
    ("litellm_malformed2", "config_malformed", True, False, "no litellm_params", "KeyError: 'litellm_params'"),
    ("litellm_callback", "callback_missing", True, False, "nosuch_module", "Could not import handler"),
    ("litellm_database", "database_driver_missing", True, False, "prisma generate", "No module named 'prisma'"),
    ("litellm_prisma_not_generated", "database_driver_missing", True, False, "prisma generate",
    "hasn't been generated yet"),
    ("litellm_cli_database", "database_driver_missing", True, False, "extra_proxy", "prisma CLI is neither on PATH"),
    ("litellm_no_package", "package_missing", True, False, "litellm", "No module named 'litellm'"),
    ("litellm_no_proxy_extra", "package_missing", True, False, "apscheduler", "No module named 'apscheduler'"),
    ("litellm_cli_flag", "bad_arguments", True, False, "'--config'", "No such option '--confg'"),
    ("litellm_cli_port", "port_taken", False, True, "port 33947", "error while attempting to bind"),
]  # fmt: skip

# They run on, and cannot do a part of their work: said while they live, not when they are told to leave
COMPLAINTS = [
    ("litellm_unknown_provider", "unknown_provider", "nosuchprovider/tiny"),
    ("litellm_unset_key_openai", "unset_key", "OPENAI_API_KEY"),
    ("litellm_redis", "redis_unreachable", "127.0.0.1:9"),
]

# Healthy until SIGTERM (some with failing requests), or told to leave while they started
FINE = [
    "vllm_healthy", "vllm_mm_limit_text", "vllm_no_chat_template", "vllm_term_early", "litellm_healthy",
    "litellm_missing_file",
    *(name for name, _, _ in COMPLAINTS),
]  # fmt: skip


def test_every_recorded_log_is_used() -> None:
    assert {name for name, *_ in FAILURES} | set(FINE) == set(ENDS)


@pytest.mark.parametrize(
    ("name", "kind", "permanent", "busy", "told", "root"), FAILURES, ids=[row[0] for row in FAILURES]
)
def test_a_real_failure_is_named(
    name: str, kind: str, permanent: bool | None, busy: bool, told: str, root: str
) -> None:
    found = recorded(name)
    assert (found.kind, found.permanent, found.busy) == (kind, permanent, busy), found
    assert told in f"{found.summary} {found.advice}", found
    assert any(root in line for line in found.evidence), found


@pytest.mark.parametrize("name", [row[0] for row in FAILURES if row[0] != "vllm_api_killed"])
def test_the_log_alone_is_enough(name: str) -> None:
    assert recorded(name, with_status=False).kind == recorded(name).kind


@pytest.mark.parametrize("name", FINE)
def test_a_healthy_log_yields_none(name: str) -> None:
    found = recorded(name)
    assert found.kind == "none", found
    assert (found.permanent, found.busy, found.evidence) == (None, False, ())


@pytest.mark.parametrize("name", [name for name in FINE if name not in {row[0] for row in COMPLAINTS}])
def test_a_healthy_log_yields_none_while_it_grows(name: str) -> None:
    """At any moment of its life, with nothing known about its end. The proxy's backend does refuse connections."""
    text = (DATA / f"{name}.log").read_text()
    component: Component = "vllm" if name.startswith("vllm") else "litellm"
    lines = text.splitlines(keepends=True)
    for length in range(0, len(lines), 7):
        found = diagnose("".join(lines[:length]), component)
        refuses = name == "litellm_healthy" and "Cannot connect to host 127.0.0.1:9" in "".join(lines[:length])
        assert found.kind in (("none", "backend_unreachable") if refuses else ("none",)), (length, found)


@pytest.mark.parametrize(("name", "kind", "told"), COMPLAINTS, ids=[row[0] for row in COMPLAINTS])
def test_what_a_living_proxy_lacks_is_named(name: str, kind: str, told: str) -> None:
    text = (DATA / f"{name}.log").read_text().partition("INFO:     Shutting down")[0]
    found = diagnose(text, "litellm")
    assert found.kind == kind, found
    assert told in f"{found.summary} {found.advice}"
    # and it is not what it is blamed for when somebody kills it
    assert diagnose(text, "litellm", exit_signal=9, was_ready=True).kind == "killed"
