"""Measures of a signal, frame by frame in float64; the spectrum is the sum that defines it."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence


def frames_of(samples: Sequence[float], window: int, hop: int) -> list[list[float]]:
    samples = list(samples) + [0.0] * max(0, window - len(samples))
    return [list(samples[start : start + window]) for start in range(0, len(samples) - window + 1, hop)]


def powers_of(frames: list[list[float]]) -> list[float]:
    return [sum(x * x for x in frame) / len(frame) for frame in frames]


def quantile(values: Sequence[float], q: float) -> float:
    """Linear between the two nearest ranks."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def snr_db(samples: Sequence[float], window: int, hop: int) -> float:
    frames = frames_of(samples, window, hop)
    powers = powers_of(frames)
    kept = [frame for frame, power in zip(frames, powers, strict=True) if power >= max(powers) * 1e-6]
    spectra = []
    for frame in kept:
        shaped = [x * (0.5 - 0.5 * math.cos(2 * math.pi * n / (window - 1))) for n, x in enumerate(frame)]
        spectra.append(
            [
                abs(sum(x * cmath.exp(-2j * math.pi * f * n / window) for n, x in enumerate(shaped))) ** 2
                for f in range(window // 2 + 1)
            ]
        )
    noise = sum(quantile([row[f] for row in spectra], 0.05) for f in range(window // 2 + 1)) / -math.log(0.95)
    total = sum(sum(row) for row in spectra) / len(spectra)
    return 10 * math.log10((total - noise) / noise)


def clipped_share(samples: Sequence[float]) -> float:
    peak = max(abs(x) for x in samples)
    count, run, before = 0, 0, 0
    for x in [*samples, 0.0]:
        side = 0 if abs(x) < peak * 0.9999 else (1 if x > 0 else -1)
        if side and side == before:
            run += 1
        else:
            count += run if run >= 3 else 0
            run = 1 if side else 0
        before = side
    return count / len(samples)


def dynamic_range_db(samples: Sequence[float], window: int, hop: int) -> float:
    powers = powers_of(frames_of(samples, window, hop))
    levels = [10 * math.log10(power) for power in powers if power >= max(powers) * 1e-4]
    return quantile(levels, 0.95) - quantile(levels, 0.1)


def silent_share(samples: Sequence[float], window: int, hop: int) -> float:
    powers = powers_of(frames_of(samples, window, hop))
    return sum(power < max(powers) * 1e-4 for power in powers) / len(powers)
