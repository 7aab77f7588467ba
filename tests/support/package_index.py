"""A package index on loopback, with tiny wheels made on the spot, that can be told to misbehave.

It speaks the simple API that pip and uv read, and HTTP proxies' absolute addresses too, so one server plays the index,
the mirror and the proxy. Threads serve; nothing is left after ``close``.
"""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


def wheel(name: str, version: str, files: Mapping[str, str | bytes]) -> tuple[str, bytes]:
    """The file name and the bytes of a pure Python wheel that holds these files."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    whole = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*whole, f"{info}/RECORD"])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in {**whole, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return f"{module}-{version}-py3-none-any.whl", made.getvalue()


class PackageIndex:
    """The server. ``lock`` is a lock file with the hashes of all its wheels as they are when they are added.

    altered    file names that are served with other bytes than their hash says
    torn       file names whose connection ends in the middle
    stalled    file names that are begun and never finished while `release` is not set
    requests   every path that was asked for; absolute ones came by the proxy's way
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.altered: set[str] = set()
        self.torn: set[str] = set()
        self.stalled: set[str] = set()
        self.stalling, self.release = threading.Event(), threading.Event()
        self.requests: list[str] = []
        self._pins: list[str] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                index.serve(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def simple(self) -> str:
        """The address of the simple API, for index-url."""
        return f"{self.address}/simple"

    @property
    def lock(self) -> str:
        """The lock file."""
        return "".join(self._pins)

    def add(self, name: str, version: str, files: Mapping[str, str | bytes], *, listed: bool = True) -> str:
        """Make a wheel and offer it; returns its file name."""
        file, data = wheel(name, version, files)
        self.files[file] = data
        if listed:
            self._pins.append(f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(data).hexdigest()}\n")
        return file

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        self.requests.append(request.path)
        path = urlsplit(request.path).path
        *_, kind, last = ["", *path.strip("/").split("/")]
        if kind == "simple":
            found = [file for file in self.files if file.split("-")[0].replace("_", "-") == last]
            links = "".join(f'<a href="/files/{file}">{file}</a>\n' for file in found)
            return self._answer(request, links.encode(), 200 if found else 404)
        data = self.files.get(last)
        if data is None:
            return self._answer(request, b"", 404)
        if last in self.altered:
            data = data[:-30] + bytes(byte ^ 1 for byte in data[-30:-22]) + data[-22:]
        return self._answer(request, data, 200, torn=last in self.torn, stalled=last in self.stalled)

    def _answer(
        self, request: BaseHTTPRequestHandler, body: bytes, status: int, *, torn: bool = False, stalled: bool = False
    ) -> None:
        request.send_response(status)
        request.send_header("Content-Type", "text/html" if body[:2] != b"PK" else "application/octet-stream")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: len(body) // 2] if torn or stalled else body)
        request.wfile.flush()
        if stalled:
            self.stalling.set()
            self.release.wait(60)
        if torn or stalled:
            request.close_connection = True

    def close(self) -> None:
        """End it; its port refuses from now on."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
