"""Lists or fetches files of a hub's repository into the cache, run by path with the Python of vLLM's own environment.

With huggingface_hub or modelscope and the standard library only. Told what to do by a JSON file, its only argument;
says what happens in lines of JSON, with ``event``: listing, bytes, file, again, settled, error, end. What to fetch, and
whether what came is right, is decided outside.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

AT_ONCE = 4  # files
CHUNK = 1 << 20  # bytes: what a kill costs of a file, and how often a bar moves; huggingface_hub has 10 MiB
LARGE = 8 << 20  # bytes: files below are fetched by the library, which cannot go on with half a file
EVERY = 0.2  # seconds between two words about the bytes of one file
INDEX = "model.safetensors.index.json"
LARGEST_INDEX = 64 << 20  # bytes
NAME = re.compile(r"(?!\.{1,2}$)[^/\x00-\x1f\x7f]{1,200}")  # what a hub may call a commit or a file's content
T = TypeVar("T")

_out = os.fdopen(os.dup(1), "w")
_lock = threading.Lock()


def say(event: str, **more: object) -> None:
    """Print one event as a line of JSON."""
    with _lock:
        _out.write(json.dumps({"event": event, **more}) + "\n")
        _out.flush()


class Failed(Exception):
    """``kind`` says what it is; the rest is for people, outside."""

    def __init__(self, kind: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status


def failure(error: BaseException) -> tuple[Failed, bool]:
    """What an exception of a library means, and whether to try again may help."""
    if isinstance(error, Failed):
        return error, error.kind in ("network", "server")
    names = {one.__name__ for one in type(error).__mro__}
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    text = " ".join(str(error).split())[:500] or type(error).__name__
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failed("full", text), False
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Failed("denied", f"{error.filename or ''}: {error.strerror}"), False
    if "OfflineModeIsEnabled" in names:
        return Failed("offline", text), False
    if "GatedRepoError" in names:
        return Failed("gated", text, status), False
    if "RevisionNotFoundError" in names:
        return Failed("revision", text, status), False
    if status == 401:
        # this hub answers so for what does not exist, too
        return Failed("unauthorized", text, status), False
    if status == 403 or names & {"PermissionDeniedError", "AuthenticationError"}:
        return Failed("forbidden", text, status), False
    if status == 404 or names & {"RepositoryNotFoundError", "NotExistError", "EntryNotFoundError"}:
        return Failed("not_found", text, status), False
    if names & {"HFValidationError", "InvalidParameter"}:
        return Failed("name", text), False
    if status is not None and status not in (408, 429) and status < 500:
        return Failed("server", text, status), False
    if status is not None:
        return Failed("server", text, status), True
    # not the libraries' own words for what broke on the way: something of ours, or of theirs, does not fit
    way = isinstance(error, OSError) or any(
        one.__module__.partition(".")[0] in ("httpx2", "httpx", "httpcore2", "httpcore", "requests", "urllib3")
        for one in type(error).__mro__
    )
    return Failed("network" if way else "unexpected", text if way else f"{type(error).__name__}: {text}"), way


def patiently(work: Callable[[], T], pauses: list[float], what: str, came: Callable[[], int] = lambda: 0) -> T:
    """Its result; what may pass is tried again after each pause, and from the first one as long as bytes come."""
    left, had = list(pauses), came()
    while True:
        try:
            return work()
        except Exception as error:
            failed, passing = failure(error)
            if came() > had:
                left, had = list(pauses), came()
            if not passing or not left:
                raise failed from error
            pause = left.pop(0)
            say("again", path=what, why=str(failed), status=failed.status, pause=pause)
            time.sleep(pause)


class Bar:
    """Stands where huggingface_hub wants a tqdm, and tells how many bytes of a file are there."""

    def __init__(self, path: str, begin: int) -> None:
        self.path, self.done, self._told = path, begin, 0.0
        self.came = 0

    def __call__(self, *_: object, **more: Any) -> Bar:
        """The library makes its bar: with what was there already."""
        self.done = int(more.get("initial") or 0)
        return self

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._tell()

    def update(self, count: float | None = 1) -> None:
        """More bytes, or fewer: the file is begun again."""
        self.done += int(count or 0)
        self.came += max(int(count or 0), 0)
        if time.monotonic() - self._told >= EVERY:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        say("bytes", path=self.path, done=self.done)

    def nothing(self, *_: object, **__: object) -> None:
        """What else the library does with its bar."""

    close = refresh = set_description = set_postfix_str = set_transfer_postfix_str = update_transfer = nothing


def checked(name: str | None, what: str) -> None:
    """Raise Failed where a hub's name for something would lead out of its folder in the cache."""
    if name is not None and not NAME.fullmatch(name):
        raise Failed("untrusted", f"it calls {what} {name[:80]!r}")


def distrust(hub: Any) -> None:
    """Have huggingface_hub (2.4) refuse what it would make paths of: names in the headers of an answer, and a commit.
    Its check of files' names is its own."""
    from huggingface_hub import file_download

    ask, about = file_download.get_hf_file_metadata, hub.HfApi.model_info

    def metadata(*args: Any, **more: Any) -> Any:
        try:
            seen = ask(*args, **more)
        except Exception as error:
            # of a file that is not there it notes that, for this commit
            checked(getattr(getattr(error, "response", None), "headers", {}).get("X-Repo-Commit"), "a commit")
            raise
        checked(seen.commit_hash, "a commit")
        checked(seen.etag, "a file's content")
        return seen

    def model_info(*args: Any, **more: Any) -> Any:
        seen = about(*args, **more)
        checked(seen.sha, "a commit")
        return seen

    file_download.get_hf_file_metadata, hub.HfApi.model_info = metadata, model_info


class HuggingFace:
    """A repository of Hugging Face's hub, or of a mirror that speaks like it."""

    def __init__(self, task: dict[str, Any]) -> None:
        import huggingface_hub
        from huggingface_hub import constants

        constants.DOWNLOAD_CHUNK_SIZE = CHUNK
        distrust(huggingface_hub)
        self.most = getattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", float("inf"))  # what plain HTTP may fetch
        self.hub, self.id, self.cache = huggingface_hub, str(task["id"]), str(task["cache"])
        self.revision: str | None = task["revision"]

    def listing(self, *, weights: bool) -> dict[str, Any]:
        """The commit that the revision is now, its files, and its index of weights (its text) if it has one."""
        api = self.hub.HfApi()
        commit = api.model_info(self.id, revision=self.revision).sha
        tree = api.list_repo_tree(self.id, recursive=True, revision=commit)
        files = [
            {
                "path": one.path,
                "size": one.lfs.size if one.lfs else one.size,
                "sha256": one.lfs.sha256 if one.lfs else None,
                "oid": one.blob_id,
            }
            for one in tree
            if hasattr(one, "size")
        ]
        index = None
        if weights and any(one["path"] == INDEX and one["size"] <= LARGEST_INDEX for one in files):
            place = self.hub.hf_hub_download(self.id, INDEX, revision=commit, cache_dir=self.cache)
            index = Path(place).read_text(encoding="utf-8")
        return {"commit": commit, "files": files, "index": index}

    def fetch(self, commit: str, path: str, size: int, bar: Bar) -> None:
        """One file, from where an earlier attempt has stopped."""
        # the library begins a file anew whatever is there, and xet with it; so large ones are fetched here, by its own
        # parts, into the place where it looks for what is there already
        xet = os.environ.get("HF_XET_HIGH_PERFORMANCE", "").lower() in ("1", "on", "yes", "true")
        if LARGE <= size <= self.most and not xet:
            self._fetch_blob(commit, path, bar)
        self.hub.hf_hub_download(self.id, path, revision=commit, cache_dir=self.cache, tqdm_class=bar)

    def _fetch_blob(self, commit: str, path: str, bar: Bar) -> None:
        from huggingface_hub.file_download import get_hf_file_metadata, http_get, repo_folder_name
        from huggingface_hub.utils import build_hf_headers

        url = self.hub.hf_hub_url(self.id, path, revision=commit)
        seen = get_hf_file_metadata(url)
        if not seen.etag:
            return  # the library will say so
        blobs = Path(self.cache) / repo_folder_name(repo_id=self.id, repo_type="model") / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        blob, part = blobs / seen.etag, blobs / f"{seen.etag}.pull.incomplete"
        while not blob.exists():
            with part.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # another pull of the same: it has it when we do
                if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
                    continue
                there = file.tell()
                if seen.size is not None and there > seen.size:
                    file.truncate(0)
                    there = 0
                headers = build_hf_headers()
                # identity: the size is that of the file, and what is there can be continued
                headers["Accept-Encoding"] = "identity"
                bar.done = there
                # follows redirects itself, and takes the token to no other host
                http_get(url, file, resume_size=there, headers=headers, expected_size=seen.size, tqdm_class=bar)
                file.flush()
                part.rename(blob)

    def settle(self, commit: str, paths: list[str]) -> str:
        """Make this commit the one that the revision means, for whoever looks without asking the hub."""
        from huggingface_hub.file_download import repo_folder_name

        # all is there: this notes what the repository has, and links what it finds
        names = [glob.escape(path) for path in paths]
        folder = self.hub.snapshot_download(self.id, revision=commit, cache_dir=self.cache, allow_patterns=names)
        # not by the library, which would ask what the revision is now, and fetch that
        if (revision := self.revision or "main") != commit:
            name = repo_folder_name(repo_id=self.id, repo_type="model")
            ref = Path(self.cache, name, "refs", revision)
            ref.parent.mkdir(parents=True, exist_ok=True)
            fresh = ref.with_name(f"{ref.name}.{os.getpid()}")
            fresh.write_text(commit, encoding="ascii")
            fresh.replace(ref)
        return str(folder)


class ModelScope:
    """A repository of ModelScope's hub. Its library goes on with half a file, and checks what came, by itself."""

    def __init__(self, task: dict[str, Any]) -> None:
        try:
            import modelscope_hub  # noqa: F401 (since 1.38, whose way to download this is)
            from modelscope.hub.api import HubApi
            from modelscope.hub.snapshot_download import snapshot_download
        except ImportError as error:
            raise Failed("no_modelscope", str(error)) from error
        self.api, self.download = HubApi(), snapshot_download
        self.id, self.revision, self.folder = str(task["id"]), task["revision"], Path(task["folder"])

    def listing(self, *, weights: bool) -> dict[str, Any]:
        """See ``HuggingFace``."""
        said = self.api.get_model_files(model_id=self.id, revision=self.revision, recursive=True)
        files = [
            {"path": one["Path"], "size": int(one["Size"]), "sha256": one.get("Sha256") or None, "oid": None}
            for one in said
            if one.get("Type") != "tree"
        ]
        return {"commit": self.revision or "master", "files": files, "index": None}

    def fetch(self, commit: str, path: str, size: int, bar: Bar) -> None:
        """See ``HuggingFace``."""

        class Callback:
            def __init__(self, filename: str, file_size: int) -> None:
                bar.done = 0

            update = staticmethod(bar.update)

            def end(self) -> None:
                pass

        # vLLM (0.32) looks where modelscope kept its models before 1.38, which this one uses if there is something
        place = str(self.folder)
        self.download(
            self.id,
            revision=self.revision,
            local_dir=place,
            allow_patterns=[glob.escape(path)],
            progress_callbacks=[Callback],
        )

    def settle(self, commit: str, paths: list[str]) -> str:
        """See ``HuggingFace``. The folder's name has no dots; vLLM looks for the name with them."""
        name = self.folder.with_name(self.id.rpartition("/")[2])
        if not name.exists():
            name.symlink_to(self.folder.name)
        return str(self.folder)


def fetch_all(hub: HuggingFace | ModelScope, task: dict[str, Any]) -> None:
    """Every file that is asked for, several at once; the first failure ends it."""

    def one(file: dict[str, Any]) -> None:
        path, size = str(file["path"]), int(file["size"])
        bar = Bar(path, 0)
        patiently(lambda: hub.fetch(task["commit"], path, size, bar), task["pauses"], path, lambda: bar.came)
        say("file", path=path)

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for done in as_completed([pool.submit(one, file) for file in task["files"]]):
            done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def main() -> None:
    """What the file of the first argument asks for."""
    os.dup2(2, 1)  # what is printed on the way is not the answer
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    code = 0
    try:
        hub = (ModelScope if task["source"] == "modelscope" else HuggingFace)(task)
        if task["do"] == "list":
            listing = patiently(lambda: hub.listing(weights=task["weights"]), task["pauses"], task["id"])
            say("listing", **listing)
        elif task["do"] == "fetch":
            fetch_all(hub, task)
        else:
            paths = [str(path) for path in task["files"]]
            folder = patiently(lambda: hub.settle(task["commit"], paths), task["pauses"], task["id"])
            say("settled", folder=folder)
        say("end")
    except Exception as error:
        failed, _ = failure(error)
        say("error", kind=failed.kind, message=str(failed), status=failed.status)
        code = 1
    os._exit(code)  # threads that still download would be waited for


if __name__ == "__main__":
    main()
