"""Qwen3-ASR, Qwen2-Audio and GLM-ASR: how each is asked, and how long a clip it takes.

Voxtral, whose prompts are tokens (`voxtral.py`), Fun-ASR-Nano (`fun_asr.py`) and Granite Speech (`granite_speech.py`)
have modules of their own. Step-Audio is not in transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch
from audiorl.models.audio_llm import AudioLLMFamily, request_with_hotwords
from audiorl.text.error_rates import tagged_transcript
from audiorl.text.languages import own_code

# Ours: the processor of Qwen2-Audio has no request of its own.
TRANSCRIBE = "Transcribe the speech."


class Qwen3ASRFamily(AudioLLMFamily):
    """Qwen3-ASR. The row's `prompt` is its context: names, terms, hot words, in the system turn.

    The language stands in the prompt, so that the answer is the transcript alone; rows, their texts ("language
    English<asr_text>...", as its own fine-tuning files have them) or the trainer's config name it.
    """

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        if language is None:
            raise ValueError(
                "no language is named, and without one this model writes it in front of the transcript. Give the row a "
                "language, or set language in the trainer's config"
            )
        return self._request(language=_as_named(language), prompt=prompt)

    def _decode(self, ids: list[int]) -> str:
        """The transcript, also where the model has written the language in front of it once more."""
        return tagged_transcript(super()._decode(ids)).text

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        """A line of the context, which is where this model's processor wants them."""
        return "\n".join([*([prompt] if prompt else []), ", ".join(hotwords)])


class GlmASRFamily(AudioLLMFamily):
    """GLM-ASR. The row's `prompt` replaces the request to transcribe; the model finds the language by itself."""

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        # a longer clip becomes several rows of features
        self.max_seconds = float(processor.feature_extractor.chunk_length)

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        return self._request(prompt=prompt)

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        return request_with_hotwords(prompt or self.processor.default_transcription_prompt, hotwords)


class Qwen2AudioFamily(AudioLLMFamily):
    """Qwen2-Audio. The row's `prompt` is the user's question; without one it asks for the transcript."""

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        self.max_seconds = float(processor.feature_extractor.chunk_length)

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": prompt or TRANSCRIBE}]
        turns = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        return request_with_hotwords(prompt or TRANSCRIBE, hotwords)

    def _audio_embeddings(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        tower = base.model.audio_tower
        assert batch.audio_mask is not None
        frames, _ = tower._get_feat_extract_output_lengths(batch.audio_mask.sum(-1))
        # two mel frames are one state; padding is hidden from the attention of the tower
        places = torch.arange((batch.audio.shape[-1] - 2) // 2 + 1, device=frames.device)
        heard = (places < frames[:, None])[:, None, None]
        states = tower(batch.audio.to(base.dtype), attention_mask=heard).last_hidden_state
        own = torch.arange(states.shape[1], device=frames.device) < batch.tensors["audio_tokens"][:, None]
        return base.model.multi_modal_projector(states)[own]


def _as_named(language: str) -> str:
    """The language as the processor knows it: its code; what it has no code for as it was written, to be refused."""
    # not every release of transformers has the model
    from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

    return own_code(language, LANGUAGE_CODE_TO_NAME) or language
