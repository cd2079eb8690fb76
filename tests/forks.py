"""Python programs in processes of their own that start at once: forks of one that has imported the library.

An interpreter takes half a dozen seconds to import torch, transformers, TRL and PEFT. Where a test is about what a
program does, and not about how it starts, `run_forked` runs it in a fork of a server that has imported them and done
nothing else. The server is started by the first call and ends with the tests.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import json
import os
import pty
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOADED = (
    *("audiorl.tuning", "audiorl.trainers.dpo", "audiorl.trainers.orpo", "audiorl.trainers.grpo"),
    *("audiorl.trainers.raft", "audiorl.evaluation", "audiorl.pairs", "transformers.models.whisper.modeling_whisper"),
)


def run_forked(
    program: str | os.PathLike[str],
    *argv: str,
    processes: int = 1,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
    terminal: str | None = None,
) -> subprocess.CompletedProcess:
    """Run a Python file as `python program argv` would, in one process or in several that are told of each other.

    Of several processes the others are ended by SIGTERM once one has failed, as a launcher would do.

    Args:
        env: variables beside those of this process.
        terminal: path of a terminal to write to.

    Returns:
        What they wrote to both streams, and the exit code of the first that failed, -9 for SIGKILL.
    """
    given = {
        "argv": [os.fspath(program), *argv],
        "cwd": os.fspath(cwd or os.getcwd()),
        "env": {**os.environ, **(env or {})},
        "processes": processes,
        "timeout": timeout,
    }
    with tempfile.TemporaryDirectory() as folder:
        given["out"], given["err"] = (terminal or os.path.join(folder, name) for name in ("out", "err"))
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        print(json.dumps(given), file=server.stdin, flush=True)
        code = json.loads(server.stdout.readline())
        streams = ("out", "err") if terminal is None else ()
        written = [Path(given[name]).read_text(errors="replace") for name in streams] or ["", ""]
    if code is None:
        raise subprocess.TimeoutExpired(given["argv"], timeout, *written)
    return subprocess.CompletedProcess(given["argv"], code, *written)


def on_a_screen(
    program: str | os.PathLike[str], argv: Sequence[str], columns: int, cwd: Path, **environment: str
) -> tuple[int, str]:
    """The exit code of a program, and everything it wrote to a terminal of some columns."""
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    written: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # how Linux tells the end
            while part := os.read(ours, 65536):
                written.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        variables = {"TERM": "xterm-256color", "COLUMNS": str(columns), "NO_COLOR": "", **environment}
        done = run_forked(program, *argv, cwd=cwd, env=variables, terminal=os.ttyname(terminal))
    finally:
        os.close(terminal)
        reader.join(60)
        os.close(ours)
    return done.returncode, b"".join(written).decode(errors="replace")


@functools.cache
def _server() -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )

    def end() -> None:
        server.communicate()  # its input ends

    atexit.register(end)
    return server


# ---- in the server ----


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may answer
    for name in LOADED:
        __import__(name)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), file=answers, flush=True)


def _run(given: dict[str, Any]) -> int | None:
    """The exit code of the first process that failed; None where they took too long."""
    world, port = given["processes"], _free_port()
    running = {_forked(given, rank, world, port) for rank in range(world)}
    code, over = 0, time.monotonic() + given["timeout"]
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process in running:
            running.discard(process)
            code = code or os.waitstatus_to_exitcode(status)
            if code:
                _signal(running, signal.SIGTERM)
        elif time.monotonic() > over:
            _signal(running, signal.SIGKILL)
            for one in running:
                os.waitpid(one, 0)
            return None
        else:
            time.sleep(0.01)
    return code


def _signal(processes: set[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _forked(given: Mapping[str, Any], rank: int, world: int, port: int) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        code = _program(given, rank, world, port)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _program(given: Mapping[str, Any], rank: int, world: int, port: int) -> int:
    """Become the program; its exit code."""
    sys.stdin = open(os.devnull)  # for as long as the process lives
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(given[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    os.environ.clear()
    os.environ.update(given["env"])
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.chdir(given["cwd"])
    sys.argv = given["argv"]
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    finally:
        atexit._run_exitfuncs()
    return 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    serve()
