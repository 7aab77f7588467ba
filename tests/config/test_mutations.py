"""Good configurations, damaged in many ways: planned and shown, or refused with problems that have a place, and nothing
else; never with a key in what is said, and never for ever.

``FUZZ_SEED=N`` plays one case again, ``FUZZ_SECONDS=N`` says how long the long test takes (60).
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
import yaml

from llm_supervisor.config import ConfigError, keep, load, plan, restore, show
from llm_supervisor.config.specs import Pythons
from llm_supervisor.oneshot import presets
from llm_supervisor.redaction import HIDDEN
from tests.config.conftest import GOOD, NATIVE, Place
from tests.config.test_wrong_by_people import MAIN, OPTIONS

ROOT = Path(__file__).parent.parent.parent
# Keys that must never be said, by where they stand
KEYS = {name: f"sk-MARKED{number}a1b2c3d4e5f60718" for number, name in enumerate(("env", "native", "engine", "token"))}
INLINE = f"""\
models:
  keyed:
    model: org/keyed
    port: 8123
    vllm: {{api-key: {KEYS["engine"]}}}
    env: {{HF_TOKEN: {KEYS["token"]}}}
"""
INLINE_NATIVE = f"""\
  - model_name: keyed-cloud
    litellm_params: {{model: openai/x, api_base: "http://10.0.0.1:8000", api_key: {KEYS["native"]}}}
"""
# What a damaged value may be: nothing, the wrong type, what looks like something else, what nobody can take
ODDITIES: list[object] = [
    *(None, True, 0, -1, 1.5, 10**30, 10**4000, 65536, float("inf"), float("nan"), [], {}, [None], {"": None}, [[[]]]),
    *("", " ", "x", "x" * 300, "y" * 20_000, "5m", "TERM", "\0", "\n", "ü", "\ud800", "../..", "~", "all", "gateway"),
    *("os.environ/NONE", "os.environ/", "os.environ/KEY", "${", "${}", "${NONE}", "${KEY}", "$KEY", "$${x}", "${KEY:-"),
    *("~nobody/x", "/dev/null", "/dev/zero", "/", ".", "http://[", "https://h:99999/", "127.0.0.1:99999", "::", "0755"),
    *({"a": {"b": ["c"]}}, b"\xff", "2024-13-45", "1:99", "(" * 50, "(a+)+$", "image=1", "25.5K", "{", "vllm/x"),
]
SNIPPETS = [
    *(b"\t", b"\0", b"\xff", b"{", b"}", b"[", b"]", b":", b": ", b"- ", b"#", b"'", b'"', b"|\n", b"? ", b"@", b"\r"),
    *(b"&a ", b"*a", b"!!int ", b"!!timestamp ", b"!x ", b"<<: ", b"---\n", b"...\n", b"%YAML 9\n", b"\xef\xbb\xbf"),
    *(b"2024-13-41", b"1:99", b"0b", b"0x_", b"!!set ", b"!!binary ", b"!!python/name:os.system ", b"!!pairs ", b"=\n"),
    *(b"\xc2\x85", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"${", b"${X}", b"$", b"<<: *a\n", b"[" * 60, b"{a: " * 60, b"*"),
    *(
        b"\\",
        b'"\\ud800"',
        b'"\\x00"',
        b"0x" + b"f" * 5000,
        b"9" * 5000,
        b"1e400",
        b".nan",
        b"~",
        b"&a {<<: *a}",
        b"% ",
    ),
]


def nodes(value: object, where: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every place in a tree."""
    found = [where] if where else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += nodes(item, (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += nodes(item, (*where, index))
    return found


def deep(dice: random.Random) -> object:
    """Lists and mappings in each other."""
    value: object = "x"
    for _ in range(dice.choice((3, 30, 70))):
        value = [value] if dice.random() < 0.5 else {"a": value}
    return value


def damage_tree(text: str, dice: random.Random) -> bytes:
    """Delete, replace, move, rename or repeat some nodes."""
    data = yaml.safe_load(text)
    for _ in range(dice.randint(1, 3)):
        places = nodes(data)
        if not places:
            break
        *path, last = dice.choice(places)
        parent = data
        for part in path:
            parent = parent[part]
        match dice.randrange(7):
            case 0:
                del parent[last]
            case 1:
                parent[last] = copy.deepcopy(dice.choice(ODDITIES))
            case 2:
                other = data
                for part in dice.choice(places):
                    other = other[part]
                parent[last] = copy.deepcopy(other)
            case 3 if isinstance(parent, dict):
                name = dice.choice([*ODDITIES[:10], *WORDS, f"{last}x", str(last)[1:], str(last).upper()])
                parent[name] = parent.pop(last)
            case 4:
                parent[last] = deep(dice)
            case 5:  # what refers to itself, or to what is elsewhere
                parent[last] = dice.choice([parent, data])
                break  # there is no end of places now
            case _ if isinstance(parent, dict):
                parent[f"{last}2"] = copy.deepcopy(parent[last])
            case _:
                parent.append(copy.deepcopy(parent[last]))
    return yaml.dump(data, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


WORDS = "port model gpus vllm env health restart stop command ready host models programs engines litellm".split()


def damage_bytes(text: str, dice: random.Random) -> bytes:
    """Delete, repeat, insert, turn over or move some bytes or lines."""
    data = bytearray(text.encode())
    for _ in range(dice.randint(1, 3)):
        at, length = dice.randrange(len(data) or 1), dice.randint(1, 12)
        match dice.randrange(8):
            case 0:
                del data[at : at + length]
            case 1:
                data[at:at] = data[at : at + length] * dice.randint(1, 3)
            case 2:
                data[at:at] = dice.choice(SNIPPETS)
            case 3:
                data[at : at + 1] = dice.randbytes(1)
            case 4:
                lines = bytes(data).split(b"\n")
                n = dice.randrange(len(lines))
                lines.insert(dice.randrange(len(lines)), lines[n] if dice.random() < 0.5 else lines.pop(n))
                data = bytearray(b"\n".join(lines))
            case 5 if data:
                data[at] ^= 1 << dice.randrange(8)
            case 6:  # a line further in or out
                lines = bytes(data).split(b"\n")
                n = dice.randrange(len(lines))
                lines[n] = dice.choice([b"  ", b" ", b"\t"]) + lines[n] if dice.random() < 0.6 else lines[n].lstrip()
                data = bytearray(b"\n".join(lines))
            case _:
                data = data[: max(at, 1)]
    return bytes(data)


def sources() -> list[dict[str, str]]:
    """Configurations that are good as they are: all that we publish, and one with everything. Each has keys in it."""
    found = [presets.made(name, free=lambda port: True, gpus=True) for name in sorted(presets.names())]
    found.append({MAIN: (ROOT / "configs/demo.yaml").read_text().replace("../.demo/tiny-glm-4.1v", "./tiny")})
    found.append({MAIN: GOOD.replace("native.yaml", "litellm_config.yaml"), "litellm_config.yaml": NATIVE})
    for files in found:
        text = files.get("litellm_config.yaml", "")
        if text and "\nmodel_list:\n" not in f"\n{text}":
            text += "model_list:\n"  # some only have comments
        files["litellm_config.yaml"] = re.sub(
            r"^(model_list:\n)", rf"\1{INLINE_NATIVE}", text, count=1, flags=re.MULTILINE
        )
        main = files[MAIN]
        if "\nmodels:\n" in main:
            files[MAIN] = main.replace("\nmodels:\n", f"\n{INLINE}", 1)
        else:
            files[MAIN] = f"{main}{INLINE}"
        names = set(re.findall(r"^(\w+)=", files.get("keys.env", ""), re.MULTILINE))
        lines = "".join(
            f"{name}={KEYS['env']}\n" for name in sorted(names | {"ANTHROPIC_API_KEY", "LITELLM_MASTER_KEY"})
        )
        files["keys.env"] = f"# keys\n{lines}KEY=a value\n"
    return found


SOURCES = sources()


class Late(BaseException):
    """No Exception: nothing on the way takes it for one of its own."""


@contextmanager
def watchdog() -> Iterator[None]:
    """5 s of this process's own time, a minute of everybody's."""

    def bite(number: int, frame: FrameType | None) -> None:
        raise Late(f"signal {number}: it takes too long")

    before = [(one, signal.signal(one, bite)) for one in (signal.SIGVTALRM, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_VIRTUAL, 5)
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for one, handler in before:
            signal.signal(one, handler)


def no_key_in(said: str) -> None:
    found = [name for name, key in KEYS.items() if re.search(rf"(?<![A-Za-z0-9]){key}", said)]
    assert not found, said


def outcome(files: list[Path], folder: Path) -> str:
    """Load it as the daemon and ``check`` do, and plan and show it if it is right."""
    try:
        config = load(files, {}, lambda python: OPTIONS)
        problems = list(config.warnings)
    except ConfigError as error:
        problems = error.problems
        assert any(not problem.warning for problem in problems)
        config = None
    for problem in problems:
        no_key_in(str(problem))
        assert problem.message
        assert len(str(problem).splitlines()) == 1
        assert str(problem).startswith(f"{folder}/")
        assert problem.line or not problem.path, problem
        text = Path(problem.file).read_bytes().decode("utf-8", "replace") if problem.line else ""
        lines = re.split("\n" if problem.file.endswith(".env") else "\r\n|[\n\r\x85\u2028\u2029]", text)
        assert 0 <= problem.line <= len(lines), problem
    if config is None:
        return "refused"
    made = plan(config, runtime=folder, pythons=Pythons("p", "p", vllm_cpu=True), master_key=HIDDEN)
    for planned in made.programs.values():
        words = [*planned.spec.launch.argv, *(word for pair in planned.spec.launch.env for word in pair)]
        assert all(isinstance(word, str) and "\0" not in word for word in words)
        " ".join(words).encode()
    yaml.safe_dump(made.litellm_config, allow_unicode=True).encode()
    seen = show.shown(config, made)
    no_key_in(json.dumps(seen, default=str))
    no_key_in(yaml.safe_dump(seen, allow_unicode=True, width=10**6))
    assert repr(restore(keep(config), {}).root) == repr(config.root), "what a next daemon would know of it"
    return "planned"


def mutate(folder: Path, seed: int) -> str:
    """One damaged configuration; the same for the same seed."""
    dice = random.Random(seed)
    files = dict(dice.choice(SOURCES))
    damaged: dict[str, bytes] = {}
    layers = [MAIN]
    if dice.random() < 0.15:  # a second layer: an own good one, damaged
        files["site.yaml"] = dice.choice(SOURCES)[MAIN]
        layers.append("site.yaml")
    names = [MAIN] * 4 + [name for name in files if name != MAIN]
    for name in {dice.choice(names) for _ in range(dice.choice((1, 1, 2)))}:
        tree = dice.random() < 0.5 and not name.endswith(".env")
        damaged[name] = (damage_tree if tree else damage_bytes)(files[name], dice)
    for name, text in files.items():
        (folder / name).write_bytes(damaged.get(name, text.encode()))
        (folder / name).chmod(0o600)
    try:
        with watchdog():
            return outcome([folder / name for name in layers], folder)
    except BaseException:
        print(f"\nFUZZ_SEED={seed}, damaged: {', '.join(sorted(damaged))}")
        for name, data in damaged.items():
            print(f"--- {name}\n{data.decode(errors='backslashreplace')[:4000]}")
        raise
    finally:
        for name in files:
            (folder / name).unlink()


@pytest.fixture
def folder(place: Place) -> Path:
    """With the model and the environment that the sources name, and none of their own files."""
    for name in ("native.yaml", "keys.env"):
        (place.folder / name).unlink()
    return place.folder


def test_the_sources_are_good(folder: Path) -> None:
    for files in SOURCES:
        for name, text in files.items():
            place = Place(folder)
            place.write(text, name, 0o600)
        assert outcome([folder / MAIN], folder) == "planned"
        for name in files:
            (folder / name).unlink()


@pytest.mark.filterwarnings("error")
def test_damage_is_refused_or_harmless(folder: Path) -> None:
    ends = [mutate(folder, seed) for seed in range(150)]
    assert 15 < ends.count("planned") < 135, "neither everything nor nothing is refused"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [10, pytest.param(120, marks=pytest.mark.soak)])
@pytest.mark.filterwarnings("error")
def test_damage_for_a_while(folder: Path, seconds: float) -> None:
    """Other cases each time; a failure prints the seed that plays it again."""
    if "FUZZ_SEED" in os.environ:
        mutate(folder, int(os.environ["FUZZ_SEED"]))
        return
    seed = random.SystemRandom().randrange(1 << 40)
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", seconds))
    while time.monotonic() < end:
        mutate(folder, seed)
        seed += 1
