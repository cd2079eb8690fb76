"""A clip as it sounds in one epoch: every random number comes from (seed, epoch, row, transform)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from audiorl.audio import AudioFault
from audiorl.augment.masks import FrequencyMask, TimeMask
from audiorl.augment.transforms import Transform

TOO_LONG = ("error", "unaugmented")


class Augmentation:
    """Transforms for clips and masks for their spectrograms.

    A clip does not depend on the rows beside it, on the worker or process that makes it, on what came before, or on
    global generators. The epoch lies in shared memory, so that workers which outlive an epoch hear of the next one:
    set it before the loader's iterator is made, when nothing of the last epoch is outstanding.

    Args:
        transforms: applied in this order.
        masks: applied after them, in this order.
        seed: an integer >= 0.
        too_long: what becomes of a clip that outgrows the window: "error" or "unaugmented".
    """

    def __init__(
        self,
        transforms: Sequence[Transform],
        masks: Sequence[TimeMask | FrequencyMask] = (),
        *,
        seed: int = 0,
        too_long: str = "error",
    ):
        self.transforms = tuple(transforms)
        self.masks = tuple(masks)
        self.seed = seed
        self.too_long = too_long
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Say which pass over the rows begins, >= 0; workers that run already hear of it too."""
        self._epoch.fill_(epoch)

    @property
    def growth(self) -> float | None:
        """How many times as long as it is a clip has to find room, >= 1; None where every clip keeps its length.

        It is 1 where outgrown clips are left as they are, though others become longer or shorter.
        """
        found = [transform.growth for transform in self.transforms if transform.growth is not None]
        if not found:
            return None
        return 1.0 if self.too_long == "unaugmented" else max(found)

    def require_fit(self, mel_bins: int | None) -> None:
        """Check the masks against what a model hears.

        Args:
            mel_bins: M; None where it hears the waveform.

        Raises:
            ValueError: a frequency mask without a spectrogram, or one that could cover all of it.
        """
        for mask in self.masks:
            if not isinstance(mask, FrequencyMask):
                continue
            if mel_bins is None:
                raise ValueError(
                    "augmentation: frequency_mask covers bins of a mel spectrogram, and this model hears the waveform. "
                    "Leave it out; time_mask works here."
                )
            if mask.bins.high >= mel_bins:
                raise ValueError(
                    f"augmentation: frequency_mask.bins reaches {mask.bins.high:g}, and this model has {mel_bins} mel "
                    f"bins, of which some must stay. Choose at most {mel_bins - 1}; 27 of 80 is usual."
                )

    def clip(
        self,
        clip: np.ndarray,
        sampling_rate: int,
        row_id: int,
        *,
        max_seconds: float | None = None,
        mask: bool = False,
    ) -> np.ndarray:
        """The clip of a row in this epoch.

        Args:
            clip: (samples,) float32, not written to.
            sampling_rate: Hz.
            row_id: >= 0.
            max_seconds: the model's window.
            mask: whether time masks silence the waveform, because there is no spectrogram for `mask_spectrogram`.

        Returns:
            (samples,) float32, possibly `clip` itself.

        Raises:
            AudioFault: the clip outgrew the window, and `too_long` is "error".
        """
        heard = clip
        for place, transform in enumerate(self.transforms):
            rng = self._rng(row_id, place)
            if rng.random() < transform.p:
                heard = transform(heard, sampling_rate, rng)
        if max_seconds is not None and len(heard) > max_seconds * sampling_rate:
            if self.too_long == "error":
                raise AudioFault(
                    f"the augmented clip is {len(heard) / sampling_rate:.2f} s long, the model hears {max_seconds:g} s",
                    'Cut the clip, slow it less, or set too_long to "unaugmented" in the augmentation.',
                )
            heard = clip
        for place, time_mask in enumerate(self.masks if mask else (), len(self.transforms)):
            rng = self._rng(row_id, place)
            if isinstance(time_mask, TimeMask) and rng.random() < time_mask.p:
                heard = time_mask.on_clip(heard, sampling_rate, rng)
        return heard

    def mask_spectrogram(self, mel: Tensor, seconds: float, row_id: int) -> None:
        """Mask the spectrogram of a row's clip in place.

        Args:
            mel: (M, frames), the clip's own frames without padding.
            seconds: how long the clip is, > 0.
            row_id: >= 0.
        """
        for place, mask in enumerate(self.masks, len(self.transforms)):
            rng = self._rng(row_id, place)
            if rng.random() < mask.p:
                mask.on_spectrogram(mel, seconds, rng)

    def _rng(self, row_id: int, place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, row_id, place])
