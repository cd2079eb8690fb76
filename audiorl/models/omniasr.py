"""OmniASR (Omnilingual ASR team 2025, arXiv:2511.09690): a Wav2Vec2 of its own, and a CTC head or a language model.

The encoder sets frames of padding to zero before the convolution for its positions reaches into them, so padding moves
no numbers as long as it gets the mask. Before the transcript the language model reads

    frames of audio | mark of a language | the language's token | <s>

in the form that the checkpoint's own chat template writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch
from audiorl.models.audio_llm import AudioLLMFamily
from audiorl.models.ctc import WaveformCTCFamily
from audiorl.models.forward import base_model
from audiorl.models.padding import shortest_clip
from audiorl.text.languages import DETECT, language_code

# Languages whose code in Whisper's vocabulary is not that of ISO 639-1.
ISO_CODES = {"jw": "jv"}


def omniasr_features(extractor: Any, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """`input_values` (B, N), each clip normalised over its own samples, and `audio_mask` (B, N)."""
    # one by one: a sum over more zeros is rounded otherwise
    made = [extractor([clip], sampling_rate=extractor.sampling_rate, return_tensors="pt") for clip in clips]
    values = pad_sequence([one.input_values.flatten() for one in made], batch_first=True)
    masks = pad_sequence([one.padding_mask.flatten().long() for one in made], batch_first=True)
    return {"input_values": values, "audio_mask": masks}


def _heard(base: PreTrainedModel, batch: GroupBatch) -> Any:
    """What the encoder returns: states (B, S, D) and a mask of each clip's own (B, S)."""
    assert batch.audio_mask is not None, "features makes one"
    return base.model.audio_tower(batch.audio[:, None].to(base.dtype), padding_mask=batch.audio_mask)


class OmniASRCTCFamily(WaveformCTCFamily):
    """OmniASR-CTC: a Wav2Vec2 of its own, with a blank that is not its padding."""

    def runs_in_pipeline(self, model: nn.Module) -> bool:
        """A pipeline (transformers 5.24) passes the mask under a name that this model's encoder refuses."""
        return False

    def _convolutions(self, config: Any) -> Any:
        return config.audio_config

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """See `omniasr_features`."""
        return omniasr_features(self.processor.feature_extractor, clips)

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(base_model(model).model.parameters())

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        return _heard(base, batch).last_hidden_state

    def _head(self, base: PreTrainedModel, states: Tensor) -> Tensor:
        return base.ctc_head(states)


class OmniASRFamily(AudioLLMFamily):
    """OmniASR with a language model (omniASR-LLM). It reads no prompt and no hot words.

    A row's `language` is a name, a code ("en") or a code of the checkpoint's ("eng_Latn"); without one, or with "auto",
    the model is asked in the mode that serves all languages.
    """

    decodes_with_prompts = False

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config.audio_config
        made = (list(processor.conv_kernel), list(processor.conv_stride))
        if made != (list(config.conv_kernel), list(config.conv_stride)):
            raise ValueError(
                f"The processor counts frames of convolutions with kernels and strides {made}, the model has "
                f"{list(config.conv_kernel)} and {list(config.conv_stride)}. Load the processor from the model's own "
                "checkpoint."
            )
        self.min_seconds = shortest_clip(config) / self.sampling_rate
        # longer audio would fill all positions of the language model
        self.max_seconds = self.max_tokens * math.prod(config.conv_stride) / self.sampling_rate

    # ---- data ----

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        if prompt:
            raise ValueError("this model reads no prompt. Leave the column out")
        return self._request(language=self._as_named(language) if language else None)

    def _as_named(self, language: str) -> str:
        """The processor's code of a language."""
        written = language.strip().lower()
        if written == DETECT or f"<|lang:{written}|>" in self.tokenizer.get_vocab():
            return written
        code = language_code(language)
        return ISO_CODES.get(code, code)

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`input_values` (B, N), `audio_mask` (B, N), and `audio_tokens` (B,), the embeddings of each clip."""
        made = omniasr_features(self.extractor, clips)
        return {**made, "audio_tokens": self.processor._get_num_audio_tokens(made["audio_mask"].sum(-1))}

    # ---- weights ----

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        """(B, S, D) audio embeddings, zero behind each clip's own."""
        heard = _heard(base, batch)
        states = base.model.multi_modal_projector(heard.last_hidden_state)
        return states.masked_fill(~heard.attention_mask.bool()[..., None], 0.0)
