"""Encoder-decoder speech models whose decoder takes positions: what Whisper, Moonshine and Canary share.

The K hypotheses of a clip lie side by side on the decoder's token axis, (B, K*T); grouped attention keeps them apart
and cross-attention reads the clip's states once (`grouped_attention.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from audiorl.batch import GroupBatch, GroupScores
from audiorl.models.family import AutoregressiveFamily
from audiorl.models.forward import base_model, call_module
from audiorl.models.grouped_attention import (
    ENGINES,
    GroupedDecoder,
    cache_argument,
    ignored_mask,
    use_grouped_attention,
)
from audiorl.models.head import scaled_logits, score_tokens


class EncoderDecoderFamily(AutoregressiveFamily):
    """A stock model with `get_encoder`, `get_decoder` and a head; the decoder takes `position_ids`."""

    engines = ENGINES

    def install(self, model: nn.Module) -> None:
        super().install(model)
        use_grouped_attention(base_model(model))

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(base_model(model).get_encoder().parameters())

    def _audio_seen(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor | None:
        """(B, S) bool, which states the decoder may look at; None for all of them."""
        return None

    def _decode(
        self,
        base: PreTrainedModel,
        states: Tensor,
        audio_seen: Tensor | None,
        tokens: Tensor,
        positions: Tensor,
        cache: Cache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """(B, K, T) tokens at (B, K, T) positions -> (B, K, T, D)."""
        clips, hypotheses, length = tokens.shape
        # a cache grows with every token, which compiled code would have to follow
        decode = self.backbone.decoder if cache is None else call_module
        masks: dict[str, Any] = {} if audio_seen is None else {"encoder_attention_mask": audio_seen}
        decoder = base.get_decoder()
        out = decode(
            decoder,
            input_ids=tokens.reshape(clips, hypotheses * length),
            position_ids=positions.reshape(clips, hypotheses * length),
            attention_mask=ignored_mask(tokens.device) if mask is None else mask,
            encoder_hidden_states=states,
            use_cache=cache is not None,
            group_size=hypotheses,
            **cache_argument(decoder, cache),
            **masks,
        )
        return out.last_hidden_state.unflatten(1, (hypotheses, length))

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        inputs = batch.tokens[..., :-1]
        positions = torch.arange(inputs.shape[-1], device=inputs.device).expand_as(inputs)
        hidden = self._decode(base, states, self._audio_seen(base, batch, states), inputs, positions)
        head = base.get_output_embeddings()
        return score_tokens(hidden, head, batch.tokens[..., 1:], batch.keep, states, temperature)

    def _decoder(
        self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, hypotheses: int, room: int, temperature: float
    ) -> GroupedDecoder:
        head = base.get_output_embeddings()
        audio_seen = self._audio_seen(base, batch, states)

        def predict(tokens: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
            hidden = self._decode(base, states, audio_seen, tokens, positions, cache, mask)
            return scaled_logits(head(hidden[:, :, -1]), temperature)

        layers = len(base.get_decoder().layers)
        return GroupedDecoder(predict, layers=layers, hypotheses=hypotheses, room=room, engine=self.engine)
