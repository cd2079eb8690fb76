"""How a row's values are stored: in Arrow's own types, as JSON if a column mixes types, audio as bytes and path.

A value that cannot be kept as it is (half of a surrogate pair, an integer beyond 64 bits, bytes among texts) becomes
None, and `row_faults` says which one, why and what to do. Only the library writes that column, so nothing in a user's
columns is read as a message. It exists only if a row needs it.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import soundfile
from datasets import Features, Json, List, Value

from audiorl.audio.sources import AudioFault, array_clip, entry_file, holds_array, not_unicode, short_repr

FAULTS_COLUMN = "row_faults"
# The columns that every row gets
OURS = ("where", "row_id", FAULTS_COLUMN)
# The column of a fault that is the whole row's: it could not be read. No column may have this name.
UNREAD = "\0"
FAULTS = List({"column": Value("string"), "problem": Value("string"), "remedy": Value("string")})
# Deeper lists and objects than any metadata has; Arrow and `datasets` recurse once for each level.
_DEEPEST = 32
_INTEGERS = range(-(2**63), 2**64)
_EXACT = (str, int, float, bool, type(None))


class Unkept(NamedTuple):
    """A value of a row that could not be kept."""

    column: str
    problem: str
    remedy: str

    @classmethod
    def of(cls, column: str, fault: AudioFault) -> Unkept:
        return cls(column, fault.problem, fault.remedy)


def unkept_values(row: Mapping[str, Any]) -> list[Unkept]:
    """The values of a row from `speech_rows` that could not be kept."""
    found = row.get(FAULTS_COLUMN)
    if not isinstance(found, list) or not all(_is_fault(fault) for fault in found):
        return []
    return [Unkept(fault["column"], fault["problem"], fault["remedy"]) for fault in found]


def unread_problem(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why a row from `speech_rows` could not be read, and what to do; None for one that was."""
    return next(((fault.problem, fault.remedy) for fault in unkept_values(row) if fault.column == UNREAD), None)


def raise_unkept(row: Mapping[str, Any], column: str) -> None:
    """Raise the `AudioFault` of a value that could not be kept, if it is one."""
    for fault in unkept_values(row):
        if fault.column == column:
            raise AudioFault(fault.problem, fault.remedy)


def faults_column(faults: Sequence[Sequence[Unkept]]) -> pa.Array:
    """The column `row_faults`, an entry for each row; None if the row has no faults."""
    entries = [[fault._asdict() for fault in row] if row else None for row in faults]
    return pa.array(entries, Features({FAULTS_COLUMN: FAULTS}).arrow_schema.field(0).type)


def name_problem(name: Any) -> tuple[str, str] | None:
    """Why a column cannot have this name, and what to do; None if it can."""
    if not isinstance(name, str):
        return f"the column name {short_repr(name)} is of type {type(name).__name__}", "Name columns with strings."
    if not_unicode(name) or "\0" in name:
        return f"the column name {short_repr(name)} holds a character that no name may have", "Rename the column."
    return None


def text_problem(name: str, text: str) -> tuple[str, str] | None:
    """Why a text is not valid Unicode, and what to do; None if it is."""
    if not not_unicode(text):
        return None
    lone = next(c for c in text if "\ud800" <= c <= "\udfff")
    return (
        f"{name} holds half of a surrogate pair ({lone!a}), which is no character",
        "Write the text as UTF-8 anew from its source, or remove the row.",
    )


def stored_column(name: str, values: Sequence[Any]) -> tuple[pa.Array, dict[int, Unkept]]:
    """A column, and the values that could not be kept, by their place; they are None in the column."""
    kept = list(values)
    lost: dict[int, Unkept] = {}

    def drop(judge: Any) -> None:
        for place, value in enumerate(kept):
            if value is not None and (problem := judge(name, value)) is not None:
                lost[place] = Unkept(name, *problem)
                kept[place] = None

    kinds = {type(value) for value in kept}
    if not kinds <= {*_EXACT, bytes}:
        drop(_storage_problem)
    mixed = bytes in kinds and str in kinds  # Arrow would turn the texts into bytes
    if not mixed and (column := _arrow(kept)) is not None:
        return column, lost
    drop(_storage_problem)
    if not mixed and (column := _arrow(kept)) is not None:
        return column, lost
    drop(_json_problem)
    texts = [None if value is None else json.dumps(_plain(value)) for value in kept]
    return pa.array(texts, pa.json_()), lost


def _arrow(values: list[Any]) -> pa.Array | None:
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError):
        return None  # among others, values of several types


def _storage_problem(name: str, value: Any, depth: int = 0) -> tuple[str, str] | None:
    """Why a value cannot be stored in any form."""
    if isinstance(value, str):
        return text_problem(name, value)
    if isinstance(value, int) and value not in _INTEGERS:
        shown = short_repr(value) if abs(value) < 10**100 else "of more than a hundred digits"
        return f"{name} holds an integer beyond 64 bits ({shown})", "Write it as text, or leave the column out."
    if not isinstance(value, Mapping | list | tuple):
        return None
    if depth == _DEEPEST:
        return f"{name} is nested more than {_DEEPEST} deep", "Flatten it, or leave the column out."
    if isinstance(value, Mapping):
        for key in value:
            if problem := name_problem(key):
                return f"{name}: {problem[0].replace('the column name', 'the key')}", "Rename the key."
    parts = value.values() if isinstance(value, Mapping) else value
    return next((problem for part in parts if (problem := _storage_problem(name, part, depth + 1))), None)


def _json_problem(name: str, value: Any) -> tuple[str, str] | None:
    """Why a value cannot be stored in a column of several types, which is stored as JSON."""
    remedy = "Give every row a value of one type in this column, or leave the column out."
    try:
        text = json.dumps(_plain(value), allow_nan=False)
        Json().decode_example(text)  # what cannot be read again is refused here, not in the middle of training
    except (TypeError, ValueError, RecursionError):
        return f"{name} is {short_repr(value)} ({type(value).__name__}), but other rows have other types there", remedy
    return None


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays as Python values."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def _is_fault(fault: Any) -> bool:
    return isinstance(fault, Mapping) and all(
        isinstance(fault.get(part), str) and not not_unicode(fault[part]) for part in Unkept._fields
    )


AUDIO = {"bytes": Value("binary"), "path": Value("string")}
# What stands in place of an entry that is no audio; `row_faults` says why.
NO_AUDIO = {"bytes": None, "path": None}
# Arrow counts the bytes of one chunk with 31 bits.
_CHUNK_BYTES = 2**30


def stored_audio(entry: Any, folder: str = "") -> dict[str, Any]:
    """`{"bytes", "path"}` of any audio entry.

    Args:
        entry: whatever `load_audio` accepts, or anything at all.
        folder: where relative paths start.

    Raises:
        AudioFault: it is no audio entry.
    """
    if holds_array(entry):
        clip = array_clip(entry)
        wav = io.BytesIO()
        soundfile.write(wav, clip.samples, clip.sampling_rate, format="WAV", subtype="FLOAT")
        return {"bytes": wav.getvalue(), "path": None}
    found = entry_file(entry)
    if isinstance(found, bytes):
        path = entry.get("path") if isinstance(entry, Mapping) else None
        named = isinstance(path, str) and not path.startswith("data:") and not not_unicode(path)
        return {"bytes": found, "path": path if named else None}
    if not_unicode(found) or "\0" in found:
        raise AudioFault(
            f"the path {short_repr(found)} holds a character that no path may have",
            "Rename the file, and write its name as UTF-8.",
        )
    return {"bytes": None, "path": found if "://" in found else os.path.join(folder, found)}


def row_with_stored_audio(row: dict[str, Any], integers: str | None = None) -> dict[str, Any]:
    """The columns `audio` and `row_faults` of one row.

    Args:
        integers: the type its samples have in the data set, if an integer one.
    """
    entry = row["audio"]
    if integers and holds_array(entry):
        entry = {**entry, "array": np.asarray(entry["array"], dtype=integers)}
    try:
        return {"audio": stored_audio(entry), FAULTS_COLUMN: None}
    except AudioFault as fault:
        return {"audio": dict(NO_AUDIO), FAULTS_COLUMN: [Unkept.of("audio", fault)._asdict()]}


def integer_samples(features: Features) -> str | None:
    """The integer type of stored samples. Arrow knows it, but the lists that it returns do not."""
    entry = features.get("audio")
    samples = entry.get("array") if isinstance(entry, dict) else None
    while samples is not None and not isinstance(samples, Value):
        samples = getattr(samples, "feature", None)
    return samples.dtype if samples is not None and samples.dtype.lstrip("u").startswith("int") else None


def audio_column(entries: Sequence[dict[str, Any]]) -> pa.ChunkedArray:
    """A column of stored entries, in chunks of a size that Arrow takes."""
    kind = Features({"audio": AUDIO}).arrow_schema.field("audio").type
    chunks: list[list[dict[str, Any]]] = [[]]
    size = 0
    for entry in entries:
        size += len(entry["bytes"] or b"")
        if size > _CHUNK_BYTES and chunks[-1]:
            chunks.append([])
            size = len(entry["bytes"] or b"")
        chunks[-1].append(entry)
    return pa.chunked_array([pa.array(chunk, kind) for chunk in chunks], kind)
