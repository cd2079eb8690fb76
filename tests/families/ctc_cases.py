"""The CTC models as cases of the conformance suite: each class, each kind of norm."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch
from audiorl.testing import FamilyCase
from tests.tiny_ctc import KINDS, tiny_ctc
from tests.tiny_models import tiny_clips

TEXTS = [
    ["the quick brown fox", "a fox", ""],
    ["dog", "the lazy dog jumps", "do g"],
    ["so", "soo", "s o b"],
]


def ordinary(model: PreTrainedModel, batch: GroupBatch) -> list[Tensor]:
    """Logits with and without a mask."""
    audio = batch.audio if batch.audio_key == "input_values" else batch.audio.transpose(1, 2)
    masks = ({"attention_mask": batch.audio_mask}, {})
    return [model(**{batch.audio_key: audio}, **mask).logits for mask in masks]


def ctc_case(kind: str) -> FamilyCase:
    case = str.lower if kind == "parakeet" else str.upper
    return FamilyCase(
        name=kind,
        build=lambda: tiny_ctc(kind),
        clips=tiny_clips(len(TEXTS)),
        texts=[[case(text) for text in group] for group in TEXTS],
        ordinary=ordinary,
        encoder=lambda model: model.encoder if kind == "parakeet" else model.base_model.encoder,
        lora_targets=("intermediate_dense", "output_dense") if kind == "wavlm" else ("q_proj", "v_proj"),
    )


CTC_CASES = [ctc_case(kind) for kind in KINDS]
