"""Rows in: JSON lines, JSON arrays, lists, `datasets`, streams and Hub names, all in one form.

A row has `audio` and text columns, whatever else the source brings, and two columns of ours: `row_id`, its number
from 0, and `where`, its place for a person to find. `audio` becomes `{"bytes", "path"}`: paths in a file are taken from
that file's folder, arrays and data addresses become bytes without loss, nothing is decoded. An entry that is no audio
is kept as one that raises its `AudioFault` when it is read, so that the check reports it with its row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from datasets import (
    Audio,
    Dataset,
    Features,
    IterableDataset,
    Json,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetsError

from audiorl.datasets.audio_folder import is_audio_folder, read_audio_folder
from audiorl.datasets.columns import ColumnNames, column_names, renamed_columns, renamed_rows, still_to_rename
from audiorl.datasets.corpus import named_corpus
from audiorl.datasets.faults import BadRowsError, RowFault
from audiorl.datasets.hub import is_about_loading, loading_problem
from audiorl.datasets.json_files import read_json_rows
from audiorl.datasets.stored_audio import AUDIO, audio_column, integer_samples, row_with_stored_audio, stored_audio

OURS = ("where", "row_id")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
# Files of `save_to_disk`, by which its folders differ from folders that `load_dataset` reads.
SAVED_FILES = ("state.json", "dataset_dict.json")


def speech_rows(
    source: Any, *, split: str | None = None, columns: ColumnNames | None = None
) -> Dataset | IterableDataset:
    """Bring rows of any form into the library's one form; rows that have it already come back as they are.

    Args:
        source: path of a JSON lines file or of a JSON file with an array, folder written by `Dataset.save_to_disk`,
            folder of audio files with their texts in its metadata.csv or metadata.jsonl, sequence of dicts,
            `Dataset`, `IterableDataset`, a dict of these by split, the name of a corpus ("name" or "name:split"; see
            `load_corpus`), or a name for `datasets.load_dataset`.
        split: which one of several splits; for a name, whatever `load_dataset` takes, for a corpus default "train".
        columns: ours -> theirs, for example `{"audio": "audio_path"}`, or texts, `["audio=audio_path"]`: columns to
            rename. Others keep their names; rows that were renamed already pass.

    Returns:
        A `Dataset`; for a stream an `IterableDataset`, of which nothing is read yet. A stream that several workers or
        processes share is numbered by each of them from 0; `where` names the worker then.

    Raises:
        BadRowsError: JSON lines or elements that are no objects, all of them.
        ValueError: no rows, no such file, split, corpus or column, or a column that is called `where` or `row_id`.
    """
    columns = column_names(columns)
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if is_audio_folder(name):
            _require_split("train", split, name)
            return _from_folder(name, columns)
        if os.path.isfile(name) or name.endswith(JSON_SUFFIXES):
            return _from_json(name, split, columns)
        source, split = _load(name, split)
    if isinstance(source, Mapping):
        source = _one_split(source, split)
    else:
        _require_split(getattr(source, "split", None) or "train", split, "the source")
    if isinstance(source, Dataset | IterableDataset) and _has_our_form(source.features or {}):
        columns = still_to_rename(columns, source.column_names or ())
    if isinstance(source, Dataset):
        return _from_dataset(renamed_columns(source, columns))
    if isinstance(source, IterableDataset):
        return _from_stream(renamed_columns(source, columns))
    if isinstance(source, Sequence) and not isinstance(source, bytes):
        return _from_list(source, columns)
    raise ValueError(
        f"Rows come from a file, a folder, a list of dicts, a Dataset or a Hub name; got {type(source).__name__}. "
        "Convert it with datasets.Dataset.from_list."
    )


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


# ---- where rows come from ----


def _from_json(name: str, split: str | None, columns: Mapping[str, str] | None) -> Dataset:
    if not os.path.isfile(name):
        raise ValueError(f"There is no file {name}. Check the path; relative ones start at {os.getcwd()}.")
    if not name.endswith(JSON_SUFFIXES):
        raise ValueError(
            f"{name} is not a JSON file by its name. Rename it to .jsonl or .json if it is one; else load it with "
            "datasets.load_dataset and pass the Dataset."
        )
    _require_split("train", split, name)
    rows, places = read_json_rows(name)
    if not rows:
        raise ValueError(f"{name} has no rows. Write at least one JSON object into it.")
    rows = renamed_rows(rows, columns, name)
    _require_free_names({column for row in rows for column in row}, name)
    return _table(rows, places, range(len(rows)), folder=os.path.dirname(name))


def _from_folder(name: str, columns: Mapping[str, str] | None) -> Dataset:
    rows, places = read_audio_folder(name)
    rows = renamed_rows(rows, columns, name)
    _require_free_names({column for row in rows for column in row}, name)
    return _table(rows, places, range(len(rows)), folder=name)


def _from_list(rows: Sequence[Any], columns: Mapping[str, str] | None) -> Dataset:
    remedy = "Make every row a dict with an audio entry and texts."
    faults = [
        RowFault(f"row {i}", i, f"this is of type {type(row).__name__}, not a dict", remedy)
        for i, row in enumerate(rows)
        if not isinstance(row, Mapping)
    ]
    if faults:
        raise BadRowsError(faults)
    if not rows:
        raise ValueError("The list has no rows. Pass at least one.")
    if all(_is_ours(row) for row in rows):
        columns = still_to_rename(columns, [name for row in rows for name in row])
    rows = renamed_rows(rows, columns, "the list")
    if all(_is_ours(row) for row in rows):
        return _table(rows, [row["where"] for row in rows], [row["row_id"] for row in rows])
    _require_free_names({name for row in rows for name in row}, "the list")
    return _table(rows, [f"row {i}" for i in range(len(rows))], range(len(rows)))


def _load(name: str, split: str | None) -> tuple[Any, str | None]:
    """A saved folder and the split still to choose, or a data set by name with that choice made."""
    if any(os.path.isfile(os.path.join(name, file)) for file in SAVED_FILES):
        return load_from_disk(name), split
    if (named := named_corpus(name)) is not None:
        from audiorl.datasets.corpora import load_named  # which builds on this module

        return load_named(named, split or "train"), None
    try:
        return load_dataset(name, split=split), None
    except (OSError, ValueError, DatasetsError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_about_loading(error):
            raise
        raise loading_problem(name, error) from error


def _one_split(splits: Mapping[str, Any], split: str | None) -> Any:
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None or split not in splits:
        raise ValueError(f"The data set has the splits {sorted(splits)}; got split={split!r}. Name one of them.")
    return splits[split]


def _require_split(found: Any, asked: str | None, source: str) -> None:
    if asked is not None and asked != str(found):
        raise ValueError(f"{source} is the split {str(found)!r}; split={asked!r} was asked for. Pass what holds it.")


# ---- the one form ----


def _table(
    rows: Sequence[Mapping[str, Any]], places: Sequence[str], row_ids: Sequence[int], folder: str = ""
) -> Dataset:
    names = dict.fromkeys(name for row in rows for name in row if name not in OURS)
    columns: dict[str, Any] = {
        name: _column(name, [row.get(name) for row in rows]) for name in names if name != "audio"
    }
    if "audio" in names:
        columns["audio"] = audio_column([stored_audio(row.get("audio"), folder) for row in rows])
    columns["where"] = pa.array(places, pa.string())
    columns["row_id"] = pa.array(row_ids, pa.int64())
    return Dataset(pa.table(columns))


def _column(name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass  # values of several types: each is kept as it is, and the check judges it where it has to be text
    try:
        texts = [None if value is None else json.dumps(value) for value in values]
        for text in texts:
            Json().decode_example(text)  # what cannot be read again is refused here, not in the middle of training
        return pa.array(texts, pa.json_())
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The column {name!r} holds values that cannot be stored ({error}). Turn them into numbers, strings, "
            "lists or dicts, or leave the column out."
        ) from error


def _from_dataset(rows: Dataset) -> Dataset:
    if rows.format["type"] == "custom":
        raise ValueError(
            "The data set has a transform (set_transform), which rows cannot keep. Apply it with map, or call "
            "reset_format()."
        )
    rows = rows.with_format(None)
    if _has_our_form(rows.features):
        return rows
    if len(rows) == 0:
        raise ValueError("The data set has no rows. Pass one with at least one row.")
    _require_free_names(rows.column_names, "the data set")
    decoded = [name for name, feature in rows.features.items() if isinstance(feature, Audio)]
    for name in decoded:
        rows = rows.cast_column(name, Audio(decode=False))
    places = [f"row {i}" for i in range(len(rows))]
    rows = rows.add_column("where", places).add_column("row_id", list(range(len(rows))))
    if decoded:
        rows = _with_features(rows, Features({**rows.features, **dict.fromkeys(decoded, AUDIO)}))
    return _with_stored_audio(rows) if rows.features.get("audio", AUDIO) != AUDIO else rows


def _with_features(rows: Dataset, features: Features) -> Dataset:
    """The same storage under other features; `Dataset.cast` would copy it."""
    info = rows.info.copy()
    info.features = features
    return Dataset(rows.data.cast(features.arrow_schema), info=info, split=rows.split)


def _with_stored_audio(rows: Dataset) -> Dataset:
    store = partial(row_with_stored_audio, integers=integer_samples(rows.features))
    audio = rows.select_columns(["audio"]).map(store, features=Features({"audio": AUDIO}), desc="Storing audio")
    return concatenate_datasets([rows.remove_columns(["audio"]), audio], axis=1)


def _from_stream(rows: IterableDataset) -> IterableDataset:
    rows = rows.with_format(None)
    features = rows.features
    if features is None:
        return rows.map(_placed_row, with_indices=True)
    if _has_our_form(features):
        return rows
    _require_free_names(features, "the stream")
    for name, feature in features.items():
        if isinstance(feature, Audio):
            rows = rows.cast_column(name, Audio(decode=False))
    kinds = Features({name: AUDIO if isinstance(feature, Audio) else feature for name, feature in features.items()})
    ours = Features({"where": Value("string"), "row_id": Value("int64")})
    if "audio" in features:
        kinds["audio"] = AUDIO
    place = partial(_placed_row, integers=integer_samples(features))
    return rows.map(place, with_indices=True, features=Features({**kinds, **ours}))


def _placed_row(row: dict[str, Any], index: int, integers: str | None = None) -> dict[str, Any]:
    if _is_ours(row):
        return row
    _require_free_names(row, "the stream")
    row = {**row, **row_with_stored_audio(row, integers)} if "audio" in row else row
    worker = torch.utils.data.get_worker_info()
    share = f" of worker {worker.id}" if worker is not None and worker.num_workers > 1 else ""
    return {**row, "where": f"row {index}{share}", "row_id": index}


def _has_our_form(features: Mapping[str, Any]) -> bool:
    kinds = (features.get("where"), features.get("row_id"), features.get("audio", AUDIO))
    return kinds == (Value("string"), Value("int64"), AUDIO)


def _is_ours(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("where"), str) and isinstance(row.get("row_id"), int)


def _require_free_names(names: Any, source: str) -> None:
    taken = [name for name in OURS if name in names]
    if taken:
        renamed = " and ".join(f"{name!r} to 'source_{name}'" for name in taken)
        raise ValueError(
            f"The column{'s' * (len(taken) > 1)} {' and '.join(map(repr, taken))} of {source} would be hidden by the "
            f"place and number that every row gets. Rename {renamed}."
        )
