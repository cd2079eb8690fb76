"""A chat service of a few lines on loopback, scripted: it notes each request and answers what a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# the prompt and how often it was asked before -> status and the model's words, or a body as it stands
Script = Callable[[str, int], tuple[int, str]]


@dataclass
class ChatServer:
    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)  # bodies of the requests, with path and key

    @property
    def prompts(self) -> list[str]:
        return [one["messages"][0]["content"] for one in self.asked]


@contextmanager
def chatting(script: Script) -> Iterator[ChatServer]:
    """Serve on a free port of loopback, in threads, until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][0]["content"]
            with lock:
                before = server.prompts.count(prompt)
                server.asked.append({**body, "path": self.path, "key": self.headers["Authorization"]})
            status, said = script(prompt, before)
            usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": 1}
            answer = {"choices": [{"message": {"role": "assistant", "content": said}}], "usage": usage}
            content = (said if said.startswith("raw:") or status != 200 else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    runner = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = ChatServer(f"http://127.0.0.1:{runner.server_port}")
    thread = threading.Thread(target=runner.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        runner.shutdown()
        runner.server_close()
        thread.join()
