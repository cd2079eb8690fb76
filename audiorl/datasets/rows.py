"""Reading rows: JSON, tables, tars, Parquet, folders, lists, `datasets`, streams and Hub names, all in one form.

A row has `audio`, text columns and the source's other columns. We add `row_id`, its number from 0, and `where`, its
place for messages. `audio` becomes `{"bytes", "path"}`: paths in a file start at that file's folder, arrays and data
addresses become bytes without loss, and nothing is decoded. An entry that is no audio, or a value that cannot be kept
as it is, becomes None. Our third column, `row_faults`, says why, and the check reports it with its row.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from datasets import (
    Audio,
    Dataset,
    Features,
    IterableDataset,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetsError

from audiorl.audio.sources import AudioFault, not_unicode
from audiorl.datasets.faults import BadRowsError, RowFault
from audiorl.datasets.formats import (
    ColumnNames,
    JsonRows,
    column_names,
    exported_row,
    exported_rows,
    is_about_loading,
    is_audio_folder,
    is_exported,
    loading_problem,
    read_audio_folder,
    read_json_rows,
    renamed_columns,
    renamed_rows,
    still_to_rename,
    text_start,
)
from audiorl.datasets.kaldi import read_kaldi
from audiorl.datasets.kept_rows import large_json_rows
from audiorl.datasets.manifests import Form, json_form, read_form
from audiorl.datasets.storage import (
    AUDIO,
    FAULTS,
    FAULTS_COLUMN,
    NO_AUDIO,
    OURS,
    UNREAD,
    Unkept,
    audio_column,
    faults_column,
    integer_samples,
    name_problem,
    row_with_stored_audio,
    stored_audio,
    stored_column,
    unkept_values,
)
from audiorl.datasets.tables import CLIPS, common_voice_table, read_table
from audiorl.datasets.tars import TarRows, folder_tars, is_shar_cuts, is_tar, read_shar, read_tars, tar_audio

logger = logging.getLogger(__name__)

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
# Files of `save_to_disk`, by which its folders differ from folders that `load_dataset` reads.
SAVED_FILES = ("state.json", "dataset_dict.json")


def rows_of(
    source: Any, *, split: str | None = None, columns: ColumnNames | None = None, keep_unread: bool = False
) -> Dataset | IterableDataset:
    """As `speech_rows`, but without the names of corpora."""
    columns = column_names(columns)
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if (found := _from_path(name, split, columns, keep_unread)) is not None:
            return found
        source, split = _load(name, split, (columns or {}).get("audio", "audio"))
    if isinstance(source, Mapping):
        source = _one_split(source, split)
    else:
        _require_split(getattr(source, "split", None) or "train", split, "the source")
    if isinstance(source, Dataset | IterableDataset):
        if _has_our_form(source.features or {}):
            columns = still_to_rename(columns, source.column_names or ())
        source = renamed_columns(source, columns)
        if not columns and is_exported(source.column_names):
            source = exported_rows(source)
        return _from_dataset(source) if isinstance(source, Dataset) else _from_stream(source)
    if isinstance(source, Sequence) and not isinstance(source, bytes):
        return _from_list(source, columns)
    instead = "Pass its rows" if hasattr(source, "rows") else "Convert it with datasets.Dataset.from_list"
    raise ValueError(
        f"Rows come from a file, a folder, a list of dicts, a Dataset or a Hub name; got {type(source).__name__}. "
        f"{instead}."
    )


def _from_path(name: str, split: str | None, columns: Mapping[str, str] | None, keep_unread: bool) -> Dataset | None:
    """The rows of a file or folder; None for a Parquet file, a saved folder or a name to load."""
    if forms := _folder_forms(name):
        return _from_form(name, forms, split, columns, keep_unread)
    if is_audio_folder(name):
        _require_split("train", split, name)
        return _from_folder(name, columns, keep_unread)
    if (os.path.isfile(name) or name.endswith(JSON_SUFFIXES)) and _file_kind(name) != "Parquet":
        return _from_file(name, split, columns, keep_unread)
    return None


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


def is_local(name: str) -> bool:
    """Whether a name means a file or folder that is read here, and not a data set to load by its name."""
    known = os.path.isfile(name) or name.endswith(JSON_SUFFIXES) or _was_saved(name)
    return known or bool(_folder_forms(name)) or is_audio_folder(name)


def _folder_forms(name: str) -> dict[str, str]:
    """The forms of other tools that a folder may have, the first one read -> by which file it is known."""
    if not os.path.isdir(name):
        return {}
    files = sorted(os.listdir(name))
    tables = [file for file in files if file.endswith((".tsv", ".tsv.gz"))]
    cuts, tars = [file for file in files if is_shar_cuts(file)], [file for file in files if is_tar(file)]
    signs = {
        "Kaldi": ["wav.scp"] if "wav.scp" in files else [],
        "Lhotse Shar": cuts if tars else [],
        "WebDataset": [] if cuts else tars,
        "Common Voice": tables if CLIPS in files else [],
    }
    return {form: found[0] for form, found in signs.items() if found}


def _was_saved(name: str) -> bool:
    return any(os.path.isfile(os.path.join(name, file)) for file in SAVED_FILES)


# Files of a Kaldi folder that hold no rows alone
_KALDI_FILES = ("wav.scp", "segments", "text", "utt2spk", "spk2utt", "utt2dur", "reco2file_and_channel")
# How files end that hold times of words or speakers, without clips
_ANNOTATIONS = (".rttm", ".ctm", ".stm", ".srt", ".vtt", ".textgrid", ".eaf")
_TABLES = (".tsv", ".csv", ".tsv.gz", ".csv.gz")


def _file_kind(name: str) -> str:
    """What a file is by its first bytes: Parquet, a tar, JSON or a table.

    Raises:
        ValueError: it is not there, or no rows are known in it.
    """
    if not os.path.isfile(name):
        raise ValueError(f"There is no file {name}. Check the path; relative ones start at {os.getcwd()}.")
    with open(name, "rb") as file:
        head = file.read(512)
    if head.startswith(b"PAR1"):
        return "Parquet"
    low, base = name.lower(), os.path.basename(name)
    if head[257:262] == b"ustar" or low.endswith((".tar", ".tar.gz", ".tgz")):
        return "tar"
    if base in _KALDI_FILES or low.endswith(".scp"):
        raise ValueError(f"{name} is one file of a Kaldi folder. Pass the folder: {os.path.dirname(name) or '.'}.")
    if low.endswith(_ANNOTATIONS):
        raise ValueError(
            f"{name} holds times of words or speakers, not clips with transcripts. Write rows: "
            '{"audio": "recording.wav", "start": 0.0, "end": 2.5, "text": "..."}.'
        )
    start = text_start(name)[:1]
    if start in (b"{", b"[") or low.removesuffix(".gz").endswith(JSON_SUFFIXES):
        return "JSON"
    if low.endswith(_TABLES):
        return "table"
    raise ValueError(
        f"{name} has none of the forms that rows come in: JSON lines, JSON arrays, TSV or CSV (by name), Parquet, tar. "
        'Write JSON lines, {"audio": "clip.wav", "text": "..."}, or pass a datasets.Dataset.'
    )


def _from_file(name: str, split: str | None, columns: Mapping[str, str] | None, keep_unread: bool) -> Dataset:
    kind = _file_kind(name)
    _require_split("train", split, name)
    if kind == "JSON" and (large := large_json_rows(name, columns, partial(_part_table, columns=columns, name=name))):
        return large
    if kind == "tar":
        return _from_tars(read_tars([name], keep_unread=keep_unread), columns, name)
    found = read_table(name) if kind == "table" else read_json_rows(name, keep_unread=keep_unread)
    if not found.rows:
        raise ValueError(f"{name} has no rows. Write at least one, with audio and its texts.")
    form = None if kind == "table" else json_form(found.rows, name)
    if form is not None:
        found = read_form(found, form, name, keep_unread=keep_unread)
    if form is not None or kind == "table":
        columns = still_to_rename(columns, [column for row in found.rows for column in row])
    return _read_table(found, _named_as_ours, columns, name, os.path.dirname(name))


def _from_form(
    name: str, forms: Mapping[str, str], split: str | None, columns: Mapping[str, str] | None, keep_unread: bool
) -> Dataset:
    """The rows of a folder in the form of another tool."""
    form, *others = forms
    if not others and is_audio_folder(name):
        others = ["a folder of clips"]
    if others:
        logger.warning(
            f"{name} is read as {form} (by {forms[form]}); it could be {' or '.join(others)}, too. To read it as "
            "another form, name one of its files, or move the others away."
        )
    if form == "Common Voice":
        return _from_file(common_voice_table(name, split), None, columns, keep_unread)
    _require_split("train", split, name)
    if form == "Kaldi":
        found = read_kaldi(name, keep_unread=keep_unread)
        columns = still_to_rename(columns, [column for row in found.rows for column in row])
        return _read_table(found, renamed_rows, columns, name, name)
    if form == "Lhotse Shar":
        return _from_tars(read_shar(name, keep_unread=keep_unread), columns, name)
    return _from_tars(read_tars(folder_tars(name), keep_unread=keep_unread), columns, name)


def _from_tars(tars: TarRows, columns: Mapping[str, str] | None, name: str) -> Dataset:
    """Rows of tars. Their audio goes into the cache of `datasets`, not into memory."""
    columns = still_to_rename(columns, [column for row in tars.found.rows for column in row])
    rows = _read_table(tars.found, renamed_rows, columns, name, name)
    stats = [os.stat(tar) for tar in tars.tars]
    which = {
        "tars": tars.tars,
        "stamps": [(found.st_size, found.st_mtime_ns) for found in stats],
        "unread": tuple(sorted(tars.found.unread)),  # a list would count as shards
        "grouped": tars.form == "WebDataset",
    }
    audio = Dataset.from_generator(tar_audio, features=Features({"audio": AUDIO}), gen_kwargs=which)
    return concatenate_datasets([rows, audio], axis=1)


def _from_parquet(name: str, column: str) -> Dataset:
    """A Parquet file whose relative paths, in the column of the audio, start at the file's folder."""
    try:
        rows = Dataset.from_parquet(os.path.abspath(name))
    except (OSError, ValueError, DatasetsError, pa.ArrowException) as error:
        raise loading_problem(name, error) from error
    feature = rows.features.get(column)
    if isinstance(feature, Audio):
        rows = rows.cast_column(column, Audio(decode=False))
    elif not (isinstance(feature, Value) and feature.dtype == "string") and feature != AUDIO:
        return rows
    held = rows.data.column(column).combine_chunks() if len(rows) else None
    if held is None or (pa.types.is_struct(held.type) and not held.field("bytes").null_count):
        return rows
    place = partial(_placed_audio, column=column, folder=os.path.dirname(os.path.abspath(name)))
    return rows.map(place, features=rows.features, desc="Placing audio")


def _placed_audio(row: dict[str, Any], *, column: str, folder: str) -> dict[str, Any]:
    entry = row[column]
    path = entry if isinstance(entry, str) else (entry or {}).get("path")
    if not path or "://" in path or (isinstance(entry, Mapping) and entry.get("bytes") is not None):
        return {column: entry}
    path = os.path.join(folder, path)
    return {column: path if isinstance(entry, str) else {"bytes": None, "path": path}}


def _from_folder(name: str, columns: Mapping[str, str] | None, keep_unread: bool) -> Dataset:
    return _read_table(read_audio_folder(name, keep_unread=keep_unread), renamed_rows, columns, name, name)


def _read_table(
    found: JsonRows, rename: Callable[..., list[Any]], columns: Mapping[str, str] | None, name: str, folder: str
) -> Dataset:
    """The rows of a file, renamed. Lines that could not be read are marked in `row_faults`."""
    read = [number for number in range(len(found.rows)) if number not in found.unread]
    renamed = rename([found.rows[number] for number in read], columns, name)
    _require_free_names({column for row in renamed for column in row}, name)
    rows = dict(zip(read, renamed, strict=True))
    for number, fault in found.unread.items():
        rows[number] = {FAULTS_COLUMN: [Unkept(UNREAD, fault.problem, fault.remedy)._asdict()]}
    return _table([rows[number] for number in range(len(rows))], found.places, range(len(rows)), folder=folder)


def _part_table(
    rows: Sequence[Any],
    places: Sequence[str],
    row_ids: range,
    form: Form | None,
    *,
    columns: Mapping[str, str] | None,
    name: str,
) -> pa.Table:
    """A part of a file of JSON lines, none of which is a fault; see `large_json_rows`."""
    if form is not None:
        if columns:
            raise ValueError("columns of another form are renamed by what all rows have")
        rows = read_form(JsonRows(list(rows), list(places)), form, name).rows
    renamed = renamed_rows(rows, columns, name)
    _require_free_names({column for row in renamed for column in row}, name)
    return _table(renamed, places, row_ids, folder=os.path.dirname(name)).data.table


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
    rows = _named_as_ours(rows, columns, "the list")
    if all(_is_ours(row) for row in rows):
        return _table(rows, [row["where"] for row in rows], [row["row_id"] for row in rows])
    _require_free_names({name for row in rows for name in row}, "the list")
    return _table(rows, [f"row {i}" for i in range(len(rows))], range(len(rows)))


def _named_as_ours(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None, source: str) -> list[Any]:
    """Rows of a file or list with their columns renamed; those of an export, each of which says so itself."""
    if not columns and all(is_exported(row) for row in rows):
        return [exported_row(row) for row in rows]
    return renamed_rows(rows, columns, source)


def _load(name: str, split: str | None, audio: str) -> tuple[Any, str | None]:
    """A Parquet file or saved folder and the split still to choose, or a data set loaded by name with its split."""
    if os.path.isfile(name):
        return _from_parquet(name, audio), split
    if _was_saved(name):
        return load_from_disk(name), split
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
        raise ValueError(
            f"{source} is the split {str(found)!r}; split={asked!r} was asked for. Pass the data set with it."
        )


# ---- the one form ----


def _table(
    rows: Sequence[Mapping[str, Any]], places: Sequence[str], row_ids: Sequence[int], folder: str = ""
) -> Dataset:
    faults: list[list[Unkept]] = [unkept_values(row) for row in rows]
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in OURS]
    columns: dict[str, Any] = {}
    for name in names:
        if problem := name_problem(name):
            for row, found in zip(rows, faults, strict=True):
                if name in row:
                    found.append(Unkept("", *problem))
        elif name != "audio":
            columns[name], lost = stored_column(name, [row.get(name) for row in rows])
            for place, unkept in lost.items():
                faults[place].append(unkept)
    if "audio" in names:
        entries = []
        for row, found in zip(rows, faults, strict=True):
            entries.append(_stored_entry(row.get("audio"), folder, found))
        columns["audio"] = audio_column(entries)
    columns["where"] = pa.array(places, pa.string())
    columns["row_id"] = pa.array(row_ids, pa.int64())
    if any(faults):
        columns[FAULTS_COLUMN] = faults_column(faults)
    return Dataset(pa.table(columns))


def _stored_entry(entry: Any, folder: str, found: list[Unkept]) -> dict[str, Any]:
    """An audio entry as it is stored. If it is no audio, its fault is added to the row's faults."""
    if any(fault.column in ("audio", UNREAD) for fault in found):
        return NO_AUDIO
    try:
        return stored_audio(entry, folder)
    except AudioFault as fault:
        found.append(Unkept.of("audio", fault))
        return NO_AUDIO


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
    """The same data under other features, without the copy that `Dataset.cast` makes."""
    info = rows.info.copy()
    info.features = features
    return Dataset(rows.data.cast(features.arrow_schema), info=info, split=rows.split)


def _with_stored_audio(rows: Dataset) -> Dataset:
    store = partial(row_with_stored_audio, integers=integer_samples(rows.features))
    kinds = Features({"audio": AUDIO, FAULTS_COLUMN: FAULTS})
    audio = rows.select_columns(["audio"]).map(store, features=kinds, desc="Storing audio")
    if all(found is None for found in audio[FAULTS_COLUMN]):
        audio = audio.remove_columns([FAULTS_COLUMN])
    return concatenate_datasets([rows.remove_columns(["audio"]), audio], axis=1)


def _from_stream(rows: IterableDataset) -> IterableDataset:
    rows = rows.with_format(None)
    features = rows.features
    if features is None:
        return rows.map(partial(_placed_row, known=None), with_indices=True)
    if _has_our_form(features):
        return rows
    _require_free_names(features, "the stream")
    for name, feature in features.items():
        if isinstance(feature, Audio):
            rows = rows.cast_column(name, Audio(decode=False))
    kinds = Features({name: AUDIO if isinstance(feature, Audio) else feature for name, feature in features.items()})
    ours = Features({"where": Value("string"), "row_id": Value("int64")})
    if kinds.get("audio", AUDIO) != AUDIO:
        kinds["audio"], kinds[FAULTS_COLUMN] = AUDIO, FAULTS
    known = Features({**kinds, **ours})
    place = partial(_placed_row, known=tuple(known), integers=integer_samples(features))
    return rows.map(place, with_indices=True, features=known)


def _placed_row(
    row: dict[str, Any], index: int, *, known: tuple[str, ...] | None, integers: str | None = None
) -> dict[str, Any]:
    """A row of a stream in our form; `known` are the stream's stated columns, None if it states none."""
    if _is_ours(row):
        return row
    _require_free_names(row, "the stream")
    row = exported_row(row) if is_exported(row) else row
    if "audio" in row:
        stored = row_with_stored_audio(row, integers)
        if FAULTS_COLUMN not in known if known is not None else stored[FAULTS_COLUMN] is None:
            del stored[FAULTS_COLUMN]
        row = {**row, **stored}
    worker = torch.utils.data.get_worker_info()
    if worker is None or worker.num_workers == 1:
        return {**row, "where": f"row {index}", "row_id": index}
    # each counts its own rows; what is drawn for a row depends on its number, so no two may share one
    number = index * worker.num_workers + worker.id
    return {**row, "where": f"row {index} of worker {worker.id}", "row_id": number}


def _has_our_form(features: Mapping[str, Any]) -> bool:
    kinds = [features.get("where"), features.get("row_id"), features.get("audio", AUDIO)]
    return [*kinds, features.get(FAULTS_COLUMN, FAULTS)] == [Value("string"), Value("int64"), AUDIO, FAULTS]


def _is_ours(row: Mapping[str, Any]) -> bool:
    where, row_id = row.get("where"), row.get("row_id")
    return isinstance(where, str) and not not_unicode(where) and type(row_id) is int and row_id in range(2**63)


def _require_free_names(names: Any, source: str) -> None:
    taken = [name for name in OURS if name in names]
    if taken:
        renamed = " and ".join(f"{name!r} to 'source_{name}'" for name in taken)
        raise ValueError(
            f"The column{'s' * (len(taken) > 1)} {' and '.join(map(repr, taken))} of {source} would be hidden by the "
            f"place and number that every row gets. Rename {renamed}."
        )
