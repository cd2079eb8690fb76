"""Encoder-decoder speech models. First member: Whisper, stock, at any size and window.

The K hypotheses of a clip lie side by side on the decoder's token axis, (B, K*T); grouped attention keeps them apart
and cross-attention reads the clip's states once (`grouped_attention.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from audiorl.batch import GroupBatch, GroupScores
from audiorl.models.autoregressive import AutoregressiveFamily
from audiorl.models.compiling import run
from audiorl.models.family import TokenizedText
from audiorl.models.grouped_attention import ignored_mask, use_grouped_attention
from audiorl.models.grouped_decoder import ENGINES, GroupedDecoder
from audiorl.models.head import at_least_float32, score_tokens
from audiorl.models.speech_call import base_model
from audiorl.models.whisper_audio import WhisperAudio
from audiorl.models.whisper_text import WhisperText


class WhisperFamily(WhisperAudio, AutoregressiveFamily):
    """Multilingual and English-only Whisper, distil-whisper and turbo, 80 or 128 mel bins, any window."""

    engines = ENGINES
    compiles_backbone = True

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.hear_with(processor.feature_extractor, config)
        self.whisper_text = WhisperText(processor.tokenizer, config.vocab_size, config.max_target_positions)
        self.end_token = self.whisper_text.end

    def install(self, model: nn.Module) -> None:
        super().install(model)
        use_grouped_attention(base_model(model))

    # ---- data ----

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        return self.whisper_text.tokenize(text, language=language, task=task, prompt=prompt)

    def words(self, text: str) -> str:
        return self.whisper_text.words(text)

    def last_time(self, text: str) -> float | None:
        return self.whisper_text.last_time(text)

    def set_defaults(self, *, language: str | None = None, task: str | None = None) -> None:
        self.whisper_text.set_defaults(language=language, task=task)

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return [
            [self.whisper_text.decode(ids[counts].tolist()) for ids, counts in zip(group, kept, strict=True)]
            for group, kept in zip(batch_tokens[..., 1:], keep, strict=True)
        ]

    # ---- weights ----

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(base_model(model).get_encoder().parameters())

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        encoder = base.get_encoder()
        # with checkpointing the config's use_cache=True would be warned of
        features = batch.audio.to(encoder.conv1.weight.dtype)
        return self.backbone.encoder(encoder, features, use_cache=False).last_hidden_state

    def _decode(
        self,
        base: PreTrainedModel,
        states: Tensor,
        tokens: Tensor,
        positions: Tensor,
        cache: Cache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """(B, K, T) tokens at (B, K, T) positions -> (B, K, T, D)."""
        clips, hypotheses, length = tokens.shape
        # a cache grows with every token, which compiled code would have to follow
        decode = self.backbone.decoder if cache is None else run
        out = decode(
            base.get_decoder(),
            input_ids=tokens.reshape(clips, hypotheses * length),
            position_ids=positions.reshape(clips, hypotheses * length),
            attention_mask=ignored_mask(tokens.device) if mask is None else mask,
            encoder_hidden_states=states,
            past_key_values=cache,
            use_cache=cache is not None,
            group_size=hypotheses,
        )
        return out.last_hidden_state.unflatten(1, (hypotheses, length))

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        inputs = batch.tokens[..., :-1]
        positions = torch.arange(inputs.shape[-1], device=inputs.device).expand_as(inputs)
        hidden = self._decode(base, states, inputs, positions)
        head = base.get_output_embeddings()
        return score_tokens(hidden, head, batch.tokens[..., 1:], batch.keep, states, temperature)

    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        return base.config.max_target_positions

    def _decoder(
        self, base: PreTrainedModel, states: Tensor, hypotheses: int, room: int, temperature: float
    ) -> GroupedDecoder:
        head = base.get_output_embeddings()

        def predict(tokens: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
            hidden = self._decode(base, states, tokens, positions, cache, mask)
            logits = at_least_float32(head(hidden[:, :, -1]))
            return logits if temperature == 1.0 else logits / temperature

        layers = len(base.get_decoder().layers)
        return GroupedDecoder(predict, layers=layers, hypotheses=hypotheses, room=room, engine=self.engine)

    def transcribe(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        *,
        languages: Sequence[str | None] | None = None,
        tasks: Sequence[str | None] | None = None,
        **generation: Any,
    ) -> list[str]:
        """Greedy or beam search by `WhisperForConditionalGeneration.generate`; clips fit the window."""
        base = base_model(model)
        features = audio["input_features"].to(base.device, base.get_encoder().conv1.weight.dtype)
        named = [task or self.whisper_text.default_task for task in tasks or [None] * len(features)]
        texts = [""] * len(features)
        # generate() takes a language for each clip, but one task for all of them
        for task in dict.fromkeys(named):
            places = [i for i, other in enumerate(named) if other == task]
            asked = self.whisper_text.generation_language([languages[i] for i in places] if languages else None, task)
            with torch.no_grad():
                ids = base.generate(input_features=features[places], **{**generation, **asked})
            for i, row in zip(places, ids.tolist(), strict=True):
                texts[i] = self.whisper_text.decode(row)
        return texts
