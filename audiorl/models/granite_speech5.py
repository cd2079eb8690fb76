"""Granite Speech 5.0: a conformer over pairs of mel frames, blocks that halve time, and a CTC head.

1. Padding changes the last of a clip's features (frames and deltas reach into it) and, where time is halved, an odd
   last frame. Each clip becomes features by itself, and the encoder reads equally long clips together, without padding.
2. Batch norm keeps the checkpoint's statistics, in training too (`padding.py`).
3. In the middle, the encoder reads its own symbols through the weights of the head, so the head is part of it.
4. transformers' feature extractor cannot be built without torchaudio, which has no release for every release of torch.
   It takes two functions from there; `MelSpectrogram` and `deltas` give the same numbers with torch alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers.models.granite_speech5.modeling_granite_speech5 import GraniteSpeech5ForCTC
from transformers.utils import is_torchaudio_available

from audiorl.models.ctc import SpectrogramCTCFamily
from audiorl.models.forward import base_model
from audiorl.models.granite_speech import MelSpectrogram

PACKAGE, EXTRACTOR = "transformers.models.granite_speech5", "GraniteSpeech5FeatureExtractor"


class GraniteSpeech5Family(SpectrogramCTCFamily):
    """Granite Speech 5.0 (turbo CTC): a frame of symbols for 80 ms.

    The encoder reads the head's weights, so freezing it leaves nothing to train, and an adapter goes into the other
    layers.
    """

    unadaptable = ("ctc_head", "out")

    def __init__(self, model: nn.Module, processor: Any):
        extractor, encoder = processor.feature_extractor, base_model(model).config.encoder_config
        if extractor.num_mel_bins != encoder.num_mel_bins:
            raise ValueError(
                f"The processor makes {extractor.num_mel_bins} mel bins, the model hears {encoder.num_mel_bins}. Load "
                "the processor from the model's own checkpoint."
            )
        self.hop, self.stacked = extractor.hop_length, extractor.frame_stacking
        self.mirrored = extractor.n_fft // 2  # samples at each end of a clip, which needs one more
        self.halvings = len(encoder.subsample_layers)
        super().__init__(model, processor)

    @classmethod
    def require_packages(cls) -> None:
        """Say where the embeddings are: PEFT asks every model with tied weights, and this one has the head's alone."""
        GraniteSpeech5ForCTC._input_embed_layer = "ctc_head"

    def install(self, model: nn.Module) -> None:
        self.require_packages()
        super().install(model)

    @classmethod
    def load_processor(cls, name: str) -> Any:
        do_without_torchaudio()
        return super().load_processor(name)

    def runs_in_pipeline(self, model: nn.Module) -> bool:
        """A pipeline makes no features without torchaudio."""
        return False

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """(B, M, L) features, M those of two mel frames and their deltas, and a mask (B, L), of each clip by itself."""
        do_without_torchaudio()  # a worker that loads the rows may be a new process
        return super().features(clips)

    def _features_in(self, samples: int) -> int:
        return -(-(samples // self.hop) // self.stacked) if samples > self.mirrored else 0

    def _frames_of_audio(self, length: Tensor) -> Tensor:
        for _ in range(self.halvings):
            length = torch.div(length, 2, rounding_mode="floor")
        return length

    def _listener(self, base: Any) -> Any:
        return base.encoder

    def _head(self, base: Any, states: Tensor) -> Tensor:
        return base.ctc_head(states)


# ---- features without torchaudio ----


def deltas(features: Tensor, win_length: int = 5) -> Tensor:
    """How features change over time, by regression; frames beyond the ends repeat the first and the last.

        delta[t] = sum_n n * (features[t + n] - features[t - n]) / (2 * sum_n n^2),  n = 1 ... (win_length - 1) / 2

    Args:
        features: (..., M, L).
        win_length: odd, > 2.

    Returns:
        (..., M, L).

    Source: Young et al., The HTK Book (version 3.5), section 5.9, equation 5.16.
    """
    reach, frames = (win_length - 1) // 2, features.shape[-1]
    first, last = features[..., :1], features[..., -1:]
    padded = torch.cat([*[first] * reach, features, *[last] * reach], -1)
    total = torch.zeros_like(features)
    for n in range(1, reach + 1):
        total += n * (padded[..., reach + n : reach + n + frames] - padded[..., reach - n : reach - n + frames])
    return total / (2 * sum(n * n for n in range(1, reach + 1)))


def do_without_torchaudio() -> None:
    """If torchaudio is missing, let transformers' extractor for Granite Speech 5.0 take two functions from here.

    Without this, the class cannot be used. Where torchaudio is installed, nothing changes.
    """
    if is_torchaudio_available():
        return
    stock: Any = importlib.import_module(f"{PACKAGE}.feature_extraction_granite_speech5")
    stock.torchaudio = SimpleNamespace(
        transforms=SimpleNamespace(MelSpectrogram=MelSpectrogram), functional=SimpleNamespace(compute_deltas=deltas)
    )
    # transformers shows a class that only raises in the places where it looks extractors up
    for place in (transformers, importlib.import_module(PACKAGE)):
        setattr(place, EXTRACTOR, getattr(stock, EXTRACTOR))
