"""The CTC models of transformers that are tuned here: Wav2Vec2, HuBERT and WavLM by waveform, Parakeet by mel frames.

Their scores hold to three rules that stock training does not. A clip's logits do not depend on the padding beside it
(`padding.py`, `fast_conformer.py`). Batch norm (Parakeet) keeps the checkpoint's statistics, in training too
(`padding.py`). Nothing is dropped or masked unless `disable_dropout` is turned off (`forward.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch
from audiorl.models.ctc import CTCFamily
from audiorl.models.fast_conformer import FastConformerAudio
from audiorl.models.forward import base_model
from audiorl.models.padding import WAVLM_UNADAPTABLE, read_waveforms, shortest_clip, waveform_features


class WaveformCTCFamily(CTCFamily):
    """Wav2Vec2, HuBERT and WavLM: convolutions over the waveform, a transformer, a linear head."""

    def __init__(self, model: nn.Module, processor: Any):
        config = base_model(model).config
        for name, why in (
            ("add_adapter", "convolutions behind its transformer"),
            ("conv_pos_batch_norm", "a batch norm before its positions"),
        ):
            if getattr(config, name, False):
                raise ValueError(
                    f"This checkpoint has {why} ({name}), whose result moves with the padding of a batch, so that its "
                    "scores would depend on the clips beside it. Use a checkpoint without."
                )
        super().__init__(model, processor)
        self.convolutions = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.min_seconds = shortest_clip(config) / self.sampling_rate

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """(B, N) waveforms, each normalised over its own samples if the checkpoint's are, and their mask."""
        return waveform_features(self.processor.feature_extractor, clips)

    def frames_in(self, samples: int) -> int:
        for kernel, stride in self.convolutions:
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    def _frames_of_audio(self, length: Tensor) -> Tensor:
        for kernel, stride in self.convolutions:
            length = (torch.div(length - kernel, stride, rounding_mode="floor") + 1).clamp(min=0)
        return length

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(base_model(model).base_model.parameters())

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        listener = base.base_model
        trains = torch.is_grad_enabled() and not self.encoder_is_frozen(base)
        with torch.set_grad_enabled(trains), _graph_only_where_trained(listener.feature_extractor):
            return read_waveforms(listener, batch).last_hidden_state

    def _head(self, base: PreTrainedModel, states: Tensor) -> Tensor:
        return base.lm_head(base.dropout(states))


@contextlib.contextmanager
def _graph_only_where_trained(convolutions: Any) -> Iterator[None]:
    """In training mode stock convolutions keep a graph, the largest part of it, also where nothing in them trains."""
    before = convolutions._requires_grad
    convolutions._requires_grad = any(parameter.requires_grad for parameter in convolutions.parameters())
    try:
        yield
    finally:
        convolutions._requires_grad = before


class WavLMCTCFamily(WaveformCTCFamily):
    """WavLM; see `padding.py` for what an adapter cannot change."""

    unadaptable = WAVLM_UNADAPTABLE


class ParakeetCTCFamily(FastConformerAudio, CTCFamily):
    """Parakeet-CTC: a fast conformer over mel frames, eight of them to a frame of symbols."""

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        self.init_audio(processor.feature_extractor, base_model(model).config.encoder_config)

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(base_model(model).encoder.parameters())

    def _head(self, base: PreTrainedModel, states: Tensor) -> Tensor:
        return base.ctc_head(states)
