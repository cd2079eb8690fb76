"""The CTC models as cases of the conformance suite: each class, each kind of norm."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch
from audiorl.testing import FamilyCase
from tests.tiny_ctc import KINDS, LOWER, tiny_ctc
from tests.tiny_models import tiny_clips

TEXTS = [
    ["the quick brown fox", "a fox", ""],
    ["dog", "the lazy dog jumps", "do g"],
    ["so", "soo", "s o b"],
]


def ordinary(model: PreTrainedModel, batch: GroupBatch) -> list[Tensor]:
    """Logits with and without a mask."""
    audio = batch.audio if batch.audio_key == "input_values" else batch.audio.transpose(1, 2)
    mask_name = "attention_mask"
    if type(model).__name__ == "OmniASRForCTC":
        audio, mask_name = audio[:, None], "padding_mask"
    masks = ({mask_name: batch.audio_mask}, {})
    return [model(**{batch.audio_key: audio}, **mask).logits for mask in masks]


# The module that reads the audio, where it is not the encoder of the base model; and the layers of an adapter.
ENCODERS = {
    "parakeet": lambda model: model.encoder,
    "lasr": lambda model: model.encoder,
    "granite_speech5": lambda model: model.encoder,
    "omniasr": lambda model: model.model.audio_tower,
}
LORA = {
    "wavlm": ("intermediate_dense", "output_dense"),
    "sew_d": ("query_proj", "value_proj"),
    **dict.fromkeys(("wav2vec2_bert", "wav2vec2_conformer"), ("linear_q", "linear_v")),
}

# Of clips, where one symbol for 80 ms needs more than others.
SECONDS = {"granite_speech5": 1.8}


def ctc_case(kind: str) -> FamilyCase:
    case = str.lower if kind in LOWER else str.upper
    return FamilyCase(
        name=kind,
        build=lambda: tiny_ctc(kind),
        clips=tiny_clips(len(TEXTS), SECONDS.get(kind, 0.9)),
        texts=[[case(text) for text in group] for group in TEXTS],
        ordinary=ordinary,
        encoder=ENCODERS.get(kind, lambda model: model.base_model.encoder),
        lora_targets=LORA.get(kind, ("q_proj", "v_proj")),
    )


CTC_CASES = [ctc_case(kind) for kind in KINDS]
