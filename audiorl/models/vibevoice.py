"""VibeVoice-ASR: two convolutional tokenizers over the waveform, a Qwen2 behind them, and answers that are JSON.

The released model is asked for times, speakers and words, and says how long the clip is in the request:

    <|im_start|>user
    [audio] This is a 7.56 seconds audio, please transcribe it with these keys: ...<|im_end|>
    <|im_start|>assistant
    [{"Start":0,"End":7.56,"Speaker":0,"Content":"transcript"}]<|im_end|>

A row has a transcript, no times and no speakers. So everything up to the quotation mark belongs to the prefix, for one
segment that fills the clip, and the hypothesis is what follows: the transcript, the end of the JSON and the end token.
Scores, samples and evaluation are of what the model says is spoken, given that one speaker speaks from start to end.
A hypothesis that opens more segments by itself is read as the transcripts of all. Times and speakers are not tuned.

The length of the clip is not known when texts are tokenized. In `tokens` the end token holds the place of each length,
and when the model runs the clip's own digits take it.

Deviations from the stock forward:

1. That adds Gaussian noise to the acoustic latents (`sample=True`), anew in each call. Here there is none: policy,
   reference and samples would hear different clips.
2. It runs both tokenizers without gradients. So do we, and they are frozen.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationMixin, PreTrainedModel

from audiorl.batch import GroupBatch
from audiorl.models.audio_llm import AudioLLMFamily, context_with_history
from audiorl.models.forward import base_model

ANSWER_START, TURN_END = "<|im_start|>assistant\n", "<|im_end|>"
OPENING = '[{"Start":0,"End":%s,"Speaker":0,"Content":"'
CLOSING = f'"}}]{TURN_END}\n'
# What of a written answer is spoken: strings behind the key, the last of them perhaps cut short.
CONTENT = re.compile(r'"Content"\s*:\s*"((?:[^"\\]|\\.)*)', re.DOTALL)
# One pass of the released model takes an hour.
MAX_SECONDS = 3600.0
# Digits and points that take the place of the two lengths.
MOST_DIGITS = 2 * len(f"{MAX_SECONDS:.2f}")


class VibeVoiceFamily(AudioLLMFamily):
    """VibeVoice-ASR. The row's `prompt` is its context, names and terms among it; the model finds the language."""

    max_seconds = MAX_SECONDS
    unquantised = (".*tokenizer_encoder", ".*projector", "lm_head")

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        self.length_mark: str = processor.audio_duration_token
        self.turn_end = self.tokenizer.convert_tokens_to_ids(TURN_END)
        self.hop = base_model(model).config.acoustic_tokenizer_encoder_config.hop_length

    def install(self, model: nn.Module) -> None:
        super().install(model)
        for tokenizer in _tokenizers(base_model(model)):
            tokenizer.requires_grad_(False)

    def _masked_part(self, base: PreTrainedModel) -> PreTrainedModel:
        return base.get_decoder()  # the tokenizers have no attention

    # ---- data ----

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`input_values` (B, N), whole hops of samples, `audio_samples` and `audio_tokens` (B,)."""
        heard = [self._waveform(clip) for clip in clips]
        return {
            "input_values": pad_sequence(heard, batch_first=True),
            "audio_samples": torch.tensor([len(clip) for clip in clips]),
            "audio_tokens": torch.tensor([len(one) // self.hop for one in heard]),
        }

    def _waveform(self, clip: np.ndarray) -> Tensor:
        made = self.extractor(clip, sampling_rate=self.sampling_rate, pad_to_multiple_of=self.hop, return_tensors="pt")
        return made["input_values"][0, 0]

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        """Up to the quotation mark that opens the transcript, with the processor's mark where lengths are."""
        content: list[dict[str, str]] = [{"type": "audio"}, *([{"type": "text", "text": prompt}] if prompt else [])]
        turns = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        if (found := text.count(self.length_mark)) != 1:
            raise ValueError(
                f"the request has {found} places for the clip's length ({self.length_mark}), it should have one. Leave "
                "them out of the row's prompt, and load the processor of a VibeVoice-ASR checkpoint, with its template"
            )
        # the template of released checkpoints leaves the answer's header to the model
        return text.removesuffix(ANSWER_START) + ANSWER_START + OPENING % self.length_mark

    def prefix_ids(self, language: str | None, prompt: str | None) -> list[int]:
        first, *others = self.prompt_text(language, prompt).split(self.length_mark)
        ids = self._ids(first)
        for part in others:
            ids += [self.end_token, *self._ids(part)]
        return ids

    def prompt_with_history(self, prompt: str | None, history: str) -> str:
        return context_with_history(prompt, history)

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        """A line of the context, which is where this model's demonstrations have them."""
        return "\n".join([*([prompt] if prompt else []), ", ".join(hotwords)])

    def answer_ids(self, text: str) -> list[int]:
        return self._ids(json.dumps(text, ensure_ascii=False)[1:-1] + CLOSING)

    def _decode(self, ids: list[int]) -> str:
        said = ids[: ids.index(self.turn_end)] if self.turn_end in ids else ids
        return spoken(super()._decode([i for i in said if i == self.end_token or i not in self._special]))

    # ---- weights ----

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        base = base_model(model)
        parts = (*_tokenizers(base), base.model.multi_modal_projector)
        return [parameter for part in parts for parameter in part.parameters()]

    def _audio_embeddings(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        # convolutions look back only, so silence behind a clip changes nothing in it
        with _without_noise(base) as options:
            made = base.get_audio_features(batch.audio[:, None].to(base.dtype), **options).pooler_output
        own = torch.arange(made.shape[1], device=made.device) < batch.tensors["audio_tokens"][:, None]
        return made[own]

    def _filled(self, prefix: Tensor, batch: GroupBatch, b: int) -> Tensor:
        seconds = int(batch.tensors["audio_samples"][b]) / self.sampling_rate
        digits = prefix.new_tensor(self._ids(f"{seconds:.2f}"))
        pieces = [digits if i == self.end_token else prefix.new_tensor([i]) for i in prefix.tolist()]
        return torch.cat(pieces) if pieces else prefix

    def _generate(self, base: PreTrainedModel, **given: Any) -> Tensor:
        # the model's own method takes any keywords, which `generate` reads as: no embeddings
        base.prepare_inputs_for_generation = MethodType(GenerationMixin.prepare_inputs_for_generation, base)
        try:
            return super()._generate(base, **given)
        finally:
            del base.prepare_inputs_for_generation

    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        return super()._positions(base, states) - MOST_DIGITS


def spoken(written: str) -> str:
    """The transcripts in an answer, which goes on from where `OPENING` ends; it may be cut short."""
    return " ".join(said for found in CONTENT.findall('"Content":"' + written) if (said := _unescaped(found).strip()))


def _unescaped(found: str) -> str:
    try:
        return json.loads(f'"{found}"', strict=False)
    except json.JSONDecodeError:  # an escape that JSON does not know
        return found


def _tokenizers(base: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    return base.model.acoustic_tokenizer_encoder, base.model.semantic_tokenizer_encoder


@contextmanager
def _without_noise(base: PreTrainedModel) -> Iterator[dict[str, bool]]:
    """Options of `get_audio_features` under which it adds no noise."""
    if "sample" in inspect.signature(base.model.get_audio_features).parameters:
        yield {"sample": False}
        return
    # older releases of transformers always add it
    config = base.config.acoustic_tokenizer_encoder_config
    deviation, config.vae_std = config.vae_std, 0.0
    try:
        yield {}
    finally:
        config.vae_std = deviation
