"""Rows for the tests of CTC models: clips that are long enough for a symbol in each frame of their texts."""

from __future__ import annotations

from typing import Any

from tests.tiny_ctc import LOWER
from tests.tiny_models import SAMPLING_RATE, tiny_clips
from tests.trained_models import TRANSDUCERS
from tests.trainers.pair_rows import pair_rows

WORDS = {**dict.fromkeys(LOWER, ("a", "i", "a", "i")), **dict.fromkeys(TRANSDUCERS, ("a", "s", "a", "s"))}


def pairs(count: int = 8, seconds: float = 1.6) -> list[dict[str, Any]]:
    """Rows with `chosen` and `rejected`, the longest of so many seconds, the shortest of little more than half."""
    clips = tiny_clips(count, seconds=seconds)
    return pair_rows(count, audio=[{"array": clip, "sampling_rate": SAMPLING_RATE} for clip in clips])


def texts(count: int = 8, seconds: float = 1.6) -> list[dict[str, Any]]:
    """The same clips with `text`."""
    return [{"audio": row["audio"], "text": row["chosen"]} for row in pairs(count, seconds)]


def short_rows(kind: str) -> list[dict[str, Any]]:
    """Four clips of up to 0.25 s with a word of one letter each: what random paths come upon now and then."""
    words = WORDS.get(kind, ("A", "I", "A", "I"))
    clips = tiny_clips(4, seconds=0.25)
    return [
        {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "text": word}
        for clip, word in zip(clips, words, strict=True)
    ]
