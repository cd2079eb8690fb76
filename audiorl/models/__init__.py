"""Model families: what a trainer asks of a speech model, and who answers.

Names are loaded on first use. Beside the registry there are the classes that a family of one's own derives from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

if TYPE_CHECKING:
    from audiorl.models.audio_llm import AudioLLMFamily
    from audiorl.models.classifier import ClassifierFamily
    from audiorl.models.ctc import CTCFamily
    from audiorl.models.encoder_decoder import EncoderDecoderFamily
    from audiorl.models.family import AutoregressiveFamily, SpeechFamily, TokenizedText
    from audiorl.models.forward import base_model, disable_dropout, run_inside
    from audiorl.models.generate import GenerateFamily
    from audiorl.models.padding import encode_by_length, waveform_features
    from audiorl.models.registry import (
        FAMILIES,
        family_class,
        model_class,
        register_family,
        registered_family,
        speech_family,
    )
    from audiorl.models.sampling import Sampler
    from audiorl.models.whisper import shorten_window

# public name -> module
_HOMES = {
    "AudioLLMFamily": "audio_llm",
    "AutoregressiveFamily": "family",
    "CTCFamily": "ctc",
    "ClassifierFamily": "classifier",
    "EncoderDecoderFamily": "encoder_decoder",
    "FAMILIES": "registry",
    "GenerateFamily": "generate",
    "Sampler": "sampling",
    "SpeechFamily": "family",
    "TokenizedText": "family",
    "base_model": "forward",
    "disable_dropout": "forward",
    "encode_by_length": "padding",
    "family_class": "registry",
    "model_class": "registry",
    "register_family": "registry",
    "registered_family": "registry",
    "run_inside": "forward",
    "shorten_window": "whisper",
    "speech_family": "registry",
    "waveform_features": "padding",
}

__all__ = [
    "FAMILIES",
    "AudioLLMFamily",
    "AutoregressiveFamily",
    "CTCFamily",
    "ClassifierFamily",
    "EncoderDecoderFamily",
    "GenerateFamily",
    "Sampler",
    "SpeechFamily",
    "TokenizedText",
    "base_model",
    "disable_dropout",
    "encode_by_length",
    "family_class",
    "model_class",
    "register_family",
    "registered_family",
    "run_inside",
    "shorten_window",
    "speech_family",
    "waveform_features",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
