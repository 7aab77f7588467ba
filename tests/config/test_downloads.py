"""What engines take from a hub, where they keep it, and what is said of what is not there: without a hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from llm_supervisor import units
from llm_supervisor.config import not_cached, plan, repositories_of
from llm_supervisor.config.specs import Pythons
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.engines import hub_cache
from llm_supervisor.engines.hub_cache import Missing, Repository
from tests.config.conftest import Place

COMMIT = "c" * 40
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}})
SMALL = ("config.json", "tokenizer.json", "modeling_x.py", "original/params.json", "README.md")


def repository(cache: Path = Path("/cache"), **more: object) -> Repository:
    """One of a model."""
    return Repository(**{"id": "org/a", "source": "huggingface", "revision": None, "cache": cache, **more})  # type: ignore[arg-type]


# Which files: (of these, load format, those) --------------------------------------------------------------------------
CHOICES = {
    "sharded": (
        f"{SHARDS[0]} {SHARDS[1]} {hub_cache.INDEX} pytorch_model.bin onnx/model.safetensors original/m.pth a.gguf "
        "x.png",
        "auto",
        f"{SHARDS[0]} {SHARDS[1]} {hub_cache.INDEX}",
    ),
    "one file": ("model.safetensors pytorch_model.bin tf_model.h5", "auto", "model.safetensors"),
    "an embedding model": (
        "model.safetensors 2_Dense/model.safetensors",
        "auto",
        "2_Dense/model.safetensors model.safetensors",
    ),
    "only pickles": ("pytorch_model.bin training.pt flax.msgpack", "auto", "pytorch_model.bin"),
    "only pt": ("a.pt a.pth", "auto", "a.pt"),
    "mistral's own beside shards": (
        f"consolidated.safetensors params.json {SHARDS[0]} {SHARDS[1]} {hub_cache.INDEX}",
        "auto",
        f"consolidated.safetensors params.json {hub_cache.INDEX}",
    ),
    "and when transformers' are wanted": (
        f"consolidated.safetensors {SHARDS[0]} {SHARDS[1]} {hub_cache.INDEX}",
        "hf",
        f"{SHARDS[0]} {SHARDS[1]} {hub_cache.INDEX}",
    ),
    "pt is asked for": ("a.pt model.safetensors", "pt", "a.pt"),
    "none at all": ("model.safetensors", "dummy", ""),
    "original's subfolders": ("model.safetensors original/x/y.safetensors", "auto", "model.safetensors"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_which_files_are_needed(case: str) -> None:
    there, load_format, expected = (words for words in CHOICES[case])
    paths = [*there.split(), *SMALL]
    shards = hub_cache.shards_of(INDEX.encode()) if hub_cache.INDEX in paths else ()
    chosen = hub_cache.chosen(paths, repository(load_format=load_format), shards)
    assert chosen == sorted([*expected.split(), *SMALL])
    assert hub_cache.chosen(paths, repository(weights=False), shards) == sorted(
        path for path in paths if not hub_cache.is_large(path)
    )
    assert hub_cache.chosen(paths, repository(source="modelscope"), ()) == sorted(paths), "there vLLM takes all"


# Where ----------------------------------------------------------------------------------------------------------------
FOLDERS: list[tuple[Mapping[str, str], str]] = [
    ({}, "/home/x/.cache/huggingface/hub"),
    ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
    ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/c"}, "/h/hub"),
    ({"HF_HOME": "~/h"}, "/home/x/h/hub"),
    ({"HF_HOME": "$DATA/h", "DATA": "/d"}, "/d/h/hub"),
    ({"HF_HUB_CACHE": "/hub", "HF_HOME": "/h"}, "/hub"),
    ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h"}, "/old"),
    ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/hub"}, "/hub"),
]


@pytest.mark.parametrize(("environ", "folder"), FOLDERS)
def test_where_an_engine_keeps_what_it_downloads(environ: Mapping[str, str], folder: str) -> None:
    assert hub_cache.cache_folder({"HOME": "/home/x", **environ}) == Path(folder)


def test_where_modelscope_does() -> None:
    assert hub_cache.cache_folder({"HOME": "/home/x"}, "modelscope") == Path("/home/x/.cache/modelscope/hub")
    assert hub_cache.cache_folder({"MODELSCOPE_CACHE": "/m"}, "modelscope") == Path("/m")
    one = repository(Path("/m"), source="modelscope", id="org/a-4.1v")
    assert one.snapshot() == one.growing == Path("/m/models/org/a-4___1v")


def test_what_an_engine_takes() -> None:
    home = {"HOME": "/home/x"}
    usual = Path("/home/x/.cache/huggingface/hub")

    def taken(**options: object) -> list[tuple[str, str | None, Path, bool]]:
        named = {name.replace("_", "-"): value for name, value in options.items()}
        found = hub_cache.repositories("org/a", "huggingface", named, home)
        return [(one.id, one.revision, one.cache, one.weights) for one in found]

    model = ("org/a", None, usual, True)
    assert taken() == [model]
    assert taken(revision="v1") == [("org/a", "v1", usual, True)]
    assert taken(tokenizer="org/b", tokenizer_revision="r") == [model, ("org/b", "r", usual, False)]
    assert taken(tokenizer="/srv/b") == [model]
    assert taken(download_dir="/w") == [("org/a", None, Path("/w"), True), ("org/a", None, usual, False)]
    assert taken(speculative_config={"model": "org/d"}) == [model, ("org/d", None, usual, True)]
    assert taken(speculative_config='{"model": "org/d", "revision": "r"}') == [model, ("org/d", "r", usual, True)]
    assert taken(speculative_config="nonsense") == taken(speculative_config={"method": "ngram"}) == [model]
    assert hub_cache.repositories("s3://bucket/a", "huggingface", {}, home) == ()
    assert hub_cache.offline({"TRANSFORMERS_OFFLINE": "yes"}) == "TRANSFORMERS_OFFLINE"
    assert hub_cache.offline({"HF_HUB_OFFLINE": "0"}) is None


# What is there --------------------------------------------------------------------------------------------------------


def cached(cache: Path, files: Mapping[str, str], *, listed: Mapping[str, int] | None = None) -> Repository:
    """A cache with these files of a commit, and a list of all that it has."""
    one = repository(cache)
    (one.folder / "refs").mkdir(parents=True)
    (one.folder / "refs/main").write_text(COMMIT)
    for name, text in files.items():
        path = one.folder / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if listed is not None:
        said = {"format_version": 1, "files": {name: {"size": size, "blob_id": "x"} for name, size in listed.items()}}
        (one.folder / "trees").mkdir()
        (one.folder / "trees" / f"{COMMIT}.json").write_text(json.dumps(said))
    return one


WHOLE = {"config.json": "{}", hub_cache.INDEX: INDEX, SHARDS[0]: "aaaa", SHARDS[1]: "bbbbbb"}


def test_what_is_missing_by_what_the_hub_has_said(tmp_path: Path) -> None:
    listed = {name: len(text) for name, text in WHOLE.items()} | {"README.md": 0, "x.onnx": 7, "pytorch_model.bin": 9}
    one = cached(tmp_path, {**WHOLE, "README.md": ""}, listed=listed)
    assert hub_cache.missing(one) is None
    (one.folder / "snapshots" / COMMIT / SHARDS[0]).write_text("a")
    (one.folder / "snapshots" / COMMIT / "README.md").unlink()
    assert hub_cache.missing(one) == Missing(("README.md", SHARDS[0]), 4)
    assert hub_cache.missing(repository(tmp_path, weights=False)) == Missing(("README.md",), 0)
    assert hub_cache.missing(repository(tmp_path, revision=COMMIT)) is not None
    assert hub_cache.missing(repository(tmp_path, revision="v2")) == Missing()
    assert hub_cache.missing(repository(tmp_path / "elsewhere")) == Missing()


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        (WHOLE, None),
        ({name: WHOLE[name] for name in ("config.json", hub_cache.INDEX, SHARDS[1])}, (SHARDS[0],)),
        ({"config.json": "{}", "model.safetensors": "a"}, None),
        ({"params.json": "{}", "consolidated.safetensors": "a"}, None),
        ({"config.json": "{}"}, ("the weights",)),
        ({"model.safetensors": "a"}, ("config.json",)),
    ],
)
def test_what_is_missing_where_nobody_has_said(
    tmp_path: Path, there: Mapping[str, str], lacking: tuple[str, ...] | None
) -> None:
    one = cached(tmp_path, there)
    assert hub_cache.missing(one) == (None if lacking is None else Missing(lacking))


@pytest.mark.parametrize(
    "text", ["", "nonsense", '{"format_version": 2, "files": {"a": {"size": 1}}}', '{"files": []}']
)
def test_a_list_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    one = cached(tmp_path, WHOLE, listed={})
    (one.folder / "trees" / f"{COMMIT}.json").write_text(text)
    assert hub_cache.missing(one) is None


def test_a_download_is_seen_by_its_growth(tmp_path: Path) -> None:
    assert hub_cache.growth([tmp_path / "nothing"]) == 0
    (tmp_path / "whole").write_bytes(b"12345")
    (tmp_path / "x.1234.incomplete").write_bytes(b"678")
    assert hub_cache.growth([tmp_path, tmp_path / "nothing"]) == 8


SIZES = {
    0: "0 bytes",
    999: "999 bytes",
    1536: "1.5 KiB",
    123 << 10: "123 KiB",
    20.6 * (1 << 30): "20.6 GiB",
    3 << 40: "3.0 TiB",
}


@pytest.mark.parametrize(("size", "text"), SIZES.items())
def test_sizes_for_people(size: float, text: str) -> None:
    assert units.size_text(size) == text


# What is said ---------------------------------------------------------------------------------------------------------
CONFIG = """
gateway: {{}}
env_file: hub.env
models:
  a:
    model: org/a
    port: 8000
    {more}
  folder: {{model: ./tiny, port: 8001}}
  later: {{model: org/later, port: 8002, autostart: false}}
"""


def said(place: Place, more: str = "") -> list[tuple[int, str, str, str]]:
    """The warnings."""
    place.write(f"HF_HOME={place.folder}/hf\n", "hub.env", 0o600)
    found = not_cached(place.load(CONFIG.format(more=more)))
    assert all(problem.warning for problem in found)
    return [(problem.line, problem.path, problem.message, problem.advice) for problem in found]


def test_a_start_that_would_download_is_told(place: Place) -> None:
    cache = place.folder / "hf/hub"
    advice = "before the start: llm-supervisor pull a"
    message = f"org/a is not in the cache {cache}, so its start downloads it"
    assert said(place) == [(6, "models.a.model", message, advice)]
    forbidden = f"org/a is not in the cache {cache}, and HF_HUB_OFFLINE forbids to download it"
    assert said(place, "env: {HF_HUB_OFFLINE: 1}") == [(6, "models.a.model", forbidden, advice)]
    both = f"org/a and org/tok are not in the cache {cache}, so its start downloads them"
    assert said(place, "vllm: {tokenizer: org/tok}")[0][2] == both
    one = cached(cache, WHOLE, listed={name: len(text) for name, text in WHOLE.items()} | {"vocab.txt": 2_000_000})
    incomplete = f"org/a is incomplete in the cache {cache}, so its start downloads it (1.9 MiB)"
    assert said(place) == [(6, "models.a.model", incomplete, advice)]
    (one.folder / "snapshots" / COMMIT / "vocab.txt").write_bytes(bytes(2_000_000))
    assert said(place) == []


def spec(place: Place, more: str) -> ProgramSpec:
    """Of model a."""
    place.write("", "hub.env", 0o600)
    config = place.load(CONFIG.format(more=more), {"HOME": "/home/x"})
    assert repositories_of(config, config.root.models["folder"]) == ()
    made = plan(config, runtime=place.folder, pythons=Pythons("v", "l", vllm_cpu=True), master_key="k")
    assert made.programs["folder"].spec.launch.downloads == ()
    return made.programs["a"].spec


def test_what_an_engine_is_told_of_its_hub(place: Place) -> None:
    usual = spec(place, "")
    assert "VLLM_USE_MODELSCOPE" not in dict(usual.launch.env)
    assert usual.launch.downloads == ("/home/x/.cache/huggingface/hub/models--org--a/blobs",)
    scope = spec(place, "source: modelscope")
    assert dict(scope.launch.env)["VLLM_USE_MODELSCOPE"] == "True"
    assert scope.digest != usual.digest
    # what is there is given as a folder
    folder = place.folder / "scope/models/org/a"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("a")
    said = f"source: modelscope, env: {{MODELSCOPE_CACHE: {place.folder}/scope}}"
    whole = spec(place, said.replace(", env", "\n    env"))
    assert str(folder) in whole.launch.argv
    assert dict(whole.launch.env)["HF_HUB_OFFLINE"] == "1" and "VLLM_USE_MODELSCOPE" not in dict(whole.launch.env)
    (folder / "config.json").unlink()
    again = spec(place, said.replace(", env", "\n    env"))
    assert "org/a" in again.launch.argv and again.digest == whole.digest, "which is no other configuration"
