"""Downloads without a hub and without vLLM: what is fetched, compared and said. The script in the engine's environment
is played by a few lines of shell."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llm_supervisor.config import load
from llm_supervisor.engines import hub_cache
from llm_supervisor.engines.hub_cache import File, Repository
from llm_supervisor.engines.inside import pull as inside
from llm_supervisor.oneshot import pull
from llm_supervisor.oneshot.pull import PullError, Wanted

CONFIG = """
gateway: {}
models:
  a: {model: org/a, port: 8000, vllm: {revision: v1}, env: {HF_HOME: /engine}}
  b: {model: org/b, port: 8001, source: modelscope}
  twin: {model: org/a, port: 8002, vllm: {revision: v1}, env: {HF_HOME: /engine}}
  folder: {model: ./tiny, port: 8003}
"""


@dataclass
class Notes:
    """Who is told how it goes."""

    lines: list[str] = field(default_factory=list)

    def advance(self, what: str, doing: str, done: int, total: int) -> None:
        """See ``pull.Show``."""

    def note(self, text: str) -> None:
        """See ``pull.Show``."""
        self.lines.append(text)


def wanted(tmp_path: Path, names: list[str], *, source: str | None = None, revision: str | None = None) -> list[str]:
    """What is to be fetched for these names: (name, id, hub, revision, cache)."""
    (tmp_path / "tiny").mkdir(exist_ok=True)
    (tmp_path / "tiny/config.json").write_text("{}")
    (tmp_path / "supervisor.yaml").write_text(CONFIG)
    todo, folders = pull.wanted(
        load(tmp_path / "supervisor.yaml", {"HOME": "/home/x"}), names, {"HOME": "/home/y"}, source, revision
    )
    rows = [f"{one.name} {one.repository.id} {one.repository.source} {one.repository.revision} {one.repository.cache}"
            for one in todo]  # fmt: skip
    return [*rows, *(f"{name} {folder.name}" for name, folder in folders.items())]


A = "a org/a huggingface v1 /engine/hub"
B = "b org/b modelscope None /home/x/.cache/modelscope/hub"


def test_what_the_names_mean(tmp_path: Path) -> None:
    assert wanted(tmp_path, []) == [A, B, "folder tiny"], "what two engines share is fetched once"
    assert wanted(tmp_path, ["a"]) == [A]
    assert wanted(tmp_path, ["org/a"]) == [A], "as the engine that has it will look for it"
    assert wanted(tmp_path, ["org/b", "folder"]) == [B, "folder tiny"]
    usual = "/home/x/.cache/huggingface/hub"
    assert wanted(tmp_path, ["org/c"]) == [f"org/c org/c huggingface None {usual}"]
    assert wanted(tmp_path, ["a"], revision="v2") == ["a org/a huggingface v2 /engine/hub"]
    assert wanted(tmp_path, ["org/c"], source="modelscope") == [
        "org/c org/c modelscope None /home/x/.cache/modelscope/hub"
    ]
    with pytest.raises(
        pull.NoSuchName, match=r"no such model: foldr \(did you mean folder\?\); a hub id has a / in it"
    ):
        wanted(tmp_path, ["foldr"])
    with pytest.raises(pull.NoSuchName, match="no such model: not a/name"):
        wanted(tmp_path, ["not a/name"])


def test_an_engine_that_may_not_ask_a_hub_is_asked_for(tmp_path: Path) -> None:
    """Then all the more; but what the caller forbids is forbidden."""
    text = "gateway: {}\nmodels: {a: {model: org/a, port: 8000, env: {HF_HUB_OFFLINE: 1}}}\n"
    (tmp_path / "supervisor.yaml").write_text(text)
    for environ, forbids in (({}, None), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE")):
        config = load(tmp_path / "supervisor.yaml", environ)
        ((one,), _) = pull.wanted(config, ["a"], environ, None, None)
        assert hub_cache.offline(one.environ) == forbids


def test_without_a_configuration_a_hub_id_will_do() -> None:
    ((one,), folders) = pull.wanted(None, ["org/c"], {"HF_HUB_CACHE": "/hub"}, None, None)
    assert (one.repository.cache, folders) == (Path("/hub"), {})


# The content ----------------------------------------------------------------------------------------------------------


def test_what_is_damaged_is_found_by_its_hash(tmp_path: Path) -> None:
    large, small = b"x" * (3 << 20), b"{}"
    (tmp_path / "large").write_bytes(large)
    (tmp_path / "small").write_bytes(small)
    right = [
        File("large", len(large), sha256=hashlib.sha256(large).hexdigest(), oid="a pointer's"),
        File("small", 2, oid="9e26dfeeb6e641a33dae4961196235bdb965b21b"),  # git hash-object
    ]
    read: list[tuple[int, int]] = []
    assert pull.damaged(tmp_path, [*right, File("nothing is known of it", 3)], lambda *at: read.append(at)) == []
    assert read[-1] == (len(large) + 2, len(large) + 5)
    (tmp_path / "large").write_bytes(large[:-1] + b"y")
    (tmp_path / "small").write_bytes(b"[]")
    assert pull.damaged(tmp_path, right) == right


def test_what_is_removed_goes_with_what_its_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("x")
    (tmp_path / "blob").symlink_to("shared")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/file").symlink_to("../blob")
    pull.remove(tmp_path / "snapshot/file", tmp_path)
    assert os.listdir(tmp_path) == ["snapshot"] and os.listdir(tmp_path / "snapshot") == []
    pull.remove(tmp_path / "snapshot/file", tmp_path)


def test_nothing_outside_the_folder_is_removed(tmp_path: Path) -> None:
    """Whatever leads there: a name, a link to a file, a link to a folder."""
    cache = tmp_path / "cache"
    cache.mkdir()
    kept = tmp_path / "kept"
    kept.write_text("x")
    (cache / "link").symlink_to(kept)
    (cache / "folder").symlink_to(tmp_path)
    for path in (cache / "../kept", kept, cache / "folder/kept", cache / "link"):
        pull.remove(path, cache)
        assert kept.read_text() == "x"
    assert os.listdir(cache) == ["folder"]


def test_what_has_a_wrong_size_is_not_taken_for_the_file(tmp_path: Path) -> None:
    one = Repository("org/a", "huggingface", None, tmp_path)
    folder = one.snapshot("c")
    assert folder is not None
    folder.mkdir(parents=True)
    one.growing.mkdir()
    for size, left in ((3, ["e"]), (2, [])):
        (one.growing / "e").write_bytes(b"123")
        pull.clear(one, folder, File("a.safetensors", size, sha256="e"))
        assert os.listdir(one.growing) == left
    (folder / "a.safetensors").write_bytes(b"1")
    pull.clear(one, folder, File("a.safetensors", 2))
    assert os.listdir(folder) == [] and one.growing.is_dir()


# The disk, and what the script says -----------------------------------------------------------------------------------


def listing(*files: tuple[str, int]) -> str:
    """What the script says of a repository."""
    rows = [{"path": path, "size": size, "sha256": "0" * 64, "oid": "1" * 40} for path, size in files]
    return json.dumps({"event": "listing", "commit": "c" * 40, "files": rows, "index": None})


def error(kind: str, message: str = "m", status: int | None = None) -> str:
    """What it says when it cannot."""
    return json.dumps({"event": "error", "kind": kind, "message": message, "status": status})


def failure(tmp_path: Path, *says: str, exit: int = 0, environ: Mapping[str, str] | None = None, **more: object) -> str:
    """What is told to a person."""
    python = tmp_path / "python"
    lines = "\n".join(f"printf '%s\\n' '{line}'" for line in says)
    python.write_text(f"#!/bin/sh\n{lines}\nexit {exit}\n")
    python.chmod(0o755)
    one = Repository(**{"id": "org/a", "source": "huggingface", "revision": None, "cache": tmp_path / "hub", **more})  # type: ignore[arg-type]
    notes = Notes()
    with pytest.raises(PullError) as caught:
        pull.pull(Wanted("a", one, {"PATH": os.environ["PATH"], **(environ or {})}), str(python), notes)
    return "\n".join([*notes.lines, str(caught.value)])


HOSTILE = {
    "the folder above": {"path": "../victim"},
    "further above": {"path": "a/../../../victim"},
    "absolute": {"path": "{tmp}/victim"},
    "a folder": {"path": "a/"},
    "itself": {"path": "."},
    "nothing": {"path": ""},
    "no text": {"path": 7},
    "a newline": {"path": "a\nb"},
    "an escape": {"path": "a\x1b[2Jb"},
    "turned around": {"path": "a\u202eb"},
    "too long": {"path": "a" * 300},
    "a checksum": {"sha256": "../../victim"},
    "an absolute checksum": {"oid": "{tmp}/victim"},
    "a size": {"size": -1},
    "no size": {"size": "many"},
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_a_hostile_listing_is_refused(tmp_path: Path, what: str, source: str) -> None:
    """As a whole, whether vLLM would load that file or not; nothing is removed and nothing written."""
    victim = tmp_path / "victim"
    victim.write_text("x")
    changed = {name: value.replace("{tmp}", str(tmp_path)) if isinstance(value, str) else value
               for name, value in HOSTILE[what].items()}  # fmt: skip
    row = {"path": "config.json", "size": 2, "sha256": None, "oid": "1" * 40, **changed}
    files = [{"path": "model.safetensors", "size": 9, "sha256": "0" * 64, "oid": None}, row]
    said = failure(
        tmp_path,
        json.dumps({"event": "listing", "commit": "c" * 40, "files": files, "index": None}),
        environ={"HF_ENDPOINT": "https://mirror.example", "MODELSCOPE_ENDPOINT": "https://mirror.example"},
        source=source,
    )
    assert said.startswith("org/a: the answer of https://mirror.example is refused: it "), said
    assert said.endswith("Is that the hub, or a mirror that you trust?") and said.isprintable()
    assert victim.read_text() == "x" and sorted(os.listdir(tmp_path)) == ["python", "victim"]


@pytest.mark.parametrize("commit", ["../../../victim", "..", "", "a/b", "{tmp}", None, 1])
def test_a_hostile_name_of_a_commit_is_refused(tmp_path: Path, commit: object) -> None:
    commit = commit.replace("{tmp}", str(tmp_path)) if isinstance(commit, str) else commit
    said = failure(tmp_path, json.dumps({"event": "listing", "commit": commit, "files": [], "index": None}))
    assert "it calls a commit" in said and os.listdir(tmp_path) == ["python"]


@pytest.mark.parametrize("revision", ["../../x", "/etc/passwd", "a//b", "a\nb"])
def test_a_revision_stays_in_its_folder(tmp_path: Path, revision: str) -> None:
    said = failure(tmp_path, revision=revision)
    assert said.endswith("is no name of a branch, a tag or a commit")
    assert Repository("org/a", "huggingface", revision, tmp_path).snapshot() is None


@pytest.mark.parametrize("name", ["../x", "/etc/x", "org/..", "../..", "a/../b", ".hidden/x", "a/b/c", "a\n/b", "x/."])
def test_such_a_model_is_on_no_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(pull.NoSuchName):
        pull.wanted(None, [name], {}, None, None)
    options = {"tokenizer": name, "hf-config-path": name, "speculative-config": {"model": name}}
    found = hub_cache.repositories("org/a", "huggingface", options, {"HF_HUB_CACHE": str(tmp_path)})
    assert [one.id for one in found] == ["org/a"]


def test_a_listing_in_the_cache_is_trusted_no_more(tmp_path: Path) -> None:
    one = Repository("org/a", "huggingface", "c" * 40, tmp_path)
    folder = one.snapshot()
    assert folder is not None
    folder.mkdir(parents=True)
    (tmp_path / "x").write_text("")
    (one.folder / "trees").mkdir()
    rows = {"../../../x": {"size": 0, "blob_id": "1" * 40}}
    (one.folder / "trees" / f"{'c' * 40}.json").write_text(json.dumps({"format_version": 1, "files": rows}))
    assert hub_cache.missing(one) == hub_cache.Missing(("config.json", "the weights"))


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    said = failure(tmp_path, listing(("config.json", 2), ("model.safetensors", 1 << 62)))
    assert said.startswith(f"org/a needs 4404019.2 TiB more in {tmp_path}/hub, and ")
    assert said.endswith("TiB, or name a folder on another disk by HF_HOME")


def test_what_is_there_already_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that an interrupted pull has left, and what another commit has too."""
    one = Repository("org/a", "huggingface", None, tmp_path)
    one.growing.mkdir(parents=True)
    (one.growing / f"{'e' * 64}.pull.incomplete").write_bytes(bytes(600))
    (one.growing / ("f" * 64)).write_bytes(bytes(300))
    files = [File("a", 1000, sha256="e" * 64), File("b", 300, sha256="f" * 64)]
    usage = pull.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda folder: usage._replace(free=400 + (64 << 20)))
    pull._room(one, files)
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda folder: usage._replace(free=399 + (64 << 20)))
    with pytest.raises(PullError, match="make room for 1 bytes"):
        pull._room(one, files)


MEANT = {
    "gated": "org/a: gated: accept its licence on https://huggingface.co/org/a",
    "unauthorized": "no such repository on https://huggingface.co, or it is private: check the name, or put HF_TOKEN=",
    "forbidden": "https://huggingface.co refuses it (403): the token in HF_TOKEN may not read it (m)",
    "not_found": "perhaps it is on ModelScope (`--source modelscope`)",
    "revision": "org/a: no such revision: main (name a branch, a tag or a commit)",
    "network": "name a mirror by HF_ENDPOINT. Then run the same command again: it goes on where it stopped",
    "server": "answers 403 (m). Later, run the same command again",
    "full": "is full. Make room, then run the same command again",
    "denied": "cannot be written (m): check who owns",
    "name": "org/a: not the name of a repository (m)",
    "no_modelscope": "uv pip install --python ",
    "unexpected": "org/a: m",
}


@pytest.mark.parametrize("kind", MEANT)
def test_what_a_failure_means(tmp_path: Path, kind: str) -> None:
    assert MEANT[kind] in failure(tmp_path, error(kind, status=403), exit=1)


def test_each_hub_has_its_own_words(tmp_path: Path) -> None:
    mirror = {"HF_ENDPOINT": "https://me:pw@mirror.example/", "HF_TOKEN": "hf_abc"}
    said = failure(tmp_path, error("network", "no way with hf_abc"), exit=1, environ=mirror)
    assert "https://mirror.example cannot be reached (no way with ********)" in said
    said = failure(tmp_path, error("not_found"), exit=1, source="modelscope")
    assert "not found on https://www.modelscope.cn" in said and "perhaps it is on Hugging Face" in said


def test_what_is_tried_again_is_said(tmp_path: Path) -> None:
    again = json.dumps({"event": "again", "path": "x", "why": "503 of hf_abc", "status": 503, "pause": 2.0})
    said = failure(tmp_path, again, error("server", status=503), exit=1, environ={"HF_TOKEN": "hf_abc"})
    assert said.startswith("x: 503 of ********; trying again in 2 s\n")


def test_a_script_that_dies_is_quoted(tmp_path: Path) -> None:
    said = failure(tmp_path, "Traceback:", "ImportError: no module of that name", exit=1)
    assert said == "org/a: the download ended (exit status 1): ImportError: no module of that name"
    with pytest.raises(PullError, match="nowhere cannot be run: No such file"):
        pull.pull(Wanted("a", Repository("org/a", "huggingface", None, tmp_path), {}), "/nowhere", Notes())


def test_a_repository_without_weights(tmp_path: Path) -> None:
    assert "org/a has no weights that vLLM loads" in failure(tmp_path, listing(("config.json", 2), ("a.gguf", 9)))


def test_offline_it_cannot_work(tmp_path: Path) -> None:
    said = failure(tmp_path, environ={"TRANSFORMERS_OFFLINE": "1"})
    assert said == "TRANSFORMERS_OFFLINE is set, which forbids to ask a hub: unset it for this command"


# The script -----------------------------------------------------------------------------------------------------------


class Response:
    """Of an HTTP library."""

    def __init__(self, status: int) -> None:
        self.status_code = status


def raised(name: str, status: int | None = None, *, module: str = "httpx2") -> Exception:
    """An exception of a library."""
    made: Exception = type(name, (Exception,), {"__module__": module})("words")
    if status is not None:
        made.response = Response(status)  # type: ignore[attr-defined]
    return made


FAILURES: list[tuple[BaseException, str, bool]] = [
    (OSError(errno.ENOSPC, "No space left"), "full", False),
    (PermissionError(errno.EACCES, "denied", "/cache"), "denied", False),
    (raised("GatedRepoError", 403), "gated", False),
    (raised("RevisionNotFoundError", 404), "revision", False),
    (raised("RepositoryNotFoundError", 401), "unauthorized", False),
    (raised("RepositoryNotFoundError", 404), "not_found", False),
    (raised("HfHubHTTPError", 403), "forbidden", False),
    (raised("HfHubHTTPError", 400), "server", False),
    (raised("HfHubHTTPError", 429), "server", True),
    (raised("HfHubHTTPError", 503), "server", True),
    (raised("HFValidationError"), "name", False),
    (raised("ConnectError"), "network", True),
    (ConnectionResetError(errno.ECONNRESET, "reset"), "network", True),
    (OSError("Consistency check failed: file should be of size 3 but has size 2"), "network", True),
    (raised("OfflineModeIsEnabled"), "offline", False),
    (AttributeError("no such thing"), "unexpected", False),
]


@pytest.mark.parametrize(("error", "kind", "passing"), FAILURES, ids=lambda value: repr(value)[:40])
def test_what_went_wrong(error: BaseException, kind: str, passing: bool) -> None:
    failed, again = inside.failure(error)
    assert (failed.kind, again) == (kind, passing)
    assert inside.failure(failed)[0] is failed


def test_patience_begins_anew_as_long_as_bytes_come(capfd: pytest.CaptureFixture[str]) -> None:
    came, tries = [0], []

    def work() -> str:
        tries.append(came[0])
        if len(tries) <= 3:
            came[0] += 1
        if len(tries) == 6:
            return "done"
        raise ConnectionResetError("gone")

    assert inside.patiently(work, [0.0, 0.0, 0.0], "x", lambda: came[0]) == "done"
    tries.clear()
    with pytest.raises(inside.Failed, match="gone"):
        inside.patiently(lambda: work() if len(tries) < 5 else "", [0.0], "x", lambda: 0)
    assert len(tries) == 2


# The command ----------------------------------------------------------------------------------------------------------


def run(tmp_path: Path, *words: str) -> tuple[int, str, str]:
    """The command, where no engine is installed."""
    environ = {**os.environ, "LLM_SUPERVISOR_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "llm_supervisor.cli", "pull", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_what_is_said_where_it_cannot_begin(tmp_path: Path) -> None:
    code, _, err = run(tmp_path)
    assert code == 2 and "no configuration" in err
    code, _, err = run(tmp_path, "glm")
    assert code == 2 and "no such model: glm" in err
    code, _, err = run(tmp_path, "org/a")
    assert code == 2 and "run `llm-supervisor install vllm`" in err
    (tmp_path / "supervisor.yaml").write_text("gateway: {prot: 1}\n")
    code, _, err = run(tmp_path, "org/a")
    assert code == 2 and "did you mean port?" in err


def test_check_says_what_a_start_would_download(tmp_path: Path) -> None:
    model = "models: {a: {model: org/a, port: 8000}}"
    (tmp_path / "supervisor.yaml").write_text(f"gateway: {{}}\n{model}\n")
    environ = {**os.environ, "LLM_SUPERVISOR_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "llm_supervisor.cli", "check", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["severity"], problem["line"]) == ("warning", 2), done.stderr
    assert "org/a is not in the cache" in problem["message"] and "llm-supervisor pull a" in problem["advice"]


def test_a_folder_is_complete_or_not(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/config.json").write_text("{}")
    model = "models: {tiny: {model: ./tiny, port: 8000}}"
    (tmp_path / "supervisor.yaml").write_text(f"gateway: {{}}\nengines: {{vllm: {{python: ./python}}}}\n{model}\n")
    assert run(tmp_path) == (0, f"tiny: is a folder, and complete: {tmp_path}/tiny\n", "")
    code, out, _ = run(tmp_path, "--json")
    row = {"name": "tiny", "folder": f"{tmp_path}/tiny", "ok": True, "error": None}
    assert (code, json.loads(out)) == (0, {"ok": True, "models": [row]})
    (tmp_path / "tiny/model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')
    code, _, err = run(tmp_path, "tiny")
    assert code == 2 and "is incomplete: b.safetensors is missing, empty or cut off" in err
