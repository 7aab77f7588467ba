"""The import hook that lets vision models be imported beside a CPU build of torch, tried beside fake torch packages."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.engines.environment import INSIDE

TORCH = """
    from types import SimpleNamespace
    defined, loaded = [], []

    def load_library(path):
        loaded.append(path)
        if BROKEN:
            raise OSError(f"Could not load this library: {path}")
        for name in ("nms", "qnms"):
            setattr(ops.torchvision, name, name)

    ops = SimpleNamespace(load_library=load_library, torchvision=SimpleNamespace())
    library = SimpleNamespace(define=lambda name, schema: defined.append(name))
    version = SimpleNamespace(cuda=None if BROKEN else "13.0")
"""
SHELVES = {
    "torch/cuda/__init__.py": "from .graphs import is_current_stream_capturing",
    "torch/cuda/graphs.py": "def is_current_stream_capturing():\n    return 'asked'",
    "torchvision/__init__.py": "import torch\nat_import = list(torch.defined)",
    "torchvision/_C.so": "",
    "torchaudio/__init__.py": "from torchaudio._extension import loaded",
    "torchaudio/_extension/__init__.py": "from .utils import _load_lib\nloaded = _load_lib('libtorchaudio')",
    "torchaudio/_extension/utils.py": "import torch\ndef _load_lib(name):\n    return not torch.ops.load_library(name)",
    "torchcodec/__init__.py": "import torch\ntorch.ops.load_library('libtorchcodec')",
}


@pytest.fixture
def interpreter(tmp_path: Path) -> Callable[..., Any]:
    """Run a script beside fake torch packages whose extensions load or do not; returns what it prints, as JSON."""

    def interpret(script: str, *, loads: bool) -> Any:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "__init__.py").write_text(f"BROKEN = {not loads}\n{textwrap.dedent(TORCH)}")
        for name, text in SHELVES.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        begin = f"""
            import json, sys
            before = set(sys.modules)
            sys.path += [{str(tmp_path)!r}, {str(INSIDE)!r}]
            {(INSIDE / "llm_supervisor_cpu_torch.pth").read_text()}
            brought = sorted(set(sys.modules) - before)
        """
        whole = textwrap.dedent(begin) + textwrap.dedent(script)
        done = subprocess.run([sys.executable, "-ISc", whole], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return interpret


IMPORT_ALL = """
    import torchvision, torchaudio, torch
    codec = []
    for _ in range(2):
        try:
            import torchcodec
            codec.append("here")
        except ImportError as problem:
            codec.append(str(problem))
    print(json.dumps([torchvision.at_import, torchaudio.loaded, codec]))
"""


def test_the_hook_lets_cuda_builds_be_imported_beside_a_cpu_torch(interpreter: Callable[..., Any]) -> None:
    operators, audio, codec = interpreter(IMPORT_ALL, loads=False)
    assert operators == ["torchvision::nms", "torchvision::qnms"]
    assert audio is False
    assert codec == ["torchcodec does not load beside this torch: Could not load this library: libtorchcodec"] * 2


def test_the_hook_changes_nothing_where_the_extensions_load(interpreter: Callable[..., Any]) -> None:
    assert interpreter(IMPORT_ALL, loads=True) == [[], True, ["here", "here"]]


@pytest.mark.parametrize(("loads", "said"), [(False, False), (True, "asked")])
def test_the_hook_knows_that_nothing_records_without_cuda(
    interpreter: Callable[..., Any], loads: bool, said: object
) -> None:
    script = """
        import torch.cuda
        print(json.dumps(torch.cuda.is_current_stream_capturing()))
    """
    assert interpreter(script, loads=loads) == said


def test_the_hook_costs_nothing_until_it_is_needed(interpreter: Callable[..., Any]) -> None:
    script = """
        from importlib.util import find_spec
        print(json.dumps([brought, find_spec("torchvision") is not None, "torch" in sys.modules]))
    """
    assert interpreter(script, loads=False) == [["llm_supervisor_cpu_torch"], True, False]
