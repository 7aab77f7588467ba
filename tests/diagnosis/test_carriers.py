"""Logs as others keep them: whatever stands before the lines, the answer is that of the log itself."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from llm_supervisor.diagnosis import diagnose
from llm_supervisor.diagnosis.carriers import TORN, streams
from tests.diagnosis import written
from tests.diagnosis.cases import SPECS, Spec
from tests.diagnosis.written import VllmLog

Keeper = Callable[[list[str]], list[str]]


def _before(prefix: str) -> Keeper:
    return lambda lines: [prefix + line for line in lines]


def _journal_json(lines: list[str]) -> list[str]:
    records = [
        {
            "__REALTIME_TIMESTAMP": "1764300000000000", "_HOSTNAME": "gpu1", "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "vllm", "_PID": "12", "_SYSTEMD_UNIT": "llm.service",
            "MESSAGE": list(line.encode()) if "\x1b" in line else line,
        }
        for line in lines
    ]  # fmt: skip
    return [json.dumps(record) for record in records]


def _coloured(lines: list[str]) -> list[str]:
    return [f"\x1b[36mvllm-1  | \x1b[0m\x1b[1;36m{line}\x1b[0;0m" for line in lines]


def _docker_file(lines: list[str]) -> list[str]:
    return [json.dumps({"log": line + "\n", "stream": "stderr", "time": "2026-11-28T03:10:01.1Z"}) for line in lines]


KEEPERS: dict[str, Keeper] = {
    "docker compose": _before("vllm-1  | "),
    "docker compose, in colours": _coloured,
    "docker compose -t": _before("vllm-1  | 2026-11-28T03:10:01.123456789Z "),
    "docker logs -t": _before("2026-11-28T03:10:01.123456789Z "),
    "docker's file": _docker_file,
    "journalctl": _before("Nov 28 03:10:01 gpu1 vllm[1234]: "),
    "journalctl, precise": _before("Nov  8 03:10:01.123456 gpu1 vllm[1234]: "),
    "journalctl -o short-iso": _before("2026-11-28T03:10:01+0100 gpu1 vllm[1234]: "),
    "journalctl -o short-iso, newer": _before("2026-11-28T03:10:01+01:00 gpu1 vllm[1234]: "),
    "journalctl -o short-full": _before("Fri 2026-11-28 03:10:01 CET gpu1 vllm[1234]: "),
    "journalctl -o short-monotonic": _before("[  123.456789] gpu1 vllm[1234]: "),
    "journalctl -o short-unix": _before("1764300000.123456 gpu1 vllm[1234]: "),
    "journalctl -o json": _journal_json,
    "journalctl -o cat": _before(""),
    "kubectl logs --prefix": _before("[pod/vllm-5d4f-abcde/vllm] "),
    "kubectl logs --prefix --timestamps": _before("[pod/vllm-5d4f-abcde/vllm] 2026-11-28T03:10:01.123456789Z "),
    "kubectl logs --timestamps": _before("2026-11-28T03:10:01.123456789+01:00 "),
    "containerd's file": _before("2026-11-28T03:10:01.123456789+00:00 stderr F "),
    "supervisor's stdout plugin": _before("vllm stderr | "),
    "pm2 logs": _before("0|vllm     | "),
    "pm2's file": _before("2026-11-28T03:10:01: "),
    "promtail": lambda lines: [
        json.dumps({"labels": {"app": "vllm"}, "line": line, "timestamp": "2026-11-28T03:10:01Z"}) for line in lines
    ],
    "fluent-bit": lambda lines: [
        json.dumps({"log": line, "kubernetes": {"container_name": "vllm", "pod_name": "vllm-0"}}) for line in lines
    ],
    "logcli": _before('2026-11-28T03:10:01Z {app="vllm", namespace="llm"} '),
    "Windows": lambda lines: [line + "\r" for line in lines],
}


def _same(spec: Spec, keeper: Keeper) -> None:
    case = spec.build(1)
    lines = case.log.replace("\r\n", "\n").rstrip("\n").split("\n")
    end = {"exit_code": case.exit_code, "exit_signal": case.exit_signal, "was_ready": case.was_ready}
    itself = diagnose("\n".join(lines) + "\n", spec.component, **end)  # type: ignore[arg-type]
    kept = diagnose("\n".join(keeper(lines)) + "\n", spec.component, **end)  # type: ignore[arg-type]
    assert (kept.kind, kept.permanent, kept.summary, kept.advice) == (
        itself.kind,
        itself.permanent,
        itself.summary,
        itself.advice,
    )


@pytest.mark.parametrize("number", range(len(SPECS)), ids=lambda number: SPECS[number].name)
def test_a_kept_log_says_the_same(number: int) -> None:
    keepers = list(KEEPERS.values())
    _same(SPECS[number], keepers[number % len(keepers)])


@pytest.mark.parametrize("name", KEEPERS)
def test_every_keeper_is_understood(name: str) -> None:
    chosen = random.Random(name).sample(SPECS, 6)
    for spec in chosen:
        _same(spec, KEEPERS[name])


def test_a_keeper_of_utf_16_is_understood() -> None:
    log = written.server_cannot_start(VllmLog(3), "RuntimeError: No CUDA GPUs are available", written.SERVE)
    assert diagnose(log.encode("utf-16"), "vllm", exit_code=1).kind == "no_gpu"


# Several in one log


def _mixed(*kept: list[str]) -> str:
    """Line by line, in turns."""
    rng, rest = random.Random(5), [list(lines) for lines in kept]
    mixed = []
    while any(rest):
        lines = rng.choice([lines for lines in rest if lines])
        mixed.append(lines.pop(0))
    return "\n".join(mixed) + "\n"


def _two_programs() -> tuple[list[str], list[str]]:
    core = written.core_cannot_start(VllmLog(4), "AssertionError: 12 is not divisible by 8")
    gateway = written.application_fails(4, written.traceback("Exception: Config cannot be None or Empty.", "x.py:f"))
    return core.replace("\r\n", "\n").rstrip("\n").split("\n"), gateway.rstrip("\n").split("\n")


@pytest.mark.parametrize(
    "prefix",
    ["{name}-1  | ", "Nov 28 03:10:01 gpu1 {name}[12]: ", "[pod/llm-0/{name}] ", "0|{name} | "],
    ids=["compose", "journal", "kubectl", "pm2"],
)
def test_two_programs_in_one_log_are_parted(prefix: str) -> None:
    engine, gateway = _two_programs()
    database = ["LOG:  database system is ready to accept connections", 'ERROR:  relation "x" does not exist'] * 9
    log = _mixed(
        *(
            [prefix.format(name=name) + line for line in lines]
            for name, lines in (("vllm", engine), ("litellm", gateway), ("postgres", database))
        )
    )
    assert diagnose(log, "vllm", exit_code=1).kind == "tp_does_not_divide"
    assert diagnose(log, "litellm", exit_code=3).kind == "config_empty"


def test_the_one_of_two_engines_that_failed_is_named() -> None:
    engine, _ = _two_programs()
    healthy = VllmLog(8).begin().engine().serving().text().replace("\r\n", "\n").rstrip("\n").split("\n")
    log = _mixed([f"embed-1 | {line}" for line in healthy * 3], [f"chat-1  | {line}" for line in engine])
    assert diagnose(log, "vllm", exit_code=1).kind == "tp_does_not_divide"


def test_the_kernel_speaks_for_everybody() -> None:
    healthy = VllmLog(8).begin().engine().serving().text().replace("\r\n", "\n").rstrip("\n").split("\n")
    lines = [f"Nov 28 03:10:01 gpu1 vllm[12]: {line}" for line in healthy]
    lines += ["Nov 28 03:10:02 gpu1 sshd[9]: Accepted publickey for root"] * 3
    lines.append("Nov 28 03:10:02 gpu1 kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid=12, GPU has fallen off the bus.")
    assert diagnose("\n".join(lines), "vllm", exit_code=0, was_ready=True).kind == "xid"


def test_the_death_of_another_program_says_nothing() -> None:
    healthy = VllmLog(8).begin().engine().serving().text().replace("\r\n", "\n").rstrip("\n").split("\n")
    lines = [f"Nov 28 03:10:01 gpu1 vllm[12]: {line}" for line in healthy]
    lines += ["Nov 28 03:10:02 gpu1 sshd[9]: Accepted publickey for root"] * 3
    killed = "Nov 28 03:10:02 gpu1 kernel: Out of memory: Killed process 77 ({}) total-vm:190023112kB"
    assert diagnose("\n".join([*lines, killed.format("chrome")]), "vllm").kind == "none"
    assert diagnose("\n".join([*lines, killed.format("VLLM::EngineCor")]), "vllm").kind == "host_out_of_memory"


# Torn lines


def test_a_line_that_was_torn_is_one() -> None:
    """Docker cuts what is longer than 16 KiB: the rest of a prompt is no line of its own."""
    said = "x" * (TORN + 300) + "RuntimeError: No CUDA GPUs are available"
    healthy = VllmLog(8).begin().engine().serving().text().replace("\r\n", "\n").rstrip("\n").split("\n")
    long = healthy[0] + said
    pieces = [long[at : at + TORN] for at in range(0, len(long), TORN)]
    kept = [f"vllm-1  | {line}" for line in [*healthy, *pieces, *healthy[-3:]]]
    (stream,) = streams(kept)
    assert long in stream.lines
    assert len(stream.lines) == len(healthy) + 1 + 3


def test_the_parts_that_containerd_marks_are_one_line() -> None:
    time = "2026-11-28T03:10:01.123456789+00:00"
    (stream,) = streams([f"{time} stdout F a", f"{time} stdout P b", f"{time} stdout P c", f"{time} stdout F d"])
    assert stream.lines == ["a", "bcd"]


def test_the_parts_in_dockers_file_are_one_line() -> None:
    (stream,) = streams([json.dumps({"log": text, "stream": "stdout"}) for text in ("a\n", "b", "c\n", "d\n")])
    assert stream.lines == ["a", "bc", "d"]


# What is no prefix


@pytest.mark.parametrize(
    "line",
    ["   12 | #include <x>", "a | b", "2026-11-28 03:10:01 something", "[pod/x] y", '{"log": "x"}', "{}", '{"log": 5}'],
)
def test_a_few_lines_that_look_like_a_prefix_are_left_alone(line: str) -> None:
    lines = ["INFO 11-28 03:10:01 [x.py:1] one", line, "two", "three", "four", line + "!", "five", "six"]
    (stream,) = streams(lines)
    assert [text for text in stream.lines if text in lines[2:5]] == lines[2:5]
    assert stream.lines[0] == lines[0]


def test_what_has_no_prefix_stays_as_it_is() -> None:
    for spec in SPECS[::5]:
        lines = spec.build(0).log.replace("\r\n", "\n").split("\n")
        (stream,) = streams(lines)
        assert stream.lines == lines, spec.name


# Several incarnations


def test_the_last_incarnation_decides() -> None:
    first = written.server_cannot_start(VllmLog(1), "RuntimeError: No CUDA GPUs are available", written.SERVE)
    second = written.core_cannot_start(VllmLog(2), "AssertionError: 12 is not divisible by 8")
    third = VllmLog(3).begin().engine().serving().text()
    assert diagnose(first + second, "vllm", exit_code=1).kind == "tp_does_not_divide"
    assert diagnose(second + first, "vllm", exit_code=1).kind == "no_gpu"
    assert diagnose(first + second + third, "vllm").kind == "none"
    assert diagnose(first + third, "vllm", exit_signal=9).kind == "killed"


def test_what_was_ready_before_says_nothing_about_the_next_start() -> None:
    error = (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB. GPU 0 has a total capacity of 79.19 "
        "GiB of which 512.00 MiB is free. Including non-PyTorch memory, this process has 78.60 GiB memory in use. Of "
        "the allocated"
    )
    before = VllmLog(13).begin().engine().serving().text()
    start = written.worker_call_fails(VllmLog(14), error, written.EXECUTE)
    assert diagnose(before + start, "vllm", exit_code=1).kind == "cuda_oom_starting"


@pytest.mark.parametrize("error", ["usage", "import"])
def test_an_incarnation_that_fails_before_its_first_word_decides(error: str) -> None:
    before = (
        VllmLog(13).begin().engine().serving().text()
        + "INFO:     Shutting down\nINFO:     Finished server process [1]\n"
    )
    if error == "usage":
        found = diagnose(before + written.usage("unrecognized arguments: --swap 4", "--port"), "vllm", exit_code=2)
        assert found.kind == "bad_arguments"
    else:
        frames = written.traceback("ModuleNotFoundError: No module named 'vllm'", "<frozen runpy>:_run_module_as_main")
        assert diagnose(before + "\n".join(frames) + "\n", "vllm", exit_code=1).kind == "package_missing"


def test_what_the_death_of_an_engine_leads_to_is_no_incarnation_of_its_own() -> None:
    log = written.worker_dies_serving(
        VllmLog(12), "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
    )
    frames = written.traceback("RuntimeError: Event loop is closed", "<frozen runpy>:_run_module_as_main")
    log += "INFO:     Finished server process [1]\n" + "\n".join(frames) + "\n"
    assert diagnose(log, "vllm", exit_code=1, was_ready=True).kind == "illegal_memory_access"


def test_what_is_said_while_an_incarnation_imports_is_its_own() -> None:
    warning = (
        "/opt/vllm/lib/python3.11/site-packages/torch/cuda/__init__.py:184: UserWarning: CUDA initialization: "
        "Unexpected "
        "error from cudaGetDeviceCount(). Error 802: system not yet initialized (Triggered internally at x.cpp:109.)\n"
        "  return torch._C._cuda_getDeviceCount() > 0\n"
    )
    first = VllmLog(13).begin().engine().serving().text()
    second = written.server_cannot_start(VllmLog(2), "RuntimeError: Failed to infer device type", written.SERVE)
    log = first + warning + second.partition("\n")[2]
    assert diagnose(log, "vllm", exit_code=1).kind == "fabric_manager"
