"""A transcription service of a few lines, scripted: it notes each request and answers what a test wants."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


@dataclass
class Heard:
    """One request."""

    form: dict[str, str]
    file_name: str
    content: bytes
    key: str | None


# the request and how many with this file came before it -> status, body, headers
Script = Callable[[Heard, int], tuple[int, str | bytes, dict[str, str]]]


@dataclass
class Server:
    url: str
    heard: list[Heard] = field(default_factory=list)
    most_in_flight: int = 0


@contextmanager
def serving(script: Script, pause: float = 0.0) -> Iterator[Server]:
    """Serve on a free port of loopback, in a thread, until the block ends."""
    in_flight = 0

    async def answer(request: Request) -> Response:
        nonlocal in_flight
        in_flight += 1
        server.most_in_flight = max(server.most_in_flight, in_flight)
        async with request.form() as form:
            file: Any = form["file"]
            texts = {name: value for name, value in form.items() if isinstance(value, str)}
            heard = Heard(texts, file.filename, await file.read(), request.headers.get("authorization"))
        before = sum(other.content == heard.content for other in server.heard)
        server.heard.append(heard)
        await asyncio.sleep(pause)
        in_flight -= 1
        status, body, headers = script(heard, before)
        return Response(body, status, headers)

    app = Starlette(routes=[Route("/v1/audio/transcriptions", answer, methods=["POST"])])
    runner = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    while not runner.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = runner.servers[0].sockets[0].getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}")
    try:
        yield server
    finally:
        runner.should_exit = True
        thread.join()
