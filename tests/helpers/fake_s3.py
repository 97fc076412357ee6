"""A small S3 server in this process, which records what it is asked, and can be made to fail."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from prebake.storage.store import open_store
from tests.helpers.servers import environment

__all__ = ["URL", "FakeS3", "Trouble", "serving"]

URL = "s3://bucket/set"
PREFIX = "bucket/set/"
# Of a method and the name of a file: a status to answer with, or "cut" to close the connection, or None.
Trouble = Callable[[str, str], "int | str | None"]
CODES = {404: "NoSuchKey", 412: "PreconditionFailed", 501: "NotImplemented"}
DATE = "Sat, 01 Jan 2000 00:00:00 GMT"


class FakeS3(ThreadingHTTPServer):
    """Speaks as much of S3 as prebake needs; every bucket exists.

    Attributes:
        files: by bucket and key.
        asked: the method (read, create, write, list, remove) and the name of the file of each request.
        trouble: decides about the failure of a request.
        spoil: changes the bytes that a read answers with.
        authorization: the header of the last request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.trouble: Trouble = lambda _method, _name: None
        self.spoil: Callable[[bytes], bytes] = bytes
        self.authorization = ""

    def copy(self, directory: Path) -> str:
        """Copy a shard set into the bucket; return its URL."""
        for path in sorted(directory.glob("*[rn]")):  # but for the lock
            self.files[PREFIX + path.name] = path.read_bytes()
        return URL

    def set(self) -> dict[str, bytes]:
        """Return the files of the set at URL by name."""
        return {key.removeprefix(PREFIX): data for key, data in self.files.items() if key.startswith(PREFIX)}

    def written(self) -> list[str]:
        """Return the names of the files that were to be written."""
        return [name for method, name in self.asked if method in ("create", "write")]

    def reads(self, name: str) -> int:
        """Count the requests to read a file."""
        return self.asked.count(("read", name))


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """Run the server, and name it in the environment as S3's endpoint."""
    with FakeS3() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        for name, value in environment(server.server_port).items():
            monkeypatch.setenv(name, value)
        open_store.cache_clear()
        yield server
        server.shutdown()
        thread.join()
    open_store.cache_clear()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeS3

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # whoever asked has gone
            self.close_connection = True

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        key, query = unquote(url.path).lstrip("/"), parse_qs(url.query)
        method = {"PUT": "write", "DELETE": "remove"}.get(self.command, "list" if "list-type" in query else "read")
        if self.headers.get("If-None-Match") == "*" or self.headers.get("x-goog-if-generation-match") == "0":
            method = "create"
        self.server.authorization = self.headers.get("Authorization", "")
        name = key.rpartition("/")[2]
        self.server.asked.append((method, name))
        trouble = self.server.trouble(method, name)
        if key == "token":  # of Google's
            self._answer(200, b'{"access_token": "of-google", "expires_in": 3600, "token_type": "Bearer"}')
        elif trouble == "cut":
            self.close_connection = True
        elif isinstance(trouble, int):
            self._answer(trouble)
        elif method == "list":
            self._list(f"{key}/{query['prefix'][0]}" if "prefix" in query else f"{key}/", len(key) + 1)
        elif method == "read":
            self._read(key)
        elif method == "remove":
            self._answer(204 if self.server.files.pop(key, None) else 404)
        elif method == "create" and key in self.server.files:
            self._answer(412)
        else:
            self.server.files[key] = body
            self._answer(200, headers={"ETag": '"1"'})

    do_PUT = do_DELETE = do_POST = do_GET

    def _read(self, key: str) -> None:
        data = self.server.files.get(key)
        if data is None:
            self._answer(404)
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert found is not None
        first, last = int(found[1]), min(int(found[2]), len(data) - 1)
        if first > last:
            self._answer(416)
            return
        span = {"Content-Range": f"bytes {first}-{last}/{len(data)}", "ETag": '"1"', "Last-Modified": DATE}
        self._answer(206, self.server.spoil(data[first : last + 1]), span)

    def _list(self, prefix: str, skipped: int) -> None:
        keys = [key[skipped:] for key in sorted(self.server.files) if key.startswith(prefix)]
        start = len(prefix) - skipped
        items = [
            f"<Contents><Key>{escape(key)}</Key><Size>1</Size><LastModified>2000-01-01T00:00:00.000Z</LastModified>"
            "<ETag>1</ETag></Contents>"
            for key in keys
            if "/" not in key[start:]
        ]
        directories = sorted({key[: key.index("/", start) + 1] for key in keys if "/" in key[start:]})
        items += [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in directories]
        self._answer(200, f"<ListBucketResult>{''.join(items)}</ListBucketResult>".encode())

    def _answer(self, status: int, body: bytes | None = None, headers: dict[str, str] | None = None) -> None:
        if body is None:
            body = f"<Error><Code>{CODES.get(status, 'Trouble')}</Code></Error>".encode() if status >= 300 else b""
        self.send_response_only(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""
