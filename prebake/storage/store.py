"""Send requests to object stores and HTTP servers, and repeat those that fail.

obstore transfers the bytes. botocore and google-auth find the credentials, where the tools of AWS and Google Cloud find
them too. All three are imported on first use.
"""

import base64
import functools
import os
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from prebake.errors import DataError, MachineError, UsageError
from prebake.optional import import_optional

__all__ = ["MissingFileError", "UnsupportedError", "send"]

AT_ONCE = 8
PATIENCE_SECONDS = 120.0  # of repeating one request
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 10.0
CONNECT_SECONDS = 10
STALL_SECONDS = 30  # without a byte of an answer
REQUEST_SECONDS = 20 * 60  # for a whole answer, or an upload
RETRIED = (408, 409, 425, 429)  # of the statuses from 400 to 499
CREDENTIALS_LIFETIME = timedelta(minutes=5)  # botocore renews them 10 minutes before they expire
DEFAULT_REGION = "us-east-1"
GCS_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"

Answer = TypeVar("Answer")


class MissingFileError(DataError):
    """The store has no such file."""


class UnsupportedError(MachineError):
    """The store does not know such a request."""


def send(
    requests: Sequence[Callable[[Any], Answer]], root: str, where: str, *, upload: bool = False
) -> list[Answer | Exception]:
    """Send requests, AT_ONCE at a time, and repeat each until it is answered.

    They run in daemon threads, so a signal interrupts the caller while it waits.

    Args:
        requests: each takes an obstore store, calls it once and returns the answer.
        root: the URL of the store: a bucket, or a directory of an HTTP server.
        where: the URL for messages, without credentials.
        upload: whether a request may send for longer than STALL_SECONDS before its answer begins.

    Returns:
        The answers in order. A missing file answers MissingFileError, and one that already exists FileExistsError.

    Raises:
        DataError: there is no such bucket, or the file ends before the range that was asked for.
        UnsupportedError: the store does not know such a request.
        MachineError: access is denied, a package is missing, or no answer came in PATIENCE_SECONDS.
        UsageError: the process was forked after it had used a store.
    """
    store = _open_here(root, where, upload=upload)
    finished: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    pending, stopped = iter(enumerate(requests)), threading.Event()

    def work() -> None:
        for number, request in pending:
            if stopped.is_set():
                return
            try:
                finished.put((number, _repeat(functools.partial(request, store), root, where, stopped)))
            except Exception as error:  # raised in the caller's thread
                finished.put((number, error))

    for _ in range(min(AT_ONCE, len(requests))):
        threading.Thread(target=work, daemon=True).start()
    answers: list[Any] = [None] * len(requests)
    try:
        for _ in requests:
            number, answer = finished.get()
            if isinstance(answer, Exception) and not isinstance(answer, (MissingFileError, FileExistsError)):
                raise answer
            answers[number] = answer
    finally:
        stopped.set()
    return answers


def _repeat(request: Callable[[], Answer], root: str, where: str, stopped: threading.Event) -> Answer:
    """Repeat a request, after longer and longer pauses, until it is answered; raises as `send`."""
    began = time.monotonic()
    deadline, pause = began + PATIENCE_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        sent = time.monotonic()
        try:
            return request()
        except Exception as error:
            trouble = _message(error, root)
            _raise_if_final(error, where, trouble)
        now = time.monotonic()
        deadline += max(0.0, now - sent - STALL_SECONDS)  # a long transfer is repeated, too
        if now + pause > deadline:
            raise MachineError(
                f"{where}: no answer in {now - began:.0f} s of repeated requests ({trouble}); run the same command "
                "again once the store answers"
            )
        if stopped.wait(pause * random.uniform(0.5, 1)):  # noqa: S311 - many clients must not repeat in step
            raise MachineError(f"{where}: given up, since another request failed")
        pause = min(2 * pause, MAX_PAUSE_SECONDS)


class IncompleteError(OSError):
    """An answer holds fewer bytes than it announced."""


def _raise_if_final(error: Exception, where: str, trouble: str) -> None:
    """Raise what repeating the request can't change."""
    from obstore.exceptions import BaseError, NotSupportedError

    if isinstance(error, IncompleteError):
        return
    if not isinstance(error, (BaseError, FileNotFoundError)):
        raise error
    found = re.search(r"status code: (\d{3})", str(error))
    status = int(found[1]) if found else None
    if "NoSuchBucket" in str(error):
        raise DataError(f"{where}: no such bucket; create it, or name another one") from None
    if isinstance(error, FileNotFoundError):
        raise MissingFileError(f"{where}: no such file") from None
    if status in (401, 403):
        named = "401 Unauthorized" if status == 401 else "403 Forbidden"
        raise MachineError(
            f"{where}: access denied ({named}); credentials are missing, wrong, expired, or don't permit this. A store "
            "whose files you may not list answers so for a missing file, too"
        ) from None
    if status == 412:
        raise FileExistsError(where)
    if status == 416:
        raise DataError(f"{where}: has fewer bytes than expected") from None
    if status is None and "Range request not supported" in str(error):
        raise MachineError(
            f"{where}: the server does not answer range requests, as nginx and every object store do"
        ) from None
    if status == 501 or isinstance(error, NotSupportedError):
        raise UnsupportedError(f"{where}: the store does not know such a request ({trouble})") from None
    if "LOCATION" in str(error):
        raise MachineError(f"{where}: the bucket is in another region; name it in AWS_REGION") from None
    if status is not None and 300 <= status < 500 and status not in RETRIED:
        raise MachineError(f"{where}: refused with status {status} ({trouble})") from None


def _message(error: Exception, root: str) -> str:
    """Return an error's message without credentials."""
    text, _, details = str(error).partition("\n\nDebug source:")
    cause = re.search(r'message: "([^"]+)"|(InvalidCertificate\(\s*\w+)|kind: (Timeout)', details)
    if cause is not None:
        text += f": {' '.join(next(filter(None, cause.groups())).split())}"
    text = " ".join(text.split()) or type(error).__name__
    text = re.sub(r"^.* in [0-9.]+[nµm]?s - ", "", text)  # of what took so long
    parts = urlsplit(root)
    userinfo = parts.netloc.rpartition("@")[0]
    for secret in filter(None, (userinfo, parts.query, parts.password, unquote(parts.password or ""))):
        text = text.replace(secret, "...")
    # Libraries write a URL in other ways, and redirects add other URLs.
    text = re.sub(r"//[^/@\s]+@", "//...@", text)
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1?...", text)[:300]


_process: int | None = None  # the one that uses stores


def _open_here(root: str, where: str, *, upload: bool) -> Any:
    global _process
    if _process not in (None, os.getpid()):
        raise UsageError(
            f"{where}: this process was forked after its parent had used a remote store, whose threads a fork does not "
            "copy; start workers with the method spawn, such as DataLoader(..., multiprocessing_context='spawn')"
        )
    _process = os.getpid()
    return open_store(root, upload)


@functools.lru_cache(maxsize=64)
def open_store(root: str, upload: bool = False) -> Any:
    """Open the obstore store of a URL; all its files share one pool of connections."""
    scheme = root.partition("://")[0]
    package = import_optional("obstore.store", "remote", f"{scheme}://")
    options: dict[str, Any] = {
        "allow_http": True,
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "timeout": f"{REQUEST_SECONDS}s",
    }
    if not upload:
        options["read_timeout"] = f"{STALL_SECONDS}s"
    shared = {"client_options": options, "retry_config": {"max_retries": 0}}  # `_repeat` does that
    if scheme == "s3":
        bucket = root.removeprefix("s3://")
        # Many stores that speak S3 don't know how to delete in bulk.
        return package.S3Store(bucket, disable_bulk_delete=True, **_s3_options(bucket), **shared)
    if scheme == "gs":
        return package.GCSStore(root.removeprefix("gs://"), **_gcs_options(), **shared)
    parts = urlsplit(root)
    userinfo, _, host = parts.netloc.rpartition("@")
    if userinfo:
        token = base64.b64encode(unquote(userinfo).encode()).decode()
        options["default_headers"] = {"authorization": f"Basic {token}"}
    return package.HTTPStore(parts._replace(netloc=host).geturl(), **shared)


def _s3_options(bucket: str) -> dict[str, Any]:
    """Find endpoint, region and credentials in the environment and the files of AWS's tools, as botocore does."""
    sessions = import_optional("botocore.session", "remote", "s3://")
    providers = import_optional("botocore.configprovider", "remote", "s3://")
    failures = import_optional("botocore.exceptions", "remote", "s3://")
    options: dict[str, Any] = {}
    try:
        session = sessions.Session()
        endpoint = providers.ConfiguredEndpointProvider(
            session.full_config, session.get_scoped_config(), "s3"
        ).provide()
        region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
        if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"):
            options["skip_signature"] = True
        else:
            credentials = session.get_credentials()
            if credentials is None:
                raise MachineError(
                    f"s3://{bucket}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                    "AWS_PROFILE, or AWS_SKIP_SIGNATURE=true for a public bucket"
                )
            credentials.get_frozen_credentials()
            options["credential_provider"] = functools.partial(_s3_credentials, credentials)
    except failures.BotoCoreError as error:
        raise MachineError(f"s3://{bucket}: no credentials found ({error})") from None
    if endpoint is not None:
        options["endpoint"] = endpoint
    options["region"] = region or (_bucket_region(bucket) if endpoint is None else None) or DEFAULT_REGION
    return options


def _s3_credentials(credentials: Any) -> dict[str, Any]:
    frozen = credentials.get_frozen_credentials()
    expires_at = datetime.now(timezone.utc) + CREDENTIALS_LIFETIME if frozen.token else None
    return {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
        "token": frozen.token,
        "expires_at": expires_at,
    }


def _bucket_region(bucket: str) -> str | None:
    """Ask Amazon for the region of a bucket; None if there is no answer."""
    try:
        with urlopen(Request(f"https://s3.amazonaws.com/{bucket}", method="HEAD"), timeout=CONNECT_SECONDS) as answer:
            headers = answer.headers
    except HTTPError as error:  # access denied tells the region, too
        headers = error.headers
    except OSError:
        return None
    region: str | None = headers["x-amz-bucket-region"]
    return region


def _gcs_options() -> dict[str, Any]:
    """Find credentials where Google Cloud's tools keep them; without any, access is anonymous."""
    auth = import_optional("google.auth", "remote", "gs://")
    transport = import_optional("google.auth.transport.requests", "remote", "gs://")
    options: dict[str, Any] = {}
    try:
        credentials, _ = auth.default(scopes=[GCS_SCOPE])
        options["credential_provider"] = functools.partial(_gcs_credentials, credentials, transport.Request())
    except auth.exceptions.DefaultCredentialsError:
        options["skip_signature"] = True
        options["credential_provider"] = lambda: {"token": "", "expires_at": None}  # writing always asks for one
    if "STORAGE_EMULATOR_HOST" in os.environ:
        options["config"] = {"base_url": os.environ["STORAGE_EMULATOR_HOST"]}
    return options


def _gcs_credentials(credentials: Any, request: Any) -> dict[str, Any]:
    credentials.refresh(request)
    return {"token": credentials.token, "expires_at": credentials.expiry.replace(tzinfo=timezone.utc)}
