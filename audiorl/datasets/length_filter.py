"""Clips that are too short or too long to be wanted: left out and counted, which is not a fault of the rows.

1. A clip's length is its row's `duration`, where that is a length; else what the audio's header says.
2. A `duration` alone never leaves a clip out: the header has to agree. One that is no length, or that contradicts the
   header, stays in for the check that follows, which reports it; so do rows whose length nobody knows (no audio, a
   broken file).
3. A data set is judged as a whole, a stream row by row as it comes; what a stream leaves out is counted in a file,
   because its rows may come in several workers and processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset

from audiorl.audio import AudioFault, row_audio_seconds
from audiorl.datasets.checks import duration_problem, segment_problem
from audiorl.datasets.faults import RowFault, SkippedRows
from audiorl.datasets.rows import iterate_batches
from audiorl.datasets.storage import is_number

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
    known = all(is_number(bound) for bound in given)
    low, high = min_seconds or 0.0, math.inf if max_seconds is None else max_seconds
    if not known or low < 0 or high <= 0 or low > high:
        raise ValueError(
            f"min_audio_seconds and max_audio_seconds are seconds with 0 <= min <= max and max > 0; got "
            f"{min_seconds!r} and {max_seconds!r}. Leave a bound out where there is none."
        )


def clip_seconds(row: Mapping[str, Any]) -> float | None:
    """Length of a row's clip: its `duration`, else from the audio's header; None where neither tells."""
    duration = row.get("duration")
    if is_number(duration) and duration > 0:
        return float(duration)
    if row.get("audio") is None:
        return None
    try:
        return row_audio_seconds(row)
    except AudioFault:
        return None


def seconds_outside(row: Mapping[str, Any], min_seconds: float | None, max_seconds: float | None) -> float | None:
    """Length of a row's clip where it lies outside the bounds; None where it lies inside or has to be checked.

    Args:
        row: from `speech_rows`.
        min_seconds, max_seconds: bounds, both inclusive; None for none.
    """
    low, high = min_seconds or 0.0, math.inf if max_seconds is None else max_seconds
    duration = row.get("duration")
    if duration is not None and (duration_problem(duration, None) or low <= duration <= high):
        return None
    try:
        seconds = row_audio_seconds(row)
    except AudioFault:
        return None
    if low <= seconds <= high or segment_problem(row) or duration_problem(duration, seconds):
        return None
    return seconds


def outside_seconds(
    rows: Dataset, min_seconds: float | None, max_seconds: float | None, *, num_threads: int = 8
) -> OutsideSeconds:
    """Find the rows whose clips are shorter than `min_seconds` or longer than `max_seconds`.

    Args:
        rows: from `speech_rows`.
        min_seconds, max_seconds: bounds, both inclusive; None for none.
        num_threads: > 0, audio files opened at once; none where a `duration` lies inside the bounds.
    """
    found = OutsideSeconds([], [])
    for place, seconds in _outside(rows, min_seconds, max_seconds, num_threads):
        (found.shorter if min_seconds is not None and seconds < min_seconds else found.longer).append(place)
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
    seconds = seconds_outside(row, min_seconds, max_seconds)
    if seconds is None:
        return True
    if min_seconds is not None and seconds < min_seconds:
        problem, remedy = (
            f"the clip is {seconds:.2f} s long, shorter than {min_seconds:g} s",
            "Lower min_audio_seconds.",
        )
    else:
        problem, remedy = f"the clip is {seconds:.2f} s long, longer than {max_seconds:g} s", "Raise max_audio_seconds."
    left_out.add(RowFault(row["where"], row["row_id"], problem, remedy))
    return False


def _outside(
    rows: Dataset, min_seconds: float | None, max_seconds: float | None, num_threads: int
) -> Iterator[tuple[int, float]]:
    """Places and seconds of the rows outside; audio is touched only where a `duration` is not inside the bounds."""
    if (min_seconds, max_seconds) == (None, None) or "audio" not in rows.column_names:
        return
    judge = partial(seconds_outside, min_seconds=min_seconds, max_seconds=max_seconds)
    doubtful = list(range(len(rows)))
    if "duration" in rows.column_names:
        low, high = min_seconds or 0.0, math.inf if max_seconds is None else max_seconds
        durations = rows["duration"][:]
        doubtful = [i for i in doubtful if not (is_number(durations[i]) and low <= durations[i] <= high)]
    read = [name for name in ("audio", "channel", "duration", "offset") if name in rows.column_names]
    with ThreadPoolExecutor(num_threads) as pool:
        places = iter(doubtful)
        for some in iterate_batches(rows.select(doubtful).select_columns(read), _ROWS_AT_ONCE):
            for seconds in pool.map(judge, some):
                place = next(places)
                if seconds is not None:
                    yield place, seconds
