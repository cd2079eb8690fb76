"""The demo's data: rows of synthetic speech, made when asked for."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from audiorl.demo.noise import NOISE_KINDS, add_noise, reverberate
from audiorl.demo.sentences import split_sentence
from audiorl.demo.synthesiser import SAMPLING_RATE, Synthesiser, Voice
from audiorl.demo.voices import SPLITS, Split

__all__ = ["WINDOW_SECONDS", "demo_row", "demo_rows", "iterate_demo_rows"]

# The checkpoint's window; a sentence that a slow voice cannot say in it is drawn again.
WINDOW_SECONDS = 3
_SPEECH_RMS = 0.05


def demo_rows(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Synthesise the first `count` rows of a split.

    Args:
        split: "train" or "base" (the checkpoint's own voices: the sentences it was trained on, and new ones),
            "tune" or "held_out" (unknown voices, accents, rates, noise and rooms; disjoint from each other).
        count: how many, 0 or more.
        seed: 0 or more; a row depends on (split, seed, its index) alone, so more rows begin with the fewer.

    Returns:
        Rows `{"audio": {"array": (samples,) float32, "sampling_rate": 16000}, "text", "speaker", "id"}`.

    Raises:
        ValueError: there is no such split.
        SynthesiserMissing: `espeakng-loader` is not installed.
    """
    return list(iterate_demo_rows(split, count, seed))


def iterate_demo_rows(split: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what `demo_rows` returns, one row at a time: same arguments, same rows, same errors."""
    synthesiser = Synthesiser()
    for index in range(count):
        yield demo_row(split, index, seed, synthesiser)


def demo_row(split: str, index: int, seed: int, synthesiser: Synthesiser) -> dict[str, Any]:
    """Synthesise one row of a split.

    Args:
        split: see `demo_rows`.
        index: place of the row in its split, 0 or more.
        seed: see `demo_rows`.
        synthesiser: who speaks.

    Returns:
        One row, see `demo_rows`.

    Raises:
        ValueError: there is no such split.
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    while True:
        text = split_sentence(split, rng)
        conditions = SPLITS["base" if split == "train" else split]
        voice = Voice(
            name=str(rng.choice(conditions.voices)),
            rate=int(rng.integers(*conditions.rate, endpoint=True)),
            pitch=int(rng.integers(*conditions.pitch, endpoint=True)),
        )
        speech = _place(synthesiser.say(text, voice), rng)
        if len(speech) <= WINDOW_SECONDS * SAMPLING_RATE:
            break
    return {
        "audio": {"array": _disturb(speech, conditions, rng), "sampling_rate": SAMPLING_RATE},
        "text": text,
        "speaker": voice.name,
        "id": f"{split}-{seed}-{index:05d}",
    }


def _place(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech of one loudness after up to 0.15 s of silence."""
    lead = np.zeros(int(rng.integers(int(0.15 * SAMPLING_RATE))), dtype=np.float32)
    gain = _SPEECH_RMS / np.sqrt(np.mean(np.square(speech)))
    return np.concatenate([lead, gain * speech])


def _disturb(speech: np.ndarray, conditions: Split, rng: np.random.Generator) -> np.ndarray:
    """The split's room and noise."""
    if rng.random() < conditions.reverberant:
        speech = reverberate(speech, decay_seconds=float(rng.uniform(0.1, 0.3)), rng=rng)
    if rng.random() < conditions.noisy:
        kind = str(rng.choice(sorted(NOISE_KINDS)))
        speech = add_noise(speech, snr_db=float(rng.uniform(*conditions.snr_db)), kind=kind, rng=rng)
    return speech
