"""A served model, asked over HTTP as OpenAI's transcription service is: POST .../v1/audio/transcriptions.

1. Each clip's file is sent unchanged, in a multipart form with `file`, `model` and, if known, `language` as its ISO
   code, however the row spells it.
2. Several requests are sent at the same time. Answers come in the order of the rows, and at most twice as many rows as
   requests are in memory.
3. After a refused connection, a timeout or the answers 408, 429, 500, 502, 503 and 504 the request is sent again. The
   pause before it grows, or is what the server asks for (Retry-After), up to a minute.
4. An answer has to be complete in time, of at most `LARGEST_ANSWER` bytes, strict JSON and strict UTF-8; nothing in it
   is guessed or replaced. If a row gets no such answer, only that row fails, with its reason.
5. The measurement stops if every row would fail: no server, a wrong address, model or key, `FAILURES_IN_A_ROW` failed
   rows in succession, or no answer to any row.
6. The key is sent only in the request's header. If a server repeats it, messages show *** instead.

A server resamples clips by its own rules, and may cut them. Its answer is measured, whatever it used of the clip.
"""

from __future__ import annotations

import json
import mimetypes
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from datasets import Dataset
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, InvalidHeader, NewConnectionError, SSLError
from urllib3.util.retry import Retry

from audiorl.audio import AudioFault, audio_suffix, channel_of, row_audio_bytes, row_audio_seconds, row_segment
from audiorl.evaluation.transcription import Check, FailedRow, Row, TranscribedRow, read_rows, where
from audiorl.terminal import progress_bar
from audiorl.text.error_rates import tagged_transcript
from audiorl.text.languages import DETECT, language_code, language_names, nearest_language
from audiorl.text.tasks import TRANSCRIPTION, Task

PATH = "/v1/audio/transcriptions"
TRY_AGAIN = (408, 429, 500, 502, 503, 504)
# Seconds: pauses before tries are 0, 1, 2, 4, ... of them, and none is longer, whatever the server asks for.
LONGEST_PAUSE = 60.0
# Bytes; an hour of speech has 60,000 characters, and no service that answers with text alone says more.
LARGEST_ANSWER = 2**24
_PIECE = 2**16
# After this many rows in succession without an answer, the fault is the server's, not the rows'.
FAILURES_IN_A_ROW = 10
# Answers that do not depend on the clip: redirections, the key, the address.
_FOR_ALL = (301, 302, 303, 307, 308, 401, 403, 404, 405)
# Characters of a server's answer that a message quotes.
_QUOTED = 200


class EndpointError(OSError):
    """No row can be asked for, or none was answered; the message names a row, the address and what the server said."""


class _RowError(EndpointError):
    """One row was not answered, which others may be."""


class Endpoint:
    """A model behind an OpenAI-style transcription service.

    Args:
        url: the server's address, with or without `/v1` or `/v1/audio/transcriptions`.
        model: the name that the server knows the model by.
        api_key: sent as bearer token; None sends none.
        language: of rows that name none; None leaves it to the server. Names and regions are sent as codes ("english"
            and "en-US" as "en"), "auto" as none.
        requests_in_flight: > 0.
        max_retries: further tries of a failed request, 0 or more.
        timeout: seconds until a connection, and then the whole answer of a try, is given up.

    Raises:
        ValueError: no http address, a number out of its range, a language that is none, or a key that no header takes.
    """

    max_seconds: float | None = None
    min_seconds: float = 0.0
    task: Task = TRANSCRIPTION

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
        self.language = _code(language, "language") if language else None
        self.requests_in_flight = requests_in_flight
        self.max_retries = max_retries
        self.timeout = timeout
        self.decoding_seconds = 0.0
        self.includes = (
            f"wall time from the first request to the last answer with {requests_in_flight} in flight: reading files, "
            "sending them, the server's queue and its decoding"
        )
        self._api_key = api_key

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.name!r})"

    def transcribe(
        self, rows: Any, transcript_column: str, *, check: Check | None = None, progress: bool = True
    ) -> Iterator[TranscribedRow | FailedRow]:
        """Ask the server for each row.

        Raises:
            ValueError: a row's language is none; of a `Dataset` all are looked at before anything is sent.
            EndpointError: the server is not there, refuses every row, or did not answer `FAILURES_IN_A_ROW` rows one
                behind the other, or any; requests in flight are waited for, further ones not sent.
            AudioFault: a clip's file cannot be read, naming the row.
        """
        known = read_rows(rows)
        if isinstance(known, Dataset) and "language" in known.column_names:
            for place, row in enumerate(known.remove_columns(["audio"])):
                self._language(row, where(place, row))
        total = len(known) if isinstance(known, Sized) else None
        waiting: deque[Future[TranscribedRow | FailedRow]] = deque()
        failures = _Failures()
        self.decoding_seconds = 0.0
        start = time.perf_counter()
        pool = ThreadPoolExecutor(self.requests_in_flight)
        with (
            self._session() as session,
            progress_bar(total=total, unit="clip", desc="asking", progress=progress) as bar,
        ):
            try:
                for place, row in enumerate(known):
                    if check is not None:
                        check(row, where(place, row))
                    waiting.append(pool.submit(self._ask, session, row, where(place, row)))
                    if len(waiting) >= 2 * self.requests_in_flight:
                        yield failures.count(self._first(waiting, start, bar))
                while waiting:
                    yield failures.count(self._first(waiting, start, bar))
                failures.end()
            finally:
                pool.shutdown(cancel_futures=True)

    def decoding(self) -> dict[str, Any]:
        named = {} if self.language is None else {"language": self.language}
        return {"endpoint": shown(self.url), "requests_in_flight": self.requests_in_flight, **named}

    def _first(
        self, waiting: deque[Future[TranscribedRow | FailedRow]], start: float, bar: Any
    ) -> TranscribedRow | FailedRow:
        found = waiting.popleft().result()
        self.decoding_seconds = time.perf_counter() - start
        bar.update()
        return found

    def _session(self) -> requests.Session:
        session = requests.Session()
        # always set, so that no key is taken from ~/.netrc instead
        session.auth = _Bearer(self._api_key)
        adapter = _Adapter(pool_maxsize=self.requests_in_flight)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def _ask(self, session: requests.Session, row: Row, place: str) -> TranscribedRow | FailedRow:
        try:
            seconds, content = row_audio_seconds(row), row_audio_bytes(row)
        except AudioFault as fault:
            raise AudioFault(f"{place}: {fault.problem}", fault.remedy) from fault
        name = _file_name(row, content)
        language = self._language(row, place)
        form = {"model": self.name, **({"language": language} if language else {})}
        files = {"file": (name, content, mimetypes.guess_type(name)[0] or "application/octet-stream")}
        start = time.perf_counter()
        try:
            answer, body = self._answer(session, {"data": form, "files": files})
            text = self._text(answer, body, place)
        except _RowError as error:
            return FailedRow(row, str(error))
        except requests.RequestException as error:
            failure = self._failure(
                place,
                f"no answer after {self.max_retries + 1} tries ({_reason(error)})",
                "Check that the server runs at this address; --request_timeout and --max_retries give it more time.",
                alone=not isinstance(_cause(error), NewConnectionError | ConnectTimeoutError | SSLError),
            )
            if isinstance(failure, _RowError):
                return FailedRow(row, str(failure))
            raise failure from None
        return TranscribedRow(row, text, seconds, time.perf_counter() - start)

    def _answer(self, session: requests.Session, content: dict[str, Any]) -> tuple[requests.Response, bytes]:
        """The last try's answer and body; a transcription may be asked for twice."""
        for tried in range(self.max_retries + 1):
            last = tried == self.max_retries
            try:
                answer, body = self._try(session, content)
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if last:
                    raise
                asked = None
            else:
                if last or answer.status_code not in TRY_AGAIN:
                    break
                asked = _pause(answer)
            usual = 2.0 ** (tried - 1) if tried else 0.0
            time.sleep(min(usual if asked is None else asked, LONGEST_PAUSE))
        return answer, body

    def _try(self, session: requests.Session, content: dict[str, Any]) -> tuple[requests.Response, bytes]:
        """An answer, and at most one byte more of its body than `LARGEST_ANSWER`."""
        body = bytearray()
        with _Deadline(self.timeout) as deadline:
            try:
                # not read at once: a body may be endless
                with session.post(
                    self.url, **content, timeout=self.timeout, allow_redirects=False, stream=True
                ) as answer:
                    for piece in answer.iter_content(_PIECE):
                        body += piece
                        if len(body) > LARGEST_ANSWER:
                            break
            except requests.RequestException as error:
                if deadline.over:
                    raise self._late() from error
                raise
            if deadline.over:  # a body of unknown length only seems to have ended
                raise self._late()
        return answer, bytes(body[: LARGEST_ANSWER + 1])

    def _late(self) -> requests.Timeout:
        return requests.Timeout(f"the answer was not whole after {self.timeout:g} s")

    def _language(self, row: Row, place: str) -> str | None:
        language = row.get("language")
        return self.language if language in (None, "") else _code(language, place)

    def _text(self, answer: requests.Response, body: bytes, place: str) -> str:
        quoted = body.decode("utf-8", "replace")[:_QUOTED]
        if answer.status_code != 200:
            tries = f" after {self.max_retries + 1} tries" if answer.status_code in TRY_AGAIN else ""
            pause = answer.headers.get("Retry-After", "")[:_QUOTED]
            asked = f"; it asks for a pause of {pause!r} (Retry-After)" if pause not in ("", "0") else ""
            problem = f"the answer was {answer.status_code}{tries}: {quoted!r}{asked}"
            raise self._failure(place, problem, _remedy(answer), alone=answer.status_code not in _FOR_ALL)
        try:
            return _transcript(body)
        except ValueError as error:
            raise self._failure(
                place,
                f"{error}: {quoted!r}",
                "Give the address of a service that answers as OpenAI's transcription service does, or leave the row "
                "out.",
            ) from None

    def _failure(self, place: str, problem: str, remedy: str, *, alone: bool = True) -> EndpointError:
        message = f"{place}: {shown(self.url)}, model {self.name!r}: {problem}. {remedy}"
        kind = _RowError if alone else EndpointError
        return kind(message.replace(self._api_key, "***") if self._api_key else message)


class _Failures:
    """Counts rows that failed, and stops where it is not their fault."""

    def __init__(self) -> None:
        self.answered = False
        self.in_a_row: list[str] = []

    def count(self, found: TranscribedRow | FailedRow) -> TranscribedRow | FailedRow:
        if isinstance(found, TranscribedRow):
            self.answered = True
            self.in_a_row.clear()
        else:
            self.in_a_row.append(found.problem)
            if len(self.in_a_row) == FAILURES_IN_A_ROW:
                raise EndpointError(f"{FAILURES_IN_A_ROW} rows in succession failed, first {self.in_a_row[0]}")
        return found

    def end(self) -> None:
        """After the last row."""
        if self.in_a_row and not self.answered:
            raise EndpointError(f"No row was answered ({len(self.in_a_row)} failed), first {self.in_a_row[0]}")


def _transcript(body: bytes) -> str:
    """The text of an answer; raises ValueError with what is wrong with it."""
    if len(body) > LARGEST_ANSWER:
        raise ValueError(f"the answer has more than {LARGEST_ANSWER // 2**20} MiB")
    try:
        found = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"the answer is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("the answer is JSON nested too deeply to be read") from None
    except ValueError:
        found = None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise ValueError('the answer is not a JSON object with "text"')
    if half := re.search("[\ud800-\udfff]", text):
        raise ValueError(f"the text holds half of a surrogate pair, \\u{ord(half.group()):04x}, which is no character")
    return tagged_transcript(text).text


def _code(language: Any, place: str) -> str | None:
    """A language's ISO code; None where the server is to detect it."""
    code = language_code(language) if isinstance(language, str) else ""
    if code == DETECT:
        return None
    if not re.fullmatch("[a-z]{2,3}", code):
        near = nearest_language(language, set(language_names().values())) if isinstance(language, str) else None
        hint = f"Did you mean {near!r}? " if near else ""
        raise ValueError(
            f"{place}: no language is called {language!r:.80}. {hint}Write its name or ISO code (--language for rows "
            "without one), or leave it out for the server to detect."
        )
    return code


def _pause(answer: requests.Response) -> float | None:
    """Seconds that the server asks to be left alone; None where it says nothing that can be read."""
    asked = answer.headers.get("Retry-After")
    try:
        return None if asked is None else Retry().parse_retry_after(asked)
    except (InvalidHeader, ValueError, OverflowError):
        return None


# ---- tries that end ----


class _Deadline:
    """Ends a try in time: a drip of bytes begins a socket's own timeout anew with each of them.

    `seconds` after the request was sent the socket is shut down, which ends the reading of head and body alike.

    Attributes:
        over: whether that has happened.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.over = False
        self._timer: threading.Timer | None = None

    def __enter__(self) -> _Deadline:
        _OF_THREAD.deadline = self
        return self

    def __exit__(self, *failure: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        _OF_THREAD.deadline = None

    def watch(self, sock: socket.socket) -> None:
        """The request has been sent, and its answer is read from this socket."""
        self._timer = threading.Timer(self.seconds, self._end, [sock])
        self._timer.daemon = True
        self._timer.start()

    def _end(self, sock: socket.socket) -> None:
        self.over = True
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


_OF_THREAD = threading.local()


class _Watched:
    """A connection that tells the deadline of its thread which socket it reads from."""

    sock: Any

    def getresponse(self) -> Any:
        deadline = getattr(_OF_THREAD, "deadline", None)
        if deadline is not None and self.sock is not None:
            deadline.watch(self.sock)
        return super().getresponse()  # type: ignore[misc]


class _HTTP(_Watched, HTTPConnection):
    pass


class _HTTPS(_Watched, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager


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


def _file_name(row: Row, content: bytes) -> str:
    """A name whose ending tells servers the format; bytes without one have what their first bytes say."""
    entry = row.get("audio")
    path = entry.get("path") if isinstance(entry, dict) else None
    if path and os.path.splitext(path)[1] and channel_of(row.get("channel")) == "mix" and not row_segment(row):
        return os.path.basename(path)
    return "audio" + (audio_suffix(content) or ".mp3")


def _remedy(answer: requests.Response) -> str:
    if answer.status_code in (401, 403):
        return "Set the key in the environment variable that --api_key_variable names."
    if answer.status_code == 404:
        return "Check the address and the model's name (--endpoint_model)."
    if answer.status_code in TRY_AGAIN:
        return "Look into the server's log; --max_retries gives it more tries, --requests_in_flight 1 less to do."
    return "Look into the server's log, or leave the row out."


def _cause(error: requests.RequestException) -> Any:
    """The innermost cause: the outer ones repeat the address with its query."""
    cause: Any = error.args[0] if error.args else error
    while isinstance(inner := getattr(cause, "reason", None), Exception):
        cause = inner
    return cause


def _reason(error: requests.RequestException) -> str:
    return str(_cause(error))[:_QUOTED]
