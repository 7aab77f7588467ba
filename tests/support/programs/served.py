"""A program with a health page and a helper process that has left its session: ``python -S served.py PORT``."""

from __future__ import annotations

import http.server
import os
import sys
import time


class Page(http.server.BaseHTTPRequestHandler):
    """Answers 200 to everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def main() -> None:
    if os.fork() == 0:
        os.setsid()
        while True:
            time.sleep(1000)
    print("x" * 100_000, flush=True)  # a flood at each start
    http.server.HTTPServer.allow_reuse_address = True
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()


if __name__ == "__main__":
    main()
