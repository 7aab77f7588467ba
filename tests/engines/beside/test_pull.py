"""Downloads from a hub on loopback, by huggingface_hub in vLLM's own environment; and vLLM on what came."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_supervisor.config import load, not_cached
from llm_supervisor.engines import hub_cache
from llm_supervisor.oneshot import pull, uv
from tests.engines.conftest import ROOT, Engines
from tests.support import hub as hubs
from tests.support.harness import free_port
from tests.support.hub import Hub
from tests.support.programs import until

MIB = 1 << 20
NAME = "org/none"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
NEEDED = {
    ".gitattributes",
    "chat_template.jinja",
    "config.json",
    "modeling_none.py",
    "model.safetensors.index.json",
    "tokenizer.json",
    FIRST,
    SECOND,
}


@dataclass
class Notes:
    """Who is told how it goes."""

    lines: list[str] = field(default_factory=list)
    steps: list[tuple[str, int, int]] = field(default_factory=list)

    def advance(self, what: str, doing: str, done: int, total: int) -> None:
        """See ``pull.Show``."""
        self.steps.append((doing, done, total))

    def note(self, text: str) -> None:
        """See ``pull.Show``."""
        self.lines.append(text)


@dataclass
class Place:
    """A hub, an empty cache, and vLLM's environment."""

    hub: Hub
    folder: Path
    python: str
    notes: Notes = field(default_factory=Notes)

    @property
    def home(self) -> Path:
        """HF_HOME."""
        return self.folder / "hf"

    def environ(self, **more: str) -> dict[str, str]:
        """For an engine, or for us."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return {**mine, "HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.home), **more}

    def pull(self, revision: str | None = None, *, verify: bool = False, **environ: str) -> pull.Pulled:
        """In this process."""
        todo, _ = pull.wanted(None, [NAME], self.environ(**environ), None, revision)
        return pull.pull(todo[0], self.python, self.notes, verify=verify)

    def command(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        """As a person does it."""
        return subprocess.Popen(
            [sys.executable, "-m", "llm_supervisor.cli", "pull", *words],
            env=self.environ(**environ),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Its exit status, and what it said."""
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def failure(self, *more: Any, **environ: str) -> str:
        """What is said when it cannot be done."""
        with pytest.raises(pull.PullError) as caught:
            self.pull(*more, **environ)
        return str(caught.value)

    def files(self, done: pull.Pulled) -> set[str]:
        """What the snapshot has."""
        return {path.relative_to(done.folder).as_posix() for path in done.folder.rglob("*") if path.is_file()}

    def found_offline(self, what: str) -> str:
        """What vLLM's Python says, without a network."""
        code = f"import huggingface_hub as hub\nprint({what})"
        environ = self.environ(HF_HUB_OFFLINE="1")
        said = subprocess.run([self.python, "-c", code], env=environ, capture_output=True, text=True, timeout=60)
        return said.stdout.strip() or said.stderr


@pytest.fixture
def place(engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(pull, "PAUSES", (0.05, 0.05, 0.05))
    with hubs.serving() as hub:
        yield Place(hub, tmp_path, str(engines.vllm))


def large(place: Place, size: int = 12 * MIB) -> dict[str, bytes]:
    """A repository with a file that takes a while."""
    files = hubs.sharded({FIRST: size, SECOND: 30_000})
    place.hub.add(NAME, files)
    return files


def test_what_vllm_loads_and_no_more_is_where_it_looks(place: Place) -> None:
    files = hubs.sharded()
    place.hub.add(NAME, files)
    place.hub.page = 3  # a listing in several parts
    done = place.pull()
    assert place.files(done) == NEEDED
    assert all((done.folder / name).read_bytes() == files[name] for name in NEEDED)
    assert (done.files, done.size) == (len(NEEDED), sum(len(files[name]) for name in NEEDED))
    assert place.hub.sent() == done.size
    assert place.found_offline(f"hub.snapshot_download({NAME!r}, ignore_patterns='*')") == str(done.folder)
    # as vLLM 0.32 asks for the small files
    small = f"hub.snapshot_download({NAME!r}, local_files_only=True, ignore_patterns={list(hub_cache.LARGE)})"
    assert place.found_offline(small) == str(done.folder)


def test_a_second_time_there_is_nothing_to_do(place: Place) -> None:
    place.hub.add(NAME, hubs.sharded())
    first = place.pull()
    place.hub.asked.clear()
    again = place.pull()
    assert (again.came, again.folder) == (0, first.folder)
    assert not any("resolve" in one.path or "cdn" in one.path for one in place.hub.asked)


def test_by_the_library_alone_where_that_is_wanted(place: Place) -> None:
    """As it is for a file that plain HTTP may not fetch; this hub has no xet, so it comes by HTTP all the same."""
    files = large(place)
    done = place.pull(HF_XET_HIGH_PERFORMANCE="1")
    assert (done.folder / FIRST).read_bytes() == files[FIRST]
    assert ("downloading", done.size, done.size) in place.notes.steps
    assert max(step[1] for step in place.notes.steps) == done.size


def test_a_new_commit_fetches_what_has_changed(place: Place) -> None:
    files = hubs.sharded()
    place.hub.add(NAME, files)
    old = place.pull()
    place.hub.add(NAME, {**files, "config.json": b'{"model_type": "other"}'})
    place.hub.asked.clear()
    new = place.pull()
    assert new.folder != old.folder and place.files(new) == NEEDED
    assert place.hub.sent() == new.came == len(b'{"model_type": "other"}')
    assert place.found_offline(f"hub.snapshot_download({NAME!r}, ignore_patterns='*')") == str(new.folder)


def test_the_token_goes_to_the_hub_alone_and_is_never_shown(place: Place) -> None:
    place.hub.add(NAME, hubs.sharded(), gated="hf_secret_of_mine")
    code, out, err = place.ended(place.command(NAME, "--json", HF_TOKEN="hf_secret_of_mine"))
    assert code == 0, err
    said = json.loads(out)
    assert said["ok"] and said["models"][0]["model"] == NAME and said["models"][0]["files"] == len(NEEDED)
    assert "secret" not in out + err
    at_the_cdn = [one for one in place.hub.asked if one.path.startswith("/cdn/")]
    assert at_the_cdn and {one.token for one in at_the_cdn} == {None}


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_an_interrupted_one_goes_on_where_it_stopped(place: Place, signum: int, status: int) -> None:
    files = large(place)
    place.hub.rate = 6 * MIB
    process = place.command(NAME)
    blobs = place.home / "hub/models--org--none/blobs"

    def there() -> int:
        return max((path.stat().st_size for path in blobs.glob("*.pull.incomplete")), default=0)

    until(lambda: there() > 4 * MIB, "a third of it is there", 60)
    process.send_signal(signum)
    assert place.ended(process)[0] == status
    had = there()
    warning = hub_cache.missing(pull.wanted(None, [NAME], place.environ(), None, None)[0][0].repository)
    assert warning is not None, "half a model is no model"
    place.hub.rate = None
    place.hub.asked.clear()
    done = place.pull()
    assert (done.folder / FIRST).read_bytes() == files[FIRST]
    assert place.hub.sent(FIRST) == len(files[FIRST]) - had
    assert not list(blobs.glob("*.pull.incomplete"))


def test_a_connection_that_breaks_is_made_again(place: Place) -> None:
    files = large(place)
    place.hub.fault(f"cdn/{NAME}/{FIRST}", times=2, cut=3 * MIB)
    done = place.pull()
    assert (done.folder / FIRST).read_bytes() == files[FIRST]
    assert place.hub.sent(FIRST) <= len(files[FIRST]) + 3 * MIB


@pytest.mark.parametrize("where", ["api/models/org/none", "tree", f"resolve/{{commit}}/{FIRST}", "cdn", "config.json"])
def test_a_hub_that_stumbles_is_asked_again(place: Place, where: str) -> None:
    large(place, 9 * MIB)
    place.hub.fault(where.replace("{commit}", place.hub.repos[NAME].commit), times=2, status=503)
    assert place.files(place.pull()) == NEEDED


def test_what_comes_damaged_is_fetched_once_more(place: Place) -> None:
    files = large(place)
    place.hub.fault(f"cdn/{NAME}/{FIRST}", damage=True)
    place.hub.fault("chat_template.jinja", damage=True, times=2)  # HEAD and GET
    done = place.pull()
    assert all((done.folder / name).read_bytes() == files[name] for name in NEEDED)
    assert sorted(line.partition(" came")[0] for line in place.notes.lines) == [
        f"{NAME}: chat_template.jinja",
        f"{NAME}: {FIRST}",
    ]


def test_what_always_comes_damaged_is_not_left_there(place: Place) -> None:
    large(place)
    place.hub.fault(f"cdn/{NAME}/{FIRST}", damage=True, times=9)
    said = place.failure()
    assert f"{FIRST} came damaged, 2 times" in said
    assert place.hub.sent(FIRST) == 2 * 12 * MIB
    assert "LocalEntryNotFoundError" in place.found_offline(f"hub.snapshot_download({NAME!r}, ignore_patterns='*')")


def test_what_is_there_is_compared_when_asked(place: Place) -> None:
    files = large(place)
    done = place.pull()
    blob = (done.folder / FIRST).resolve()
    with blob.open("r+b") as content:
        content.seek(5 * MIB)
        content.write(b"x" * 16)
    assert place.pull().came == 0, "it has the right size"
    assert place.pull(verify=True).came == len(files[FIRST])
    assert (done.folder / FIRST).read_bytes() == files[FIRST]
    assert f"{NAME}: {FIRST} is damaged: downloading it again" in place.notes.lines


def test_a_file_that_was_cut_short_is_fetched_again(place: Place) -> None:
    """As an engine's own download may leave it."""
    files = large(place)
    done = place.pull()
    os.truncate((done.folder / SECOND).resolve(), 100)
    assert place.pull().came == len(files[SECOND])
    assert (done.folder / SECOND).read_bytes() == files[SECOND]


def test_the_disk_is_looked_at_first(place: Place) -> None:
    place.hub.add(NAME, hubs.sharded()).claims[FIRST] = 1 << 60
    said = place.failure()
    assert "needs 1101004.8 TiB more in" in said and str(place.home) in said and "make room for" in said
    assert place.hub.sent("safetensors") == len(place.hub.repos[NAME].files["model.safetensors.index.json"])


def test_what_a_person_can_do_about_it(place: Place) -> None:
    place.hub.add(NAME, hubs.sharded(), gated="hf_let_in")
    assert f"gated: accept its licence on {place.hub.url}/{NAME}, and put HF_TOKEN=... into" in place.failure()
    assert "the account of HF_TOKEN was not let in yet" in place.failure(HF_TOKEN="hf_another")
    assert "no such revision: v9 (name a branch, a tag or a commit)" in place.failure("v9")
    assert "HF_HUB_OFFLINE is set, which forbids" in place.failure(HF_HUB_OFFLINE="1")
    place.hub.repos.clear()
    assert f"no such repository on {place.hub.url}, or it is private: check the name" in place.failure()
    assert f"not found on {place.hub.url}: check the name" in place.failure(HF_TOKEN="hf_let_in")
    place.hub.fault("api/models", status=401, times=9)
    assert "does not take the token in HF_TOKEN" in place.failure(HF_TOKEN="hf_let_in")
    place.hub.faults.clear()
    place.hub.fault("api/models", status=500, times=9)
    assert "answers 500" in place.failure() and len(place.notes.lines) == len(pull.PAUSES)
    nobody = f"http://127.0.0.1:{free_port()}"
    assert f"{nobody} cannot be reached" in (said := place.failure(HF_ENDPOINT=nobody)) and "HF_ENDPOINT" in said


def test_an_index_that_names_what_the_repository_lacks(place: Place) -> None:
    files = hubs.sharded()
    del files[SECOND]
    place.hub.add(NAME, files)
    assert f"the repository itself lacks {SECOND} of its own index" in place.failure()


def test_two_at_once_download_it_once(place: Place) -> None:
    files = large(place)
    place.hub.rate = 12 * MIB
    both = [place.command(NAME) for _ in range(2)]
    assert [place.ended(one)[0] for one in both] == [0, 0]
    assert place.hub.sent(FIRST) == len(files[FIRST])


def test_it_lands_where_the_configured_engine_looks(place: Place) -> None:
    """Its HF_HOME is in the env file, its weights go to a folder of their own: check says so before, and not after."""
    place.hub.add(NAME, hubs.sharded())
    (place.folder / "engine.env").write_text(f"HF_HOME={place.folder}/elsewhere\n")
    (place.folder / "engine.env").chmod(0o600)
    file = place.folder / "supervisor.yaml"
    model = {"model": NAME, "port": 8000, "vllm": {"download-dir": f"{place.folder}/weights"}}
    file.write_text(yaml.safe_dump({"gateway": {}, "env_file": "engine.env", "models": {"none": model}}))
    environ = place.environ()
    del environ["HF_HOME"]
    (problem,) = not_cached(load(file, environ))
    assert "llm-supervisor pull none" in problem.advice and f"{NAME} is not in the cache" in problem.message
    process = place.command("none")
    assert place.ended(process)[0] == 0
    # HF_HOME of the caller holds before the env file's, as for the daemon
    assert (place.home / "hub/models--org--none").is_dir()
    with_weights = place.folder / "weights/models--org--none/snapshots"
    assert len(list(with_weights.glob("*/*.safetensors"))) == 2
    assert not list((place.home / "hub").rglob("*.safetensors")), "the second copy has no weights"
    assert not_cached(load(file, place.environ())) == []


# ModelScope -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def modelscope(engines: Engines) -> str:
    """A folder with its library, which vLLM's environment has not: for PYTHONPATH."""
    folder = ROOT / ".demo/modelscope"
    if not (folder / "modelscope").is_dir():
        wanted = ("modelscope==1.40.2", "modelscope-hub==0.5.1")  # all else that they need is there
        command = [uv.binary(), "pip", "install", "-q", "--no-deps", "--python", engines.vllm, "--target", folder]
        subprocess.run([*command, *wanted], env=uv.environment(os.environ, ROOT), check=True, timeout=300)
    return str(folder)


def scoped(place: Place, library: str) -> dict[str, str]:
    """The environment of an engine that uses it."""
    cache = str(place.folder / "scope")
    return {"MODELSCOPE_ENDPOINT": place.hub.url, "MODELSCOPE_CACHE": cache, "PYTHONPATH": library}


def test_modelscope_goes_on_where_it_stopped(place: Place, modelscope: str) -> None:
    files = large(place)
    place.hub.rate = 6 * MIB
    environ = scoped(place, modelscope)
    environ["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    process = place.command(NAME, "--source", "modelscope", **environ)
    until(lambda: place.hub.sent() > 7 * MIB, "half of it was sent", 60)
    process.kill()
    place.ended(process)
    place.hub.rate = None
    before = place.hub.sent()
    code, out, err = place.ended(place.command(NAME, "--source", "modelscope", "--json", **environ))
    assert code == 0, err
    (row,) = json.loads(out)["models"]
    assert hubs.from_folder(Path(row["folder"])) == files, "vLLM takes all there"
    assert place.hub.sent() - before < 10 * MIB
    todo, _ = pull.wanted(None, [NAME], place.environ(**environ), "modelscope", None)
    assert hub_cache.missing(todo[0].repository) is None
    assert pull.pull(todo[0], place.python, place.notes).came == 0


def test_modelscope_says_what_is_wrong(place: Place, modelscope: str) -> None:
    def said(**environ: str) -> str:
        todo, _ = pull.wanted(None, [NAME], place.environ(**environ), "modelscope", None)
        with pytest.raises(pull.PullError) as caught:
            pull.pull(todo[0], place.python, place.notes)
        return str(caught.value)

    assert f"not found on {place.hub.url}: check the name" in said(**scoped(place, modelscope))
    assert f"uv pip install --python {place.python} 'modelscope>=1.38'" in said(**scoped(place, ""))


# vLLM's own code ------------------------------------------------------------------------------------------------------


# What a vLLM reads of a model when it starts, and where it finds the weights: in a third of the time that it takes
READ = """
import sys
from vllm.config.load import LoadConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model_loader
from vllm.tokenizers.registry import cached_tokenizer_from_config

config = EngineArgs(model=sys.argv[1], enforce_eager=True, max_model_len=2048).create_model_config()
get_model_loader(LoadConfig()).download_model(config)
print(len(cached_tokenizer_from_config(config)) > 0)
"""


def test_vllm_finds_it_without_a_network(place: Place, engines: Engines) -> None:
    """Everything that it reads. `make soak` has the whole start."""
    place.hub.add("org/tiny-glm", hubs.from_folder(engines.model))
    process = place.command("org/tiny-glm")
    code, _, err = place.ended(process)
    assert code == 0, err
    check_reads(place, "org/tiny-glm", place.environ(HF_HUB_OFFLINE="1"))


def test_vllm_finds_it_from_modelscope(place: Place, engines: Engines, modelscope: str) -> None:
    """Of what came from there."""
    place.hub.add("org/tiny-glm-4.1v", hubs.from_folder(engines.model))
    environ = place.environ(**scoped(place, modelscope), HF_ENDPOINT="http://127.0.0.1:9")
    todo, _ = pull.wanted(None, ["org/tiny-glm-4.1v"], environ, "modelscope", None)
    pull.pull(todo[0], place.python, place.notes)
    check_reads(place, "org/tiny-glm-4.1v", {**environ, "VLLM_USE_MODELSCOPE": "True"})


def check_reads(place: Place, model: str, environ: dict[str, str]) -> None:
    """vLLM's own code finds all of it, and the hub is sent nothing more."""
    sent = place.hub.sent()
    command = [place.python, "-c", READ, model]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["True"]), done.stderr
    assert place.hub.sent() == sent, "it downloaded nothing"


# A hub that is hostile ------------------------------------------------------------------------------------------------


def everything(folder: Path) -> set[str]:
    """All that is there, but for the folders of the cache itself."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


@pytest.mark.parametrize(
    ("where", "headers"),
    [
        ("a small file's content", {"ETag": '"../../../../victim"'}),
        ("a large file's content", {"X-Linked-Etag": '"../../../../victim"'}),
        ("an absolute one", {"ETag": '"{tmp}/victim"', "X-Linked-Etag": '"{tmp}/victim"'}),
        ("a commit", {"X-Repo-Commit": "../../../../victim"}),
    ],
)
def test_names_in_a_hubs_answers_lead_nowhere(place: Place, where: str, headers: dict[str, str]) -> None:
    (place.folder / "victim").write_text("x")
    repo = place.hub.add(NAME, hubs.sharded())
    repo.headers = {name: value.replace("{tmp}", str(place.folder)) for name, value in headers.items()}
    said = place.failure()
    assert f"the answer of {place.hub.url} is refused: it calls" in said, where
    assert (place.folder / "victim").read_text() == "x"
    assert {name for name in everything(place.folder) if not name.startswith("hf/hub/")} == {"victim"}, where


@pytest.mark.parametrize("path", ["../../../../victim", "onnx/../../../../../victim", "{tmp}/victim"])
def test_names_in_a_hubs_listing_lead_nowhere(place: Place, path: str) -> None:
    (place.folder / "victim").write_text("x")
    place.hub.add(NAME, {**hubs.sharded(), path.replace("{tmp}", str(place.folder)): b"evil"})
    assert "which would be outside the folder of the model" in place.failure()
    assert (place.folder / "victim").read_text() == "x"
