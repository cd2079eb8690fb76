"""Masks over time and frequency (Park et al. 2019, SpecAugment, arXiv:1904.08779) on mel spectrograms.

Time masks also act on the waveform, for models that hear that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from audiorl.augment.settings import Range, number, ranged

_MOST_MASKS = 100
# Edges of a silenced stretch of the waveform, so that it begins and ends without a click.
_FADE_SECONDS = 0.005


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
