"""Mel spectrogram and MFCC in float64 loops, from their definitions; nothing of audiorl or librosa."""

from __future__ import annotations

import math

import numpy as np


def hz_to_mel(hertz: float) -> float:
    """Slaney's scale: linear to 1 kHz (3 mel for 200 Hz), then 27 mel for each factor of 6.4."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def mel_to_hz(mel: float) -> float:
    return 200 * mel / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def mel_spectrogram(samples: np.ndarray, rate: int, bands: int, frame: int, hop: int) -> np.ndarray:
    """(bands, 1 + samples // hop): triangles of area 1 (in hertz) over the power of Hann-windowed, centred frames."""
    top = hz_to_mel(rate / 2)
    edges = [mel_to_hz(top * i / (bands + 1)) for i in range(bands + 2)]
    padded = np.concatenate([np.zeros(frame // 2), samples.astype(np.float64), np.zeros(frame // 2)])
    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / frame) for n in range(frame)]
    out = np.zeros((bands, 1 + len(samples) // hop))
    for t in range(out.shape[1]):
        piece = padded[t * hop : t * hop + frame] * window
        for k in range(frame // 2 + 1):
            turn = np.exp(-2j * math.pi * k * np.arange(frame) / frame)
            power = abs((piece * turn).sum()) ** 2
            hertz = k * rate / frame
            for band in range(bands):
                low, middle, high = edges[band : band + 3]
                weight = max(0.0, min((hertz - low) / (middle - low), (high - hertz) / (high - middle)))
                out[band, t] += weight * 2 / (high - low) * power
    return out


def decibels(power: np.ndarray) -> np.ndarray:
    """10 log10 of the power, from 1e-10 up, and no lower than 80 below the highest."""
    out = np.array([[10 * math.log10(max(1e-10, float(p))) for p in row] for row in power])
    return np.maximum(out, out.max() - 80)


def mfcc(log_mel: np.ndarray, coefficients: int) -> np.ndarray:
    """Orthonormal DCT-II over the bands."""
    bands, frames = log_mel.shape
    out = np.zeros((coefficients, frames))
    for c in range(coefficients):
        scale = math.sqrt((1 if c == 0 else 2) / bands)
        for t in range(frames):
            terms = (log_mel[b, t] * math.cos(math.pi * c * (b + 0.5) / bands) for b in range(bands))
            out[c, t] = scale * sum(terms)
    return out


def htk_mel_spectrogram(samples: np.ndarray, rate: int, bands: int, frame: int, window: int, hop: int) -> np.ndarray:
    """(bands, 1 + samples // hop): triangles of height 1 on the HTK scale over the power of centred frames of the clip
    mirrored at its ends; a Hann window shorter than the frame stands in its middle."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = [700 * (10 ** (top * i / (bands + 1) / 2595) - 1) for i in range(bands + 2)]
    padded = np.pad(samples.astype(np.float64), frame // 2, mode="reflect")
    shape = np.zeros(frame)
    for n in range(window):
        shape[(frame - window) // 2 + n] = 0.5 - 0.5 * math.cos(2 * math.pi * n / window)
    out = np.zeros((bands, 1 + len(samples) // hop))
    for t in range(out.shape[1]):
        piece = padded[t * hop : t * hop + frame] * shape
        for k in range(frame // 2 + 1):
            power = abs((piece * np.exp(-2j * math.pi * k * np.arange(frame) / frame)).sum()) ** 2
            hertz = k * rate / frame
            for band in range(bands):
                low, middle, high = edges[band : band + 3]
                weight = max(0.0, min((hertz - low) / (middle - low), (high - hertz) / (high - middle)))
                out[band, t] += weight * power
    return out


def regression_deltas(features: np.ndarray, window: int) -> np.ndarray:
    """(M, L): the slope of a straight line through `window` frames, the middle one's; ends are repeated (HTK, 5.16)."""
    reach = (window - 1) // 2
    bands, frames = features.shape
    out = np.zeros((bands, frames))
    for band in range(bands):
        for t in range(frames):
            offsets = [float(n) for n in range(-reach, reach + 1)]
            seen = [float(features[band, min(max(t + int(n), 0), frames - 1)]) for n in offsets]
            mean = sum(seen) / len(seen)
            out[band, t] = sum(n * (x - mean) for n, x in zip(offsets, seen, strict=True)) / sum(n * n for n in offsets)
    return out
