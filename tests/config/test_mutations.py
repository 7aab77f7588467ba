"""A good configuration, damaged in many ways: it is loaded and planned, or refused with problems, and nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from llm_supervisor.config import ConfigError, load, plan
from llm_supervisor.config.plan import Pythons
from tests.config.conftest import GOOD, NATIVE, Place

# What a damaged value may be: nothing, the wrong type, what looks like something else, what nobody can take
ODDITIES: list[object] = [
    *(None, True, 0, -1, 1.5, 10**30, 65536, float("inf"), float("nan"), [], {}, [None], {"": None}, [[[]]], ["a"]),
    *("", " ", "x", "x" * 300, "5m", "TERM", "os.environ/NONE", "os.environ/", "\0", "\n", "ü", "\ud800", "../.."),
    *("~nobody/x", "/dev/null", "http://[", "127.0.0.1:99999", {"a": {"b": ["c"]}}, b"\xff"),
]
SNIPPETS = [
    *(b"\t", b"\0", b"\xff", b"{", b"}", b"[", b"]", b":", b": ", b"- ", b"#", b"'", b'"', b"|\n", b"? ", b"@", b"\r"),
    *(b"&a ", b"*a", b"!!int ", b"!!timestamp ", b"!x ", b"<<: ", b"---\n", b"...\n", b"%YAML 9\n", b"\xef\xbb\xbf"),
    *(b"2024-13-41", b"1:99", b"0b", b"0x_"),
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
        match dice.randrange(5):
            case 0:
                del parent[last]
            case 1:
                parent[last] = dice.choice(ODDITIES)
            case 2:
                other = data
                for part in dice.choice(places):
                    other = other[part]
                parent[last] = yaml.safe_load(yaml.safe_dump(other))
            case 3 if isinstance(parent, dict):
                name = dice.choice([*ODDITIES[:9], f"{last}x", str(last)[1:], str(last).upper()])
                parent[name] = parent.pop(last)
            case _ if isinstance(parent, dict):
                parent[f"{last}2"] = parent[last]
            case _:
                parent.append(parent[last])
    return yaml.dump(data, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


def damage_bytes(text: str, dice: random.Random) -> bytes:
    """Delete, repeat, insert or move some bytes or lines."""
    data = bytearray(text.encode())
    for _ in range(dice.randint(1, 3)):
        at, length = dice.randrange(len(data) or 1), dice.randint(1, 12)
        match dice.randrange(6):
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
            case _:
                data = data[: max(at, 1)]
    return bytes(data)


def outcome(place: Place) -> str:
    """Load it as the daemon would, and plan it if it is right."""
    try:
        config = load(place.folder / "supervisor.yaml", {"ANTHROPIC_API_KEY": "x"})
    except ConfigError as error:
        problems = error.problems
        config = None
    if config is None:
        assert any(not problem.warning for problem in problems)
        for problem in problems:
            assert problem.message
            assert str(problem).startswith(f"{place.folder}/")
            assert problem.line or not problem.path, problem
        return "refused"
    made = plan(config, runtime=place.folder, pythons=Pythons("p", "p", vllm_cpu=True), master_key="sk-x")
    for planned in made.programs.values():
        assert all(isinstance(word, str) for word in planned.spec.launch.argv)
        assert all(isinstance(word, str) for pair in planned.spec.launch.env for word in pair)
    yaml.safe_dump(made.litellm_config)
    return "planned"


def mutate(place: Place, seed: int) -> str:
    dice = random.Random(seed)
    name, text = dice.choice([("supervisor.yaml", GOOD), ("supervisor.yaml", GOOD), ("native.yaml", NATIVE)])
    damage = dice.choice([damage_tree, damage_bytes])
    file: Path = place.folder / name
    good = file.read_bytes()
    file.write_bytes(damage(text, dice))
    try:
        return outcome(place)
    except Exception:
        print(f"seed {seed}, {name}:\n{file.read_bytes().decode(errors='replace')}")
        raise
    finally:
        file.write_bytes(good)


@pytest.mark.filterwarnings("error")
def test_damage_is_refused_or_harmless(place: Place) -> None:
    place.write(GOOD)
    place.write("ANTHROPIC_API_KEY=x\n", "keys.env", 0o600)
    assert outcome(place) == "planned"
    ends = [mutate(place, seed) for seed in range(300)]
    assert 30 < ends.count("planned") < 270, "neither everything nor nothing is refused"
