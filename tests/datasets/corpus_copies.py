"""Small Parquet copies of the named corpora, with the schemas they have on the Hub."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from datasets import Audio, ClassLabel, Dataset, Features, List, Value

RATE = 16000
TEXT, INTEGER, FLOAT, FLAG = Value("string"), Value("int64"), Value("float64"), Value("bool")
HEARD = Audio(sampling_rate=RATE)
SECONDS = 0.05


def flac(number: int) -> bytes:
    """A tone of 0.05 s whose frequency tells which one it is."""
    samples = 0.5 * np.sin(2 * np.pi * (200 + 50 * number) * np.arange(int(SECONDS * RATE)) / RATE)
    content = io.BytesIO()
    soundfile.write(content, samples, RATE, format="FLAC")
    return content.getvalue()


SCHEMAS: dict[str, dict[str, Any]] = {
    "librispeech": {
        **{"file": TEXT, "audio": HEARD, "text": TEXT},
        **{"speaker_id": INTEGER, "chapter_id": INTEGER, "id": TEXT},
    },
    "common_voice": {
        **{"client_id": TEXT, "path": TEXT, "audio": Audio(sampling_rate=48000), "sentence": TEXT},
        **{"up_votes": INTEGER, "down_votes": INTEGER, "age": TEXT, "gender": TEXT},
        **{"accent": TEXT, "locale": TEXT, "segment": TEXT, "variant": TEXT},
    },
    "fleurs": {
        **{"id": Value("int32"), "num_samples": Value("int32"), "path": TEXT, "audio": HEARD},
        **{"transcription": TEXT, "raw_transcription": TEXT, "gender": ClassLabel(names=["male", "female", "other"])},
        **{"lang_id": ClassLabel(names=["de_de", "en_us"]), "language": TEXT},
        "lang_group_id": ClassLabel(names=["western_european_we"]),
    },
    "voxpopuli": {
        **{"audio_id": TEXT, "language": ClassLabel(names=["en", "de", "fr"]), "audio": HEARD},
        **{"raw_text": TEXT, "normalized_text": TEXT, "gender": TEXT, "speaker_id": TEXT},
        **{"is_gold_transcript": FLAG, "accent": TEXT},
    },
    "gigaspeech": {
        **{"segment_id": TEXT, "speaker": TEXT, "text": TEXT, "audio": HEARD},
        **{"begin_time": Value("float32"), "end_time": Value("float32"), "audio_id": TEXT, "title": TEXT, "url": TEXT},
        **{"source": ClassLabel(names=["audiobook", "podcast", "youtube"]), "category": ClassLabel(names=["N/A"])},
        "original_full_path": TEXT,
    },
    "tedlium": {
        **{"audio": HEARD, "text": TEXT, "speaker_id": TEXT},
        **{"gender": ClassLabel(names=["unknown", "female", "male"]), "file": TEXT, "id": TEXT},
    },
    "ami": {
        **{"meeting_id": TEXT, "audio_id": TEXT, "text": TEXT, "audio": HEARD},
        **{"begin_time": Value("float32"), "end_time": Value("float32"), "microphone_id": TEXT, "speaker_id": TEXT},
    },
    "multilingual_librispeech": {
        **{"audio": HEARD, "original_path": TEXT, "begin_time": FLOAT, "end_time": FLOAT, "transcript": TEXT},
        **{"audio_duration": FLOAT, "speaker_id": TEXT, "chapter_id": TEXT, "file": TEXT, "id": TEXT},
    },
    "speech_commands": {"file": TEXT, "audio": HEARD, "label": TEXT, "speaker_id": TEXT},
    "audioset": {"video_id": TEXT, "audio": Audio(), "labels": List(TEXT), "human_labels": List(TEXT)},
    "esc50": {
        **{"filename": TEXT, "fold": INTEGER, "target": INTEGER, "category": TEXT},
        **{"esc10": FLAG, "src_file": INTEGER, "take": TEXT, "audio": Audio()},
    },
    "urbansound8k": {
        **{"audio": Audio(), "slice_file_name": TEXT, "fsID": INTEGER, "start": FLOAT, "end": FLOAT},
        **{"salience": INTEGER, "fold": INTEGER, "classID": INTEGER, "class": TEXT},
    },
    "voxceleb": {"audio_path": HEARD, "speaker_id": TEXT, "gender": TEXT, "language": TEXT, "transcription": TEXT},
}
# What a value is where a test says nothing about it.
_PLAIN = {"string": "words", "int64": 7, "float64": 0.05, "bool": True, "int32": 800, "float32": 1.0}


def some_rows(name: str, rows: Iterable[dict[str, Any]], schema: dict[str, Any] | None = None) -> Dataset:
    """Rows with a corpus's schema, audio as stored bytes; what `rows` leaves open is filled in."""
    schema = SCHEMAS[name] if schema is None else schema
    full = []
    for number, given in enumerate(rows):
        row = {column: _plain(kind, number) for column, kind in schema.items()}
        full.append({**row, **given})
    stored = Features(
        {c: {"bytes": Value("binary"), "path": TEXT} if isinstance(k, Audio) else k for c, k in schema.items()}
    )
    plain = Dataset.from_dict({column: [row[column] for row in full] for column in schema}, features=stored)
    for column, kind in schema.items():
        if isinstance(kind, Audio):
            plain = plain.cast_column(column, kind)
    return plain


def _plain(kind: Any, number: int) -> Any:
    if isinstance(kind, Audio):
        return {"bytes": flac(number), "path": f"{number}.flac"}
    if isinstance(kind, ClassLabel):
        return 0
    return ["words"] if isinstance(kind, List) else _PLAIN[kind.dtype]


def write_copy(folder: Path, name: str, place: str, rows: Iterable[dict[str, Any]], **options: Any) -> None:
    """Write rows as one Parquet file, at a place like "clean/train-00000-of-00001"."""
    file = folder / f"{place}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    some_rows(name, rows, **options).to_parquet(file)
