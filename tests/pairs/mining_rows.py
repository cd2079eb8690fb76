"""Transcribed rows for the mining tests: tiny clips of speech that is none, as arrays or as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import soundfile

from tests.tiny_models import SAMPLING_RATE, tiny_clips

TEXTS = ("the lazy dog", "all year", "she had your dark suit", "jumps over", "water", "the quick brown fox", "her dog")


def rows(count: int = 5, **columns: list) -> list[dict[str, Any]]:
    """`count` <= 7 rows with `audio`, `text` and `speaker`."""
    made = [
        {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "text": TEXTS[i], "speaker": f"s{i}"}
        for i, clip in enumerate(tiny_clips(count))
    ]
    return [{**row, **{name: values[i] for name, values in columns.items()}} for i, row in enumerate(made)]


def rows_on_disk(folder: Path, count: int = 7) -> Path:
    """The same as WAV files beside a JSON lines file."""
    lines = []
    for i, clip in enumerate(tiny_clips(count)):
        soundfile.write(folder / f"{i}.wav", clip, SAMPLING_RATE)
        lines.append({"audio": f"{i}.wav", "text": TEXTS[i], "speaker": f"s{i}"})
    path = folder / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path
