"""A bad proxy: slow, cuts connections, answers 500 and 503, with short bodies, with other bytes, or not at all."""

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["FAULTS", "Proxy", "proxied"]

FAULTS = ("500", "503", "cut", "reset", "short", "slow", "lost", "flipped")
SMALL_BYTES = 10_000  # a body under that is a document, whose bytes are not flipped: nobody would ask for it again
Response = tuple[int, list[tuple[str, str]], bytes]


class Proxy(ThreadingHTTPServer):
    """Hands requests on to a port on loopback, and plays a fault with some of them.

    Attributes:
        share: of the requests that meet a fault.
        kinds: of faults.
        met: how often each was played.
    """

    daemon_threads = True

    def __init__(self, upstream: int, share: float, kinds: tuple[str, ...] = FAULTS, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.share, self.kinds = upstream, share, kinds
        self.met: Counter[str] = Counter()
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._lock = threading.Lock()

    def fault(self) -> str | None:
        """Draw whether something happens to the next request; all kinds come in turn."""
        with self._lock:
            faults = sum(self.met.values()) - self.met["None"]
            kind = self.kinds[faults % len(self.kinds)] if self._random.random() < self.share else None
            self.met[str(kind)] += 1
            return kind

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: whoever asked may have gone."""


@contextlib.contextmanager
def proxied(upstream: int, share: float = 0.25, kinds: tuple[str, ...] = FAULTS, seed: int = 0) -> Iterator[Proxy]:
    """Run a bad proxy; its port is `server_port`."""
    proxy = Proxy(upstream, share, kinds, seed)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        fault = self.server.fault()
        body = self._body()
        if fault in ("500", "503"):
            self._answer((int(fault), [], b"<html>no</html>"))
        elif fault == "reset":
            self._hang_up()
        else:
            status, headers, data = self._upstream(body)
            if fault == "lost":
                self._hang_up()
            elif fault == "cut":
                self._answer((status, headers, data), most=len(data) // 2)
                self._hang_up()
            elif fault == "short":
                self._answer((status, headers, data[: len(data) // 2]))
            elif fault == "slow":
                time.sleep(0.2)
                self._answer((status, headers, data), pause=0.02)
            elif fault == "flipped" and len(data) > SMALL_BYTES:
                self._answer((status, headers, data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]))
            else:
                self._answer((status, headers, data))

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _upstream(self, body: bytes) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=30)
        try:
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("transfer-encoding", "expect")
            }
            if body:
                headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _answer(self, response: Response, most: int | None = None, pause: float = 0.0) -> None:
        status, headers, data = response
        self.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "keep-alive"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length if self.command == "HEAD" and length else len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        data = data[:most]
        step = max(1, len(data) // 10) if pause else len(data) or 1
        for start in range(0, len(data), step):
            self.wfile.write(data[start : start + step])
            self.wfile.flush()
            time.sleep(pause)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
