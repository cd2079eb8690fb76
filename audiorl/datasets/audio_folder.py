"""A folder of audio files as rows: each file is a clip, its texts stand in metadata.csv or metadata.jsonl.

The metadata has a row for each clip, with its path in `file_name`, from the folder on; its other columns are the row's.
Without metadata the rows are clips alone, in the order of their names. The layout is the one that `datasets` calls an
audio folder; it is read here because `datasets` wants a decoder for it, which nothing here needs.
"""

from __future__ import annotations

import csv
import os
from typing import Any

from audiorl.audio.sources import SOUND_SUFFIXES
from audiorl.datasets.json_files import JsonRows, read_json_rows

METADATA = ("metadata.csv", "metadata.jsonl")
NAME_COLUMN = "file_name"
# Files by which a folder is a data set of another kind
_DATA_SUFFIXES = (".parquet", ".arrow", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".tar", ".zip")


def is_audio_folder(name: str) -> bool:
    """Whether a folder holds audio files, itself or one folder below, and beside metadata no file with rows."""
    if not os.path.isdir(name):
        return False
    with os.scandir(name) as found:
        entries = [entry.name for entry in found]
    if any(entry.lower().endswith(_DATA_SUFFIXES) and entry not in METADATA for entry in entries):
        return False
    if any(entry in METADATA or _is_sound(entry) for entry in entries):
        return True
    folders = [path for entry in entries if os.path.isdir(path := os.path.join(name, entry))]
    below = [entry for folder in folders for entry in os.listdir(folder)]
    return any(map(_is_sound, below)) and not set(METADATA) & set(below)  # which would be one for each split


def read_audio_folder(name: str) -> JsonRows:
    """The rows of a folder, with places for a person to find.

    Raises:
        ValueError: two files of metadata, one without `file_name`, or without rows.
        BadRowsError: lines of metadata.jsonl that are no objects.
    """
    told = [file for file in METADATA if os.path.isfile(os.path.join(name, file))]
    if len(told) > 1:
        raise ValueError(f"{name} has {' and '.join(told)}, and either may be meant. Keep one of them.")
    if not told:
        files = sorted(
            os.path.relpath(os.path.join(folder, file), name)
            for folder, _, found in os.walk(name)
            for file in found
            if _is_sound(file)
        )
        return JsonRows([{"audio": file} for file in files], [os.path.join(name, file) for file in files])
    path = os.path.join(name, told[0])
    rows, places = _read_csv(path) if path.endswith(".csv") else read_json_rows(path)
    if not rows:
        raise ValueError(f"{path} has no rows. Write one for each clip: its file_name and its texts.")
    if not all(NAME_COLUMN in row for row in rows):
        raise ValueError(
            f"{path} does not say which clip a row is about; its columns are {sorted(rows[0])}. Put each clip's path "
            f"into the column {NAME_COLUMN}."
        )
    return JsonRows([{"audio": row.pop(NAME_COLUMN), **row} for row in map(dict, rows)], places)


def _read_csv(path: str) -> tuple[list[dict[str, Any]], list[str]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows, places = [], []
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise csv.Error(f"it has not one value for each of the columns {reader.fieldnames}")
                rows.append(row)
                places.append(f"{path}:{reader.line_num}")
        except csv.Error as error:
            raise ValueError(
                f"{path}:{reader.line_num} cannot be read: {error}. Quote values that have commas."
            ) from error
    return rows, places


def _is_sound(name: str) -> bool:
    return name.lower().endswith(SOUND_SUFFIXES)
