"""A hub of models on loopback: what huggingface_hub 2.4 asks of huggingface.co when it lists and downloads (without
xet), and modelscope 1.40 of modelscope.cn; with faults to order. Nothing here is collected.

Large files are redirected to another host's name, as the real one does it: what is sent there must not have the token.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 4096  # bytes: files of at least this size are stored as large ones (LFS)
BLOCK = 64 * 1024


@dataclass
class Fault:
    """``times`` requests whose path contains ``where`` go wrong: ``status`` instead of an answer, ``cut`` after that
    many bytes, ``damage`` another byte in the middle. ``code`` is what the hub says about an error."""

    where: str
    times: int = 1
    status: int | None = None
    code: str = ""
    cut: int | None = None
    damage: bool = False


@dataclass
class Asked:
    """One request, and how much of a file's content was sent for it."""

    method: str
    host: str
    path: str
    range: str | None
    token: str | None
    sent: int = 0


@dataclass
class Repo:
    """Files by path, and the name of their commit; ``gated``: the token that was let in."""

    files: dict[str, bytes]
    commit: str
    gated: str | None = None
    claims: dict[str, int] = field(default_factory=dict)  # sizes that are told, where they are not the real ones
    headers: dict[str, str] = field(default_factory=dict)  # of the answers about files, in the place of the real ones


class Hub:
    """See the module. ``url`` is for HF_ENDPOINT; what is public is a test's to set and to read."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.cdn = f"http://localhost:{port}"
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.rate: float | None = None  # bytes a second of each answer
        self.page = 1000  # files in a page of a listing
        self.lock = threading.Lock()

    def add(self, name: str, files: Mapping[str, bytes], gated: str | None = None) -> Repo:
        """A repository, or its next commit."""
        digest = hashlib.sha1(repr(sorted((path, len(data)) for path, data in files.items())).encode())
        for path in sorted(files):
            digest.update(files[path])
        self.repos[name] = Repo(dict(files), digest.hexdigest(), gated)
        return self.repos[name]

    def fault(self, where: str, **more: Any) -> None:
        """See ``Fault``."""
        self.faults.append(Fault(where, **more))

    def take_fault(self, path: str) -> Fault | None:
        """What goes wrong with this request."""
        with self.lock:
            for fault in self.faults:
                if fault.where in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def sent(self, where: str = "") -> int:
        """Bytes of files that were sent, of paths that contain that."""
        with self.lock:
            return sum(one.sent for one in self.asked if where in one.path)


def sharded(sizes: Mapping[str, int] | None = None) -> dict[str, bytes]:
    """The files of a model that nobody can load, with weights in two parts and much that is not needed."""
    sizes = sizes or {"model-00001-of-00002.safetensors": 50_000, "model-00002-of-00002.safetensors": 30_000}
    shards = {name: os.urandom(size) for name, size in sizes.items()}
    index = {"metadata": {}, "weight_map": {f"layer.{n}": name for n, name in enumerate(sorted(shards))}}
    return {
        "config.json": b'{"model_type": "none"}',
        "tokenizer.json": b"{}" * 5000,
        "chat_template.jinja": b"{{ messages }}",
        "modeling_none.py": b"# code\n",
        "model.safetensors.index.json": json.dumps(index).encode(),
        **shards,
        "pytorch_model.bin": b"b" * 9000,
        "onnx/model.onnx": b"o" * 9000,
        "none-q4.gguf": b"g" * 9000,
        "picture.png": b"p" * 9000,
        ".gitattributes": b"",
    }


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub, as long as the context lasts."""

    class Here(_Handler):
        pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET
        daemon_threads = True
        block_on_close = False  # a slow answer need not be finished

    with Server(("127.0.0.1", 0), Here) as server:
        Here.hub = Hub(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield Here.hub
        finally:
            server.shutdown()
            thread.join()


def from_folder(folder: Path) -> dict[str, bytes]:
    """The files of a model's folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        host = self.headers.get("Host") or ""
        asked = Asked(self.command, host.partition(":")[0], path, self.headers.get("Range"), token)
        with self.hub.lock:
            self.hub.asked.append(asked)
        fault = self.hub.take_fault(path)
        if fault is not None and fault.status is not None:
            self._refuse(fault.status, fault.code)
            return
        try:
            self._route(path, asked, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, path: str, asked: Asked, fault: Fault | None) -> None:
        words = path.strip("/").split("/")
        if words[0] == "cdn":
            name, file = "/".join(words[1:3]), "/".join(words[3:])
            self._content(self.hub.repos[name].files[file], asked, fault, {})
        elif words[:2] == ["api", "models"]:
            repo = self._repo("/".join(words[2:4]), asked)
            if repo is None or not self._has(repo, words[5] if len(words) > 5 else "main"):
                return
            if words[4:5] == ["tree"]:
                self._tree(repo)
            else:
                siblings = [{"rfilename": file} for file in repo.files]
                self._json({"id": "/".join(words[2:4]), "sha": repo.commit, "private": False, "siblings": siblings})
        elif words[:3] == ["api", "v1", "models"] and words[5:6] == ["repo"]:
            self._modelscope("/".join(words[3:5]), listing=words[6:] == ["files"], asked=asked, fault=fault)
        elif words[2:3] == ["resolve"]:
            self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]), asked, fault)
        else:
            self._refuse(404, "")

    def _repo(self, name: str, asked: Asked) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None:  # to whom it does not know, this hub does not say what there is
            self._refuse(404 if asked.token else 401, "RepoNotFound")
        return repo

    def _has(self, repo: Repo, revision: str) -> bool:
        if revision in ("main", repo.commit):
            return True
        self._refuse(404, "RevisionNotFound")
        return False

    def _resolve(self, name: str, revision: str, file: str, asked: Asked, fault: Fault | None) -> None:
        repo = self._repo(name, asked)
        if repo is None or not self._has(repo, revision):
            return
        if repo.gated is not None and asked.token != repo.gated:
            self._refuse(403 if asked.token else 401, "GatedRepo")
            return
        if file not in repo.files:
            self._refuse(404, "EntryNotFound", repo.headers)
            return
        data = repo.files[file]
        about = {"X-Repo-Commit": repo.commit, "ETag": f'"{_oid(data)}"', **repo.headers}
        if len(data) < LARGE:
            self._content(data, asked, fault, about)
            return
        self.send_response(302)
        sha256 = hashlib.sha256(data).hexdigest()
        about = {"X-Repo-Commit": repo.commit, "X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
        for header, value in {
            **about,
            **repo.headers,
            "Location": f"{self.hub.cdn}/cdn/{name}/{file}",
            "Content-Length": "0",
        }.items():
            self.send_header(header, value)
        self.end_headers()

    def _content(self, data: bytes, asked: Asked, fault: Fault | None, about: Mapping[str, str]) -> None:
        begin, total = 0, len(data)
        if asked.range is not None:
            begin = int(asked.range.removeprefix("bytes=").partition("-")[0])
        if fault is not None and fault.damage:
            middle = (begin + total) // 2
            data = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
        self.send_response(206 if asked.range is not None else 200)
        for header, value in about.items():
            self.send_header(header, value)
        if asked.range is not None:
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        self.send_header("Content-Length", str(total - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = total if fault is None or fault.cut is None else min(begin + fault.cut, total)
        for at in range(begin, end, BLOCK):
            block = data[at : min(at + BLOCK, end)]
            self.wfile.write(block)
            with self.hub.lock:
                asked.sent += len(block)
            if self.hub.rate is not None:
                time.sleep(len(block) / self.hub.rate)
        if end < total:
            self.close_connection = True

    def _modelscope(self, name: str, *, listing: bool, asked: Asked, fault: Fault | None) -> None:
        """What modelscope 1.40 asks of modelscope.cn."""
        query = parse_qs(urlsplit(self.path).query)
        repo = self.hub.repos.get(name)
        if repo is None or query.get("Revision", ["master"])[0] != "master":
            self._json({"Code": 10010205001, "Success": False, "Message": "not found"}, status=404)
        elif listing:
            rows = [
                {
                    "Path": file,
                    "Name": os.path.basename(file),
                    "Type": "blob",
                    "Size": len(data),
                    "Sha256": hashlib.sha256(data).hexdigest(),
                }
                for file, data in repo.files.items()
            ]
            self._json({"Code": 200, "Success": True, "Data": {"Files": rows}})
        else:
            self._content(repo.files[query["FilePath"][0]], asked, fault, {})

    def _tree(self, repo: Repo) -> None:
        query = parse_qs(urlsplit(self.path).query)
        begin = int(query.get("cursor", ["0"])[0])
        rows = []
        for file, data in list(repo.files.items())[begin : begin + self.hub.page]:
            size = repo.claims.get(file, len(data))
            row: dict[str, Any] = {"type": "file", "path": file, "size": size, "oid": _oid(data)}
            if len(data) >= LARGE:
                row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 130}
            rows.append(row)
        rows += [{"type": "directory", "path": "onnx", "oid": "0" * 40}] if begin == 0 else []
        after = begin + self.hub.page
        link = f'<{self.hub.url}{urlsplit(self.path).path}?recursive=True&cursor={after}>; rel="next"'
        self._json(rows, {"Link": link} if after < len(repo.files) else {})

    def _json(self, value: object, more: Mapping[str, str] | None = None, *, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for header, text in {"Content-Type": "application/json", **(more or {})}.items():
            self.send_header(header, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def _refuse(self, status: int, code: str, about: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in (about or {}).items():
            self.send_header(header, value)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _oid(data: bytes) -> str:
    """Git's name of it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
