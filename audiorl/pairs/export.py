"""Mined rows as a `datasets` folder or on the Hub, their audio inside."""

from __future__ import annotations

import os
import shutil

from datasets import Audio, Dataset

from audiorl.datasets import speech_rows
from audiorl.datasets.rows import OURS


def as_dataset(json_lines: str | os.PathLike[str]) -> Dataset:
    """`pairs.jsonl` or `hypotheses.jsonl` as a `Dataset` with an Audio column, for `push_to_hub` for example.

    Raises:
        ValueError: the file has no rows.
    """
    rows = speech_rows(json_lines)
    rows = rows.remove_columns([name for name in OURS if name in rows.column_names])
    return rows.cast_column("audio", Audio())


def save_dataset(json_lines: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Dataset:
    """Write a folder that `speech_rows` and `datasets.load_from_disk` read; an older one is replaced when it is whole.

    Raises:
        OSError: it cannot be written; nothing is left of it then.
    """
    rows = as_dataset(json_lines)
    staged = f"{os.fspath(folder)}.tmp"
    shutil.rmtree(staged, ignore_errors=True)
    try:
        rows.save_to_disk(staged)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise OSError(
            f"{os.fspath(folder)} could not be written ({error}). {os.fspath(json_lines)} is whole: make room and "
            "start the same command again."
        ) from error
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(staged, folder)
    return rows
