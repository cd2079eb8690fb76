"""The transducers as cases of the conformance suite: plain, with durations, streaming, told the language."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch
from audiorl.testing import FamilyCase
from tests.families.ctc_cases import TEXTS
from tests.tiny_models import tiny_clips
from tests.tiny_transducers import KINDS, LOOKAHEAD, PROMPTS, tiny_transducer


def ordinary(model: PreTrainedModel, batch: GroupBatch) -> list[Tensor]:
    """Logits of all nodes of a text, and what generate() writes."""
    heard = {"input_features": batch.audio.transpose(1, 2), "attention_mask": batch.audio_mask.bool()}
    if hasattr(model.encoder.config, "default_num_lookahead_tokens"):
        heard["num_lookahead_tokens"] = LOOKAHEAD[0]
    if hasattr(model, "prompt_projector"):
        heard["prompt_ids"] = torch.full_like(batch.row_ids, PROMPTS["de"])
    blank = model.config.blank_token_id
    read = torch.where(batch.tokens[:, 0, :-1] < model.config.vocab_size, batch.tokens[:, 0, :-1], blank)
    written = model.generate(**heard, max_new_tokens=80).sequences
    return [model(**heard, decoder_input_ids=read).logits, written]


def transducer_case(kind: str) -> FamilyCase:
    return FamilyCase(
        name=kind,
        build=lambda: tiny_transducer(kind),
        clips=tiny_clips(len(TEXTS)),
        texts=TEXTS,
        ordinary=ordinary,
        encoder=lambda model: model.encoder,
        lora_targets=("q_proj", "v_proj", "decoder_projector", "head"),
        rows=[{"language": name} for name in ("german", "fr-FR", "auto")] if kind == "nemotron3_5" else (),
    )


TRANSDUCER_CASES = [transducer_case(kind) for kind in KINDS]
