"""Fun-ASR-Nano: a SAN-M encoder over stacked Kaldi frames, an adaptor, and Qwen3 behind a Chinese request.

Clips become features through torchaudio (`torchaudio.compliance.kaldi.fbank`); without it there is no processor. The
request to transcribe, in the words the model was trained with, is the chat template of the checkpoint's processor. That
template always asks for numbers and dates as one writes them: the original toolkit's `itn=False` has no place in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.fun_asr_nano.processing_fun_asr_nano import LANGUAGE_CODE_TO_NAME

from audiorl.batch import GroupBatch
from audiorl.models.audio_llm import AudioLLMFamily
from audiorl.models.forward import base_model
from audiorl.text.languages import own_code


class FunASRFamily(AudioLLMFamily):
    """Fun-ASR-Nano. The row's `prompt` is context that stands before the request; `language` may be left out.

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

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        """The line that the checkpoint's template makes of the processor's `keywords`, behind the other context."""
        return "\n".join([*([prompt] if prompt else []), f"热词列表：[{', '.join(hotwords)}]"])  # noqa: RUF001


def _as_trained(language: str) -> str:
    """The Chinese name of a language, which the model was trained to be asked with.

    Raises:
        ValueError: a language that the processor does not know.
    """
    code = own_code(language, LANGUAGE_CODE_TO_NAME)
    if code is None:
        raise ValueError(
            f"unknown language {language!r} for Fun-ASR-Nano. Use one of {sorted(LANGUAGE_CODE_TO_NAME)}, or leave it "
            "out and the model finds it by itself"
        )
    return LANGUAGE_CODE_TO_NAME[code]
