"""Stores: asked through fsspec, and again after longer and longer pauses, until a deadline.

fsspec is imported inside one function, and is needed for URLs alone.
"""

import random
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from prebake.errors import DataError, MachineError, UsageError

__all__ = ["ANSWER_SECONDS", "Store", "UnsupportedError"]

ANSWER_SECONDS = 30.0  # for one question
PATIENCE_SECONDS = 120.0  # without any answer
FIRST_PAUSE, MAX_PAUSE = 0.1, 10.0
AGAIN = (408, 409, 425, 429)  # of the statuses from 400 to 499, those that may be others the next time
TOLD = (FileNotFoundError, FileExistsError)  # errors that are answers
BUGS = (TypeError, AttributeError, NameError, LookupError)
# Who asks again is this module, and not the libraries below it as well.
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 1}}}
}

Question = tuple[Any, ...]  # arguments of a method, the last of which is an object of the named ones
Check = Callable[[dict[str, Any], Any], "Exception | None"]  # of the named ones and an answer: what is wrong with it


class UnsupportedError(MachineError):
    """The store, or what speaks with it, does not know such a question."""


@dataclass(frozen=True)
class Store:
    """What holds the files of one URL.

    Attributes:
        scheme: of the URL.
        where: what messages call it.
        secrets: what they must not repeat.
    """

    scheme: str
    where: str
    secrets: tuple[str, ...]

    def ask(
        self,
        method: str,
        questions: Sequence[Question],
        check: Check = lambda _options, _answer: None,
        seconds: float = ANSWER_SECONDS,
    ) -> list[Any]:
        """Ask several things at once, and again what was not answered, until nothing was for PATIENCE_SECONDS.

        Of the time that a question takes, what is over ANSWER_SECONDS does not count. Where nothing was answered, only
        half as many are asked at once.

        Args:
            method: of an fsspec file system.
            questions: its arguments.
            check: says what is wrong with an answer.
            seconds: for one answer.

        Returns:
            An answer each. That there is no such file, or one already, is an answer too: an exception.

        Raises:
            UsageError: an unknown kind of URL.
            DataError: a file ends before the bytes that were asked for.
            UnsupportedError: a question that is not known there.
            MachineError: access is denied, a package is missing, or there is no answer.
        """
        answers: list[Any] = [None] * len(questions)
        left, at_once, pause = list(range(len(questions))), len(questions), FIRST_PAUSE
        since = time.monotonic()
        deadline = since + PATIENCE_SECONDS
        while left:
            asked, left, began = left[:at_once], left[at_once:], time.monotonic()
            trouble: dict[int, Exception] = {}
            for number, found in zip(
                asked, self._ask_once(method, [questions[n] for n in asked], seconds), strict=True
            ):
                answers[number] = answer = self._answer(found, questions[number], check)
                if isinstance(answer, Exception) and not isinstance(answer, TOLD):
                    trouble[number] = answer
            now = time.monotonic()
            if len(trouble) < len(asked):
                pause, since, deadline = FIRST_PAUSE, now, now + PATIENCE_SECONDS
            else:
                # On a slow link, all that share it may come too late. And what takes long is to be asked again, too.
                at_once = max(1, at_once // 2)
                deadline += max(0.0, now - began - ANSWER_SECONDS)
            left = [*trouble, *left]
            if trouble:
                if now + pause > deadline:
                    raise MachineError(
                        f"{self.where}: no answer in {now - since:.0f} s of asking again and again "
                        f"({self._words(trouble[left[0]])}); the same command goes on once there is one"
                    )
                time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - so that many who wait don't ask as one
                pause = min(2 * pause, MAX_PAUSE)
        return answers

    def _answer(self, found: Any, question: Question, check: Check) -> Any:
        if isinstance(found, Exception):
            return self._meaning(found)
        return check(question[-1], found) or found

    def _ask_once(self, method: str, questions: Sequence[Question], seconds: float) -> list[Any]:
        files, run = self._file_system()
        if run is None:
            return [_attempt(getattr(files, method), question) for question in questions]
        answers: list[Any] = run(files.loop, _gather, getattr(files, f"_{method}"), questions, seconds)
        return answers

    def _file_system(self) -> tuple[Any, Callable[..., list[Any]] | None]:
        """Return what reads and writes such URLs, and where that is asynchronous, what runs its methods."""
        try:
            import fsspec
            from fsspec.asyn import sync

            files = fsspec.filesystem(self.scheme, use_listings_cache=False, **OPTIONS.get(self.scheme, {}))
        except ImportError as error:
            raise MachineError(
                f"{self.where}: a package is missing ({error}); pip install -e '.[remote]' brings it"
            ) from None
        except (TypeError, ValueError):  # no such scheme, or one that needs more than a URL says
            raise UsageError(
                f"{self.where}: {self.scheme}:// is unknown; there are s3://, gs:// and https://"
            ) from None
        return files, sync if files.async_impl else None

    def _meaning(self, error: Exception) -> Exception:
        """Raise what asking again will not change; return the error as it is, or as the answer that it is."""
        status = _status(error)
        without_claims = isinstance(error, TypeError) and "unexpected keyword argument 'mode'" in str(error)
        if isinstance(error, NotImplementedError) or status == 501 or without_claims:
            raise UnsupportedError(f"{self.where}: the store does not know such a request ({self._words(error)})")
        if isinstance(error, BUGS):
            raise error
        if isinstance(error, PermissionError) or status in (401, 403) or str(error).startswith("Forbidden"):
            named = "401 Unauthorized" if status == 401 else "403 Forbidden"
            raise MachineError(
                f"{self.where}: access denied ({named}); credentials are missing, wrong or out of date, or don't allow "
                "this. Where they don't allow to list files either, a file that is missing is said to be forbidden, too"
            ) from None
        if isinstance(error, FileNotFoundError) and _code(error) == "NoSuchBucket":
            raise DataError(f"{self.where}: no such bucket; make it first, or take another") from None
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
            raise MachineError(f"{self.where}: no credentials found ({self._words(error)})") from None
        if status == 416:
            raise DataError(f"{self.where}: has fewer bytes than expected") from None
        if status == 412:
            return FileExistsError()
        if status is not None and 400 <= status < 500 and status not in (404, *AGAIN):
            raise MachineError(f"{self.where}: refused with status {status} ({self._words(error)})") from None
        return error

    def _words(self, error: Exception) -> str:
        """Return what an error says, without the secrets that it may repeat."""
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, TimeoutError):
            text = f"{text}: not within the seconds that one question may take"
        for secret in self.secrets:
            text = text.replace(secret, "...")
        # Libraries write a URL anew, and others have come by redirection.
        text = re.sub(r"//[^/@\s]+@", "//...@", text)
        return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1?...", text)[:300]


async def _gather(
    method: Callable[..., Coroutine[Any, Any, Any]], questions: Sequence[Question], seconds: float
) -> list[Any]:
    import asyncio  # which takes long, and on Windows what Windows alone has; URLs alone need it

    async def call(question: Question) -> Any:
        *arguments, options = question
        return await asyncio.wait_for(method(*arguments, **options), seconds)

    return await asyncio.gather(*map(call, questions), return_exceptions=True)


def _attempt(method: Callable[..., Any], question: Question) -> Any:
    *arguments, options = question
    try:
        return method(*arguments, **options)
    except Exception as error:
        return error  # looked at by `ask`, as those of `_gather` are


def _code(error: BaseException) -> str | None:
    """Return what S3 calls an error, where it is one of S3's."""
    response = getattr(error.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code if isinstance(code, str) else None


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of aiohttp, gcsfs or s3fs tells of, where it does.

    Only the store's: aiohttp puts a status of its own into what lies below a broken connection.
    """
    name = {"ClientResponseError": "status", "HttpError": "code"}.get(type(error).__name__)
    status = getattr(error, name, None) if name else None
    for answered in (error, error.__cause__):
        response = getattr(answered, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None
