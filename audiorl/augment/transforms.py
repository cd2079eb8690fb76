"""Transforms of a waveform: each is an object with settings, called with a clip and a random generator.

Time stretching and pitch shifting are audiomentations' (Signalsmith stretch), run with parameters drawn here: left to
itself it draws from global generators and cuts a slowed clip to the old length. Its other transforms of these names
are not used: added noise comes from NumPy's global generator, an impulse response resets the level and shifts the
speech, and a gain is one product.

Masks act last, over time and frequency of mel spectrograms (Park et al. 2019, SpecAugment, arXiv:1904.08779); time
masks also act on the waveform, for models that hear that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from audiorl.audio import SILENCE_PEAK
from audiorl.augment.settings import Range, choice, flag, number, ranged, recording, recordings

_MOST_MASKS = 100
# Edges of a silenced stretch of the waveform, so that it begins and ends without a click.
_FADE_SECONDS = 0.005


class Transform(Protocol):
    """What the pipeline asks of a transform.

    Attributes:
        p: probability in 0 to 1 that it is applied to a clip.
        growth: how many times as long it makes a clip at most, >= 1; None where it keeps the length.
    """

    p: float

    @property
    def growth(self) -> float | None: ...

    def __call__(self, clip: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """(samples,) float32 -> (samples,) float32; `clip` stays as it is."""
        ...


def white_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of equal power in every band: (samples,)."""
    return rng.standard_normal(samples)


def pink_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise whose power falls by 3 dB an octave: (samples,)."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0.0
    return np.fft.irfft(spectrum, n=samples)


@dataclass(frozen=True, kw_only=True)
class SameLength:
    p: float = field(default=1.0, metadata=number(0, 1, "probability"))

    @property
    def growth(self) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Noise(SameLength):
    """Gaussian noise, or parts of recordings, added at a signal-to-noise ratio or with a standard deviation.

        snr_db = 10 log10(mean(clip^2) / mean(noise^2)), over the whole clip

    A recording shorter than the clip is repeated.
    """

    type: str = field(default="gaussian", metadata=choice("gaussian", "files"))
    snr_db: Range | None = field(default=None, metadata=ranged(-30, 100, "dB"))
    std: Range | None = field(default=None, metadata=ranged(0, 1, "of full scale"))
    path: tuple[str, ...] | None = field(default=None, metadata=recordings())
    example: ClassVar[str] = '"type": "gaussian", "snr_db": [5, 20]'

    def __post_init__(self):
        if self.type == "gaussian" and self.path is not None:
            raise ValueError(
                'augmentation: noise has a path, but its type is gaussian. Write "type": "files", or drop the path.'
            )
        if self.type == "files" and (self.path is None or self.std is not None):
            raise ValueError(
                "augmentation: noise from files needs a path and snr_db; std is for gaussian noise. "
                'Write {"type": "files", "path": "noises", "snr_db": [5, 20]}.'
            )
        if (self.snr_db is None) == (self.std is None):
            raise ValueError(
                f"augmentation: noise needs its loudness stated once; got {'none' if self.std is None else 'two'}. "
                f"Write either snr_db or std: {{{self.example}}}."
            )

    def __call__(self, clip: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        noise = self._noise(len(clip), sampling_rate, rng)
        if self.std is not None:
            return (clip + self.std.draw(rng) * noise).astype(np.float32)
        assert self.snr_db is not None
        power_ratio = _power(clip) / _power(noise)
        return (clip + np.sqrt(power_ratio * 10 ** (-self.snr_db.draw(rng) / 10)) * noise).astype(np.float32)

    def _noise(self, samples: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        if self.path is None:
            return rng.standard_normal(samples)
        sound = recording(self.path[rng.integers(len(self.path))], sampling_rate)
        places = len(sound) - samples + 1 if len(sound) >= samples else len(sound)
        part = _cyclic(sound, int(rng.integers(places)), samples)
        if np.abs(part).max() < SILENCE_PEAK:  # a pause has no ratio to speech: begin at the loudest sample instead
            part = _cyclic(sound, int(np.abs(sound).argmax()), samples)
        return part


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Play faster or slower; the whole clip is there afterwards, `len(clip) / factor` samples.

    Source: Ko et al. 2015, Audio augmentation for speech recognition (the pitch moves along); with `keep_pitch` a time
    stretch.
    """

    factor: Range = field(metadata=ranged(0.5, 2, "times as fast"))
    keep_pitch: bool = field(default=False, metadata=flag())
    p: float = field(default=1.0, metadata=number(0, 1, "probability"))
    example: ClassVar[str] = '"factor": [0.9, 1.1]'

    def __post_init__(self):
        if self.keep_pitch:
            _audiomentations()

    @property
    def growth(self) -> float | None:
        return max(1.0, 1 / self.factor.low) if self.p > 0 else None

    def __call__(self, clip: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        factor = self.factor.draw(rng)
        if self.keep_pitch:
            stretch = _audiomentations().TimeStretch(0.5, 2.0, leave_length_unchanged=False, p=1.0)
            return _with_parameters(stretch, clip, sampling_rate, rate=factor)
        import librosa

        slowed = librosa.resample(clip, orig_sr=sampling_rate * factor, target_sr=sampling_rate, res_type="soxr_hq")
        # rounded up there; a clip that fills the window exactly must not outgrow it by a part of a sample
        return slowed[: max(1, round(len(clip) / factor))]


@dataclass(frozen=True, kw_only=True)
class Pitch(SameLength):
    """Move the pitch by semitones; the duration stays."""

    steps: Range = field(metadata=ranged(-12, 12, "semitones"))
    example: ClassVar[str] = '"steps": [-2, 2]'

    def __post_init__(self):
        _audiomentations()

    def __call__(self, clip: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        shift = _audiomentations().PitchShift(-12.0, 12.0, p=1.0)
        return _with_parameters(shift, clip, sampling_rate, num_semitones=self.steps.draw(rng))


@dataclass(frozen=True, kw_only=True)
class Gain(SameLength):
    """Multiply by 10^(db / 20); nothing is clipped."""

    db: Range = field(metadata=ranged(-60, 60, "dB"))
    example: ClassVar[str] = '"db": [-6, 6]'

    def __call__(self, clip: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        return (clip * 10 ** (self.db.draw(rng) / 20)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Reverb(SameLength):
    """A room: direct sound and a decaying tail, or a recorded impulse response.

    The direct sound stays in its place, the power of the clip what it was; the tail behind the last sample is dropped.

    Source: Polack 1988: late reverberation is Gaussian noise under an exponential decay.
    """

    decay_seconds: Range | None = field(default=None, metadata=ranged(0.02, 5, "seconds for 60 dB"))
    direct_db: Range = field(default=Range(0.0, 10.0), metadata=ranged(-20, 40, "dB of direct sound over tail"))
    path: tuple[str, ...] | None = field(default=None, metadata=recordings())
    example: ClassVar[str] = '"decay_seconds": [0.1, 0.5]'

    def __post_init__(self):
        if (self.decay_seconds is None) == (self.path is None):
            raise ValueError(
                "augmentation: reverb takes either decay_seconds or a path of impulse responses; got "
                f"{'neither' if self.path is None else 'both'}. Write {{{self.example}}}."
            )

    def __call__(self, clip: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        from scipy.signal import fftconvolve

        response = self._response(sampling_rate, rng)
        wet = fftconvolve(clip, response)[: len(clip)]
        return (wet * np.sqrt(_power(clip) / max(_power(wet), np.finfo(float).tiny))).astype(np.float32)

    def _response(self, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """(samples,) that begins with the direct sound."""
        if self.path is not None:
            response = recording(self.path[rng.integers(len(self.path))], sampling_rate)
            return response[np.abs(response).argmax() :]
        assert self.decay_seconds is not None
        samples = max(2, round(self.decay_seconds.draw(rng) * sampling_rate))
        response = rng.standard_normal(samples) * 10.0 ** (-3 * np.arange(samples) / samples)
        response[0] = 0.0
        response *= np.sqrt(10 ** (-self.direct_db.draw(rng) / 10) / np.sum(np.square(response)))
        response[0] = 1.0
        return response


TRANSFORMS: dict[str, Any] = {"noise": Noise, "speed": Speed, "pitch": Pitch, "gain": Gain, "reverb": Reverb}


def _power(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def _cyclic(sound: np.ndarray, start: int, samples: int) -> np.ndarray:
    """`samples` samples from `start` on, from the beginning again where they end."""
    return np.resize(np.roll(sound, -start), samples) if start + samples > len(sound) else sound[start:][:samples]


def _audiomentations() -> Any:
    try:
        import audiomentations
    except ImportError as error:
        raise ValueError(
            "augmentation: pitch, and speed with keep_pitch, come from audiomentations, which is not installed. "
            'Run pip install "audiorl[augment]", or leave them out.'
        ) from error
    return audiomentations


def _with_parameters(transform: Any, clip: np.ndarray, sampling_rate: int, **parameters: float) -> np.ndarray:
    """One of audiomentations' transforms with parameters drawn by the caller."""
    transform.parameters = {"should_apply": True, **parameters}
    transform.freeze_parameters()
    return transform(clip, sampling_rate)


# ---- masks ----


@dataclass(frozen=True, kw_only=True)
class TimeMask:
    """Stretches of a clip replaced by the spectrogram's mean, or silenced in the waveform.

    Each is `seconds` long, but at most `max_share` of the clip, the paper's p.
    """

    seconds: Range = field(metadata=ranged(0, 30, "seconds"))
    count: int = field(default=1, metadata=number(1, _MOST_MASKS, "masks", whole=True))
    max_share: float = field(default=0.2, metadata=number(0, 1, "share of the clip"))
    p: float = field(default=1.0, metadata=number(0, 1, "probability"))
    example: ClassVar[str] = '"seconds": [0, 0.5]'

    def on_spectrogram(self, mel: Tensor, seconds: float, rng: np.random.Generator) -> None:
        """Mask (M, frames), a clip of `seconds`, in place."""
        fill, frames = mel.mean(), mel.shape[1]
        for _ in range(self.count):
            start, width = self._place(frames, seconds, rng)
            mel[:, start : start + width] = fill

    def on_clip(self, clip: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """(samples,) float32 with stretches silenced."""
        masked = clip.copy()
        for _ in range(self.count):
            start, width = self._place(len(clip), len(clip) / sampling_rate, rng)
            inwards = np.minimum(np.arange(width), np.arange(width)[::-1]) / (_FADE_SECONDS * sampling_rate)
            masked[start : start + width] *= np.maximum(0, 1 - inwards).astype(np.float32)
        return masked

    def _place(self, length: int, seconds: float, rng: np.random.Generator) -> tuple[int, int]:
        width = int(min(self.seconds.draw(rng) / seconds, self.max_share) * length)
        return int(rng.integers(length - width + 1)), width


@dataclass(frozen=True, kw_only=True)
class FrequencyMask:
    """Bands of neighbouring mel bins replaced by the spectrogram's mean."""

    bins: Range = field(metadata=ranged(0, 512, "mel bins", whole=True))
    count: int = field(default=1, metadata=number(1, _MOST_MASKS, "masks", whole=True))
    p: float = field(default=1.0, metadata=number(0, 1, "probability"))
    example: ClassVar[str] = '"bins": [0, 27]'

    def on_spectrogram(self, mel: Tensor, seconds: float, rng: np.random.Generator) -> None:
        """Mask (M, frames) in place."""
        fill = mel.mean()
        for _ in range(self.count):
            width = self.bins.draw_integer(rng)
            start = int(rng.integers(mel.shape[0] - width + 1))
            mel[start : start + width] = fill


MASKS: dict[str, Any] = {"time_mask": TimeMask, "frequency_mask": FrequencyMask}
