"""Rows that become wrong when augmentation plays their clips slower or faster."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from audiorl.audio import AudioFault, row_audio_seconds
from audiorl.datasets.faults import RowFault
from audiorl.datasets.rows import iterate_batches

_ROWS_AT_ONCE = 256


def growth_faults(
    rows: Iterable[Mapping[str, Any]],
    *,
    text_columns: Sequence[str],
    max_seconds: float | None,
    last_time: Callable[[str], float | None],
    growth: float | None,
    num_threads: int = 8,
) -> list[RowFault]:
    """Faults that `check_rows` does not know of: clips that outgrow the window, transcripts with timestamps.

    Rows whose audio cannot be read, or is too long as it is, are left to `check_rows`.

    Args:
        rows: from `speech_rows`.
        text_columns: columns that hold transcripts.
        max_seconds: longest clip the model takes; None for no limit.
        last_time: text -> the latest time it mentions, in seconds, or None; called from several threads.
        growth: >= 1, how many times as long a clip may become that has to fit; None where clips keep their length.
        num_threads: > 0, audio files opened at once.
    """
    if growth is None:
        return []
    judge = partial(_row_faults, text_columns=text_columns, max_seconds=max_seconds, last_time=last_time, growth=growth)
    with ThreadPoolExecutor(num_threads) as pool:
        some = iterate_batches(rows, _ROWS_AT_ONCE)
        return [fault for batch in some for found in pool.map(judge, batch) for fault in found]


def _row_faults(
    row: Mapping[str, Any],
    text_columns: Sequence[str],
    max_seconds: float | None,
    last_time: Callable[[str], float | None],
    growth: float,
) -> list[RowFault]:
    faults = []
    for name in text_columns:
        if isinstance(row.get(name), str) and last_time(row[name]) is not None:
            problem = f"{name} has timestamps, which other speeds make wrong"
            remedy = "Leave speed out of the augmentation, or timestamps out of the texts."
            faults.append(RowFault(row["where"], row["row_id"], problem, remedy))
    try:
        seconds = row_audio_seconds(row)
    except AudioFault:
        return faults
    # what fills the window exactly when slowed fits; the product may be off in its last digit
    if max_seconds is not None and seconds <= max_seconds and seconds * growth > max_seconds * (1 + 1e-12):
        shown, slowed = (math.ceil(100 * length) / 100 for length in (seconds, seconds * growth))
        problem = f"the clip is {shown:.2f} s long, up to {slowed:.2f} s slowed; the model hears {max_seconds:g} s"
        remedy = 'Cut the clip, slow it less, or set too_long to "unaugmented" in the augmentation.'
        faults.append(RowFault(row["where"], row["row_id"], problem, remedy))
    return faults
