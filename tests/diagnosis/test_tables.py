"""The tables themselves: every row can be filled, is tried somewhere, and the collection of failures is covered."""

from __future__ import annotations

import ast
import re
import string
import sys
from pathlib import Path

import pytest

from llm_supervisor.diagnosis import matcher
from llm_supervisor.diagnosis.matcher import BOOKS
from llm_supervisor.diagnosis.pattern import Pattern, Rank
from tests.diagnosis.cases import SPECS
from tests.diagnosis.reports import reports
from tests.diagnosis.test_recorded import COMPLAINTS, FAILURES

SOURCE = Path(matcher.__file__).parent
ROWS = list({id(pattern): pattern for book in BOOKS.values() for pattern in book.rows}.values())
IDS = [f"{number}-{pattern.kind}" for number, pattern in enumerate(ROWS)]

# What facts() and derive() add to a row's own groups
KNOWN = frozenset(
    """model port tensor_parallel_size gpu_memory_utilization max_model_len shard request config download_wanted
    download_free download_target near repo limit fitting json others used fits size""".split()
)
# Failures of the collection that leave no trace in a log or an exit status: others find them
TRACELESS = {
    "A18": "two engines on one port: the listener is compared with the tree",
    "B05": "frozen, everything answers 200: the progress and the canary",
    "B07": "not killable: the sweep",
    "B10": "a request's own failure: none is right",
    "B14": "noise: none is right",
    "C15": "a random port: the daemon binds the gateway's port itself",
    "C19": "a misread probe",
    "C20": "a misread probe",
    "C21": "the backend's failure: none is right for LiteLLM",
    "C22": "a slow leak: the memory is watched",
    "C23": "a slow start, avoided by an environment variable",
}
COLLECTION = (
    [f"A{number:02}" for number in range(1, 35)]
    + [f"B{number:02}" for number in range(1, 15)]
    + [f"C{number:02}" for number in range(1, 24)]
)


def test_the_collection_of_failures_is_covered() -> None:
    covered = {row for spec in SPECS for row in spec.rows}
    assert sorted(set(COLLECTION) - covered - set(TRACELESS)) == []
    assert covered <= set(COLLECTION)


def test_there_are_enough_cases() -> None:
    assert len({spec.name for spec in SPECS}) == len(SPECS)
    assert len(SPECS) * 3 + len(FAILURES) > 300


def test_every_kind_is_tried() -> None:
    tried = {spec.kind for spec in SPECS} | {row[1] for row in FAILURES} | {row[1] for row in COMPLAINTS}
    tried |= {kind for report in reports() for kind in report.kinds}
    rare = {"deployment_dropped", "disk_read_only", "process_limit"}
    assert {pattern.kind for pattern in ROWS} - tried == rare


@pytest.mark.parametrize(
    ("component", "error", "kind"),
    [
        (
            "vllm",
            "huggingface_hub.errors.HfHubHTTPError: 401 Client Error.\n\nInvalid user token.",
            "hub_token_invalid",
        ),
        ("vllm", "HfHubHTTPError: 503 Server Error: x for url: https://huggingface.co/a", "hub_unavailable"),
        ("vllm", "httpx.ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "tls_certificate"),
        ("vllm", "OSError: PermissionError at /var/cache/hf when downloading acme/x. Check", "cache_not_writable"),
        ("vllm", "OSError: Can't load tokenizer for '/models/x'. If you were trying", "tokenizer_missing"),
        ("vllm", "RuntimeError: CUDA error: uncorrectable ECC error encountered", "gpu_hardware"),
        ("vllm", "RuntimeError: NCCL error: unhandled cuda error", "nccl_error"),
        ("vllm", "OSError: [Errno 24] Too many open files", "out_of_file_descriptors"),
        ("vllm", "RuntimeError: can't start new thread", "process_limit"),
        ("vllm", "OSError: [Errno 30] Read-only file system: '/models/x'", "disk_read_only"),
        ("vllm", "FileNotFoundError: [Errno 2] No such file or directory: '/models/x/y'", "file_missing"),
        ("litellm", "prisma.errors.E: Authentication failed against database server at `db`", "database_refused"),
        ("litellm", "prisma.errors.E: the URL must start with the protocol `postgresql://`", "database_url"),
        ("command", "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9 GiB", "host_out_of_memory"),
    ],
)
def test_rare_rows(component: str, error: str, kind: str) -> None:
    lines = ["Traceback (most recent call last):", '  File "/opt/x.py", line 1, in f', *error.split("\n"), ""]
    assert matcher.diagnose("\n".join(lines), component, exit_code=1).kind == kind  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("component", "line", "kind"),
    [
        ("litellm", "ERROR:    Application startup failed. Exiting.", "startup_failed"),
        ("command", "Fatal Python error: Segmentation fault", "crashed"),
    ],
)
def test_rare_lines(component: str, line: str, kind: str) -> None:
    assert matcher.diagnose(line, component, exit_code=1).kind == kind  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ROWS, ids=IDS)
def test_a_row_can_be_filled(pattern: Pattern) -> None:
    known = KNOWN | set(pattern.regex.groupindex)
    for template in (*pattern.summary, *pattern.advice):
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        assert fields <= known, f"{sorted(fields - known)} in: {template}"
    assert pattern.summary
    assert pattern.advice
    assert re.fullmatch(r"[a-z][a-z0-9_]+", pattern.kind)


@pytest.mark.parametrize("pattern", ROWS, ids=IDS)
def test_something_is_said_whatever_is_missing(pattern: Pattern) -> None:
    """The last summary needs only the groups that a match always has."""
    optional = {name for name in pattern.regex.groupindex if f"(?P<{name}>" in pattern.regex.pattern}
    fields = {name for _, name, _, _ in string.Formatter().parse(pattern.summary[-1]) if name is not None}
    assert fields <= optional | KNOWN


@pytest.mark.parametrize("pattern", ROWS, ids=IDS)
def test_a_row_that_waits_for_others_may_heal(pattern: Pattern) -> None:
    if pattern.busy:
        assert pattern.permanent is False
    if pattern.rank is Rank.COMPLAINT:
        assert pattern.where == "line"


@pytest.mark.parametrize("pattern", ROWS, ids=IDS)
def test_no_part_of_a_regex_is_unbounded(pattern: Pattern) -> None:
    """A hostile line must not cost more than its length: every repetition has a limit."""
    text = re.sub(r"\\.", "", pattern.regex.pattern)
    text = re.sub(r"\[[^\]]*\]", "", text)
    assert "*" not in text
    assert "+" not in text


@pytest.mark.parametrize("file", sorted(SOURCE.glob("*.py")), ids=lambda file: file.name)
def test_diagnosis_is_pure(file: Path) -> None:
    """The standard library and itself; no clock, no files, no processes."""
    allowed = {
        "__future__",
        "re",
        "json",
        "difflib",
        "signal",
        "typing",
        "enum",
        "dataclasses",
        "functools",
        "itertools",
        "collections",
        "collections.abc",
    }
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            ours = name.startswith("llm_supervisor.diagnosis") or name == "llm_supervisor.redaction"
            assert name in allowed or ours, name
            assert name.startswith("llm_supervisor") or name.partition(".")[0] in sys.stdlib_module_names
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input", "exec", "eval"}
