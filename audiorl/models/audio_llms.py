"""Qwen3-ASR, Qwen2-Audio, GLM-ASR, Audio Flamingo 3 and Fun-ASR-Nano: how each is asked, how long a clip it takes.

Modules of their own have Voxtral, whose prompts are tokens (`voxtral.py`), Granite Speech (`granite_speech.py`), the
thinkers of Qwen-Omni (`qwen_omni.py`) and VibeVoice-ASR, whose answers are JSON (`vibevoice.py`). Step-Audio is not in
transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch
from audiorl.models.audio_llm import (
    AudioLLMFamily,
    context_with_history,
    request_with_history,
    request_with_hotwords,
)
from audiorl.models.forward import base_model
from audiorl.text.error_rates import tagged_transcript
from audiorl.text.languages import own_code

# Ours: the processor of Qwen2-Audio has no request of its own.
TRANSCRIBE = "Transcribe the speech."
# How Audio Flamingo 3 puts a transcript; the words are those that its processor strips.
SENTENCE = re.compile(
    r"\s*(?:The (?:spoken content|transcription) of the audio|The content of the input audio) is\s*"
    r"(['\"])(.*)\1\s*\.?\s*",
    re.DOTALL,
)
# The shortest clip of which Audio Flamingo 3 makes an embedding, in mel frames.
LEAST_FRAMES = 3


class Qwen3ASRFamily(AudioLLMFamily):
    """Qwen3-ASR. The row's `prompt` is its context: names, terms, hot words, in the system turn.

    The language stands in the prompt, so that the answer is the transcript alone; rows, their texts ("language
    English<asr_text>...", as its own fine-tuning files have them) or the trainer's config name it.
    """

    rollout_engines = ("native", "vllm")

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        if language is None:
            raise ValueError(
                "no language is named, and without one this model writes the language in front of the transcript. "
                "Give the row a language, or set language in the trainer's config"
            )
        return self._request(language=_as_named(language), prompt=prompt)

    def _decode(self, ids: list[int]) -> str:
        """The transcript, without the language if the model repeats it in front."""
        return tagged_transcript(super()._decode(ids)).text

    def prompt_with_history(self, prompt: str | None, history: str) -> str:
        return context_with_history(prompt, history)

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

    def prompt_with_history(self, prompt: str | None, history: str) -> str:
        return request_with_history(prompt or self.processor.default_transcription_prompt, history)

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        return request_with_hotwords(prompt or self.processor.default_transcription_prompt, hotwords)


class Qwen2AudioFamily(AudioLLMFamily):
    """Qwen2-Audio. The row's `prompt` is the user's question; without one it asks for the transcript."""

    rollout_engines = ("native", "vllm")

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        self.max_seconds = float(processor.feature_extractor.chunk_length)

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": prompt or TRANSCRIBE}]
        turns = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)

    def prompt_with_history(self, prompt: str | None, history: str) -> str:
        return request_with_history(prompt or TRANSCRIBE, history)

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


class AudioFlamingo3Family(AudioLLMFamily):
    """Audio Flamingo 3. The row's `prompt` replaces the request to transcribe; the request names no language.

    The tower reads windows of 30 s one by one, each padded with silence, and the language model the embeddings of all.
    Released checkpoints answer the request with a sentence, 'The spoken content of the audio is "..."'. Error rates and
    rewards read the transcript in it; a checkpoint that was tuned on transcripts writes the transcript alone.

    transformers cuts clips behind `max_audio_len` of the processor, 600 s; here they are refused.
    """

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        self.window_frames = self.extractor.nb_max_frames
        window = self.extractor.chunk_length
        self.max_seconds = float(processor.max_audio_len // window * window)
        self.min_seconds = LEAST_FRAMES * self.extractor.hop_length / self.sampling_rate

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        return self._request(prompt=prompt)

    def prompt_with_history(self, prompt: str | None, history: str) -> str:
        return request_with_history(prompt or self.processor.default_transcription_prompt, history)

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        return request_with_hotwords(prompt or self.processor.default_transcription_prompt, hotwords)

    def _decode(self, ids: list[int]) -> str:
        """The transcript, without the sentence around it."""
        written = super()._decode(ids)
        sentence = SENTENCE.fullmatch(written)
        return sentence[2].strip() if sentence else written

    def _hear(self, clip: np.ndarray) -> Mapping[str, Tensor]:
        made = super()._hear(clip)
        # (windows, M, frames) -> (1, M, windows * frames), as in every batch
        return {
            "input_ids": made["input_ids"],
            "input_features": made["input_features"].mT.flatten(0, 1).mT[None],
            "input_features_mask": made["input_features_mask"].flatten()[None],
        }

    def _audio_embeddings(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        assert batch.audio_mask is not None, "features makes one"
        windows = batch.audio.unflatten(-1, (-1, self.window_frames)).transpose(1, 2)  # (B, windows, M, frames)
        masks = batch.audio_mask.unflatten(-1, (-1, self.window_frames))
        own = masks.any(-1)
        heard = windows[own].to(base.dtype)
        return base.get_audio_features(heard, masks[own], return_dict=True).pooler_output


def _as_named(language: str) -> str:
    """The processor's code of a language; a language without one stays as written, and the processor refuses it."""
    # not every release of transformers has the model
    from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

    return own_code(language, LANGUAGE_CODE_TO_NAME) or language


class FunASRFamily(AudioLLMFamily):
    """Fun-ASR-Nano: a SAN-M encoder over stacked Kaldi frames, an adaptor, and Qwen3 behind a Chinese request.

    The row's `prompt` is context that stands before the request; `language` may be left out. Clips become features
    through torchaudio (`torchaudio.compliance.kaldi.fbank`); without it there is no processor. The request, in the
    words the model was trained with, is the chat template of the checkpoint's processor. That template always asks for
    numbers and dates as one writes them: the original toolkit's `itn=False` has no place in it.

    It takes clips of 25 ms to 123 s (the encoder has 2048 positions of 60 ms). Padding is masked in attention and
    memory blocks, so a clip has the same states alone and in a batch.
    """

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        heard = processor.feature_extractor
        frames = base_model(model).config.audio_config.max_position_embeddings - 1  # counted from one
        last = frames * heard.stride_lfr - 1  # of the frames before they are stacked
        self.min_seconds = heard.frame_length / 1000
        self.max_seconds = (last * heard.frame_shift + heard.frame_length) / 1000

    @classmethod
    def load_processor(cls, name: str) -> Any:
        """See `SpeechFamily.load_processor`.

        Raises:
            ImportError: torchaudio is not installed.
        """
        try:
            return super().load_processor(name)
        except ImportError as error:
            raise ImportError(
                f"Fun-ASR-Nano reads clips through torchaudio's Kaldi filter bank, and torchaudio cannot be used here; "
                f"the processor of {name!r} does not load without it. Install the torchaudio that belongs to torch "
                f"{torch.__version__} (pytorch.org lists the pairs)."
            ) from error

    def install(self, model: nn.Module) -> None:
        # the adaptor is no model of its own: transformers would set this too, but with a warning
        base_model(model).config.adaptor_config._attn_implementation = "sdpa"
        super().install(model)

    def _hear(self, clip: np.ndarray) -> Mapping[str, Tensor]:
        heard = super()._hear(clip)
        # (1, L, stacked frames x mel bins) -> frames last, as in every batch
        return {**heard, "input_features": heard["input_features"].mT}

    def _audio_embeddings(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        frames = batch.audio.mT.to(base.dtype)
        return base.get_audio_features(frames, batch.audio_mask, return_dict=True).pooler_output

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        content: list[dict[str, str]] = [{"type": "audio"}]
        if prompt:
            content.append({"type": "text", "text": prompt})
        if language:
            content.append({"type": "language", "language": _as_trained(language)})
        turns = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)

    def prompt_with_history(self, prompt: str | None, history: str) -> str:
        return context_with_history(prompt, history)

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        """The line that the checkpoint's template makes of the processor's `keywords`, behind the other context."""
        return "\n".join([*([prompt] if prompt else []), f"热词列表：[{', '.join(hotwords)}]"])  # noqa: RUF001


def _as_trained(language: str) -> str:
    """The Chinese name of a language, as in the requests that the model was trained on.

    Raises:
        ValueError: a language that the processor does not know.
    """
    # not every release of transformers has the model
    from transformers.models.fun_asr_nano.processing_fun_asr_nano import LANGUAGE_CODE_TO_NAME

    code = own_code(language, LANGUAGE_CODE_TO_NAME)
    if code is None:
        raise ValueError(
            f"unknown language {language!r} for Fun-ASR-Nano. Use one of {sorted(LANGUAGE_CODE_TO_NAME)}, or leave it "
            "out and the model finds it by itself"
        )
    return LANGUAGE_CODE_TO_NAME[code]
