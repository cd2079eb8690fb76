"""A served model, asked over HTTP as OpenAI's transcription service is: POST .../v1/audio/transcriptions.

1. Each clip's file is sent as it is, in one multipart form with `file`, `model` and, where known, `language`.
2. Several requests are in flight; answers come in the order of the rows, and no more rows are held than twice that.
3. Refused connections, timeouts and the answers 408, 429, 500, 502, 503 and 504 are tried again after a growing pause,
   or the one that the server asks for (Retry-After); whatever remains stops the measurement with the row's name.
4. The key goes into the request's header and nowhere else; where a server echoes it, messages show *** instead.

A server resamples, and may cut, clips by its own rules: what it answers is measured, whatever it heard.
"""

from __future__ import annotations

import mimetypes
import os
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util.retry import Retry

from audiorl.audio import AudioFault, audio_bytes, audio_seconds
from audiorl.evaluation.transcription import Check, Row, TranscribedRow, read_rows, where

PATH = "/v1/audio/transcriptions"
TRY_AGAIN = (408, 429, 500, 502, 503, 504)
# urllib3 then pauses 0, 1, 2, 4, ... seconds before its tries.
BACKOFF = 0.5
# Characters of a server's answer that a message quotes.
_QUOTED = 200


class EndpointError(OSError):
    """A request that failed for good; the message names the row, the address and what the server said."""


class Endpoint:
    """A model behind an OpenAI-style transcription service.

    Args:
        url: the server's address, with or without `/v1` or `/v1/audio/transcriptions`.
        model: the name that the server knows the model by.
        api_key: sent as bearer token; None sends none.
        language: of rows that name none; None leaves it to the server.
        requests_in_flight: > 0.
        max_retries: further tries of a failed request, 0 or more.
        timeout: seconds until the server's connection, and then each part of its answer, is given up.

    Raises:
        ValueError: no http address, a number out of its range, or a key that no header takes.
    """

    max_seconds: float | None = None
    min_seconds: float = 0.0
    labels: Sequence[str] | None = None

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        language: str | None = None,
        requests_in_flight: int = 4,
        max_retries: int = 3,
        timeout: float = 300.0,
    ):
        if requests_in_flight < 1 or max_retries < 0 or timeout <= 0:
            raise ValueError(
                "An endpoint takes requests_in_flight >= 1, max_retries >= 0 and timeout > 0 s; got "
                f"{requests_in_flight}, {max_retries} and {timeout:g}. Try 4, 3 and 300."
            )
        if api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", api_key):
            raise ValueError(
                "The API key is empty or holds spaces, line ends or characters that no header takes. Set the variable "
                "to the key alone."
            )
        self.name = model
        self.url = _address(url)
        self.language = language
        self.requests_in_flight = requests_in_flight
        self.max_retries = max_retries
        self.timeout = timeout
        self.decoding_seconds = 0.0
        self.includes = (
            f"wall time from the first request to the last answer with {requests_in_flight} in flight: reading files, "
            "sending them, the server's queue and its decoding"
        )
        self._api_key = api_key

    def transcribe(
        self, rows: Any, transcript_column: str, *, check: Check | None = None, progress: bool = True
    ) -> Iterator[TranscribedRow]:
        """Ask the server for each row.

        Raises:
            EndpointError: a request failed for good; those in flight are waited for, further ones not sent.
            AudioFault: a clip's file cannot be read, naming the row.
        """
        known = read_rows(rows)
        total = len(known) if isinstance(known, Sized) else None
        waiting: deque[Future[TranscribedRow]] = deque()
        self.decoding_seconds = 0.0
        start = time.perf_counter()
        pool = ThreadPoolExecutor(self.requests_in_flight)
        with self._session() as session, tqdm(total=total, unit="clip", desc="asking", disable=not progress) as bar:
            try:
                for place, row in enumerate(known):
                    if check is not None:
                        check(row, where(place, row))
                    waiting.append(pool.submit(self._ask, session, row, where(place, row)))
                    if len(waiting) >= 2 * self.requests_in_flight:
                        yield self._first(waiting, start, bar)
                while waiting:
                    yield self._first(waiting, start, bar)
            finally:
                pool.shutdown(cancel_futures=True)

    def decoding(self) -> dict[str, Any]:
        named = {} if self.language is None else {"language": self.language}
        return {"endpoint": shown(self.url), "requests_in_flight": self.requests_in_flight, **named}

    def _first(self, waiting: deque[Future[TranscribedRow]], start: float, bar: tqdm) -> TranscribedRow:
        found = waiting.popleft().result()
        self.decoding_seconds = time.perf_counter() - start
        bar.update()
        return found

    def _session(self) -> requests.Session:
        session = requests.Session()
        # always set, so that no key is taken from ~/.netrc instead
        session.auth = _Bearer(self._api_key)
        again = Retry(
            total=self.max_retries,
            status_forcelist=TRY_AGAIN,
            allowed_methods=None,  # a transcription may be asked for twice
            backoff_factor=BACKOFF,
            raise_on_status=False,
        )
        adapter = HTTPAdapter(max_retries=again, pool_maxsize=self.requests_in_flight)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def _ask(self, session: requests.Session, row: Row, place: str) -> TranscribedRow:
        try:
            entry = row.get("audio")
            seconds, content = audio_seconds(entry), audio_bytes(entry)
        except AudioFault as fault:
            raise AudioFault(f"{place}: {fault.problem}", fault.remedy) from fault
        name = _file_name(entry, content)
        language = row.get("language") or self.language
        form = {"model": self.name, **({"language": str(language)} if language else {})}
        files = {"file": (name, content, mimetypes.guess_type(name)[0] or "application/octet-stream")}
        start = time.perf_counter()
        try:
            answer = session.post(self.url, data=form, files=files, timeout=self.timeout, allow_redirects=False)
        except requests.RequestException as error:
            raise self._failure(
                place,
                f"no answer after {self.max_retries + 1} tries ({_reason(error)})",
                "Check that the server runs at this address; --request_timeout and --max_retries give it more time.",
            ) from None
        return TranscribedRow(row, self._text(answer, place), seconds, time.perf_counter() - start)

    def _text(self, answer: requests.Response, place: str) -> str:
        if answer.status_code != 200:
            tries = f" after {self.max_retries + 1} tries" if answer.status_code in TRY_AGAIN else ""
            raise self._failure(
                place, f"the answer was {answer.status_code}{tries}: {answer.text[:_QUOTED]!r}", _remedy(answer)
            )
        try:
            text = answer.json()["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise self._failure(
                place,
                f'the answer is no JSON object with "text": {answer.text[:_QUOTED]!r}',
                "Give the address of a service that answers as OpenAI's transcription service does.",
            )
        return text

    def _failure(self, place: str, problem: str, remedy: str) -> EndpointError:
        message = f"{place}: {shown(self.url)}, model {self.name!r}: {problem}. {remedy}"
        return EndpointError(message.replace(self._api_key, "***") if self._api_key else message)


class _Bearer(requests.auth.AuthBase):
    def __init__(self, api_key: str | None):
        self._api_key = api_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._api_key:
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


def shown(url: str) -> str:
    """An address without user, password and query, which may be secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(
            f"An endpoint is the http or https address of a server; got {shown(url)!r}. Write http://127.0.0.1:8000."
        )
    if "@" in parts.netloc:
        raise ValueError(
            f"The address {shown(url)} was given with a user or password, which are not sent. Leave them out, and put "
            "a key into the environment variable that --api_key_variable names."
        )
    base = parts.path.rstrip("/").removesuffix(PATH).removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, base + PATH, parts.query, ""))


def _file_name(entry: Any, content: bytes) -> str:
    """A name whose ending tells servers the format; bytes without one have what their first bytes say."""
    path = entry.get("path") if isinstance(entry, dict) else None
    if path and os.path.splitext(path)[1]:
        return os.path.basename(path)
    endings = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}
    return "audio" + endings.get(content[:4], ".mp3")


def _remedy(answer: requests.Response) -> str:
    if answer.status_code in (401, 403):
        return "Set the key in the environment variable that --api_key_variable names."
    if answer.status_code == 404:
        return "Check the address and the model's name (--endpoint_model)."
    if answer.status_code in TRY_AGAIN:
        return "Look into the server's log; --max_retries gives it more tries, --requests_in_flight 1 less to do."
    return "Look into the server's log, or leave the row out."


def _reason(error: requests.RequestException) -> str:
    """The innermost cause: the outer ones repeat the address with its query."""
    cause: Any = error.args[0] if error.args else error
    while isinstance(inner := getattr(cause, "reason", None), Exception):
        cause = inner
    return str(cause)[:_QUOTED]
