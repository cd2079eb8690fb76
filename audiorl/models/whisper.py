"""Whisper, stock, at any size and window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch, kept_texts
from audiorl.models.encoder_decoder import EncoderDecoderFamily
from audiorl.models.family import TokenizedText
from audiorl.models.forward import base_model
from audiorl.models.whisper_audio import WhisperAudio
from audiorl.models.whisper_text import WhisperText


class WhisperFamily(WhisperAudio, EncoderDecoderFamily):
    """Multilingual and English-only Whisper, distil-whisper and turbo, 80 or 128 mel bins, any window."""

    compiles_backbone = True
    decodes_with_prompts = True

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.init_audio(processor.feature_extractor, config)
        self.whisper_text = WhisperText(processor.tokenizer, config.vocab_size, config.max_target_positions)
        self.end_token = self.whisper_text.end

    # ---- data ----

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        return self.whisper_text.tokenize(text, language=language, task=task, prompt=prompt)

    def row_prompt(self, row: Mapping[str, Any]) -> str | None:
        prompt = super().row_prompt(row)
        self.whisper_text.prompt_ids(prompt)  # one that is too long is told where rows are checked
        return prompt

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        return self.whisper_text.prompt_with_hotwords(prompt, hotwords)

    def words(self, text: str) -> str:
        return self.whisper_text.words(text)

    def last_time(self, text: str) -> float | None:
        return self.whisper_text.last_time(text)

    def set_defaults(self, *, language: str | None = None, task: str | None = None) -> None:
        self.whisper_text.set_defaults(language=language, task=task)

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return kept_texts(batch_tokens, keep, self.whisper_text.decode)

    # ---- weights ----

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        encoder = base.get_encoder()
        # with checkpointing the config's use_cache=True would be warned of
        features = batch.audio.to(encoder.conv1.weight.dtype)
        return self.backbone.encoder(encoder, features, use_cache=False).last_hidden_state

    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        return base.config.max_target_positions

    def transcribe(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        *,
        languages: Sequence[str | None] | None = None,
        tasks: Sequence[str | None] | None = None,
        prompts: Sequence[str | None] | None = None,
        **generation: Any,
    ) -> list[str]:
        """Greedy or beam search by `WhisperForConditionalGeneration.generate`; clips fit the window.

        Clips with one task and one prompt are decoded together, so prompts that all differ are slow.
        """
        base = base_model(model)
        features = audio["input_features"].to(base.device, base.get_encoder().conv1.weight.dtype)
        default, nothing = self.whisper_text.default_task, [None] * len(features)
        named = [(task or default, prompt) for task, prompt in zip(tasks or nothing, prompts or nothing, strict=True)]
        texts = [""] * len(features)
        # generate() takes a language for each clip, but one task and one prompt for all of them
        for task, prompt in dict.fromkeys(named):
            places = [i for i, other in enumerate(named) if other == (task, prompt)]
            asked = self.whisper_text.generation_language([languages[i] for i in places] if languages else None, task)
            if ids := self.whisper_text.prompt_ids(prompt):
                asked["prompt_ids"] = torch.tensor(ids, device=base.device)
            with torch.no_grad():
                found = base.generate(input_features=features[places], **{**generation, **asked})
            for i, row in zip(places, found.tolist(), strict=True):
                texts[i] = self.whisper_text.decode(row)
        return texts
