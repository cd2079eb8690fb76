"""Rows in: JSON lines, JSON arrays, lists, `datasets`, streams and Hub names, all in one form.

A row has `audio` and text columns, whatever else the source brings, and two columns of ours: `row_id`, its number, and
`where`, its place for a person to find. `audio` becomes `{"bytes", "path"}`: paths in a file are taken from that
file's folder, arrays and data addresses become bytes without loss, nothing is decoded.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
from datasets import Audio, Dataset, IterableDataset, load_dataset, load_from_disk

from audiorl.audio_sources import AudioFault, array_clip, entry_file, holds_array, unusable_entry
from audiorl.datasets.faults import BadRowsError, RowFault

OURS = ("where", "row_id")


def speech_rows(source: Any, *, split: str | None = None) -> Dataset | IterableDataset:
    """Bring rows of any form into the library's one form; rows that have it already come back as they are.

    Args:
        source: path of a JSON lines file or of a JSON file with an array, folder written by `Dataset.save_to_disk`,
            sequence of dicts, `Dataset`, `IterableDataset`, or a name for `datasets.load_dataset`.
        split: for names and folders that have several.

    Returns:
        A `Dataset`; for a stream an `IterableDataset`, of which nothing is read yet.

    Raises:
        BadRowsError: lines that are no JSON objects, all of them.
        ValueError: no rows, no such file, a column that is called `where` or `row_id`, or a choice of splits.
    """
    if isinstance(source, Dataset | IterableDataset):
        return _from_datasets(source)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            return _from_datasets(_one_split(load_from_disk(str(path)), split, str(source)))
        if path.suffix in (".jsonl", ".json") or path.is_file():
            return _from_list(*_read_json(path), folder=path.parent)
        return _from_datasets(_one_split(load_dataset(str(source), split=split), split, str(source)))
    if isinstance(source, Sequence):
        rows = [dict(row) for row in source]
        return _from_list(rows, [f"row {i}" for i in range(len(rows))], folder=None)
    raise ValueError(
        f"Rows come from a file, a folder, a list of dicts, a Dataset or a Hub name; got {type(source).__name__}. "
        "Convert it with datasets.Dataset.from_list."
    )


def _one_split(found: Any, split: str | None, name: str) -> Any:
    if not isinstance(found, dict):
        return found
    if split is None or split not in found:
        raise ValueError(f"{name} has the splits {sorted(found)}; got split={split!r}. Name one of them.")
    return found[split]


def _read_json(path: Path) -> tuple[list[Any], list[str]]:
    """Rows of a JSON lines file or a JSON array, and the place of each."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}. Check the path; relative ones start at {Path.cwd()}.")
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}). Convert it, or pass another file."
        ) from error
    if content.lstrip().startswith("["):
        return _read_array(path, content)
    rows, places, faults = [], [], []
    for number, line in enumerate(content.splitlines(), start=1):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            faults.append(
                RowFault(place, number, f"not JSON: {error.msg} at column {error.colno}", "Mend the line.")
            )
            continue
        rows.append(row)
        places.append(place)
    _require_objects(rows, places, faults)
    return rows, places


def _read_array(path: Path, content: str) -> tuple[list[Any], list[str]]:
    decoder, rows, places = json.JSONDecoder(), [], []
    position = content.index("[") + 1
    while True:
        while position < len(content) and content[position] in " \t\r\n,":
            position += 1
        if position >= len(content) or content[position] == "]":
            break
        line = content.count("\n", 0, position) + 1
        try:
            row, position = decoder.raw_decode(content, position)
        except json.JSONDecodeError as error:
            fault = RowFault(
                f"{path}:{error.lineno}", len(rows), f"not JSON: {error.msg}", "Mend the file there."
            )
            raise BadRowsError([fault]) from error
        rows.append(row)
        places.append(f"{path}:{line}")
    _require_objects(rows, places, [])
    return rows, places


def _require_objects(rows: list[Any], places: list[str], faults: list[RowFault]) -> None:
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        if not isinstance(row, dict):
            faults.append(
                RowFault(place, i, f"a JSON {type(row).__name__}, not an object", 'Write {"audio": ...}.')
            )
    if faults:
        raise BadRowsError(faults)


def _from_list(rows: list[dict[str, Any]], places: list[str], folder: Path | None) -> Dataset:
    if not rows:
        raise ValueError("There are no rows in it. Pass a file or list with at least one row.")
    names = dict.fromkeys(name for row in rows for name in row)
    if set(OURS) <= names.keys() and all(set(OURS) <= row.keys() for row in rows):
        places, ids = [row["where"] for row in rows], [row["row_id"] for row in rows]
    else:
        _require_free_names(list(names))
        ids = list(range(len(rows)))
    columns = {name: [row.get(name) for row in rows] for name in names if name not in OURS}
    if "audio" in columns:
        columns["audio"] = [_storable(entry, folder) for entry in columns["audio"]]
    try:
        return Dataset.from_dict({**columns, "row_id": ids, "where": places})
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"A column holds values of different types: {error}. Give each column one type in all rows."
        ) from error


def _from_datasets(rows: Dataset | IterableDataset) -> Dataset | IterableDataset:
    names = rows.column_names or []
    if set(OURS) <= set(names):
        return rows
    _require_free_names(names)
    features = rows.features or {}
    if isinstance(features.get("audio"), Audio):
        # the path and bytes as they are stored: decoding is ours, with soundfile
        rows = rows.cast_column("audio", Audio(decode=False))
    elif "audio" in names or isinstance(rows, IterableDataset):
        rows = rows.map(_with_storable_audio)
    if isinstance(rows, IterableDataset):
        return rows.map(_with_place, with_indices=True)
    if len(rows) == 0:
        raise ValueError("The data set has no rows. Pass one with at least one row.")
    return rows.add_column("row_id", list(range(len(rows)))).add_column(
        "where", [f"row {i}" for i in range(len(rows))]
    )


def _require_free_names(names: Sequence[str]) -> None:
    taken = [name for name in OURS if name in names]
    if taken:
        raise ValueError(
            f"The rows have a column {taken[0]!r}, which is where a row's place is kept. Rename it, for example to "
            f"'source_{taken[0]}'."
        )


def _with_storable_audio(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "audio": _storable(row["audio"], None)} if "audio" in row else row


def _with_place(row: dict[str, Any], index: int) -> dict[str, Any]:
    return {**row, "row_id": index, "where": f"row {index}"}


def _storable(entry: Any, folder: Path | None) -> dict[str, Any]:
    """`{"bytes", "path"}` of any audio entry; one that is none keeps its fault for the check."""
    try:
        if holds_array(entry):
            clip = array_clip(entry)
            wav = io.BytesIO()
            soundfile.write(wav, clip.samples, clip.sampling_rate, format="WAV", subtype="FLOAT")
            return {"bytes": wav.getvalue(), "path": None}
        found = entry_file(entry)
    except AudioFault as fault:
        return unusable_entry(fault)
    if isinstance(found, bytes):
        path = entry.get("path") if isinstance(entry, Mapping) else None
        return {"bytes": found, "path": path}
    if folder is not None and "://" not in found:
        found = str(folder / found)
    return {"bytes": None, "path": found}


def iterate_batches(rows: Any, size: int) -> Iterator[list[dict[str, Any]]]:
    """Rows of a data set or stream in lists of `size`, the last one shorter."""
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
