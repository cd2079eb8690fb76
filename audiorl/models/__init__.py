"""Model families: what a trainer asks of a speech model, and who answers."""

from audiorl.models.family import SpeechFamily, TokenizedText
from audiorl.models.forward import base_model, disable_dropout, run_inside
from audiorl.models.registry import (
    FAMILIES,
    family_class,
    model_class,
    register_family,
    registered_family,
    speech_family,
)
from audiorl.models.short_window import shorten_window

__all__ = [
    "FAMILIES",
    "SpeechFamily",
    "TokenizedText",
    "base_model",
    "disable_dropout",
    "family_class",
    "model_class",
    "register_family",
    "registered_family",
    "run_inside",
    "shorten_window",
    "speech_family",
]
