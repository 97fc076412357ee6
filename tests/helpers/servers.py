"""Real servers on loopback: nginx over a directory, and moto's S3."""

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

from prebake.errors import MachineError

__all__ = ["nginx", "s3"]

NGINX = """
daemon off;
master_process off;
pid {work}/pid;
error_log {work}/error.log;
events {{}}
http {{
    access_log {work}/access.log;
    client_body_temp_path {work}; proxy_temp_path {work}; fastcgi_temp_path {work};
    uwsgi_temp_path {work}; scgi_temp_path {work};
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location /forbidden/ {{ deny all; }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(root: Path, work: Path) -> Iterator[tuple[int, Path]]:
    """Serve a directory; give the port, and the log of what was asked; raises MachineError where there is no nginx."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise MachineError("no nginx here: apt-get install nginx")
    work.mkdir()
    port = _free_port()
    (work / "conf").write_text(NGINX.format(work=work, port=port, root=root))
    with _running([program, "-c", str(work / "conf"), "-p", str(work), "-e", str(work / "error.log")], port, work):
        yield port, work / "access.log"


@contextlib.contextmanager
def s3(work: Path) -> Iterator[int]:
    """Run an S3 server with an empty bucket named `bucket`; give its port; raises MachineError where there is none."""
    if importlib.util.find_spec("moto") is None:
        raise MachineError("no S3 server here: pip install 'moto[server]'")
    work.mkdir()
    port = _free_port()
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, work):
        with urlopen(Request(f"http://127.0.0.1:{port}/bucket", method="PUT")):
            pass
        yield port


def environment(port: int) -> dict[str, str]:
    """Return what tells S3's clients of a server on loopback."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(command: list[str], port: int, work: Path) -> Iterator[None]:
    with (work / "output").open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 60
            while True:
                assert server.poll() is None, (work / "output").read_text()
                assert time.monotonic() < deadline, f"{command[0]} does not answer"
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield
        finally:
            server.terminate()
            server.wait()


def files_in_bucket(port: int, name: str) -> dict[str, bytes]:
    """Return the content of each file of a shard set in the bucket, by name."""
    from obstore.store import S3Store

    where = environment(port)
    store = S3Store(
        "bucket",
        endpoint=where["AWS_ENDPOINT_URL"],
        region=where["AWS_DEFAULT_REGION"],
        access_key_id=where["AWS_ACCESS_KEY_ID"],
        secret_access_key=where["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True},
    )
    paths = [found["path"] for found in store.list_with_delimiter(name)["objects"]]
    return {path.rpartition("/")[2]: bytes(store.get(path).bytes()) for path in paths}
