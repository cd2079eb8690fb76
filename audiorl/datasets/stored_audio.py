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

from audiorl.audio.sources import AudioFault, array_clip, entry_file, holds_array, unusable_entry

AUDIO = {"bytes": Value("binary"), "path": Value("string")}
# Arrow counts the bytes of one chunk with 31 bits.
_CHUNK_BYTES = 2**30


def stored_audio(entry: Any, folder: str = "") -> dict[str, Any]:
    """`{"bytes", "path"}` of any audio entry; one that is none keeps its fault for the check.

    Args:
        entry: whatever `load_audio` accepts, or anything at all.
        folder: where relative paths start.
    """
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
        return {"bytes": found, "path": path if isinstance(path, str) and not path.startswith("data:") else None}
    return {"bytes": None, "path": found if "://" in found else os.path.join(folder, found)}


def row_with_stored_audio(row: dict[str, Any], integers: str | None = None) -> dict[str, Any]:
    """The audio column of one row; `integers` is the type its samples have in the data set, if an integer one."""
    entry = row["audio"]
    if integers and holds_array(entry):
        entry = {**entry, "array": np.asarray(entry["array"], dtype=integers)}
    return {"audio": stored_audio(entry)}


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
