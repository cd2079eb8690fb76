"""The thinkers of Qwen2.5-Omni and Qwen3-Omni: the part of these models that hears, sees and writes text.

A checkpoint of the whole model is loaded without the talker, which speaks, and what is tuned is saved as a thinker. Put
it back under a talker with transformers: load the whole model and give its `thinker` the tuned weights.

Clips stand among text at positions that count up by one, as text does, so K answers share their prompt like those of
any other audio language model. Experts of Qwen3-Omni are chosen for each token by itself, so an answer is routed as it
would be alone; the loss that spreads tokens over experts in pre-training is left out.

The tower for images is never read, and frozen. The processor holds a video processor, which transformers makes with
torchvision only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import is_torchvision_available

from audiorl.batch import GroupBatch
from audiorl.models.audio_llm import AudioLLMFamily, request_with_history, request_with_hotwords
from audiorl.models.forward import base_model, is_sharded
from audiorl.models.padding import encode_by_length
from audiorl.text.languages import language_code, language_names, nearest_language

# The shortest clip of which the tower of Qwen2.5-Omni makes an embedding, in mel frames.
LEAST_FRAMES = 3


class QwenOmniFamily(AudioLLMFamily):
    """A thinker. The row's `prompt` replaces the request to transcribe, which names the row's language.

    Without adapters named, LoRA goes into the linear layers of the language model; the experts of Qwen3-Omni are not
    such layers, so it tunes their attention alone, and 8 or 4 bits leave the experts in full precision.
    """

    unquantised = (".*audio_tower", ".*visual", "lm_head")

    @classmethod
    def load_processor(cls, name: str) -> Any:
        """See `SpeechFamily.load_processor`.

        Raises:
            ImportError: torchvision is not installed.
        """
        try:
            return super().load_processor(name)
        except (ImportError, ValueError) as error:
            if is_torchvision_available():
                raise
            raise ImportError(
                f"The processor of {name!r} holds a video processor, and transformers makes none without torchvision, "
                f"which is not installed here. Install the torchvision that belongs to torch {torch.__version__} "
                "(pytorch.org lists the pairs); no video is ever read."
            ) from error

    def install(self, model: nn.Module) -> None:
        super().install(model)
        base = base_model(model)
        _part(base, "visual").requires_grad_(False)
        tower = _part(base, "audio_tower")
        if hasattr(tower, "audio_bos_eos_token"):  # nothing reads it
            tower.audio_bos_eos_token.requires_grad_(False)

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(_part(base_model(model), "audio_tower").parameters())

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        content = [{"type": "audio", "audio": ""}, {"type": "text", "text": prompt or request(language)}]
        turns = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return text if isinstance(text, str) else text[0]

    def prompt_with_history(self, prompt: str | None, history: str) -> str:
        return request_with_history(prompt or request(None), history)

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        return request_with_hotwords(prompt or request(None), hotwords)


class Qwen25OmniFamily(QwenOmniFamily):
    """The thinker of Qwen2.5-Omni, whose processor cuts clips behind five minutes; here they are refused.

    That processor fills five minutes with silence for every clip and the tower leaves it out again. Here a window of
    silence behind the clip gives the same frames, in a hundredth of the time.
    """

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        self.min_seconds = LEAST_FRAMES * self.extractor.hop_length / self.sampling_rate
        self.max_seconds = float(self.extractor.chunk_length)

    def _hear(self, clip: np.ndarray) -> Mapping[str, Tensor]:
        made = self.extractor(
            np.pad(clip, (0, self.extractor.n_fft)),
            sampling_rate=self.sampling_rate,
            padding=False,
            truncation=False,
            return_tensors="pt",
        )
        frames = -(-len(clip) // self.extractor.hop_length)
        embeddings = ((frames - 1) // 2 + 1 - 2) // 2 + 1  # a convolution takes every other frame, a mean two of these
        return {
            "input_ids": torch.full((1, embeddings), self.audio_token_id),
            "input_features": made["input_features"][..., :frames],
            "feature_attention_mask": torch.ones(1, frames, dtype=torch.long),
        }

    def _audio_embeddings(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        audio = batch.audio.to(base.dtype)
        return base.get_audio_features(audio, feature_attention_mask=batch.audio_mask).last_hidden_state


class Qwen3OmniFamily(QwenOmniFamily):
    """The thinker of Qwen3-Omni. Equally long clips are read together, others one after the other.

    The tower pads a clip's last second to the longest of its call, and its last embedding would show it.
    """

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        # a clip is mirrored at its ends by half a window
        self.min_seconds = (self.extractor.n_fft // 2 + 1) / self.sampling_rate

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        assert batch.audio_mask is not None, "features makes one"

        def encode(audio: Tensor) -> Tensor:
            mask = torch.ones(audio.shape[:2], dtype=torch.long, device=audio.device)
            states = base.get_audio_features(audio.mT, feature_attention_mask=mask).last_hidden_state
            return states.unflatten(0, (len(audio), -1))

        frames = batch.audio_mask.sum(-1).tolist()
        return encode_by_length(encode, batch.audio.mT.to(base.dtype), frames, together=not is_sharded(base))


def _part(base: PreTrainedModel, name: str) -> nn.Module:
    """The tower of that name; older releases of transformers have it beside `model`."""
    return getattr(base, name, None) or getattr(base.model, name)


def request(language: str | None) -> str:
    """The request to transcribe, as "Transcribe the English audio into text.", the words of Qwen3-Omni's examples.

    Raises:
        ValueError: an unknown language.
    """
    if language is None:
        return "Transcribe the audio into text."
    code = language_code(language)
    name = next((name for name, known in language_names().items() if known == code), None)
    if name is None:
        near = nearest_language(language, set(language_names().values()))
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(
            f"unknown language {language!r}: the request to transcribe names it in English{hint}. Use a code or a name "
            "of Whisper's languages, or leave it out and the model finds it by itself"
        )
    return f"Transcribe the {name.title()} audio into text."
