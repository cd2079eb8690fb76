"""The embedded default: an offline speech synthesiser, sentences to say, and a small checkpoint to tune."""

from __future__ import annotations

from audiorl.demo.rows import (
    NOISE_KINDS,
    VOCABULARY,
    WINDOW_SECONDS,
    add_noise,
    demo_rows,
    iterate_demo_rows,
    random_sentence,
    reverberate,
)
from audiorl.demo.settings import CHECKPOINT
from audiorl.demo.synthesiser import (
    SAMPLING_RATE,
    Synthesiser,
    SynthesiserError,
    SynthesiserMissing,
    UnknownVoice,
    Voice,
)

__all__ = [
    "CHECKPOINT",
    "NOISE_KINDS",
    "SAMPLING_RATE",
    "VOCABULARY",
    "WINDOW_SECONDS",
    "Synthesiser",
    "SynthesiserError",
    "SynthesiserMissing",
    "UnknownVoice",
    "Voice",
    "add_noise",
    "demo_rows",
    "iterate_demo_rows",
    "random_sentence",
    "reverberate",
]
