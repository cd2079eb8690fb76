"""Sounds for tests of audio, and the files they are written to."""

from __future__ import annotations

import io

import numpy as np
import soundfile

RATE = 16000
SUBTYPES = {"opus": "OPUS", "ogg": "VORBIS"}
FORMATS = {"opus": "OGG"}


def sine(hertz: float = 440.0, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, kind: str = "wav", rate: int = RATE, **options) -> bytes:
    content = io.BytesIO()
    options = {"subtype": SUBTYPES.get(kind), **options}
    soundfile.write(content, samples, rate, format=FORMATS.get(kind, kind.upper()), **options)
    return content.getvalue()
