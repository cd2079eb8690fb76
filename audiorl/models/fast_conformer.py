"""The fast conformer (Rekesh et al. 2023, arXiv:2305.05084), the encoder of Parakeet, Canary and Nemotron.

A clip's states do not depend on the padding beside it: features are normalised over each clip's own frames, and the
subsampling, the attention and the convolutions get a mask of them. Batch norm keeps the checkpoint's statistics
(`padding.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch
from audiorl.models.family import SpeechFamily
from audiorl.models.forward import base_model
from audiorl.models.padding import keep_statistics


class FastConformerAudio(SpeechFamily):
    """Features and states of a family whose encoder is a `ParakeetEncoder` or derives from one.

    `__init__` calls `init_audio`.

    Attributes:
        encoder_options: keywords of the encoder's forward.
    """

    encoder_options: Mapping[str, Any] = {}

    def init_audio(self, extractor: Any, config: Any, *, causal: bool = False) -> None:
        """Take rate, mel bins and lengths from the feature extractor and the encoder's config.

        Args:
            causal: whether the subsampling pads its past (a streaming encoder) instead of both sides.

        Raises:
            ValueError: the two do not fit together.
        """
        if extractor.feature_size != config.num_mel_bins:
            raise ValueError(
                f"The processor makes {extractor.feature_size} mel bins, the model hears {config.num_mel_bins}. Load "
                "the processor from the model's own checkpoint."
            )
        self.extractor = extractor
        self.sampling_rate = extractor.sampling_rate
        self.mel_bins = extractor.feature_size
        self.hop = extractor.hop_length
        self.halvings = int(math.log2(config.subsampling_factor))
        self.kernel, self.stride = config.subsampling_conv_kernel_size, config.subsampling_conv_stride
        self.edges = self.kernel + self.stride - 2 if causal else 2 * ((self.kernel - 1) // 2)
        self.min_samples = 2 * self.hop  # the features are divided by their deviation, which needs two frames
        self.min_seconds = self.min_samples / self.sampling_rate
        self.max_seconds = self._most_samples(config.max_position_embeddings) / self.sampling_rate

    def install(self, model: nn.Module) -> None:
        super().install(model)
        keep_statistics(base_model(model))

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """(B, M, L) log-mel features, each clip's normalised over its own frames, and their mask (B, L)."""
        # one by one: padding beside a clip would change the last digits of its mean and deviation
        made = [self.extractor([clip], sampling_rate=self.sampling_rate, return_tensors="pt") for clip in clips]
        mels, masks = zip(*((one.input_features[0], one.attention_mask[0].long()) for one in made), strict=True)
        mel = pad_sequence(list(mels), batch_first=True).transpose(1, 2)
        return {"input_features": mel, "audio_mask": pad_sequence(list(masks), batch_first=True)}

    def spectrograms(self, features: Mapping[str, Tensor], samples: Sequence[int]) -> list[Tensor]:
        return [mel[:, : max(1, n // self.hop)] for mel, n in zip(features["input_features"], samples, strict=True)]

    def frames_in(self, samples: int) -> int:
        """States that a clip of this many samples gives."""
        if samples < self.min_samples:
            return 0
        return int(self._frames_of_audio(torch.tensor(samples // self.hop)))

    def _frames_of_audio(self, length: Tensor) -> Tensor:
        """States from numbers of mel frames."""
        for _ in range(self.halvings):
            length = torch.div(length + self.edges - self.kernel, self.stride, rounding_mode="floor") + 1
        return length

    def _most_samples(self, frames: int) -> int:
        """Samples of the longest clip that gives no more than this many states."""
        for _ in range(self.halvings):
            frames = frames * self.stride + self.kernel - self.edges - 1
        return (frames + 1) * self.hop - 1

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        encoder = base.get_encoder()
        assert batch.audio_mask is not None, "features makes one"
        features = batch.audio.transpose(1, 2).to(encoder.subsampling.linear.weight.dtype)
        return encoder(features, attention_mask=batch.audio_mask.bool(), **self.encoder_options).last_hidden_state
