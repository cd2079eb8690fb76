"""Clips that are too short or too long to be wanted: left out and counted, which is not a fault of the rows.

1. A clip's length is its row's `duration`, where that is a number; else what the audio's header says.
2. Rows whose length nobody knows (no audio, a broken file) stay in: the check that follows reports them.
3. A data set is judged as a whole, a stream row by row as it comes; what a stream leaves out is counted in a file,
   because its rows may come in several workers and processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from numbers import Real
from typing import Any, NamedTuple, TypeGuard

from datasets import Dataset, IterableDataset

from audiorl.audio import AudioFault, audio_seconds
from audiorl.datasets.faults import RowFault, SkippedRows
from audiorl.datasets.rows import iterate_batches

# Rows may carry their audio as bytes, so only so many are in memory at once.
_ROWS_AT_ONCE = 256


class OutsideSeconds(NamedTuple):
    """Which rows of a data set lie outside the bounds, by their place in it."""

    shorter: list[int]
    longer: list[int]

    def describe(self, rows: int, min_seconds: float | None, max_seconds: float | None) -> str:
        """One line: how many of `rows` were left out, and why."""
        parts = [
            f"{len(places):,} {word} than {bound:g} s"
            for places, word, bound in ((self.shorter, "shorter", min_seconds), (self.longer, "longer", max_seconds))
            if places and bound is not None
        ]
        return f"{len(self.shorter) + len(self.longer):,} of {rows:,} clips left out: {', '.join(parts)}"


def check_bounds(min_seconds: float | None, max_seconds: float | None) -> None:
    """Check what a user set.

    Raises:
        ValueError: no finite numbers, a negative minimum, a maximum of 0 or below, or one below the minimum.
    """
    given = [bound for bound in (min_seconds, max_seconds) if bound is not None]
    known = all(_is_number(bound) for bound in given)
    low, high = min_seconds or 0.0, math.inf if max_seconds is None else max_seconds
    if not known or low < 0 or high <= 0 or low > high:
        raise ValueError(
            f"min_audio_seconds and max_audio_seconds are seconds with 0 <= min <= max and max > 0; got "
            f"{min_seconds!r} and {max_seconds!r}. Leave a bound out where there is none."
        )


def clip_seconds(row: Mapping[str, Any]) -> float | None:
    """Length of a row's clip: its `duration`, else from the audio's header; None where neither tells."""
    duration = row.get("duration")
    if _is_number(duration) and duration > 0:
        return float(duration)
    if row.get("audio") is None:
        return None
    try:
        return audio_seconds(row["audio"])
    except AudioFault:
        return None


def outside_seconds(
    rows: Dataset, min_seconds: float | None, max_seconds: float | None, *, num_threads: int = 8
) -> OutsideSeconds:
    """Find the rows whose clips are shorter than `min_seconds` or longer than `max_seconds`.

    Args:
        rows: from `speech_rows`.
        min_seconds, max_seconds: bounds, both inclusive; None for none.
        num_threads: > 0, audio files opened at once; none is where every row has a `duration`.
    """
    found = OutsideSeconds([], [])
    for place, seconds in enumerate(_lengths(rows, num_threads)):
        if seconds is not None and min_seconds is not None and seconds < min_seconds:
            found.shorter.append(place)
        elif seconds is not None and max_seconds is not None and seconds > max_seconds:
            found.longer.append(place)
    return found


def drop_outside(rows: Dataset, outside: OutsideSeconds) -> Dataset:
    """The other rows, under their own numbers and places."""
    dropped = {*outside.shorter, *outside.longer}
    return rows.select([i for i in range(len(rows)) if i not in dropped]) if dropped else rows


def stream_within_seconds(
    rows: IterableDataset, min_seconds: float | None, max_seconds: float | None, left_out: SkippedRows
) -> IterableDataset:
    """The stream without clips outside the bounds, judged as they come.

    Args:
        rows: from `speech_rows`.
        min_seconds, max_seconds: bounds, both inclusive; None for none.
        left_out: where each row that is left out is written.
    """
    return rows.filter(partial(_is_within, min_seconds=min_seconds, max_seconds=max_seconds, left_out=left_out))


def _is_within(
    row: Mapping[str, Any], min_seconds: float | None, max_seconds: float | None, left_out: SkippedRows
) -> bool:
    seconds = clip_seconds(row)
    if seconds is None:
        return True
    if min_seconds is not None and seconds < min_seconds:
        problem, remedy = (
            f"the clip is {seconds:.2f} s long, shorter than {min_seconds:g} s",
            "Lower min_audio_seconds.",
        )
    elif max_seconds is not None and seconds > max_seconds:
        problem, remedy = f"the clip is {seconds:.2f} s long, longer than {max_seconds:g} s", "Raise max_audio_seconds."
    else:
        return True
    left_out.add(RowFault(row["where"], row["row_id"], problem, remedy))
    return False


def _lengths(rows: Dataset, num_threads: int) -> list[float | None]:
    """(rows,) seconds; audio is touched only where `duration` does not tell."""
    durations = rows["duration"][:] if "duration" in rows.column_names else [None] * len(rows)
    lengths: list[float | None] = [clip_seconds({"duration": duration}) for duration in durations]
    unknown = [i for i, seconds in enumerate(lengths) if seconds is None]
    if not unknown or "audio" not in rows.column_names:
        return lengths
    heard: list[float | None] = []
    with ThreadPoolExecutor(num_threads) as pool:
        for some in iterate_batches(rows.select(unknown).select_columns(["audio"]), _ROWS_AT_ONCE):
            heard += pool.map(clip_seconds, some)
    for i, seconds in zip(unknown, heard, strict=True):
        lengths[i] = seconds
    return lengths


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
