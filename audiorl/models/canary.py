"""Canary (Sekoyan et al. 2025, arXiv:2509.14128): a fast conformer, and a decoder that is asked for a language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderModelOutput

from audiorl.batch import GroupBatch, audio_alone, kept_texts
from audiorl.models.canary_text import CanaryText
from audiorl.models.encoder_decoder import EncoderDecoderFamily
from audiorl.models.family import TokenizedText
from audiorl.models.fast_conformer import FastConformerAudio
from audiorl.models.forward import base_model


class CanaryFamily(FastConformerAudio, EncoderDecoderFamily):
    """Canary as transformers has it: transcription in 25 languages, and translation.

    A row's `language` is the one that is spoken; its `task` is "transcribe", "translate" (into English, as of Whisper)
    or "translate:" and a language. Grouped attention is exact here: the K hypotheses of a clip share one encoder pass
    and one set of keys and values.
    """

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.init_audio(processor.feature_extractor, config.encoder_config)
        self.canary_text = CanaryText(processor, config)
        self.end_token = self.canary_text.end

    # ---- data ----

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        return self.canary_text.tokenize(text, language=language, task=task, prompt=prompt)

    def set_defaults(self, *, language: str | None = None, task: str | None = None) -> None:
        self.canary_text.set_defaults(language=language, task=task)

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return kept_texts(batch_tokens, keep, self.canary_text.decode)

    # ---- weights ----

    def _audio_seen(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        assert batch.audio_mask is not None, "features makes one"
        own = self._frames_of_audio(batch.audio_mask.sum(-1))
        return torch.arange(states.shape[1], device=states.device) < own[:, None]

    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        return self.canary_text.max_tokens

    def transcribe(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        *,
        languages: Sequence[str | None] | None = None,
        tasks: Sequence[str | None] | None = None,
        **generation: Any,
    ) -> list[str]:
        """Greedy or beam search by transformers' `generate`, each clip behind its own request."""
        base = base_model(model)
        batch = audio_alone(audio)
        none = [None] * len(batch.audio)
        requests = [
            self.canary_text.request(language, task)
            for language, task in zip(languages or none, tasks or none, strict=True)
        ]
        with torch.no_grad():
            states = self._encode(base, batch)
            seen = self._audio_seen(base, batch, states)
            # requests differ in languages alone and are equally long
            ids = GenerationMixin.generate(
                base,
                encoder_outputs=ParakeetEncoderModelOutput(last_hidden_state=states, attention_mask=seen.int()),
                decoder_input_ids=torch.tensor(requests, device=states.device),
                **generation,
            )
        return [self.canary_text.decode(row) for row in ids.tolist()]
