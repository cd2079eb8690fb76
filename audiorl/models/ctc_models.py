"""The CTC models of transformers that are tuned here: Wav2Vec2, HuBERT and WavLM by waveform, Parakeet by mel frames.

Their scores hold to three rules that stock training does not. A clip's logits do not depend on the padding beside it
(`waveform.py`). Batch norm (Parakeet) keeps the checkpoint's statistics, in training too, so that what is sampled is
what is scored. Nothing is dropped or masked unless `disable_dropout` is turned off (`speech_call.py`).
"""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch
from audiorl.models.ctc import CTCFamily
from audiorl.models.speech_call import base_model
from audiorl.models.waveform import WAVLM_UNADAPTABLE, read_waveforms, shortest_clip, waveform_features


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
    """WavLM; see `waveform.py` for what an adapter cannot change."""

    unadaptable = WAVLM_UNADAPTABLE


class ParakeetCTCFamily(CTCFamily):
    """Parakeet-CTC: a fast conformer over mel frames, eight of them to a frame of symbols."""

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config.encoder_config
        extractor = processor.feature_extractor
        if extractor.feature_size != config.num_mel_bins:
            raise ValueError(
                f"The processor makes {extractor.feature_size} mel bins, the model hears {config.num_mel_bins}. Load "
                "the processor from the model's own checkpoint."
            )
        self.mel_bins = extractor.feature_size
        self.hop = extractor.hop_length
        self.halvings = int(math.log2(config.subsampling_factor))
        self.kernel, self.stride = config.subsampling_conv_kernel_size, config.subsampling_conv_stride
        self.min_seconds = self._samples_for(1) / self.sampling_rate
        self.max_seconds = (self._samples_for(config.max_position_embeddings + 1) - 1) / self.sampling_rate

    def install(self, model: nn.Module) -> None:
        super().install(model)
        for module in base_model(model).modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                _stay_evaluating(module)

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """(B, M, L) log-mel features, each clip's normalised over its own frames, and their mask (B, L)."""
        # one by one: padding beside a clip would change the last digits of its mean and deviation
        made = [
            self.processor.feature_extractor([clip], sampling_rate=self.sampling_rate, return_tensors="pt")
            for clip in clips
        ]
        mels, masks = zip(*((one.input_features[0], one.attention_mask[0].long()) for one in made), strict=True)
        mel = pad_sequence(list(mels), batch_first=True).transpose(1, 2)
        return {"input_features": mel, "audio_mask": pad_sequence(list(masks), batch_first=True)}

    def spectrograms(self, features: Mapping[str, Tensor], samples: Sequence[int]) -> list[Tensor]:
        return [mel[:, : max(1, n // self.hop)] for mel, n in zip(features["input_features"], samples, strict=True)]

    def frames_in(self, samples: int) -> int:
        mel_frames = samples // self.hop
        # the features are divided by their deviation, which a single frame has not
        return int(self._frames_of_audio(torch.tensor(mel_frames))) if mel_frames > 1 else 0

    def _frames_of_audio(self, length: Tensor) -> Tensor:
        padding = (self.kernel - 1) // 2
        for _ in range(self.halvings):
            length = torch.div(length + 2 * padding - self.kernel, self.stride, rounding_mode="floor") + 1
        return length

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(base_model(model).encoder.parameters())

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        assert batch.audio_mask is not None
        features = batch.audio.transpose(1, 2).to(base.encoder.subsampling.linear.weight.dtype)
        return base.encoder(features, attention_mask=batch.audio_mask.bool()).last_hidden_state

    def _head(self, base: PreTrainedModel, states: Tensor) -> Tensor:
        return base.ctc_head(states)


def _stay_evaluating(module: nn.Module) -> None:
    """Let a module be in evaluation mode whatever mode its model is put into."""

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        return self

    module.eval()
    module.train = types.MethodType(train, module)  # type: ignore[method-assign]
