"""Model families: what a trainer asks of a speech model, and who answers."""

from audiorl.models.family import (
    FAMILIES,
    SpeechFamily,
    TokenizedText,
    base_model,
    disable_dropout,
    register_family,
    run_inside,
    speech_family,
)

__all__ = [
    "FAMILIES",
    "SpeechFamily",
    "TokenizedText",
    "base_model",
    "disable_dropout",
    "register_family",
    "run_inside",
    "speech_family",
]
