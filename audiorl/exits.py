"""How a program of audiorl ends: with a message and an exit code, not with a traceback.

Exit codes: 0 done, 1 the run failed with a message, 2 wrong arguments, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from audiorl.quiet import hush_missing_kernel

FAILED = 1
MISTYPED = 2
INTERRUPTED = 130
# Seconds; longer than processes of one machine are apart when they start.
OTHERS_WAIT = 10.0


def stop(message: str, code: int = FAILED) -> NoReturn:
    """End the program with a message and no traceback.

    What all of several processes run into is said once: the first speaks and ends, and the launcher ends the others
    while they wait. What only one of the others ran into is said by that one.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        time.sleep(OTHERS_WAIT)
    print(f"error: {message}" if rank == 0 else f"error in process {rank}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


@contextmanager
def interruptible(go_on: str) -> Iterator[None]:
    """End the program on Ctrl-C within this block, and say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        stop(f"interrupted; {go_on}", INTERRUPTED)


def run(main: Callable[[], None]) -> None:
    """Run a program's `main`; what is the user's to mend is told without a traceback.

    AUDIORL_DEBUG=1 shows the traceback.
    """
    _quiet_libraries()
    try:
        main()
    except KeyboardInterrupt:
        stop("interrupted", INTERRUPTED)
    except BrokenPipeError:  # what reads our output has heard enough: `audiorl datasets | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILED) from None
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if os.environ.get("AUDIORL_DEBUG"):
            raise
        stop(f"{error}\n(AUDIORL_DEBUG=1 shows where)")


def _quiet_libraries() -> None:
    hush_missing_kernel()
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.set_verbosity_error()
    else:  # it is slow to import, and not every program needs it
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"
