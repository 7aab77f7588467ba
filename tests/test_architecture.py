"""The floors: imports go strictly down, wherever in a module they stand; and what the pure part may not touch.

Read from the source, nothing is imported.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = "llm_supervisor"
SOURCE = Path(__file__).parents[1] / "supervisor" / PACKAGE

# Which floor a module is on: the longest name that fits decides. "" is the package itself, which has no code to import.
FLOORS: Mapping[str, int] = {
    "": 0,
    "core": 0,
    # Below everything: words, numbers and places that all floors share
    "suggest": -2,
    "terminal": -2,
    "units": -1,
    "redaction": -1,
    "paths": -1,
    "ownership": -2,
    "host": 1,
    "host.bounded": 0,  # imports nothing of ours, and everything that may hang is called through it
    "host.files": 0,  # imports nothing of ours, and every folder may write files
    "engines": 1,
    "engines.site_packages": 0,  # imports nothing of ours, and both engines look there
    "diagnosis": 1,
    "control": 1,
    "config": 2,
    "control.server": 2,
    "supervision": 3,
    "oneshot": 3,
    "oneshot.preflight": 4,
    "daemon": 5,
    "cli": 6,
}
# Packages whose modules may import each other: one thing in several files
ONE_THING = (
    "core",
    "host.process",
    "host.net",
    "host.output",
    "engines.vllm",
    "engines.litellm",
    "control",
    "diagnosis",
    "config",
    "supervision",
    "daemon",
    "cli",
    "oneshot",
)
# Of these, packages whose modules still have an order
FREE_OF_CIRCLES = ("config",)
# What would make the core depend on when and where it runs
IMPURE = frozenset(
    """asyncio concurrent datetime io logging multiprocessing os pathlib random secrets select selectors shutil signal
    socket ssl subprocess sys tempfile threading time urllib uuid""".split()
)
ENGINES = frozenset({"vllm", "litellm"})


def modules() -> dict[str, Path]:
    """Every module's name below the package, and its file."""
    found = {}
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()
ALL = pytest.mark.parametrize("module", [pytest.param(name, id=name or PACKAGE) for name in MODULES])


def imports(module: str, tree: ast.AST, package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, full name) of all that is imported anywhere in the tree: in functions and under TYPE_CHECKING too.

    ``from a import b`` is ``a.b`` where that is a module of ours, else ``a``.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = [PACKAGE, *filter(None, module.split("."))]
                up = node.level - 1 if package else node.level
                base = ".".join([*here[: len(here) - up], *filter(None, [base])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if inside(full) in MODULES else base


def inside(full: str) -> str | None:
    """The name below our package; None for what is not ours."""
    if full == PACKAGE:
        return ""
    return full.removeprefix(f"{PACKAGE}.") if full.startswith(f"{PACKAGE}.") else None


def floor(module: str) -> int:
    """The floor of a module. Raises LookupError for one that has none."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in FLOORS:
            return FLOORS[name]
    raise LookupError(f"{module} has no floor: give it one in FLOORS")


def together(one: str, other: str) -> bool:
    """Whether both are parts of one thing."""
    return any(all(name == package or name.startswith(f"{package}.") for name in (one, other)) for package in ONE_THING)


def faults(module: str, tree: ast.AST, package: bool = False) -> list[str]:
    """All imports of a module that do not go down."""
    found = []
    for line, full in imports(module, tree, package):
        other = inside(full)
        if other is None or together(module, other):
            continue
        if floor(other) >= floor(module) and other != "":
            found.append(f"line {line}: {module} (floor {floor(module)}) imports {other} (floor {floor(other)})")
    return found


def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def is_package(module: str) -> bool:
    return MODULES[module].name == "__init__.py"


@ALL
def test_imports_go_down(module: str) -> None:
    assert not faults(module, parse(module), is_package(module))


@ALL
def test_a_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(parse(module)), f"{MODULES[module].relative_to(SOURCE)} has no docstring"


@ALL
def test_a_module_and_its_functions_can_be_read_at_once(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 500, "split the module by what its parts do"
    functions = [node for node in ast.walk(parse(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 60] == []


@ALL
def test_a_docstring_says_something(module: str) -> None:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    said = [ast.get_docstring(node) for node in ast.walk(parse(module)) if isinstance(node, kinds)]
    assert [text for text in said if text is not None and len(text) < 20] == []


@ALL
def test_only_what_runs_inside_an_engine_imports_one(module: str) -> None:
    if not module.startswith("engines.inside"):
        found = {full for _, full in imports(module, parse(module)) if full.partition(".")[0] in ENGINES}
        assert not found, "the engines live in environments of their own: they are run by path"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("engines.inside")])
def test_what_runs_inside_an_engine_does_without_us(module: str) -> None:
    """The daemon is not installed there."""
    found = [full for _, full in imports(module, parse(module), is_package(module)) if inside(full) is not None]
    assert not found


@pytest.mark.parametrize("module", [name for name in MODULES if name.partition(".")[0] == "core"])
def test_the_core_is_pure(module: str) -> None:
    """No clock, no input or output, no randomness, nobody else's code."""
    for line, full in imports(module, parse(module), is_package(module)):
        top = full.partition(".")[0]
        ours = inside(full)
        if ours is not None:
            assert ours.partition(".")[0] in ("core", "units"), f"line {line}: {full}"
        else:
            assert top in sys.stdlib_module_names, f"line {line}: {full} is not of the standard library"
            assert top not in IMPURE, f"line {line}: {full}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.partition(".")[0] == "core"])
def test_the_core_opens_no_file(module: str) -> None:
    called = {
        node.func.id
        for node in ast.walk(parse(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("cli.") and name != "cli.output"])
def test_commands_print_by_one_module(module: str) -> None:
    """It takes out what a terminal would obey."""
    prints = [
        node.lineno
        for node in ast.walk(parse(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert prints == []


def test_the_package_itself_imports_nothing() -> None:
    """Whoever imports a part of it imports this first."""
    assert [full for _, full in imports("", parse(""), package=True) if full != "__future__"] == []


@pytest.mark.parametrize("package", FREE_OF_CIRCLES)
def test_its_modules_do_not_import_each_other_in_a_circle(package: str) -> None:
    """A module's own package is left out: importing any module of it runs that first anyway."""
    members = [name for name in MODULES if name.startswith(f"{package}.")]
    graph = {
        name: {inside(full) for _, full in imports(name, parse(name), is_package(name))} & {*members}
        for name in members
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_no_floor_is_left_over() -> None:
    assert all(name in MODULES for name in FLOORS)
    assert all(name in MODULES for name in ONE_THING)


# Would it notice?


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("core.program", "import llm_supervisor.supervision", "core.program (floor 0) imports supervision (floor 3)"),
        (
            "core.program",
            "from llm_supervisor import supervision",
            "core.program (floor 0) imports supervision (floor 3)",
        ),
        ("core.program", "from ..host import net", "core.program (floor 0) imports host.net (floor 1)"),
        ("core.program", "from llm_supervisor.core import event", None),
        ("core.program", "from . import event", None),
        ("core.program", "from llm_supervisor import __version__", None),
        ("host.gpu", "from llm_supervisor.host import http", "host.gpu (floor 1) imports host.http (floor 1)"),
        ("host.http", "def f():\n    from llm_supervisor.host.net.listener import bind", "line 2: host.http"),
        (
            "host.http",
            "if TYPE_CHECKING:\n    from llm_supervisor.supervision.runner import World",
            "line 2: host.http",
        ),
        ("host.process.child", "from llm_supervisor.host.process.proc import Row", None),
        ("host.process.child", "from llm_supervisor.host import net", "imports host.net (floor 1)"),
        ("host.net.ports", "from llm_supervisor.host.process import find", "imports host.process (floor 1)"),
        ("host.net.listener", "from llm_supervisor.host.net.ports import listening", None),
        ("engines.vllm.process", "from llm_supervisor.engines import litellm", "imports engines.litellm (floor 1)"),
        ("engines.vllm.process", "from llm_supervisor.engines.vllm import options", None),
        ("engines.vllm.process", "from llm_supervisor.core.health import ProbeResult", None),
        ("config.plan", "from llm_supervisor.config.config import Config", None),
        ("config.plan", "from llm_supervisor.supervision.runner import Runner", "imports supervision.runner (floor 3)"),
        (
            "daemon.daemon",
            "from llm_supervisor.cli.main import main",
            "daemon.daemon (floor 5) imports cli.main (floor 6)",
        ),
        ("cli.main", "from llm_supervisor import daemon", None),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_noticed(module: str, source: str, fault: str | None) -> None:
    found = faults(module, ast.parse(source))
    assert (fault is None) == (not found)
    assert fault is None or fault in found[0]


def test_a_module_without_a_floor_is_noticed() -> None:
    with pytest.raises(LookupError, match="attic has no floor"):
        floor("attic")
