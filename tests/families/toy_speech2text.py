"""A family without a step decoder: transformers' Speech2Text, tiny, sampled through `generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    Speech2TextConfig,
    Speech2TextForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from audiorl.batch import GroupBatch, GroupScores
from audiorl.models import base_model, register_family
from audiorl.models.generate_fallback import GenerateFamily
from audiorl.models.head import score_tokens
from tests.families.toys import BLANK, FRAME, WINDOW, ToyFamily, ToyProcessor

# Speech2Text gives no position to padding, so the end token cannot be padding as well, and padding is never to be drawn
PAD = 28
# ... and begins to count behind its id
POSITIONS = 40
END_LOGIT = 3.0  # what the end token's gets on top, so that hypotheses end


class ToySpeech2TextFamily(GenerateFamily, ToyFamily):
    max_seconds = WINDOW * FRAME / 1000

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        window = np.stack([np.pad(clip, (0, WINDOW * FRAME - len(clip))) for clip in clips])
        return {"input_features": torch.from_numpy(window).unflatten(1, (WINDOW, FRAME)).transpose(1, 2)}

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        return base.get_encoder()(batch.audio.transpose(1, 2).to(base.dtype)).last_hidden_state

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        hidden = base.get_decoder()(
            input_ids=batch.tokens[..., :-1].flatten(0, 1),
            encoder_hidden_states=states.repeat_interleave(batch.num_hypotheses, 0),
            use_cache=False,
        ).last_hidden_state.unflatten(0, batch.tokens.shape[:2])
        return score_tokens(hidden, base.lm_head, batch.tokens[..., 1:], batch.keep, states, temperature)

    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        return POSITIONS

    def _generation_inputs(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> dict[str, Any]:
        return {"encoder_outputs": BaseModelOutput(last_hidden_state=states)}

    def encoder_parameters(self, model):
        return list(base_model(model).get_encoder().parameters())

    def transcribe(self, model, audio: Mapping[str, Tensor], **generation: Any) -> list[str]:
        base = base_model(model)
        ids = GenerationMixin.generate(base, inputs=audio["input_features"].transpose(1, 2), **generation)[:, 1:]
        ended = (ids == BLANK).cumsum(-1) > 0
        tokens = torch.nn.functional.pad(ids.masked_fill(ended, BLANK), (1, 0))
        return [texts[0] for texts in self.text(tokens[:, None], ~ended[:, None])]


register_family("speech_to_text", ToySpeech2TextFamily)


def build_speech2text() -> tuple[Speech2TextForConditionalGeneration, ToyProcessor]:
    """Random weights that listen; a generation config that suppresses a letter and forbids short texts."""
    config = Speech2TextConfig(
        vocab_size=29,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        conv_channels=16,
        input_feat_per_channel=FRAME,
        max_source_positions=POSITIONS,
        max_target_positions=PAD + 1 + POSITIONS,
        pad_token_id=PAD,
        bos_token_id=BLANK,
        eos_token_id=BLANK,
        decoder_start_token_id=BLANK,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Speech2TextForConditionalGeneration(config).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        head, bias = model.lm_head.weight.data, model.get_decoder().layer_norm.bias.data
        away = torch.nn.functional.normalize(torch.randn(config.d_model), dim=0)
        head -= (head @ away)[:, None] * away
        bias += 10 * away + END_LOGIT * head[BLANK] / head[BLANK].square().sum()
        head[PAD] = -10 * away
    ids = {"pad_token_id": PAD, "bos_token_id": BLANK, "eos_token_id": BLANK, "decoder_start_token_id": BLANK}
    model.generation_config = GenerationConfig(**ids, suppress_tokens=[3, 4, 5], min_new_tokens=4, max_length=12)
    return model, ToyProcessor()
