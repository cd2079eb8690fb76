"""Writing rows as JSON lines of `audio_path`, `text`, `duration`, `task`, `metadata`, the form that halo-forge writes.

    export_rows(load_corpus("librispeech", "test", limit=100), "librispeech.jsonl", metadata={"dataset": "librispeech"})
    rows = speech_rows("librispeech.jsonl")

Audio that rows hold as bytes is written unchanged into a folder beside the file. Audio in files stays where it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm

from audiorl.audio import AudioFault, audio_suffix, row_audio_seconds
from audiorl.audio.sources import SEGMENT_COLUMNS
from audiorl.datasets.checks import duration_problem, missing_columns
from audiorl.datasets.corpora import speech_rows
from audiorl.datasets.faults import BadRowsError, RowFault
from audiorl.datasets.formats import EXPORTED_COLUMNS as EXPORTED_COLUMNS
from audiorl.datasets.formats import ColumnNames
from audiorl.datasets.rows import OURS
from audiorl.datasets.storage import unkept_values
from audiorl.files import whole_file


def export_rows(
    rows: Any,
    path: str | os.PathLike[str],
    *,
    task: str = "asr",
    metadata: Mapping[str, Any] | None = None,
    progress: bool = True,
    columns: ColumnNames | None = None,
) -> int:
    """Write rows as JSON lines. The file appears when it is complete.

    Args:
        rows: anything `speech_rows` takes, with `audio` and `text`; streams are read once.
        path: of the file, which must not be there yet. Audio from bytes goes to `<name>_audio/` beside it, and its
            `audio_path` starts at the file's folder; that of other audio is absolute.
        task: what every line says of itself.
        metadata: added to every line's `metadata`, which holds a row's other columns, those that are None left out.
        progress: show a progress bar.
        columns: see `speech_rows`.

    Returns:
        How many lines.

    Raises:
        BadRowsError: a row whose audio cannot be used or is not of its `duration`, or that has no text, with its place.
        ValueError: the file is there, a column is missing, or a value has no form in JSON.
        OSError: it cannot be written.
    """
    path = os.path.abspath(path)
    if os.path.exists(path):
        raise ValueError(f"{path} exists already, and lines would mix. Choose another name, or remove it.")
    known = speech_rows(rows, columns=columns)
    names = known.column_names
    if names is not None and (faults := missing_columns(names, ("audio", "text"))):
        raise BadRowsError(faults)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    count = 0
    with whole_file(path) as file:
        for row in tqdm(known, desc="Exporting rows", unit="row", disable=not progress):
            file.write(_line(row, count, path, task, metadata or {}) + "\n")
            count += 1
    return count


def _line(row: Mapping[str, Any], number: int, path: str, task: str, metadata: Mapping[str, Any]) -> str:
    if unkept := unkept_values(row):
        raise BadRowsError([RowFault(row["where"], row["row_id"], fault.problem, fault.remedy) for fault in unkept])
    duration = row.get("duration")
    try:
        heard = row_audio_seconds(row)
        if problem := duration_problem(duration, heard):
            raise AudioFault(*problem)
        audio_path = _audio_path(row["audio"], number, path)
    except AudioFault as fault:
        raise BadRowsError([RowFault(row["where"], row["row_id"], fault.problem, fault.remedy)]) from fault
    if not isinstance(row["text"], str):
        remedy = "Give the transcript or label, or remove the row."
        raise BadRowsError([RowFault(row["where"], row["row_id"], "text is missing or no text", remedy)])
    part = {name: row[name] for name in ("channel", *SEGMENT_COLUMNS) if row.get(name) is not None}
    own = ("audio", "text", "duration", "channel", *SEGMENT_COLUMNS, *OURS)
    others = {name: value for name, value in row.items() if name not in own and value is not None}
    line = {
        "audio_path": audio_path,
        "text": row["text"],
        "duration": heard if duration is None else duration,
        "task": task,
        **part,
        "metadata": {**others, **metadata},
    }
    try:
        return json.dumps(line, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{row['where']}: a value among {sorted(others)} has no form in JSON ({error}). Remove its column."
        ) from error


def _audio_path(entry: Mapping[str, Any], number: int, path: str) -> str:
    content = entry["bytes"]
    if content is None:
        found = entry["path"]
        return found if "://" in found else os.path.abspath(found)
    suffix = audio_suffix(content)
    if not suffix:
        raise AudioFault("the audio is not audio that can be read", "Remove the row.")
    folder = os.path.splitext(path)[0] + "_audio"
    os.makedirs(folder, exist_ok=True)
    name = os.path.join(folder, f"{number:06d}{suffix}")
    with open(name, "wb") as file:
        file.write(content)
    return os.path.relpath(name, os.path.dirname(path))
