"""Moonshine (Jeffries et al. 2024, arXiv:2410.15608): the waveform in, rotary positions, no fixed window.

Its group norm reads the whole length of a row, so padding would move every number of a clip. The encoder therefore runs
without padding, equally long clips together, and the decoder reads padded states with a mask of our own: with
transformers' it would look at up to two states of padding.

Moonshine Streaming is the same to us with another encoder: frames of 5 ms, each normalised by itself, causal
convolutions and attention in a window. There the padding of a neighbour would reach a clip's last states through the
window. Its decoder adds positions to the states it is given, in place, so it gets a copy.
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

# Two convolutions halve Moonshine Streaming's frames.
FRAMES_OF_A_STATE = 4


class MoonshineFamily(PlainTranscripts, EncoderDecoderFamily):
    """Moonshine tiny and base, of any language: each checkpoint writes one, so a row's `language` changes nothing.

    Grouped attention is exact here: the K hypotheses of a clip share one encoder pass and one set of keys and values.
    """

    decodes_states = True

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.sampling_rate = processor.feature_extractor.sampling_rate
        self.min_seconds = self._shortest(config) / self.sampling_rate
        self.init_text(processor.tokenizer, config, config.max_position_embeddings)

    def _shortest(self, config: Any) -> int:
        """Samples that give a state."""
        return SHORTEST

    # ---- data ----

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`input_values` (B, N), padded with zeros, and `audio_mask` (B, N)."""
        return waveform_features(self.processor.feature_extractor, clips)

    # ---- weights ----

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        encoder = base.get_encoder()

        def encode(clips: Tensor) -> Tensor:
            return self._listen(encoder, clips)

        return encode_by_length(encode, batch.audio, self._samples(batch), together=not is_sharded(base))

    def _listen(self, encoder: Any, clips: Tensor) -> Tensor:
        """(n, N) equally long clips -> (n, S, D)."""
        return encoder(clips.to(encoder.conv1.weight.dtype)).last_hidden_state

    def _states_in(self, base: PreTrainedModel, samples: int) -> int:
        return base._get_feat_extract_output_lengths(samples)

    def _samples(self, batch: GroupBatch) -> list[int]:
        assert batch.audio_mask is not None, "features makes one"
        return batch.audio_mask.sum(-1).tolist()

    def _audio_seen(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        own = [self._states_in(base, samples) for samples in self._samples(batch)]
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
            states = self._states(base, batch)
            heard = MoonshineEncoderModelOutput(
                last_hidden_state=states, attention_mask=self._audio_seen(base, batch, states).int()
            )
            with one_transcript_each(base, generation, **self.plain_text.search_ids()) as others:
                ids = GenerationMixin.generate(base, encoder_outputs=heard, **others)
        return [self.plain_text.decode(row) for row in ids.tolist()]


class MoonshineStreamingFamily(MoonshineFamily):
    """Moonshine Streaming: English, trained and decoded offline, a whole clip in one pass.

    Its encoder looks ahead no further than it does in a stream, so what is trained is what a stream hears. Clips may be
    as long as the decoder has positions for their states: 82 s with 4096. Grouped attention is exact here.
    """

    works_on_states = True

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        positions = base_model(model).config.max_position_embeddings
        self.max_seconds = positions * FRAMES_OF_A_STATE * self.frame / self.sampling_rate

    def _shortest(self, config: Any) -> int:
        encoder = config.encoder_config
        self.frame = round(encoder.sample_rate * encoder.frame_ms / 1000)
        return self.frame

    def runs_in_pipeline(self, model: nn.Module) -> bool:
        """A pipeline (transformers 5.24) does not pad clips to whole frames, which the encoder needs."""
        return False

    def _listen(self, encoder: Any, clips: Tensor) -> Tensor:
        own = clips.shape[-1]
        whole = nn.functional.pad(clips, (0, -own % self.frame)).to(encoder.embedder.conv1.weight.dtype)
        # without a mask the stock encoder forgets its windows, too
        mask = torch.arange(whole.shape[-1], device=clips.device).expand_as(whole) < own
        return encoder(whole, attention_mask=mask.long()).last_hidden_state

    def _states_in(self, base: PreTrainedModel, samples: int) -> int:
        return -(-samples // (FRAMES_OF_A_STATE * self.frame))

    def _decode(self, base: PreTrainedModel, states: Tensor, *given: Any, **options: Any) -> Tensor:
        return super()._decode(base, states.clone(), *given, **options)
