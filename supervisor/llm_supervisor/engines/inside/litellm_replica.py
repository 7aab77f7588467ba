"""One replica of the LiteLLM proxy, run by path with the Python of LiteLLM's own environment.

It serves on a listening socket that it inherits (so connections queue there while a replica is replaced, instead of
being refused) and on a private unix socket, where it alone can be asked how it is. Standard library, uvicorn and
litellm only. The configuration file is named by CONFIG_FILE_PATH, which LiteLLM reads when its application starts; what
its own command does with that file before is done first (``litellm_command``).

Exit status 3: the application did not start (uvicorn's own convention), or its database is away; 1 and 2: LiteLLM's
command has refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from typing import Any

DRAIN_IDLE = 1.0  # seconds after which idle connections are closed when the server stops


def private_socket(path: str) -> socket.socket:
    """Bound, not yet listening: until the application has started, connections are refused rather than queued."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            # an address holds 107 bytes; through the folder's descriptor any path fits
            sock.bind(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        finally:
            os.umask(before)
    finally:
        os.close(folder)
    return sock


def hand_out(path: str, listener: socket.socket) -> None:
    """Give the listening socket to whoever connects (the folder is the daemon's alone): so a new one gets it back."""
    door = private_socket(path)
    door.listen(4)

    def serve() -> None:
        while True:
            visitor, _ = door.accept()
            with visitor:
                try:
                    socket.send_fds(visitor, [b"listener"], [listener.fileno()])
                except OSError:
                    continue

    threading.Thread(target=serve, name="hand-out", daemon=True).start()


def reach_by_socket(sockets: dict[str, str]) -> None:
    """Requests to these hosts go to unix sockets. LiteLLM has no address for those; its client is aiohttp's, and every
    connection of that is made in one method, which the connector for unix sockets has, too (aiohttp 3.0 to 3.14)."""
    from aiohttp import ClientRequest, ClientTimeout, TCPConnector
    from aiohttp.client_exceptions import UnixClientConnectorError

    connect = TCPConnector._create_connection

    async def create_connection(
        self: TCPConnector, req: ClientRequest, traces: list[Any], timeout: ClientTimeout
    ) -> Any:
        host = req.url.host or ""
        path = sockets.get(host)
        if path is None:
            return await connect(self, req, traces, timeout)
        try:
            async with asyncio.timeout(timeout.sock_connect):
                # by https the certificate is for another name: it is not verified, as on loopback
                context = ssl.create_default_context() if req.url.scheme == "https" else None
                if context is not None:
                    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                _, protocol = await self._loop.create_unix_connection(
                    self._factory, path, ssl=context, server_hostname=host if context else None
                )
        except OSError as error:
            # with the host's name, not the path: clients see the text
            why = OSError(error.errno or 0, error.strerror or "it does not answer")
            raise UnixClientConnectorError(host, req.connection_key, why) from error
        return protocol

    TCPConnector._create_connection = create_connection


def trust(addresses: set[str]) -> None:
    """Do not verify the certificates of these servers (``HOST:PORT``), engines of this machine. A deployment's
    ``ssl_verify`` says the same, but not every kind of request looks at it (text completions do not)."""
    from aiohttp import ClientRequest, TCPConnector

    choose = TCPConnector._get_ssl_context
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE

    def context_of(self: TCPConnector, req: ClientRequest) -> Any:
        ours = req.url.scheme == "https" and f"{req.url.host}:{req.url.port}" in addresses
        return unverified if ours else choose(self, req)

    TCPConnector._get_ssl_context = context_of


def command_line() -> argparse.ArgumentParser:
    """The options that the daemon starts a replica with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen-fd", type=int, required=True, help="inherited listening TCP socket")
    parser.add_argument("--uds", required=True, help="path of the private unix socket")
    parser.add_argument("--hold", help="file in which the daemon says how its engines are")
    parser.add_argument("--media", metavar="JSON", help="what clients may send, and have fetched: see litellm_media.py")
    parser.add_argument("--modules", metavar="DIR", help="a folder in which Python modules of the configuration may be")
    parser.add_argument("--drain", type=int, default=25, help="seconds that requests in hand get after SIGTERM")
    parser.add_argument(
        "--engine", action="append", default=[], metavar="HOST=PATH", help="requests to HOST go to that unix socket"
    )
    parser.add_argument(
        "--unverified", action="append", default=[], metavar="HOST:PORT", help="an engine that speaks https there"
    )
    return parser


def with_goodbye(inner: Any, is_leaving: Callable[[], bool]) -> Any:
    """The application, but while the server is leaving every answer says that its connection ends."""

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def sent(message: dict[str, Any]) -> None:
            if is_leaving() and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await inner(scope, receive, sent if scope["type"] == "http" else send)

    return application


def with_ours(app: Any, options: argparse.Namespace) -> Any:
    """The application with what the daemon's options add to it."""
    if options.unverified:
        trust(set(options.unverified))
    if options.engine:
        reach_by_socket(dict(pair.split("=", 1) for pair in options.engine))
    if options.hold:
        import litellm
        from litellm_hold import Hold, RetryAfter

        litellm.callbacks.append(Hold(options.hold))
        app = RetryAfter(app)
    if options.media:
        from litellm_media import Media

        app = Media(app, json.loads(options.media))
    return app


def main() -> int:
    options = command_line().parse_args()

    shared = socket.socket(fileno=options.listen_fd)
    private = private_socket(options.uds)
    hand_out(f"{options.uds}.listener", shared)

    if options.modules:
        # LiteLLM looks beside its configuration, which is a generated one, then where Python looks. Last, so that no
        # file there is taken for a part of LiteLLM
        sys.path.append(options.modules)

    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import litellm_command

    migrated = os.path.join(os.path.dirname(options.uds), "migrated_databases")
    given = litellm_command.prepare(os.environ["CONFIG_FILE_PATH"], migrated)

    import uvicorn
    from litellm.proxy.proxy_server import app

    leaving = False

    class Server(uvicorn.Server):
        """A server that lets its clients close their connections before it ends."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """uvicorn closes idle connections at once, perhaps just when a client sends its next request. So no new
            connection is accepted first, every answer says that its connection ends, and the idle ones get a moment to
            be used."""
            nonlocal leaving
            leaving = True
            for server in self.servers:
                server.close()
            loop = asyncio.get_running_loop()
            end = loop.time() + min(DRAIN_IDLE, options.drain)
            while self.server_state.connections and loop.time() < end:
                await asyncio.sleep(0.02)
            await super().shutdown(sockets)

    # longer than clients keep an idle connection: it is theirs to close, or a request meets its end
    config = uvicorn.Config(
        with_goodbye(with_ours(app, options), lambda: leaving),
        timeout_graceful_shutdown=options.drain,
        **{"timeout_keep_alive": 75, "log_level": "info", **given},
    )
    server = Server(config)
    server.run(sockets=[shared, private])
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
