"""How the matcher finds the root, what it leaves alone, and that no log costs it more than its size."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from llm_supervisor.diagnosis import diagnose, left_out, to_message
from llm_supervisor.diagnosis.pattern import NONE
from llm_supervisor.diagnosis.tracebacks import faults_of, lines_of, text_of
from tests.diagnosis import written
from tests.diagnosis.cases import SPECS, Spec
from tests.diagnosis.test_recorded import DATA
from tests.diagnosis.written import VllmLog

# Ends


@pytest.mark.parametrize(
    "end", [{}, {"exit_code": 0}, {"exit_signal": 15}, {"exit_signal": 2}, {"exit_code": 143}, {"exit_code": -15}]
)
def test_a_clean_end_of_a_healthy_engine_is_none(end: dict[str, Any]) -> None:
    text = VllmLog(1).begin().engine().serving().text()
    assert diagnose(text, "vllm", was_ready=True, **end) == NONE


@pytest.mark.parametrize("component", ["vllm", "litellm", "command"])
def test_nothing_at_all_is_none(component: str) -> None:
    assert diagnose(b"", component) == NONE  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("end", "kind", "permanent"),
    [
        ({"exit_signal": 9}, "killed", False),
        ({"exit_code": 137}, "killed", False),
        ({"exit_code": -9}, "killed", False),
        ({"exit_signal": 9, "oom_killed": True}, "host_out_of_memory", False),
        ({"exit_code": 0, "was_ready": True, "oom_killed": True}, "host_out_of_memory", False),
        ({"exit_signal": 11}, "crashed", False),
        ({"exit_signal": 7}, "bus_error", False),
        ({"exit_signal": 6}, "crashed", False),
        ({"exit_signal": 4}, "illegal_instruction", True),
        ({"exit_signal": 31}, "forbidden_call", True),
        ({"exit_signal": 25}, "file_size_limit", True),
        ({"exit_signal": 40}, "killed", None),
        ({"exit_code": 126}, "not_executable", True),
        ({"exit_code": 127}, "missing_executable", True),
        ({"exit_code": 5}, "exited", None),
        ({"exit_code": 0}, "exited_before_ready", None),
        ({"exit_code": 0, "was_ready": True}, "none", None),
        ({"exit_signal": 15}, "none", None),
    ],
)
def test_where_the_log_says_nothing_the_status_does(end: dict[str, Any], kind: str, permanent: bool | None) -> None:
    found = diagnose("starting\nlistening\n", "command", **end)
    assert (found.kind, found.permanent) == (kind, permanent)
    assert found.evidence == (() if kind == "none" else ("starting", "listening"))


def test_the_kernel_outweighs_what_followed() -> None:
    log = VllmLog(3).begin().engine().serving()
    log.log(
        "EngineCore",
        "ERROR",
        "multiproc_executor.py:315",
        "Worker proc VllmWorker-0 died unexpectedly (exit code: -9),",
    )
    found = diagnose(log.engine_dies().text(), "vllm", exit_code=0, was_ready=True, oom_killed=True)
    assert found.kind == "host_out_of_memory"


# The root


def test_the_first_worker_counts_and_not_the_last() -> None:
    log = VllmLog(5, workers=3).begin().engine()
    for worker, error in zip(log.workers, ["ValueError: first", "KeyError: second", "TypeError: third"], strict=True):
        lines = written.traceback(error, *written.INIT_DEVICE)
        log.log(worker, "ERROR", "multiproc_executor.py:953", "WorkerProc failed to start.", *lines)
    found = diagnose(log.core_stops().text(), "vllm", exit_code=1)
    assert (found.kind, found.summary) == (
        "unknown",
        "ValueError: first (raised in init_device (worker/gpu_worker.py))",
    )


def test_a_known_cause_outweighs_an_unknown_one_before_it() -> None:
    log = VllmLog(5, workers=2).begin().engine()
    for worker, error in zip(log.workers, ["ValueError: odd", "RuntimeError: No CUDA GPUs are available"], strict=True):
        lines = written.traceback(error, *written.INIT_DEVICE)
        log.log(worker, "ERROR", "multiproc_executor.py:953", "WorkerProc failed to start.", *lines)
    assert diagnose(log.core_stops().text(), "vllm", exit_code=1).kind == "no_gpu"


def test_lines_of_two_processes_that_alternate_are_taken_apart() -> None:
    log = VllmLog(6, workers=2).begin().engine()
    one = written.traceback("ValueError: one", *written.LOAD)
    two = written.traceback("RuntimeError: cancelled", *written.LOAD)
    first, second = (log.prefix(worker, "ERROR", "multiproc_executor.py:953") for worker in log.workers)
    for mine, other in zip(["WorkerProc failed to start.", *one], ["WorkerProc failed to start.", *two], strict=True):
        log.raw(first + mine, second + other)
    assert diagnose(log.core_stops().text(), "vllm", exit_code=1).summary.startswith("ValueError: one (raised in ")


def test_an_unprefixed_traceback_survives_the_lines_of_others() -> None:
    log = VllmLog(7).begin()
    lines = written.traceback("ValueError: the cause", *written.SERVE)
    for line in lines:
        log.raw(line).log("EngineCore", "INFO", "core.py:1", "meanwhile").raw(
            'INFO:     127.0.0.1:1 - "GET / HTTP/1.1" 404 Not Found'
        )
    assert diagnose(log.text(), "vllm", exit_code=1).summary.startswith("ValueError: the cause (raised in ")


def test_what_an_engine_survived_is_not_why_it_died_later() -> None:
    log = VllmLog(8).begin().engine()
    lines = written.traceback("RuntimeError: No CUDA GPUs are available", *written.LOAD)
    log.log("EngineCore", "ERROR", "core.py:77", "Could not warm up the thing.", *lines)
    assert diagnose(log.serving().text(), "vllm", exit_signal=9, was_ready=True).kind == "killed"
    assert diagnose(log.text(), "vllm").kind == "none"


def test_a_request_is_not_why_it_died() -> None:
    text = VllmLog(9).begin().engine().serving().text()
    assert "no such picture" in text
    assert diagnose(text, "vllm", exit_signal=9, was_ready=True).kind == "killed"
    assert diagnose(text, "vllm", exit_code=1, was_ready=True).kind == "exited"


@pytest.mark.parametrize(
    "spec", [spec for spec in SPECS if spec.component == "vllm" and spec.rows[0].startswith("A")], ids=lambda s: s.name
)
def test_noise_around_it_changes_nothing(spec: Spec) -> None:
    """The shutdown's words, other tracebacks' echoes and INFO lines with anything in them."""
    case = spec.build(2)
    noise = written.traceback("zmq.error.ContextTerminated: Context was terminated", "zmq/x.py:recv")
    text = (
        'INFO:     127.0.0.1:1 - "GET /?q=CUDA%20out%20of%20memory HTTP/1.1" 404 Not Found\n'
        + case.log
        + "\n".join(["Exception ignored in: <function Socket.__del__ at 0x7f>", *noise, ""])
        + "[rank0]:[W1120 08:58:22.577587307 ProcessGroupNCCL.cpp:1538] Warning: WARNING: destroy_process_group() "
        "was not called\n" + "sys:1: DeprecationWarning: builtin type SwigPyPacked has no __module__ attribute\n"
    )
    if case.exit_code is not None:
        assert diagnose(text, "vllm", exit_code=case.exit_code).kind == spec.kind


def test_keyboard_interrupt_terminated_is_a_sigterm_and_no_cause() -> None:
    log = VllmLog(10).begin()
    text = log.raw(*written.traceback("KeyboardInterrupt: terminated", *written.SERVE)).text()
    assert diagnose(text, "vllm", exit_signal=2) == NONE
    assert diagnose(text, "vllm", exit_code=130) == NONE
    assert diagnose(text, "vllm") == NONE


def test_what_comes_after_the_order_to_leave_is_noise() -> None:
    log = VllmLog(11).begin().engine().serving()
    log.log("APIServer", "INFO", "launcher.py:254", "[shutdown] API server: shutdown triggered")
    text = log.engine_dies().text()
    assert "EngineDeadError" in text
    for end in ({"exit_code": 0}, {"exit_signal": 15}, {}):
        assert diagnose(text, "vllm", was_ready=True, **end) == NONE  # type: ignore[arg-type]


def test_a_failure_before_the_order_to_leave_stays_one() -> None:
    log = VllmLog(12)
    text = written.worker_dies_serving(
        log, "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
    )
    text += log.prefix("APIServer", "INFO", "launcher.py:254") + "[shutdown] API server: shutdown triggered\n"
    assert diagnose(text, "vllm", exit_signal=15, was_ready=True).kind == "illegal_memory_access"


def test_memory_at_start_and_while_serving_differ() -> None:
    error = (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB. GPU 0 has a total capacity of 79.19 "
        "GiB of which 512.00 MiB is free. Including non-PyTorch memory, this process has 78.60 GiB memory in use. Of "
        "the allocated"
    )
    start = written.worker_call_fails(VllmLog(13), error, written.EXECUTE)
    serving = written.worker_dies_serving(VllmLog(13), error, written.EXECUTE)
    assert diagnose(start, "vllm", exit_code=1).kind == "cuda_oom_starting"
    assert diagnose(serving, "vllm", exit_code=0).kind == "cuda_oom_serving"


@pytest.mark.parametrize("name", ["litellm_healthy", "litellm_redis"])
def test_a_proxy_that_leaves_nothing_out_says_so(name: str) -> None:
    assert left_out((DATA / f"{name}.log").read_bytes(), "litellm") == []


def test_each_guardrail_that_is_left_out_is_named() -> None:
    start = "INFO:     Waiting for application startup.\n"
    words = "09:08:47 - LiteLLM Proxy:ERROR: init_guardrails.py:38 - Skipping guardrail 'pii': invalid configuration, "
    log = f"{start}{words}proxy is starting WITHOUT this guardrail: odd\nINFO:     Application startup complete.\n"
    (found,) = left_out(log, "litellm")
    assert (found.kind, found.summary) == (
        "guardrail_left_out",
        "LiteLLM serves WITHOUT the guardrail pii: odd",
    )
    assert left_out(log.encode(), "litellm") == [found]


# Forms


@pytest.mark.parametrize("lines", [3, 5, 8])
@pytest.mark.parametrize("prefix", ["", "(APIServer pid=7) ", "vllm-1  | "])
def test_a_traceback_whose_beginning_is_gone_is_read(lines: int, prefix: str) -> None:
    whole = written.traceback("RuntimeError: No CUDA GPUs are available", *written.SERVE)
    text = "\n".join(prefix + line for line in whole[-lines:]) + "\n"
    assert diagnose(text, "vllm", exit_code=1).kind == "no_gpu"
    assert diagnose(text, "vllm").kind == "no_gpu"


def test_a_last_line_alone_is_read_when_it_failed() -> None:
    line = "INFO 11-28 03:10:01 [x.py:1] one\nValueError: Unknown quantization method: abc. Must be one of ['awq'].\n"
    assert diagnose(line, "vllm", exit_code=1).kind == "bad_arguments"
    assert diagnose(line, "vllm").kind == "none"
    assert diagnose(line, "vllm", exit_signal=9).kind == "killed"
    odd = diagnose("ValueError: odd\n", "vllm", exit_code=1)
    assert (odd.kind, odd.permanent, odd.summary) == ("unknown", None, "ValueError: odd")


def test_older_prefixes_are_understood() -> None:
    """Before 0.29 or so, every line of a process had the prefix, also what it did not log."""
    lines = written.traceback("RuntimeError: No CUDA GPUs are available", *written.INIT_DEVICE)
    text = "\n".join(
        f"\x1b[1;36m(EngineCore_DP0 pid=77)\x1b[0;0m {line}" for line in ["Process EngineCore_DP0:", *lines]
    )
    assert diagnose(text, "vllm", exit_code=1).kind == "no_gpu"
    assert diagnose(text, "vllm").kind == "no_gpu"


def test_logs_in_json_are_understood() -> None:
    lines = "\\n".join(written.traceback("RuntimeError: No CUDA GPUs are available", *written.INIT_DEVICE)).replace(
        '"', '\\"'
    )
    record = (
        '{"asctime": "x", "levelname": "ERROR", "name": "vllm", "processName": "EngineCore", "process": 7, '
        f'"message": "EngineCore failed to start.", "exc_info": "{lines}"}}\n'
    )
    assert diagnose(record, "vllm", exit_code=1).kind == "no_gpu"


def test_bytes_that_are_no_text_do_no_harm() -> None:
    rng = random.Random(1)
    text = written.server_cannot_start(VllmLog(14), "OSError: [Errno 98] Address already in use", written.SETUP_SERVER)
    junk = bytes(rng.randrange(256) for _ in range(2000)) + b"\n"
    assert diagnose(junk + text.encode() + junk, "vllm", exit_code=1).kind == "port_taken"


def test_chains_are_read_in_both_words() -> None:
    parts = [written.traceback(f"ValueError: {number}", "x.py:f") for number in range(3)]
    lines = lines_of(written.chained(parts[0], written.CAUSE, parts[1], written.DURING, parts[2]))
    (fault,) = faults_of(lines)
    assert [raised.text for raised in fault.chain] == ["ValueError: 0", "ValueError: 1", "ValueError: 2"]


# Secrets


def test_secrets_stay_out() -> None:
    error = "ValueError: cannot use sk-abcdefghijklmnop with postgresql://me:hunter2@db/x and api_key='verysecret1'"
    found = diagnose("\n".join(written.traceback(error, "x.py:f")), "command", exit_code=1)
    told = str(to_message(found))
    for secret in ("abcdefghijklmnop", "hunter2", "verysecret1"):
        assert secret not in told
    assert "postgresql://********@db/x" in told


def test_the_message_is_what_the_command_prints() -> None:
    found = diagnose("x: command not found\n", "command", exit_code=127)
    assert to_message(found) == {
        "kind": "missing_executable",
        "permanent": True,
        "busy": False,
        "summary": "there is no command x",
        "advice": found.advice,
        "evidence": ["x: command not found"],
    }


# Cost


HOSTILE = [
    "(" * 200_000,
    "Traceback (most recent call last):\n" * 30_000,
    'File "' * 100_000,
    "ValueError: " * 60_000,
    "\n" * 500_000,
    "a\n" * 250_000,
    "(x pid=1) ERROR 11-20 09:00:00 [a.py:1] y\n" * 12_000,
    "CUDA out of memory. Tried to allocate 1.00 GiB. GPU 0 has a total capacity of 1.00 GiB of which 1.00 GiB is "
    "free. " * 4_000,
    "Repo id must " * 40_000,
    "Free memory on device cuda:0 (1.00/" * 15_000 + "on startup is less than desired GPU memory utilization",
    "ValidationError: 1 validation error for AConfig\n" * 10_000,
    "usage: " * 60_000 + ": error: argument --x: invalid choice: 'a' (choose from " + "b" * 100_000,
    "non-default args: {" + "'model': '" * 50_000,
    "yaml.scanner.ScannerError: " + "a\n" * 100_000,
    '{"message": ' + "[" * 200_000,
    "\x1b[" + "0;" * 200_000,
    "address already in use " * 20_000,
    "127.0.0.1:80 " * 40_000 + "address already in use",
    "://" + "a" * 250_000 + ":" * 250_000,
    "api_key" * 70_000,
    "Watchdog caught collective operation timeout: WorkNCCL(" * 9_000,
    "During handling of the above exception, another exception occurred:\n" * 7_000,
    "Killed process " * 30_000,
    "safetensors checkpoint shards:   0% Completed | 1/2 " * 9_000,
    "vllm-1  | Traceback (most recent call last):\n" * 12_000,
    "".join(f"name-{number} | (x pid=1) ERROR 11-20 09:00:00 [a.py:1] y\n" for number in range(9_000)),
    "Nov 28 03:10:01 gpu1 vllm[1]: " * 3 + "x\n" * 100_000,
    "2026-11-28T03:10:01Z " * 25_000,
    '{"log": "x", "stream": "stderr"}\n' * 15_000,
    '{"MESSAGE": ' + "9" * 5_000 + "}\n" + '{"MESSAGE": [' + "9, " * 20_000 + "9]}\n",
    "INFO 11-28 03:10:01 [a.py:1] non-default args: {}\n" * 9_000,
    "litellm.InternalServerError: " * 9_000 + "Received Model Group=" * 900,
    "max_num_batched_tokens (" + "9" * 5_000 + ") is smaller than max_model_len (" * 3_000,
    "experts and EP ranks must be divisible by tp_size " * 9_000,
]  # fmt: skip


def _wrapped(text: str) -> str:
    """As the message of a fatal exception, where every row is tried."""
    log = VllmLog(15).begin().engine()
    lines = [
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in f',
        f"RuntimeError: {text[:6000]}",
        *text[6000:90_000].split("\n"),
    ]
    return log.log("EngineCore", "ERROR", "core.py:1510", "EngineCore failed to start.", *lines).failed_core().text()


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_log_costs_less_than_a_second(number: int) -> None:
    for text in (HOSTILE[number], _wrapped(HOSTILE[number])):
        for component in ("vllm", "litellm", "command"):
            began = time.process_time()
            diagnose(text, component, exit_code=1)
            assert time.process_time() - began < 1


def test_random_logs_are_read_without_a_fault() -> None:
    rng = random.Random(2)
    pieces = [line for spec in SPECS for line in spec.build(0).log.split("\n")]
    for _ in range(150):
        text = "\n".join(rng.choice(pieces)[rng.randrange(3) :] for _ in range(rng.randrange(1, 200)))
        for component in ("vllm", "litellm", "command"):
            found = diagnose(text, component, exit_code=rng.choice([None, 0, 1, 137]))
            assert len(found.evidence) <= 6
            assert all(len(line) <= 400 for line in found.evidence)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_log_with_damage_is_read_without_a_fault(spec: Spec) -> None:
    """Digits become anything: what is counted with must not be trusted to be a number."""
    rng = random.Random(spec.name)
    log = spec.build(0).log
    for _ in range(5):
        damaged = "".join(rng.choice(".0-%") if one.isdigit() and rng.random() < 0.2 else one for one in log)
        diagnose(damaged, spec.component, exit_code=1)
        cut = rng.randrange(len(log))
        diagnose(log[:cut], spec.component, exit_code=1)
        diagnose(log[cut:], spec.component, exit_code=1)


def test_a_long_log_is_read_at_both_ends() -> None:
    filler = 'INFO:     127.0.0.1:1 - "GET /health HTTP/1.1" 200 OK\n' * 400_000
    head = VllmLog(16).begin(gpu_memory_utilization=0.5).engine().serving().text()
    log = VllmLog(16)
    tail = written.core_dies_serving(log, "ValueError: at the end").rpartition(
        '"POST /v1/chat/completions HTTP/1.1" 200 OK'
    )[2]
    began = time.process_time()
    found = diagnose(head + filler + tail, "vllm", exit_code=0)
    assert time.process_time() - began < 1
    assert found.kind == "engine_died"
    assert found.summary.startswith("ValueError: at the end (raised in step (")
    assert len(text_of(head + filler + tail)) < 600_000


def test_the_cost_grows_with_the_size_and_no_faster() -> None:
    block = written.worker_cannot_start(VllmLog(17), "ValueError: x", written.LOAD)

    def cost(times: int) -> float:
        text = block * times
        began = time.process_time()
        diagnose(text, "vllm", exit_code=1)
        return time.process_time() - began

    cost(1)
    small, large = min(cost(8) for _ in range(3)), min(cost(64) for _ in range(3))
    assert large < 8 * small * 2.5 + 0.02


def test_the_last_words_of_a_log_are_all_lines_of_the_message() -> None:
    log = "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
    log += "  Value error, The checkpoint you are trying to load has model type `glm4v_moe` but Transformers does not "
    log += "recognize this architecture. Update Transformers. [type=value_error, input_value=ArgsKwargs((), {})]\n"
    found = diagnose(log, "vllm", exit_code=1)
    assert found.permanent is True and "glm4v_moe" in found.summary


@pytest.mark.parametrize("first", ["", "Traceback (most recent call last):\n"])
def test_a_traceback_right_behind_a_line_that_all_is_well(first: str) -> None:
    log = "INFO:     Waiting for application startup.\n" + first
    log += '  File "/app/litellm/proxy/types_utils/utils.py", line 60, in get_instance_fn\n'
    log += "ImportError: Could not import handler from billing\nERROR:    Application startup failed. Exiting.\n"
    assert diagnose(log, "litellm", exit_code=3).kind == "callback_missing"
