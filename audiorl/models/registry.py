"""Which family answers for a model: looked up by the model type of its transformers config."""

from __future__ import annotations

from typing import Any

from torch import nn

from audiorl.models.family import SpeechFamily
from audiorl.models.speech_call import base_model

# model_type of a transformers config -> family; "module:Class" keeps imports lazy
FAMILIES: dict[str, str | type[SpeechFamily]] = {
    "whisper": "audiorl.models.encoder_decoder:WhisperFamily",
}


def register_family(model_type: str, family: type[SpeechFamily]) -> None:
    """Make `speech_family` answer `family` for models whose config says `model_type`."""
    FAMILIES[model_type] = family


def speech_family(model: nn.Module, processor: Any) -> SpeechFamily:
    """The family of a model, ready for use: the model's forward answers the family's calls from here on.

    Args:
        model: a transformers model, wrapped by PEFT or not.
        processor: what `AutoProcessor.from_pretrained` returns for the checkpoint.

    Raises:
        ValueError: no family knows this kind of model.
    """
    base = base_model(model)
    model_type = getattr(getattr(base, "config", None), "model_type", type(base).__name__)
    if model_type not in FAMILIES:
        raise ValueError(
            f"No family knows models of type {model_type!r} ({type(base).__name__}); known: {sorted(FAMILIES)}. "
            "Write one (audiorl/models/family.py describes it) and pass it to audiorl.models.register_family."
        )
    found = FAMILIES[model_type]
    if isinstance(found, str):
        module, _, name = found.partition(":")
        found = getattr(__import__(module, fromlist=[name]), name)
    family = found(base, processor)
    family.install(base)
    return family
