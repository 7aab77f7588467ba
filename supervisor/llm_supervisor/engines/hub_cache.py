"""A model's files: which of a hub's repository vLLM loads, in which cache they are, and what of them is missing there.

Rules and looks at folders; no network, and nothing is written: the hub is asked by ``inside/pull.py``, in vLLM's own
environment. The layout of the cache is huggingface_hub's, which documents it; ModelScope's is the one in which vLLM
0.32 looks, that of modelscope before 1.38.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llm_supervisor.host import bounded
from llm_supervisor.suggest import short

WITHIN = 0.7  # seconds that a folder may take to answer

INDEX = "model.safetensors.index.json"
_LARGEST_INDEX = 64 << 20  # bytes
# What vLLM does not take with the small files (vllm/transformers_utils/repo_utils.py, _WEIGHT_FILE_PATTERNS, 0.32)
LARGE = tuple(
    """*.safetensors *.bin *.pt *.pth *.ckpt *.gguf *.h5 *.msgpack *.onnx *.onnx_data *.png *.jpg *.jpeg *.gif *.webp
    *.mp3 *.mp4 *.wav *.flac *.parquet *.arrow *.ipynb *.zip *.tar*""".split()
)
# Of the weights, the first kind that there is: by vLLM's load format (default_loader.py)
_KINDS = {
    "mistral": ("consolidated*.safetensors",),
    "safetensors": ("*.safetensors",),
    "fastsafetensors": ("*.safetensors",),
    "instanttensor": ("*.safetensors",),
    "pt": ("*.pt",),
    "npcache": ("*.bin",),
    "dummy": (),
}
_USUAL = ("*.safetensors", "*.bin", "*.pt")
_NEVER = "original/**/*"
# Layers of an embedding model beside its sharded weights, fetched one by one
_BESIDE = ("[0-9]_*/model.safetensors", "[0-9]_*/pytorch_model.bin")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LONGEST = 255  # bytes of one name in a path, on every usual file system
# What no file's name needs: control characters, halves of characters, and what turns the direction of writing
_STRANGE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_TRUE = ("1", "on", "yes", "true")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True, slots=True)
class Repository:
    """What an engine takes from a hub. ``source``: ``huggingface`` or ``modelscope``; ``cache``: the folder that holds
    all repositories; ``weights``: not only the small files (of a tokenizer's repository)."""

    id: str
    source: str
    revision: str | None
    cache: Path
    weights: bool = True
    load_format: str = "auto"

    @property
    def folder(self) -> Path:
        """The folder of the repository in the cache."""
        if self.source == "modelscope":
            owner, _, name = self.id.rpartition("/")
            return self.cache / "models" / owner / name.replace(".", "___")
        return self.cache / f"models--{self.id.replace('/', '--')}"

    @property
    def growing(self) -> Path:
        """The folder in which a download grows."""
        return self.folder if self.source == "modelscope" else self.folder / "blobs"

    def snapshot(self, commit: str | None = None) -> Path | None:
        """The folder of one commit's files; without one, that of the revision, if the cache knows which it is."""
        if self.source == "modelscope":
            return self.folder
        if self.revision is not None and not is_confined(self.revision):
            return None
        if commit is None and self.revision is not None and _COMMIT.fullmatch(self.revision):
            commit = self.revision
        if commit is None:
            try:
                commit = (self.folder / "refs" / (self.revision or "main")).read_text(encoding="ascii").strip()
            except (OSError, ValueError):
                return None
        return self.folder / "snapshots" / commit if _is_commit(commit) else None


@dataclass(frozen=True, slots=True)
class File:
    """One file as the hub describes it: ``size`` in bytes; ``sha256`` of a large one, else ``oid`` is git's."""

    path: str
    size: int
    sha256: str | None = None
    oid: str | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """What a cache lacks. ``files`` are names, as far as they are known (() when not even that is); ``size`` their
    bytes, None where it is not known."""

    files: tuple[str, ...] = ()
    size: int | None = None


def cache_folder(environ: Mapping[str, str], source: str = "huggingface") -> Path:
    """Where an engine with that environment keeps what it downloads."""
    home = environ.get("HOME") or os.path.expanduser("~")
    if source == "modelscope":
        return _path(environ.get("MODELSCOPE_CACHE") or f"{home}/.cache/modelscope/hub", environ)
    base = environ.get("HF_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or f"{home}/.cache", "huggingface")
    given = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    return _path(given or os.path.join(base, "hub"), environ)


def _path(name: str, environ: Mapping[str, str]) -> Path:
    """A folder's name as the hub's library reads it: with ~ and variables."""
    known = re.sub(r"\$(\w+|\{\w+\})", lambda found: environ.get(found[1].strip("{}"), found[0]), name)
    if known == "~" or known.startswith("~/"):
        known = (environ.get("HOME") or os.path.expanduser("~")) + known[1:]
    return Path(os.path.abspath(os.path.expanduser(known)))


def offline(environ: Mapping[str, str]) -> str | None:
    """The variable that forbids that engine to ask a hub, if one does."""
    for name in OFFLINE:
        if environ.get(name, "").lower() in _TRUE:
            return name
    return None


def repositories(
    model: str, source: str, options: Mapping[str, object], environ: Mapping[str, str]
) -> tuple[Repository, ...]:
    """All that an engine takes from a hub: its model, a tokenizer of its own, a model that drafts. ``options`` are
    vLLM's, named as it names them; what is a folder, or a bucket's address, is not among them."""
    cache = cache_folder(environ, source)
    load_format = str(options.get("load-format") or "auto").lower()
    found: list[Repository] = []

    def add(name: object, revision: object, *, weights: bool, cache: Path = cache) -> None:
        if isinstance(name, str) and is_hub_id(name):
            kind = load_format if weights else "auto"
            found.append(Repository(name, source, str(revision) if revision else None, cache, weights, kind))

    if isinstance(elsewhere := options.get("download-dir"), str) and source == "huggingface":
        # vLLM takes the weights and the tokenizer from there, and the configuration from the usual place all the same
        add(model, options.get("revision"), weights=True, cache=_path(elsewhere, environ))
        add(model, options.get("revision"), weights=False)
    else:  # ModelScope's weights are taken from the usual place whatever is said
        add(model, options.get("revision"), weights=True)
    add(options.get("tokenizer"), options.get("tokenizer-revision"), weights=False)
    add(options.get("hf-config-path"), None, weights=False)
    drafting = options.get("speculative-config")
    if isinstance(drafting, str):
        try:
            drafting = json.loads(drafting)
        except ValueError:
            drafting = None
    if isinstance(drafting, Mapping):
        add(drafting.get("model"), drafting.get("revision"), weights=True)
    return tuple(dict.fromkeys(found))


def is_hub_id(name: str) -> bool:
    """Whether a name can be a repository of a hub: it is no folder, and no address of something else."""
    return looks_like_a_hub_id(name) and not os.path.isdir(name)


def looks_like_a_hub_id(name: str) -> bool:
    """Whether a hub would take that name, as huggingface_hub has it."""
    return re.fullmatch(r"(\b[\w.-]+\b/)?\b[\w.-]{1,96}\b", name) is not None


# Which files ----------------------------------------------------------------------------------------------------------


def chosen(paths: Collection[str], repository: Repository, shards: Collection[str] = ()) -> list[str]:
    """Of all files of a repository, those that vLLM loads, so that after them it has nothing to download. ``shards``:
    the files that its index of weights names."""
    if repository.source == "modelscope":
        return sorted(paths)  # vLLM takes all there
    found = {path for path in paths if not is_large(path)}
    if repository.weights:
        found |= _weights(paths, repository.load_format, shards)
    return sorted(found)


def _weights(paths: Collection[str], load_format: str, shards: Collection[str]) -> set[str]:
    if load_format == "auto" and any(_matches(os.path.basename(path), _KINDS["mistral"]) for path in paths):
        load_format = "mistral"  # vLLM takes these rather than those of transformers beside them
    kinds = _KINDS.get(load_format, _USUAL)
    beside = {path for path in paths if _matches(path, _BESIDE)}
    if INDEX in paths and "*.safetensors" in kinds and shards:
        return {path for path in paths if path in shards} | beside
    for kind in kinds:
        if any(_matches(path, (kind,)) for path in paths if "/" not in path):
            return {path for path in paths if _matches(path, (kind,)) and not _matches(path, (_NEVER,))}
    return set()


def is_large(path: str) -> bool:
    """Whether it is of a kind that holds weights or other bulk."""
    return _matches(path, LARGE)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def shards_of(index: bytes) -> frozenset[str]:
    """The files that an index of weights names; none where it cannot be read (vLLM will say what is wrong with it)."""
    try:
        named = json.loads(index)["weight_map"].values()
        return frozenset(name for name in named if isinstance(name, str))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return frozenset()


# What is there --------------------------------------------------------------------------------------------------------


def lacks(repository: Repository) -> Missing | None:
    """The same as ``missing``, and None as well where the disk of the cache does not answer."""
    try:
        return bounded.call(f"the folder {repository.folder}", missing, repository, within=WITHIN)
    except bounded.NoAnswer:
        return None


def missing(repository: Repository) -> Missing | None:
    """What of it the cache lacks, None when it is complete: as far as can be known without asking the hub. Reads a few
    small files."""
    folder = repository.snapshot()
    if folder is None or not os.path.isdir(folder):  # os.path: what may not be looked at is not there
        return Missing()
    try:
        shards = shards_of((folder / INDEX).read_bytes())
    except OSError:
        shards = frozenset()
    listed = _listed(repository, folder.name)
    if listed is not None:
        files = {file.path: file for file in listed}
        wanted = chosen(files.keys(), repository, shards)
        lacking = [files[path] for path in wanted if not present(folder, files[path])]
        if not lacking:
            return None
        return Missing(tuple(file.path for file in lacking), sum(file.size for file in lacking))
    # what fetched it did not note what there is: the least that vLLM needs
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    lacking_names = [name for name in ("config.json",) if name not in there and "params.json" not in there]
    if repository.weights and repository.load_format != "dummy":
        lacking_names += sorted(shards.difference(there))
        if not shards and not _weights(there, repository.load_format, ()):
            lacking_names.append("the weights")
    return Missing(tuple(lacking_names)) if lacking_names else None


def existing(folder: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def present(folder: Path, file: File) -> bool:
    """Whether a snapshot has that file in its whole size."""
    try:
        return (folder / file.path).stat().st_size == file.size
    except OSError:
        return False


def _listed(repository: Repository, commit: str) -> list[File] | None:
    """The files of a commit, as huggingface_hub (2 and later) has noted them beside the cache."""
    try:
        said = json.loads((repository.folder / "trees" / f"{commit}.json").read_bytes())
        rows = said["files"].items() if said["format_version"] == 1 else ()
        return files_of({"path": path, "size": one["size"]} for path, one in rows) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


# Formats in which these files are loaded; what others want of a folder is theirs to say
_BY_FILES = frozenset("auto hf safetensors fastsafetensors instanttensor mistral npcache bitsandbytes".split())
_SHARD = re.compile(r"(.+-)(\d{5})-of-(\d{5})(\.\w+)")
_LARGEST_HEADER = 4 << 20  # bytes


def unfinished(folder: str, load_format: str = "auto") -> list[str]:
    """Of a folder, the files of the weights that vLLM would load and that are not there, or not to their end: an
    interrupted download. None where it has no weights that are known here."""
    try:
        names = frozenset(os.listdir(folder))
    except OSError:
        return []
    pattern, index = _pattern(names, load_format)
    there = sorted(name for name in names if fnmatchcase(name, pattern))
    wanted = _named(os.path.join(folder, index)) or {*there, *_numbered(there)}
    return [name for name in sorted(wanted) if not _whole(os.path.join(folder, name))]


def _pattern(names: Collection[str], load_format: str) -> tuple[str, str]:
    """The files of which vLLM takes all, as in ``_KINDS``, and their index."""
    if load_format not in _BY_FILES:
        return "", ""
    if load_format == "mistral" or (load_format == "auto" and any(_matches(name, _KINDS["mistral"]) for name in names)):
        return _KINDS["mistral"][0], "consolidated.safetensors.index.json"
    tensors, binaries = (any(fnmatchcase(name, kind) for name in names) for kind in _USUAL[:2])
    if load_format != "npcache" and (tensors or (INDEX in names and not binaries)):
        return "*.safetensors", INDEX
    if load_format in ("auto", "hf", "npcache", "bitsandbytes"):
        return "pytorch_model*.bin", "pytorch_model.bin.index.json"
    return "", ""


def _named(index: str) -> frozenset[str]:
    """The files that an index names; empty when it does not exist or cannot be read."""
    try:
        if not os.path.isfile(index) or os.path.getsize(index) > _LARGEST_INDEX:
            return frozenset()  # a pipe would be waited for
        with open(index, "rb") as file:
            return shards_of(file.read())
    except OSError:
        return frozenset()


def _numbered(names: Iterable[str]) -> set[str]:
    """All that names like ``model-00001-of-00002.safetensors`` tell of; the first has the number 1, or 0."""
    found: dict[tuple[str, str, str], set[int]] = {}
    for name in names:
        if shard := _SHARD.fullmatch(name):
            found.setdefault((shard[1], shard[3], shard[4]), set()).add(int(shard[2]))
    return {
        f"{stem}{number:05}-of-{total}{kind}"
        for (stem, total, kind), numbers in found.items()
        for number in range(0 if 0 in numbers else 1, int(total) + (0 not in numbers))
    }


def _whole(path: str) -> bool:
    """Whether a file is there, with something in it, and as long as it says itself (safetensors do)."""
    try:
        size = os.path.getsize(path)
        if size == 0 or not path.endswith(".safetensors") or not os.path.isfile(path):
            return size > 0
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
            if size < 8 or header > size - 8:
                return False
            tensors = json.loads(file.read(header)) if 0 < header <= _LARGEST_HEADER else {}
        ends = [one["data_offsets"][1] for name, one in tensors.items() if name != "__metadata__"]
        return bool(8 + header + max(ends, default=0) <= size)
    except OSError:
        return False
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return True  # another kind of file, which vLLM will judge


def wrong_config(folder: str) -> str | None:
    """What is wrong with a folder's ``config.json``, if that can be said."""
    path = os.path.join(folder, "config.json")
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > _LARGEST_INDEX:
            return None
        with open(path, "rb") as file:
            text = file.read()
        if not text.strip():
            return "is empty"
        return None if isinstance(json.loads(text), dict) else "is no mapping in JSON"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError):
        return "is no JSON"


def growth(folders: Iterable[Path | str]) -> int:
    """The bytes of the files in these folders: they grow while a download goes on."""
    total = 0
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                total += sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
        except OSError:
            continue
    return total


# What a hub says, which is not trusted --------------------------------------------------------------------------------


class Untrusted(ValueError):
    """A hub names what cannot be in a repository of models: it is broken, or hostile. The text is for people."""


def is_confined(path: str) -> bool:
    """Whether it is the path of something below a folder: relative, without ``..``, and of names that a file can
    have."""
    parts = path.split("/")
    return _STRANGE.search(path) is None and all(
        part not in ("", ".", "..") and len(part.encode()) <= _LONGEST for part in parts
    )


def files_of(said: Iterable[Mapping[str, Any]]) -> list[File]:
    """The files that a hub tells of, from ``inside/pull.py``. Raises Untrusted."""
    return [_file(one) for one in said]


def commit_of(said: object) -> str:
    """The name of a commit as a hub tells it. Raises Untrusted."""
    if not isinstance(said, str) or not _is_commit(said):
        raise Untrusted(f"it calls a commit {short(said)}")
    return said


def _is_commit(name: str) -> bool:
    return "/" not in name and is_confined(name)


def _file(said: Mapping[str, Any]) -> File:
    path, size, digests = said["path"], said["size"], [said.get("sha256"), said.get("oid")]
    if not isinstance(path, str) or not is_confined(path):
        raise Untrusted(f"it lists a file {short(path)}, which would be outside the folder of the model")
    if not isinstance(size, int) or size < 0:
        raise Untrusted(f"it says that {path} has {short(size)} bytes")
    for digest in digests:
        if digest is not None and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            raise Untrusted(f"it gives {path} the checksum {short(digest)}")
    return File(path, size, *digests)
