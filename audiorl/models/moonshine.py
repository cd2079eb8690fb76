"""Moonshine (Jeffries et al. 2024, arXiv:2410.15608): the waveform in, rotary positions, no fixed window.

Its group norm reads the whole length of a row, so padding would move every number of a clip. The encoder therefore runs
without padding, equally long clips together, and the decoder reads padded states with a mask of our own: with
transformers' it would look at up to two states of padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.models.moonshine.modeling_moonshine import MoonshineEncoderModelOutput

from audiorl.batch import GroupBatch, audio_alone
from audiorl.models.encoder_decoder import EncoderDecoderFamily, PlainTranscripts
from audiorl.models.forward import base_model, is_sharded
from audiorl.models.generate import one_transcript_each
from audiorl.models.padding import encode_by_length, waveform_features

# Samples that the three convolutions (kernels 127, 7, 3; strides 64, 3, 2) need for one state: 56 ms.
SHORTEST = 127 + 64 * (7 - 1 + 3 * (3 - 1))


class MoonshineFamily(PlainTranscripts, EncoderDecoderFamily):
    """Moonshine tiny and base, of any language: each checkpoint writes one, so a row's `language` changes nothing.

    Grouped attention is exact here: the K hypotheses of a clip share one encoder pass and one set of keys and values.
    """

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.sampling_rate = processor.feature_extractor.sampling_rate
        self.min_seconds = SHORTEST / self.sampling_rate
        self.init_text(processor.tokenizer, config, config.max_position_embeddings)

    # ---- data ----

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`input_values` (B, N), padded with zeros, and `audio_mask` (B, N)."""
        return waveform_features(self.processor.feature_extractor, clips)

    # ---- weights ----

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        encoder = base.get_encoder()
        audio = batch.audio.to(encoder.conv1.weight.dtype)

        def encode(clips: Tensor) -> Tensor:
            return encoder(clips).last_hidden_state

        return encode_by_length(encode, audio, self._samples(batch), together=not is_sharded(base))

    def _samples(self, batch: GroupBatch) -> list[int]:
        assert batch.audio_mask is not None, "features makes one"
        return batch.audio_mask.sum(-1).tolist()

    def _audio_seen(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        own = [base._get_feat_extract_output_lengths(samples) for samples in self._samples(batch)]
        places = torch.arange(states.shape[1], device=states.device)
        return places < torch.tensor(own, device=states.device)[:, None]

    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        return base.config.max_position_embeddings

    def transcribe(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        *,
        languages: Sequence[str | None] | None = None,
        tasks: Sequence[str | None] | None = None,
        **generation: Any,
    ) -> list[str]:
        """Greedy or beam search by transformers' `generate`, from states that padding does not change."""
        base = base_model(model)
        batch = audio_alone(audio)
        with torch.no_grad():
            states = self._encode(base, batch)
            heard = MoonshineEncoderModelOutput(
                last_hidden_state=states, attention_mask=self._audio_seen(base, batch, states).int()
            )
            with one_transcript_each(base, generation, **self.plain_text.search_ids()) as others:
                ids = GenerationMixin.generate(base, encoder_outputs=heard, **others)
        return [self.plain_text.decode(row) for row in ids.tolist()]
