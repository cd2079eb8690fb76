"""Recordings of noise."""

from __future__ import annotations

import numpy as np
import soundfile

RATE = 16_000


def recording(path, seconds=3.0, channels=1, **how):
    """Write one and give its path."""
    random = np.random.default_rng(0)
    samples = 0.3 * random.standard_normal((round(seconds * RATE), channels)).clip(-1, 1)
    soundfile.write(path, samples, RATE, **how)
    return str(path)
