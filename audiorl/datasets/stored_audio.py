"""How the audio of a row is kept: `{"bytes", "path"}`, whatever form it came in."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from datasets import Features, Value

from audiorl.audio.sources import AudioFault, array_clip, entry_file, holds_array, not_unicode, short_repr
from audiorl.datasets.stored_columns import FAULTS_COLUMN, Unkept

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
    """The integer type of stored samples, which Arrow knows and the lists it hands out do not."""
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
