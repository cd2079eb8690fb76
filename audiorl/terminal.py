"""What a terminal shows: lines that fit, colours where it has them, messages that no progress bar runs into.

Files and pipes get whole lines and no colours. NO_COLOR=1 turns colours off, FORCE_COLOR=1 on.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from typing import Any, TextIO

GOOD, BAD, UNSURE, FAINT = "green", "red", "yellow", "dim"
# the colour of a verdict, see `audiorl.evaluation.Comparison`
VERDICTS = {"better": GOOD, "worse": BAD, "cannot tell": UNSURE}
MIN_COLUMNS = 40


def columns(stream: TextIO | None = None) -> int | None:
    """The width of the terminal that a stream (default stdout) writes to; None where it is no terminal."""
    stream = stream or sys.stdout
    return max(MIN_COLUMNS, shutil.get_terminal_size((80, 24)).columns) if stream.isatty() else None


def fitted(line: str, stream: TextIO | None = None) -> str:
    """A line of parts joined by ", ", broken in front of a part, or of a word, where it is wider than the terminal."""
    width = columns(stream)
    if width is None or len(line) <= width:
        return line
    first, *parts = re.split("(?<=,) ", line)
    lines = [first]
    for part in parts:
        if len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(f"    {part}")
    return "\n".join(_wrapped_line(line, width) for line in lines)


def wrapped(text: str, stream: TextIO | None = None) -> str:
    """Text broken between words where it is wider than the terminal; words, such as paths, stay whole."""
    width = columns(stream)
    if width is None:
        return text
    return "\n".join(_wrapped_line(line, width) for line in text.split("\n"))


def _wrapped_line(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line,
        width,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


def painted(text: str, style: str, stream: TextIO | None = None) -> str:
    """Text in a colour of rich ("bold red"), where the stream (default stdout) is a terminal with colours."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream or sys.stdout)
    if console.color_system is None or console.is_jupyter:
        return text
    with console.capture() as written:
        console.print(Text(text, style), end="", soft_wrap=True)
    return written.get()


def put_bars_away() -> None:
    """Close the progress bars that are drawn, so that a message begins on a line of its own and no bar follows it."""
    tqdm: Any = sys.modules.get("tqdm.std")
    for bar in list(getattr(getattr(tqdm, "tqdm", None), "_instances", ())):
        bar.close()


def in_words(seconds: float) -> str:
    """A time as people say it: "48 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


# ---- progress ----

# Seconds between two lines of a file or pipe, and before the first.
LINE_SECONDS = 60.0


def progress_bar(iterable: Any = None, *, progress: bool = True, **settings: Any) -> Any:
    """A bar of tqdm in a terminal or notebook; in a file or pipe a line each minute, and none of what is done by then.

    Args:
        iterable, settings: see `tqdm.tqdm`.
        progress: False shows nothing.
    """
    from tqdm.auto import tqdm

    in_notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    if not progress or in_notebook or sys.stderr.isatty():
        return tqdm(iterable, disable=not progress, **settings)
    whole = "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}]"
    known = settings.get("total") is not None or hasattr(iterable, "__len__")
    form = whole if known else "{desc}: {n_fmt} {unit} [{elapsed}]"
    quiet = {"delay": LINE_SECONDS, "mininterval": LINE_SECONDS, "maxinterval": LINE_SECONDS, "bar_format": form}
    return tqdm(iterable, file=_Lines(sys.stderr), **{**settings, **quiet})


class _Lines:
    """A stream to which tqdm writes each state as a line of its own."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> None:
        if line := text.strip():
            self.stream.write(f"{line}\n")

    def flush(self) -> None:
        self.stream.flush()


def quiet_in_pipes() -> None:
    """Turn off the bars of transformers and the Hub where stderr is no terminal, for a whole program."""
    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()
