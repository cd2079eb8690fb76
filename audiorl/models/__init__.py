"""Model families: the interface between trainers and speech models.

Names are loaded on first use: the registry, and the base classes for a family of your own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

# public name -> module
_HOMES = {
    "AudioLLMFamily": "audio_llm",
    "AutoregressiveFamily": "family",
    "CTCFamily": "ctc",
    "ClassifierFamily": "classifier",
    "EncoderCache": "encoder_cache",
    "EncoderDecoderFamily": "encoder_decoder",
    "FAMILIES": "registry",
    "GenerateFamily": "generate",
    "LongForm": "long_clips",
    "Sampler": "sampling",
    "SpeechFamily": "family",
    "TokenizedText": "family",
    "align": "ctc_alignment",
    "base_model": "forward",
    "disable_dropout": "forward",
    "encode_by_length": "padding",
    "family_class": "registry",
    "model_class": "registry",
    "register_family": "registry",
    "registered_family": "registry",
    "run_inside": "forward",
    "segments_of": "ctc_alignment",
    "shorten_window": "whisper",
    "speech_family": "registry",
    "use_family": "registry",
    "waveform_features": "padding",
    "with_fewer_layers": "encoder_decoder",
}

if TYPE_CHECKING:
    from audiorl.models.audio_llm import AudioLLMFamily as AudioLLMFamily
    from audiorl.models.classifier import ClassifierFamily as ClassifierFamily
    from audiorl.models.ctc import CTCFamily as CTCFamily
    from audiorl.models.ctc_alignment import align as align
    from audiorl.models.ctc_alignment import segments_of as segments_of
    from audiorl.models.encoder_cache import EncoderCache as EncoderCache
    from audiorl.models.encoder_decoder import EncoderDecoderFamily as EncoderDecoderFamily
    from audiorl.models.encoder_decoder import with_fewer_layers as with_fewer_layers
    from audiorl.models.family import AutoregressiveFamily as AutoregressiveFamily
    from audiorl.models.family import SpeechFamily as SpeechFamily
    from audiorl.models.family import TokenizedText as TokenizedText
    from audiorl.models.forward import base_model as base_model
    from audiorl.models.forward import disable_dropout as disable_dropout
    from audiorl.models.forward import run_inside as run_inside
    from audiorl.models.generate import GenerateFamily as GenerateFamily
    from audiorl.models.long_clips import LongForm as LongForm
    from audiorl.models.padding import encode_by_length as encode_by_length
    from audiorl.models.padding import waveform_features as waveform_features
    from audiorl.models.registry import FAMILIES as FAMILIES
    from audiorl.models.registry import family_class as family_class
    from audiorl.models.registry import model_class as model_class
    from audiorl.models.registry import register_family as register_family
    from audiorl.models.registry import registered_family as registered_family
    from audiorl.models.registry import speech_family as speech_family
    from audiorl.models.registry import use_family as use_family
    from audiorl.models.sampling import Sampler as Sampler
    from audiorl.models.whisper import shorten_window as shorten_window
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _HOMES)
