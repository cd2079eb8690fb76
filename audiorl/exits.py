"""How a program of audiorl ends: with a message and an exit code, not with a traceback.

Exit codes: 0 done, 1 the run failed with a message, 2 wrong arguments, 130 interrupted, 143 ended by SIGTERM (a run
has written a checkpoint then).

Behind `torchrun` and `accelerate launch` the launcher would add 25 lines about a process that failed, which is what the
message has said, or 30 about the signal that ended it. `quiet_launcher` leaves them out where, and only where, a
program of audiorl told its error; torch loads it into launchers by the entry point `torchrun.handlers`.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, NoReturn

from audiorl.terminal import BAD, painted, put_bars_away, wrapped

FAILED = 1
MISTYPED = 2
INTERRUPTED = 130
TERMINATED = 143
# Seconds; longer than processes of one machine are apart when they start.
OTHERS_WAIT = 10.0
# Where a launcher looks for the reason that its process failed, and how ours begins
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
TOLD = "told by audiorl: "
# Names a file that says, once it is there, that a process under this launcher has told why it ended: a launcher that
# is ended by a signal itself looks into no error file.
TOLD_FILE = "AUDIORL_TOLD_FILE"
# What bitsandbytes calls a failure on every CPU: an optional kernel of another package is not there
_KERNEL_MESSAGE = "Failed to load CPU gemm_4bit_forward"
# Loggers that report a failed process before the launcher itself fails, and what of them is held back
_ELASTIC = "torch.distributed.elastic"
_LAUNCHER_LOGGERS = {
    f"{_ELASTIC}.multiprocessing.api": "",
    f"{_ELASTIC}.multiprocessing.errors.error_handler": "",
    f"{_ELASTIC}.agent.server.api": "death signal",
}
# What gloo and NCCL say in a process whose neighbour has ended
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "remote process exited")


def stop(message: str, code: int = FAILED) -> NoReturn:
    """End the program with a message and no traceback.

    What all of several processes run into is said once: the first speaks and ends, and the launcher ends the others
    while they wait. What only one of the others ran into is said by that one. Ctrl-C reaches all of them, so that only
    the first speaks, and launchers send it a second time.
    """
    rank = int(os.environ.get("RANK", "0"))
    if code == INTERRUPTED and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if rank and code != INTERRUPTED:
        time.sleep(OTHERS_WAIT)
    if not rank or code != INTERRUPTED:
        put_bars_away()
        where = "error:" if rank == 0 else f"error in process {rank}:"
        told = wrapped(f"{where} {message}", sys.stderr).removeprefix(where)
        print(painted(where, BAD, sys.stderr) + told, file=sys.stderr, flush=True)
    tell_launcher(message)
    raise SystemExit(code)


@contextmanager
def interruptible(go_on: str | Callable[[], str]) -> Iterator[None]:
    """End the program on Ctrl-C within this block, and say how to go on, as it is known then."""
    try:
        yield
    except KeyboardInterrupt:
        stop(f"interrupted; {go_on() if callable(go_on) else go_on}", INTERRUPTED)


def run(main: Callable[[], None], *, go_on: str | None = None) -> None:
    """Run a program's `main`; errors that the user can correct are shown without a traceback.

    AUDIORL_DEBUG=1 shows the traceback.

    Args:
        go_on: how to continue after Ctrl-C; None if the program would start from the beginning.
    """
    _quiet_libraries()
    try:
        _run_told(main)
    except KeyboardInterrupt:  # perhaps while another error was told
        stop("interrupted" if go_on is None else f"interrupted; {go_on}", INTERRUPTED)


def _run_told(main: Callable[[], None]) -> None:
    """Run `main` and tell its errors."""
    debug = os.environ.get("AUDIORL_DEBUG")
    try:
        main()
    except BrokenPipeError:  # what reads our output has heard enough: `audiorl datasets | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILED) from None
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if debug:
            raise
        stop(f"{error}\n(AUDIORL_DEBUG=1 shows where)")
    except RuntimeError as error:
        if debug or not any(words in str(error) for words in _LOST_PEER):
            raise
        time.sleep(OTHERS_WAIT)  # the other one says why it ended, and the launcher ends this one
        stop(f"another process of this run has ended: {error}\n(AUDIORL_DEBUG=1 shows where)")


# ---- behind a launcher ----


def tell_launcher(message: str) -> None:
    """Leave the message where the launcher looks for the reason of a failure."""
    path = os.environ.get(ERROR_FILE)
    if path:
        told = {"message": TOLD + message, "extraInfo": {"py_callstack": "", "timestamp": str(int(time.time()))}}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": told}, file)
    told_file = os.environ.get(TOLD_FILE)
    if told_file:
        with suppress(OSError), open(told_file, "x"):
            pass


def quiet_launcher() -> Callable[..., Any]:
    """Keep a launcher quiet about a process of audiorl that has printed its own error; other reports stay.

    Called by torch in each process that imports its launcher, and there it changes two things: reports of failed
    processes wait until the launcher knows why, and an uncaught error that is such a failure prints nothing.

    Returns:
        What torch wants of this entry point, a maker of rendezvous; ours refuses.
    """
    if "LOCAL_RANK" not in os.environ:  # else this is a process under one
        os.environ[TOLD_FILE] = os.path.join(tempfile.gettempdir(), f"audiorl-told-{secrets.token_hex(8)}")
        atexit.register(_remove, os.environ[TOLD_FILE])
    held = _HeldRecords()
    for name in _LAUNCHER_LOGGERS:
        logging.getLogger(name).addFilter(held)
    atexit.register(held.release)
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if _told(error):
            held.records.clear()
            return
        held.release()
        usual(kind, error, trace)

    sys.excepthook = hook
    return _no_rendezvous


class _HeldRecords(logging.Filter):
    """Keeps the records of its loggers back until they are released."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.holding = True

    def filter(self, record: logging.LogRecord) -> bool:
        if self.holding and record.levelno >= logging.WARNING and _LAUNCHER_LOGGERS[record.name] in record.getMessage():
            self.records.append(record)
            return False
        return True

    def release(self) -> None:
        self.holding = False
        while self.records:
            record = self.records.pop(0)
            logging.getLogger(record.name).handle(record)
        self.holding = True


def _told(error: BaseException) -> bool:
    """Whether this is a launcher's error about a process that has told its own, or was ended with it."""
    if type(error).__name__ == "SignalException":
        return os.path.exists(os.environ.get(TOLD_FILE, ""))
    if type(error).__name__ != "ChildFailedError":
        return False
    _, failure = error.get_first_failure()  # type: ignore[attr-defined]
    said = failure.message
    text = said.get("message", "") if isinstance(said, dict) else said
    return str(text).startswith(TOLD)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.remove(path)


def _no_rendezvous(*_: Any) -> NoReturn:
    raise ValueError("audiorl has no rendezvous of its own. Leave --rdzv_backend out, or pass c10d.")


def _quiet_libraries() -> None:
    hush_missing_kernel()
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.set_verbosity_error()
    else:  # it is slow to import, and not every program needs it
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"


def _not_about_an_optional_kernel(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_KERNEL_MESSAGE)


def hush_missing_kernel() -> None:
    """Silence the message of bitsandbytes that only alarms; call it before anything imports bitsandbytes."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_not_about_an_optional_kernel)
