"""The check before training: columns, texts and audio headers of every row, all faults together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from functools import partial
from typing import Any

from datasets import Dataset

from audiorl.audio import AudioFault, row_audio_seconds
from audiorl.audio.sources import short_repr
from audiorl.datasets.columns import told_columns
from audiorl.datasets.faults import WHOLE_DATASET, BadRowsError, RowFault, SkippedRows
from audiorl.datasets.rows import OURS, iterate_batches
from audiorl.elsewhere import column_of

Tokenize = Callable[[str, Mapping[str, Any]], object]
LastTime = Callable[[str], float | None]
LeastSeconds = Callable[[str], float]
_Problem = tuple[str, str]  # what is wrong, and what to do about it
# Rows may carry their audio as bytes, so only so many are in memory at once.
_ROWS_AT_ONCE = 256
# Times are written in steps of 0.02 s, so the end of a clip may be rounded up.
_TIME_SLACK = 0.02


def no_time(text: str) -> None:
    """The latest time of a text without timestamps."""


def any_length(text: str) -> float:
    """The shortest clip for a text that fits any."""
    return 0.0


def check_rows(
    rows: Dataset,
    *,
    text_columns: Sequence[str],
    tokenize: Tokenize,
    max_seconds: float | None,
    distinct: bool,
    last_time: LastTime = no_time,
    min_seconds: float = 0.0,
    least_seconds: LeastSeconds = any_length,
    silence: bool = False,
    num_threads: int = 8,
) -> list[RowFault]:
    """Every fault of every row that shows without decoding audio.

    Args:
        rows: from `speech_rows`.
        text_columns: columns that have to hold text.
        tokenize: (text, row) -> anything; raises ValueError("what. what to do") for a text the model cannot
            take. It is called from one thread.
        max_seconds: longest clip the model takes; None for no limit.
        distinct: whether the texts of a row have to differ.
        last_time: text -> the latest time it mentions, in seconds, or None; called from several threads.
        min_seconds: shortest clip the model takes.
        least_seconds: text -> the shortest clip that can say it, in seconds; called from several threads.
        silence: whether a text may be empty: nothing is said in its clip.
        num_threads: > 0, audio files opened at once.

    Returns:
        First one fault for each missing column, then the faults of the rows in their order.
    """
    faults = missing_columns(rows.column_names, ("audio", *text_columns))
    present = [name for name in text_columns if name in rows.column_names]
    listen = partial(
        _audio_problems,
        window=(min_seconds, max_seconds),
        text_columns=present,
        last_time=last_time,
        least_seconds=least_seconds,
    )
    with ThreadPoolExecutor(num_threads) as pool:
        for some in iterate_batches(rows, _ROWS_AT_ONCE):
            heard = pool.map(listen, some)
            read = [_text_problems(row, present, tokenize, distinct, silence) for row in some]
            for row, texts, audio in zip(some, read, heard, strict=True):
                faults += _faults(row, texts + audio)
    return faults


def judge_row(
    row: Mapping[str, Any],
    *,
    text_columns: Sequence[str],
    tokenize: Tokenize,
    max_seconds: float | None,
    distinct: bool,
    last_time: LastTime = no_time,
    min_seconds: float = 0.0,
    least_seconds: LeastSeconds = any_length,
    silence: bool = False,
) -> list[RowFault]:
    """The faults of one row, the audio's as far as its header tells; arguments as in `check_rows`."""
    missing = missing_columns(list(row), ("audio", *text_columns))
    problems = [(fault.problem, fault.remedy) for fault in missing]
    present = [name for name in text_columns if name in row]
    problems += _text_problems(row, present, tokenize, distinct, silence)
    window = (min_seconds, max_seconds)
    return _faults(row, problems + _audio_problems(row, window, present, last_time, least_seconds))


def missing_columns(found: Sequence[str], needed: Sequence[str]) -> list[RowFault]:
    """A fault for each needed column that is not there, with the nearest name that is."""
    own = [name for name in found if name not in OURS]
    spare = [name for name in own if name not in needed]
    meant = {name: theirs for name in needed if name not in own and (theirs := column_of(name, spare))}

    def remedy(name: str) -> str:
        if name in meant:
            return f"Rename {meant[name]!r} to {name!r}, or pass {told_columns(meant)}."
        if own == ["audio"]:
            return (
                "A folder of clips says nothing of their texts. Write metadata.csv into it, with the columns file_name "
                f"and {name}, or name a JSON lines file instead."
            )
        transcripts = None if name == "text" else "text" if "text" in own else column_of("text", spare)
        if name not in ("chosen", "rejected") or transcripts is None:
            return f"Add it; the columns are {own}."
        named = "" if transcripts == "text" else f", with {told_columns({**meant, 'text': transcripts})}"
        return (
            f"Add it; the columns are {own}. From transcripts in {transcripts!r} pairs are mined: audiorl pairs, in "
            f"Python mine_pairs{named}."
        )

    faults = []
    for name in needed:
        if name not in own:
            faults.append(RowFault("all rows", WHOLE_DATASET, f"the column {name!r} is missing", remedy(name)))
    return faults


def drop_bad_rows(rows: Dataset, faults: Sequence[RowFault], skipped: SkippedRows | None) -> Dataset:
    """The rows without a fault, under their own numbers and places.

    Args:
        rows: from `speech_rows`.
        faults: from `check_rows`.
        skipped: where the rows that are left out are written; None writes nothing.

    Raises:
        BadRowsError: a fault is the whole data set's, a missing column for example: no row could be kept.
    """
    whole = [fault for fault in faults if fault.row_id == WHOLE_DATASET]
    if whole:
        raise BadRowsError(whole)
    if not faults:
        return rows
    if skipped is not None:
        skipped.add(*faults)
    bad = {fault.row_id for fault in faults}
    return rows.select([i for i, row_id in enumerate(rows["row_id"]) if row_id not in bad])


def _faults(row: Mapping[str, Any], problems: Sequence[_Problem]) -> list[RowFault]:
    return [RowFault(row["where"], row["row_id"], problem, remedy) for problem, remedy in problems]


def _text_problems(
    row: Mapping[str, Any], text_columns: Sequence[str], tokenize: Tokenize, distinct: bool, silence: bool
) -> list[_Problem]:
    problems = [found for name in text_columns if (found := _text_problem(name, row, text_columns, tokenize, silence))]
    texts = [row[name].strip() for name in text_columns if isinstance(row[name], str)]
    words = [text for text in texts if text or silence]
    if distinct and len(set(words)) < len(words):
        remedy = "A comparison needs texts that differ; change one, or remove the row."
        problems.append((f"{' and '.join(text_columns)} are the same text", remedy))
    return problems


def _text_problem(
    name: str, row: Mapping[str, Any], text_columns: Sequence[str], tokenize: Tokenize, silence: bool
) -> _Problem | None:
    text = row[name]
    if text is None:
        # where a file misspells a column in some rows only, these rows have None in the right one
        spare = [key for key, value in row.items() if value is not None and key not in (*OURS, *text_columns)]
        near = get_close_matches(name, spare, n=1)
        remedy = f"Rename {near[0]!r} to {name!r}." if near else "Add it, or remove the row."
        return f"{name} is missing", remedy
    if not isinstance(text, str):
        return f"{name} is {short_repr(text)} ({type(text).__name__}), not text", "Give a string, or remove the row."
    if not text.strip() and not (silence and text == ""):
        return (
            f"{name} is empty",
            "Give the words that are said, or set allow_silence where none are; or remove the row.",
        )
    try:
        tokenize(text, row)
    except ValueError as error:
        problem, _, remedy = str(error).partition(". ")
        return f"{name}: {problem.removesuffix('.')}", remedy or "Change the text, or remove the row."
    return None


def _audio_problems(
    row: Mapping[str, Any],
    window: tuple[float, float | None],
    text_columns: Sequence[str],
    last_time: LastTime,
    least_seconds: LeastSeconds,
) -> list[_Problem]:
    if "audio" not in row:
        return []
    try:
        seconds = row_audio_seconds(row)
    except AudioFault as fault:
        return [(fault.problem, fault.remedy)]
    problems = [found for name in text_columns if (found := _time_problem(name, row[name], seconds, last_time))]
    problems += [found for name in text_columns if (found := _speed_problem(name, row[name], seconds, least_seconds))]
    shortest, longest = window
    if seconds < shortest:
        remedy = "Pad the clip with silence, or remove the row."
        return [
            (f"the clip is {1000 * seconds:.1f} ms long, the model needs {1000 * shortest:g} ms", remedy),
            *problems,
        ]
    if longest is None or seconds <= longest:
        return problems
    remedy = "Cut the clip and its texts into shorter ones, or remove the row."
    return [(f"the clip is {_shown(seconds)} s long, the model hears {longest:g} s", remedy), *problems]


def _time_problem(name: str, text: Any, seconds: float, last_time: LastTime) -> _Problem | None:
    """A text that mentions a time at which the clip is over."""
    last = last_time(text) if isinstance(text, str) else None
    if last is None or last <= seconds + _TIME_SLACK:
        return None
    problem = f"{name} has a timestamp at {last:.2f} s, the clip ends at {_shown(seconds)} s"
    return problem, "Correct the timestamps, which count from the start of the clip, or remove the row."


def _speed_problem(name: str, text: Any, seconds: float, least_seconds: LeastSeconds) -> _Problem | None:
    """A text that is too long for its clip."""
    least = least_seconds(text) if isinstance(text, str) else 0.0
    if least <= seconds:
        return None
    return too_short(name, seconds, least)


def too_short(name: str, seconds: float, least: float) -> _Problem:
    """What is wrong with a clip that cannot say its text, and what to do."""
    problem = f"the clip is {_shown(seconds)} s long, the model needs {_shown(least)} s to write {name}"
    return problem, "Check that audio and text belong together, or remove the row."


def _shown(seconds: float) -> str:
    return f"{math.ceil(100 * seconds) / 100:.2f}"  # rounded up, so that a clip too long shows as the longer one
