"""The check before training: columns, texts and audio headers of every row, all faults together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from functools import partial
from typing import Any

from datasets import Dataset

from audiorl.audio import AudioFault, audio_seconds
from audiorl.datasets.faults import RowFault, SkippedRows

Tokenize = Callable[[str, Mapping[str, Any]], object]


def check_rows(
    rows: Dataset,
    *,
    text_columns: Sequence[str],
    tokenize: Tokenize,
    max_seconds: float | None,
    distinct: bool,
    num_threads: int = 8,
) -> list[RowFault]:
    """Every fault of every row that shows without decoding audio.

    Args:
        rows: from `speech_rows`.
        text_columns: columns that have to hold text.
        tokenize: (text, row) -> anything; raises ValueError("what. what to do") for a text the model cannot take.
        max_seconds: longest clip the model takes; None for no limit.
        distinct: whether the texts of a row have to differ.
        num_threads: files opened at once.

    Returns:
        Faults in the order of the rows; those of missing columns alone where columns are missing.
    """
    missing = missing_columns(rows.column_names, ("audio", *text_columns))
    if missing:
        return missing
    judge = partial(
        judge_row, text_columns=text_columns, tokenize=tokenize, max_seconds=max_seconds, distinct=distinct
    )
    with ThreadPoolExecutor(num_threads) as pool:
        return [fault for faults in pool.map(judge, rows) for fault in faults]


def missing_columns(found: Sequence[str], needed: Sequence[str]) -> list[RowFault]:
    """A fault for each needed column that is not there, with the nearest name that is."""
    own = [name for name in found if name not in ("where", "row_id")]
    faults = []
    for name in needed:
        if name not in own:
            near = get_close_matches(name, own, n=1)
            hint = f"Rename {near[0]!r} to {name!r}." if near else f"Add it; the columns are {own}."
            faults.append(RowFault("all rows", -1, f"the column {name!r} is missing", hint))
    return faults


def judge_row(
    row: Mapping[str, Any],
    *,
    text_columns: Sequence[str],
    tokenize: Tokenize,
    max_seconds: float | None,
    distinct: bool,
) -> list[RowFault]:
    """The faults of one row, the audio's as far as its header tells; arguments as in `check_rows`."""
    missing = missing_columns(list(row), ("audio", *text_columns))
    problems = [(fault.problem, fault.remedy) for fault in missing]
    texts = [name for name in text_columns if name in row]
    for name in texts:
        problems += _text_problems(name, row[name], row, tokenize)
    values = [row[name].strip() for name in texts if isinstance(row[name], str)]
    if distinct and len(values) > 1 and values[0] and len(set(values)) == 1:
        problems.append(
            (f"{' and '.join(texts)} are the same text", "A pair needs two that differ; remove the row.")
        )
    if "audio" in row:
        problems += _audio_problems(row["audio"], max_seconds)
    return [RowFault(row["where"], row["row_id"], problem, remedy) for problem, remedy in problems]


def _text_problems(name: str, text: Any, row: Mapping[str, Any], tokenize: Tokenize) -> list[tuple[str, str]]:
    if not isinstance(text, str):
        return [(f"{name} is {text!r}, not text", "Give a string, or remove the row.")]
    if not text.strip():
        return [(f"{name} is empty", "Give the words that are to be learnt, or remove the row.")]
    try:
        tokenize(text, row)
    except ValueError as error:
        problem, _, remedy = str(error).partition(". ")
        return [(f"{name}: {problem}", f"{remedy}." if remedy and not remedy.endswith(".") else remedy)]
    return []


def _audio_problems(audio: Any, max_seconds: float | None) -> list[tuple[str, str]]:
    try:
        seconds = audio_seconds(audio)
    except AudioFault as fault:
        return [(fault.problem, fault.remedy)]
    if max_seconds is not None and seconds > max_seconds:
        return [
            (
                f"the clip is {seconds:.2f} s long, the model hears {max_seconds:g} s",
                "Cut the clip and its texts into shorter ones, or remove the row.",
            )
        ]
    return []


def drop_bad_rows(rows: Dataset, faults: Sequence[RowFault], skipped: SkippedRows | None) -> Dataset:
    """The rows without a fault, under their own numbers; faults are written to `skipped` where it is given."""
    if not faults:
        return rows
    if skipped is not None:
        for fault in faults:
            skipped.add(fault)
    bad = {fault.row_id for fault in faults}
    if -1 in bad:
        return rows.select([])
    return rows.select([i for i, row_id in enumerate(rows["row_id"]) if row_id not in bad])
