"""Features of a clip besides a model's own input: level, length, mel spectrogram, MFCCs, computed by librosa.

    process = ClipProcessor(features="mfcc", peak=1.0, seconds=10)
    clip = process("speech.flac")  # or bytes, or {"array", "sampling_rate"}
    clip.samples, clip.sampling_rate, clip.seconds, clip.features

The defaults are speech's usual ones at 16 kHz: frames of 25 ms every 10 ms, 80 mel bands. All functions take
(samples,) float32 arrays at a known rate; `load_audio` makes one from any file or array.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from audiorl.audio.load import load_audio

FRAME_SECONDS = 0.025
HOP_SECONDS = 0.010
MEL_BANDS = 80
COEFFICIENTS = 40

Features = Literal["none", "mel", "log_mel", "mfcc"]


class ProcessedClip(NamedTuple):
    """A clip and its features."""

    samples: np.ndarray  # (samples,) float32
    sampling_rate: int  # Hz
    seconds: float
    features: np.ndarray | None  # (bands or coefficients, frames) float32


@dataclass(frozen=True, kw_only=True)
class ClipProcessor:
    """Load a clip, bring it to a level and a length, and compute its features.

    Args:
        sampling_rate: Hz to resample to, > 0.
        peak: scale the clip so that its largest sample is this, in (0, 1]; None leaves its level.
        seconds: cut or pad to exactly this, > 0; None keeps the length.
        max_seconds: cut what is longer, > 0; None keeps it. One of the two at most.
        features: "none", "mel" (power), "log_mel" (decibels) or "mfcc".

    Raises:
        ValueError: a setting out of range.
    """

    sampling_rate: int = 16000
    peak: float | None = None
    seconds: float | None = None
    max_seconds: float | None = None
    features: Features = "none"

    def __post_init__(self) -> None:
        if self.features not in ("none", *_FEATURES):
            raise ValueError(f"features is {self.features!r}. Choose one of {['none', *_FEATURES]}.")
        if self.seconds is not None and self.max_seconds is not None:
            raise ValueError("seconds and max_seconds both say how long a clip may be. Leave one of them out.")
        for name, length in (("seconds", self.seconds), ("max_seconds", self.max_seconds)):
            if length is not None:
                _samples_of(length, self.sampling_rate, name)
        if self.peak is not None:
            _check_peak(self.peak)

    def __call__(self, source: Any) -> ProcessedClip:
        """Process one clip.

        Args:
            source: whatever `load_audio` takes.

        Raises:
            AudioFault: the clip cannot be used.
        """
        samples = load_audio(source, self.sampling_rate)
        if self.max_seconds is not None:
            samples = cut_clip(samples, self.sampling_rate, self.max_seconds)
        if self.seconds is not None:
            samples = fit_clip(samples, self.sampling_rate, self.seconds)
        if self.peak is not None:
            samples = normalise_peak(samples, self.peak)
        made = None if self.features == "none" else _FEATURES[self.features](samples, self.sampling_rate)
        return ProcessedClip(samples, self.sampling_rate, len(samples) / self.sampling_rate, made)


# ---- level and length ----


def normalise_peak(samples: np.ndarray, peak: float = 1.0) -> np.ndarray:
    """Scale a clip so that its largest absolute sample is `peak`, in (0, 1]; silence stays silence.

    Returns:
        (samples,) float32.
    """
    _check_peak(peak)
    largest = float(np.abs(samples).max(initial=0.0))
    return (samples * (peak / largest if largest > 0 else 1.0)).astype(np.float32)


def cut_clip(samples: np.ndarray, sampling_rate: int, seconds: float, *, start: float = 0.0) -> np.ndarray:
    """At most `seconds` of a clip from `start` on; a shorter clip is not made longer.

    Args:
        samples: (samples,).
        sampling_rate: Hz, > 0.
        seconds: > 0.
        start: seconds, 0 or more, before the end of the clip.

    Raises:
        ValueError: `start` lies outside the clip, or a length is not above 0.
    """
    first = round(start * sampling_rate)
    if not 0 <= first < len(samples):
        raise ValueError(
            f"start is {start:g} s, the clip is {len(samples) / sampling_rate:g} s long. Start inside the clip."
        )
    return samples[first : first + _samples_of(seconds, sampling_rate, "seconds")]


def fit_clip(samples: np.ndarray, sampling_rate: int, seconds: float) -> np.ndarray:
    """A clip of exactly `seconds` > 0: a longer clip loses its end, a shorter one gets silence behind it."""
    wanted = _samples_of(seconds, sampling_rate, "seconds")
    return np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))


# ---- features ----


def mel_spectrogram(
    samples: np.ndarray,
    sampling_rate: int,
    *,
    bands: int = MEL_BANDS,
    frame_seconds: float = FRAME_SECONDS,
    hop_seconds: float = HOP_SECONDS,
) -> np.ndarray:
    """Power in mel bands: Hann-windowed frames centred on multiples of the hop, silence beyond the ends.

    Args:
        samples: (samples,), at least one.
        sampling_rate: Hz, > 0.
        bands: > 0, from 0 Hz to half the rate, on Slaney's mel scale and with his equal areas (librosa's).
        frame_seconds, hop_seconds: > 0.

    Returns:
        (bands, 1 + samples // hop) float32, 0 or more.
    """
    import librosa  # seconds, which most programs need not spend

    frame = _samples_of(frame_seconds, sampling_rate, "frame_seconds")
    hop = _samples_of(hop_seconds, sampling_rate, "hop_seconds")
    return librosa.feature.melspectrogram(
        y=np.asarray(samples, dtype=np.float32), sr=sampling_rate, n_fft=frame, hop_length=hop, n_mels=bands
    )


def log_mel_spectrogram(samples: np.ndarray, sampling_rate: int, **settings: Any) -> np.ndarray:
    """`mel_spectrogram` in decibels: 10 log10 of the power, which counts from 1e-10 up; at most 80 dB below the
    loudest.

    Returns:
        (bands, frames) float32.
    """
    import librosa

    return librosa.power_to_db(mel_spectrogram(samples, sampling_rate, **settings))


def mfcc(samples: np.ndarray, sampling_rate: int, *, coefficients: int = COEFFICIENTS, **settings: Any) -> np.ndarray:
    """Mel-frequency cepstral coefficients: an orthonormal DCT-II of `log_mel_spectrogram` over its bands.

    Args:
        samples, sampling_rate: see `mel_spectrogram`.
        coefficients: how many, from the 0th on; 1 to the number of bands.
        settings: of `mel_spectrogram`.

    Returns:
        (coefficients, frames) float32.

    Raises:
        ValueError: more coefficients than bands.
    """
    bands = settings.get("bands", MEL_BANDS)
    if not 1 <= coefficients <= bands:
        raise ValueError(f"coefficients is {coefficients}; {bands} mel bands have 1 to {bands}. Take fewer.")
    import librosa

    return librosa.feature.mfcc(S=log_mel_spectrogram(samples, sampling_rate, **settings), n_mfcc=coefficients)


_FEATURES = {"mel": mel_spectrogram, "log_mel": log_mel_spectrogram, "mfcc": mfcc}


def _samples_of(seconds: float, sampling_rate: int, name: str) -> int:
    samples = round(seconds * sampling_rate)
    if samples < 1:
        raise ValueError(
            f"{name} is {seconds:g}, which at {sampling_rate} Hz is no sample. Give seconds and a rate above 0."
        )
    return samples


def _check_peak(peak: float) -> None:
    if not 0 < peak <= 1:
        raise ValueError(f"peak is {peak:g}; samples beyond 1 would be clipped. Give one above 0, at most 1.")
