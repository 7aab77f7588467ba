"""What ``pull`` does: a model's files from its hub into the cache that its engine will use, checked on both ends.

The hub is asked by a script in vLLM's own environment (``engines/inside/pull.py``); here is decided which files are
needed, whether there is room, whether what came is right, and what a failure means for people.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llm_supervisor.config import Config, repositories_of
from llm_supervisor.config.environments import of_download, of_download_alone, of_model, of_vllm
from llm_supervisor.engines import hub_cache
from llm_supervisor.engines.environment import INSIDE
from llm_supervisor.engines.hub_cache import File, Repository
from llm_supervisor.engines.vllm.process import HUB_KEYS
from llm_supervisor.host.command import run
from llm_supervisor.oneshot import uv
from llm_supervisor.suggest import nearest, short
from llm_supervisor.units import size_text

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try of what may pass
TRIES = 2  # downloads of a file that arrives damaged
BLOCK = 1 << 20
AGAIN = "run the same command again: it goes on where it stopped"


class PullError(Exception):
    """It could not be fetched; the text is for people."""


class NoSuchName(Exception):
    """A name that is neither a model's nor a hub's; the text is for people."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One repository for somebody: ``name`` is the model's (or the hub id), ``environ`` its engine's, secrets
    included."""

    name: str
    repository: Repository
    environ: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pulled:
    """What is there now: sizes in bytes, ``came`` of them by the network now."""

    commit: str
    folder: Path
    files: int
    size: int
    came: int


class Show(Protocol):
    """Who is told how it goes."""

    def advance(self, what: str, doing: str, done: int, total: int) -> None:
        """So many bytes of so many."""

    def note(self, text: str) -> None:
        """Show one line about the download that is going on."""


def wanted(
    config: Config | None, names: Sequence[str], environ: Mapping[str, str], source: str | None, revision: str | None
) -> tuple[list[Wanted], dict[str, Path]]:
    """What to fetch for these names (none: all models of the configuration that are on a hub), and the models that are
    folders. Raises NoSuchName."""
    models = config.root.models if config is not None else {}
    found: dict[Repository, Wanted] = {}  # what several engines share is fetched once
    folders: dict[str, Path] = {}
    for name in names or models:
        # the id of a configured model is fetched as that engine will look for it
        alias = name if name in models else next((one for one in models if models[one].model == name), None)
        if config is not None and alias is not None:
            model = models[alias]
            if (folder := config.model_path(model)) is not None:
                folders[alias] = folder
                continue
            given = {"source": source} if source else {}
            said = {**model.vllm, "revision": revision} if revision else model.vllm
            model = model.model_copy(update={**given, "vllm": said})
            env = of_download(of_model(config, model))
            for variable in hub_cache.OFFLINE:
                if variable not in environ:
                    env.pop(variable, None)  # said of the engine, which is to find here what it may not fetch
            repositories = repositories_of(config, model)
        elif "/" in name and hub_cache.is_hub_id(name):
            env = of_download_alone(environ) if config is None else of_download(of_vllm(config))
            repositories = hub_cache.repositories(name, source or "huggingface", {"revision": revision}, env)
        else:
            hint = "" if "/" in name else "; a hub id has a / in it"
            raise NoSuchName(nearest(name, models, "model") + hint)
        for one in repositories:
            found.setdefault(one, Wanted(alias or name, one, env))
    return list(found.values()), folders


def pull(want: Wanted, python: str, show: Show, *, verify: bool = False) -> Pulled:
    """Fetch what is missing of one repository. ``verify``: what is there already is read and compared, too. Raises
    PullError."""
    repository = want.repository
    if (variable := hub_cache.offline(want.environ)) is not None:
        raise PullError(f"{variable} is set, which forbids to ask a hub: unset it for this command")
    if repository.revision is not None and not hub_cache.is_confined(repository.revision):
        raise PullError(f"{repository.id}: {short(repository.revision)} is no name of a branch, a tag or a commit")
    hub = _Hub(want, python, show)
    listing = hub.ask("list", weights=repository.weights)
    try:
        commit = hub_cache.commit_of(listing["commit"])
        files = {file.path: file for file in hub_cache.files_of(listing["files"])}
    except hub_cache.Untrusted as error:
        raise PullError(f"{repository.id}: {hub.distrusted(str(error))}") from error
    shards = hub_cache.shards_of(str(listing["index"] or "").encode())
    names = hub_cache.chosen(files.keys(), repository, shards)
    _has_weights(repository, names, files, shards)
    folder = repository.snapshot(commit)
    assert folder is not None, "the commit is known"
    there = [files[name] for name in names if hub_cache.present(folder, files[name])]
    if verify:
        for file in damaged(folder, there, lambda done, total: show.advance(repository.id, "verifying", done, total)):
            show.note(f"{repository.id}: {file.path} is damaged: downloading it again")
            remove(folder / file.path, repository.folder)
    total = sum(files[name].size for name in names)
    todo = [files[name] for name in names if not hub_cache.present(folder, files[name])]
    _room(repository, todo)
    for file in todo:
        clear(repository, folder, file)
    came = 0
    for attempt in range(1, TRIES + 1):
        if not todo:
            break
        came += hub.fetch(commit, todo, total)
        todo = _not_right(repository, folder, todo, show, again=attempt < TRIES)
    if came or hub_cache.missing(repository) is not None or repository.snapshot() != folder:
        hub.ask("settle", commit=commit, files=names)
    return Pulled(commit, folder, len(names), total, came)


def _has_weights(repository: Repository, names: list[str], files: Mapping[str, File], shards: Iterable[str]) -> None:
    if not repository.weights or repository.load_format == "dummy":
        return
    if lacking := sorted(set(shards).difference(files)):
        few = ", ".join(lacking[:3]) + (" ..." if len(lacking) > 3 else "")
        raise PullError(f"{repository.id}: the repository itself lacks {few} of its own index")
    if all(not hub_cache.is_large(name) for name in names):
        raise PullError(
            f"{repository.id} has no weights that vLLM loads (safetensors, else bin or pt): is it a repository of "
            "another format, or of an adapter?"
        )


def _room(repository: Repository, todo: Sequence[File]) -> None:
    """Raises PullError where the disk is too small for what is to come, and a little more."""
    coming = sum(file.size for file in todo)
    coming -= sum(_begun(repository, file) for file in todo)
    if coming <= 0:
        return
    free = shutil.disk_usage(hub_cache.existing(repository.cache)).free
    needed = coming + max(coming // 20, 64 * BLOCK)
    if free < needed:
        raise PullError(
            f"{repository.id} needs {size_text(needed)} more in {repository.cache}, and {size_text(free)} are free: "
            f"make room for {size_text(needed - free)}, or name a folder on another disk by HF_HOME"
        )


def _begun(repository: Repository, file: File) -> int:
    """What the cache has of that file without showing it: all of it, for another commit; or what an interrupted pull
    has left."""
    for name in (file.sha256 or file.oid or "", f"{file.sha256 or file.oid}.pull.incomplete"):
        try:
            if name and (size := (repository.growing / name).stat().st_size) <= file.size:
                return size
        except OSError:
            continue
    return 0


def clear(repository: Repository, folder: Path, file: File) -> None:
    """Remove what has that file's place in a wrong size: the hub's library would take it for the file."""
    blob = repository.growing / (file.sha256 or file.oid or "")
    for path in (folder / file.path, blob):
        try:
            if path.is_file() and path.stat().st_size != file.size:
                remove(path, repository.folder)
        except OSError:
            continue


def _not_right(repository: Repository, folder: Path, files: Sequence[File], show: Show, *, again: bool) -> list[File]:
    """Those that came damaged, or not at all: they are removed. Raises PullError unless they are fetched again."""
    wrong = [file for file in files if not hub_cache.present(folder, file)]
    whole = [file for file in files if file not in wrong]
    wrong += damaged(folder, whole, lambda done, total: show.advance(repository.id, "verifying", done, total))
    for file in wrong:
        remove(folder / file.path, repository.folder)
        text = f"{repository.id}: {file.path} came damaged"
        if not again:
            raise PullError(
                f"{text}, {TRIES} times: its content is not what the hub itself says; is there a proxy or a mirror in "
                "between?"
            )
        show.note(f"{text}: downloading it again")
    return wrong


def damaged(folder: Path, files: Sequence[File], told: Callable[[int, int], object] = lambda *_: None) -> list[File]:
    """Those whose content is not what the hub says. ``told`` hears how many bytes of how many are read."""
    total, done, wrong = sum(file.size for file in files), 0, []
    for file in files:
        if file.sha256 is None and file.oid is None:
            continue
        # git's name of a small file is the hash of it behind a header
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)
        with (folder / file.path).open("rb") as content:
            while block := content.read(BLOCK):
                digest.update(block)
                done += len(block)
                told(done, total)
        if digest.hexdigest() != (file.sha256 or file.oid):
            wrong.append(file)
    return wrong


def remove(path: Path, within: Path) -> None:
    """Remove a file of a snapshot, and what its link leads to; nothing that is not in the folder ``within``."""
    while _is_below(path, within):
        target = path.parent / os.readlink(path) if path.is_symlink() else None
        path.unlink(missing_ok=True)
        if target is None:
            return
        path = target


def _is_below(path: Path, folder: Path) -> bool:
    """Whether the file itself, not what it may be a link to, is somewhere in that folder."""
    return path.parent.resolve().is_relative_to(folder.resolve())


# The hub --------------------------------------------------------------------------------------------------------------


class _Hub:
    """One repository's hub, by the script in the engine's environment."""

    def __init__(self, want: Wanted, python: str, show: Show) -> None:
        self._want, self._python, self._show = want, python, show
        self._said: dict[str, Any] = {}
        self._hear: Callable[[dict[str, Any]], object] = lambda event: None
        self._rest = ""

    def ask(self, do: str, **more: object) -> dict[str, Any]:
        """One task, to its end; the last word but ``end``. Raises PullError."""
        repository = self._want.repository
        # the engine's own, its PYTHONPATH too; only the script's folder is no place to import from
        environ = {**self._want.environ, "PYTHONSAFEPATH": "1"}
        task = {
            "do": do,
            "source": repository.source,
            "id": repository.id,
            "revision": repository.revision,
            "cache": str(repository.cache),
            "folder": str(repository.folder),
            "pauses": PAUSES,
            **more,
        }
        self._said, self._rest, ended = {}, "", False
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(task, file)
            file.flush()
            command: list[str | Path] = [self._python, INSIDE / "pull.py", file.name]
            try:
                status = run(command, Path(os.devnull), hear=self._line, environ=environ)
            except OSError as error:
                raise PullError(f"{self._python} cannot be run: {error.strerror}") from error
        ended = self._said.get("event") != "error"
        if status == 0 and ended:
            return self._said
        if ended:
            raise PullError(self._clean(f"{repository.id}: the download ended (exit status {status}): {self._rest}"))
        raise PullError(self._clean(f"{repository.id}: {self._meaning(self._said)}"))

    def fetch(self, commit: str, files: Sequence[File], total: int) -> int:
        """Those files; how many bytes came. Raises PullError."""
        sizes = {file.path: file.size for file in files}
        done = {file.path: 0 for file in files}
        begun = {file.path: _begun(self._want.repository, file) for file in files}
        before = total - sum(sizes.values())

        def hear(event: dict[str, Any]) -> None:
            path = event.get("path")
            if event["event"] == "bytes" and path in done:
                done[path] = min(int(event["done"]), sizes[path])
            elif event["event"] == "file" and path in done:
                done[path] = sizes[path]
            self._show.advance(self._want.repository.id, "downloading", before + sum(done.values()), total)

        self._hear = hear
        try:
            self.ask("fetch", commit=commit, files=[{"path": file.path, "size": file.size} for file in files])
        finally:
            self._hear = lambda event: None
        return sum(sizes.values()) - sum(begun.values())

    def _line(self, line: str) -> None:
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError):
            self._rest = line.strip() or self._rest  # a library's own words: of use when nothing else is said
            return
        if kind == "again":
            why = self._clean(str(event["why"]))
            self._show.note(f"{event['path']}: {why[:200]}; trying again in {event['pause']:g} s")
        elif kind != "end":
            self._said = event if kind not in ("bytes", "file") else self._said
            self._hear(event)

    def _clean(self, text: str) -> str:
        """Without a token, whoever wrote it there."""
        for name in HUB_KEYS:
            if value := self._want.environ.get(name):
                text = text.replace(value, "********")
        return text

    def distrusted(self, why: str) -> str:
        """What to say of a hub whose answer is refused."""
        at, _ = _endpoint(self._want.repository, self._want.environ)
        return f"the answer of {at} is refused: {why}. It was not used. Is that the hub, or a mirror that you trust?"

    def _meaning(self, error: Mapping[str, Any]) -> str:
        """What went wrong, and what to do."""
        repository, environ = self._want.repository, self._want.environ
        scope = repository.source == "modelscope"
        at, token = _endpoint(repository, environ)
        has = bool(environ.get(token))
        where = "env_file or the model's `env:`"
        said = str(error["message"])[:300]
        match error["kind"]:
            case "gated":
                do = f"and the account of {token} was not let in yet" if has else f"and put {token}=... into {where}"
                return f"gated: accept its licence on {at}/{repository.id}, {do}"
            case "unauthorized" if has:
                return f"{at} does not take the token in {token}, or there is no such repository: check both"
            case "unauthorized":
                return f"no such repository on {at}, or it is private: check the name, or put {token}=... into {where}"
            case "forbidden":
                return f"{at} refuses it ({error['status']}): the token in {token} may not read it ({said})"
            case "not_found":
                other = "Hugging Face" if scope else "ModelScope (`--source modelscope`)"
                return f"not found on {at}: check the name, upper case and lower case too; perhaps it is on {other}"
            case "revision":
                return f"no such revision: {repository.revision or 'main'} (name a branch, a tag or a commit)"
            case "network":
                mirror = "" if scope else "; where it is out of reach, name a mirror by HF_ENDPOINT"
                return f"{at} cannot be reached ({said}): check the network and its proxy{mirror}. Then {AGAIN}"
            case "server":
                return f"{at} answers {error['status']} ({said}). Later, {AGAIN}"
            case "full":
                return f"the disk of {repository.cache} is full. Make room, then {AGAIN}"
            case "denied":
                return f"cannot be written ({said}): check who owns {repository.cache}"
            case "untrusted":
                return self.distrusted(said)
            case "name":
                return f"not the name of a repository ({said})"
            case "no_modelscope":
                # that environment has no pip: uv, which came with the daemon, installs into it
                install = f"{uv.binary()} pip install --python {self._python} 'modelscope>=1.38'"
                return f"modelscope is not in vLLM's environment: {install}"
        return said


def _endpoint(repository: Repository, environ: Mapping[str, str]) -> tuple[str, str]:
    """The hub's address, without what is secret in it, and the variable of its token."""
    if repository.source == "modelscope":
        given, token = environ.get("MODELSCOPE_ENDPOINT") or "https://www.modelscope.cn", "MODELSCOPE_API_TOKEN"
    else:
        given, token = environ.get("HF_ENDPOINT") or "https://huggingface.co", "HF_TOKEN"
    return re.sub(r"//[^/@]*@", "//", given).rstrip("/"), token
