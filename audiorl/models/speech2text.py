"""Speech2Text (Wang et al. 2020, arXiv:2010.05171), through transformers' own decoder and `generate`.

Its decoder computes positions from its input ids and accepts no others. K hypotheses cannot lie side by side, so
grouped attention would not be exact. Instead, each clip is encoded once and its states are repeated for each
hypothesis; sampling uses `generate`. Padding would change its subsampling convolutions, so the encoder runs without
padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from audiorl.batch import GroupBatch, GroupScores, audio_alone
from audiorl.models.encoder_decoder import PlainTranscripts
from audiorl.models.forward import base_model, is_sharded
from audiorl.models.generate import GenerateFamily, one_transcript_each
from audiorl.models.head import score_tokens
from audiorl.models.padding import encode_by_length


class Speech2TextFamily(PlainTranscripts, GenerateFamily):
    """Monolingual Speech2Text for recognition; a row's `language` changes nothing.

    Padding has a token of its own, and the decoder gives it no position. A checkpoint that draws this token inside a
    hypothesis scores the rest from another position; trained checkpoints give it no probability.
    """

    decodes_states = True

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        extractor = processor.feature_extractor
        if getattr(processor.tokenizer, "lang_codes", None):
            raise ValueError(
                "This Speech2Text writes several languages, which is not supported: its language token would be "
                "missing. Use a checkpoint for recognition of one language, or Whisper."
            )
        if extractor.num_mel_bins != config.input_feat_per_channel:
            raise ValueError(
                f"The processor makes {extractor.num_mel_bins} mel bins, the model hears "
                f"{config.input_feat_per_channel}. Load the processor from the model's own checkpoint."
            )
        self.sampling_rate = extractor.sampling_rate
        # frames of 25 ms every 10 ms; each of two convolutions halves them
        self.max_seconds = 0.01 * 2**config.num_conv_layers * config.max_source_positions
        self.min_seconds = 0.025
        self.mel_bins = extractor.num_mel_bins
        self.init_text(processor.tokenizer, config, config.max_target_positions)

    # ---- data ----

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`input_features` (B, M, L) and `audio_mask` (B, L)."""
        made = self.processor.feature_extractor(
            list(clips),
            sampling_rate=self.sampling_rate,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        features = made.input_features.transpose(1, 2).contiguous()
        return {"input_features": features, "audio_mask": made.attention_mask.long()}

    def spectrograms(self, features: Mapping[str, Tensor], samples: Sequence[int]) -> list[Tensor]:
        frames = features["audio_mask"].sum(-1).tolist()
        return [mel[:, :count] for mel, count in zip(features["input_features"], frames, strict=True)]

    # ---- weights ----

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(base_model(model).get_encoder().parameters())

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        encoder = base.get_encoder()
        assert batch.audio_mask is not None, "features makes one"
        features = batch.audio.transpose(1, 2).to(base.dtype)
        lengths = batch.audio_mask.sum(-1).tolist()

        def encode(clips: Tensor) -> Tensor:
            return encoder(clips).last_hidden_state

        return encode_by_length(encode, features, lengths, together=not is_sharded(base))

    def _hidden(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        """(B, K, T, D) what the decoder makes of the hypotheses."""
        hypotheses = batch.num_hypotheses
        assert batch.audio_mask is not None
        own = base._get_feat_extract_output_lengths(batch.audio_mask.sum(-1))
        seen = torch.arange(states.shape[1], device=states.device) < own[:, None]
        return base.get_decoder()(
            input_ids=batch.tokens[..., :-1].flatten(0, 1),
            encoder_hidden_states=states.repeat_interleave(hypotheses, 0),
            encoder_attention_mask=seen.repeat_interleave(hypotheses, 0),
            use_cache=False,
        ).last_hidden_state.unflatten(0, batch.tokens.shape[:2])

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        hidden = self._hidden(base, batch, states)
        return score_tokens(hidden, base.lm_head, batch.tokens[..., 1:], batch.keep, states, temperature)

    def _rows(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        return self._hidden(base, batch, states)[batch.keep]

    def _project(self, base: PreTrainedModel, rows: Tensor) -> Tensor:
        return base.lm_head(rows)

    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        return base.config.max_target_positions

    def _generation_inputs(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> dict[str, Any]:
        # the model turns this mask of frames into one of states
        return {"encoder_outputs": BaseModelOutput(last_hidden_state=states), "attention_mask": batch.audio_mask}

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
            heard = BaseModelOutput(last_hidden_state=states)
            with one_transcript_each(base, generation, **self.plain_text.search_ids()) as others:
                ids = GenerationMixin.generate(base, encoder_outputs=heard, attention_mask=batch.audio_mask, **others)
        return [self.plain_text.decode(row) for row in ids.tolist()]
