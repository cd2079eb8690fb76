"""How Whisper hears, whatever its head: a window of fixed length, as a log-mel spectrogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from audiorl.models.family import SpeechFamily


class WhisperAudio(SpeechFamily):
    """The features of a Whisper family; its `__init__` calls `init_audio`."""

    def init_audio(self, extractor: Any, config: Any) -> None:
        """Take rate, window and mel bins from the feature extractor.

        Raises:
            ValueError: it does not fit the model's config.
        """
        frames = 2 * config.max_source_positions
        if (extractor.feature_size, extractor.nb_max_frames) != (config.num_mel_bins, frames):
            raise ValueError(
                f"The processor makes {extractor.feature_size} mel bins x {extractor.nb_max_frames} frames, the model "
                f"hears {config.num_mel_bins} x {frames}. Load the processor from the model's own checkpoint."
            )
        self.extractor = extractor
        self.sampling_rate = extractor.sampling_rate
        self.max_seconds = float(extractor.chunk_length)
        self.mel_bins = extractor.feature_size

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """(B, M, L) log-mel features; L is the model's whole window."""
        made = self.extractor(
            list(clips),
            sampling_rate=self.sampling_rate,
            return_tensors="pt",
            truncation=False,
            padding="max_length",
        )
        return {"input_features": made.input_features}

    def spectrograms(self, features: Mapping[str, Tensor], samples: Sequence[int]) -> list[Tensor]:
        hop = self.extractor.hop_length
        return [mel[:, : max(1, n // hop)] for mel, n in zip(features["input_features"], samples, strict=True)]
