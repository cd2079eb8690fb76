"""Which family a model belongs to: looked up by the model's class, then by the model type of its config."""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn
from transformers import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    MODEL_FOR_CTC_MAPPING,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from audiorl.models.family import SpeechFamily
from audiorl.models.forward import base_model
from audiorl.plugins import find_plugin, registered_names

# An installed package offers a family under the name of a model class or model type
ENTRY_POINT_GROUP = "audiorl.families"

# Name of a model class, or model_type of a transformers config -> family; "module:Class" keeps imports lazy. One
# model_type has several heads (wav2vec2: transcripts or labels), so the class decides where it stands here.
FAMILIES: dict[str, str | type[SpeechFamily]] = {
    "whisper": "audiorl.models.whisper:WhisperFamily",
    "moonshine": "audiorl.models.moonshine:MoonshineFamily",
    "moonshine_streaming": "audiorl.models.moonshine:MoonshineStreamingFamily",
    "canary": "audiorl.models.canary:CanaryFamily",
    "cohere_asr": "audiorl.models.canary:CohereASRFamily",
    "speech_to_text": "audiorl.models.speech2text:Speech2TextFamily",
    "Qwen3ASRForConditionalGeneration": "audiorl.models.audio_llms:Qwen3ASRFamily",
    "GlmAsrForConditionalGeneration": "audiorl.models.audio_llms:GlmASRFamily",
    "Qwen2AudioForConditionalGeneration": "audiorl.models.audio_llms:Qwen2AudioFamily",
    "VoxtralForConditionalGeneration": "audiorl.models.voxtral:VoxtralFamily",
    "AudioFlamingo3ForConditionalGeneration": "audiorl.models.audio_llms:AudioFlamingo3Family",
    "Qwen2_5OmniThinkerForConditionalGeneration": "audiorl.models.qwen_omni:Qwen25OmniFamily",
    "Qwen3OmniMoeThinkerForConditionalGeneration": "audiorl.models.qwen_omni:Qwen3OmniFamily",
    "VibeVoiceAsrForConditionalGeneration": "audiorl.models.vibevoice:VibeVoiceFamily",
    "FunAsrNanoForConditionalGeneration": "audiorl.models.audio_llms:FunASRFamily",
    "GraniteSpeechForConditionalGeneration": "audiorl.models.granite_speech:GraniteSpeechFamily",
    "GraniteSpeechPlusForConditionalGeneration": "audiorl.models.granite_speech:GraniteSpeechFamily",
    "OmniASRForConditionalGeneration": "audiorl.models.omniasr:OmniASRFamily",
    "Wav2Vec2ForCTC": "audiorl.models.ctc:WaveformCTCFamily",
    "HubertForCTC": "audiorl.models.ctc:WaveformCTCFamily",
    "WavLMForCTC": "audiorl.models.ctc:WavLMCTCFamily",
    "UniSpeechForCTC": "audiorl.models.ctc:WaveformCTCFamily",
    "UniSpeechSatForCTC": "audiorl.models.ctc:WaveformCTCFamily",
    "Data2VecAudioForCTC": "audiorl.models.ctc:UnpaddedCTCFamily",
    "SEWForCTC": "audiorl.models.ctc:UnpaddedCTCFamily",
    "SEWDForCTC": "audiorl.models.ctc:UnpaddedCTCFamily",
    "Wav2Vec2ConformerForCTC": "audiorl.models.ctc:ConformerCTCFamily",
    "OmniASRForCTC": "audiorl.models.omniasr:OmniASRCTCFamily",
    "Wav2Vec2BertForCTC": "audiorl.models.ctc:SpectrogramCTCFamily",
    "GraniteSpeech5ForCTC": "audiorl.models.granite_speech5:GraniteSpeech5Family",
    "LasrForCTC": "audiorl.models.ctc:LASRCTCFamily",
    "ParakeetForCTC": "audiorl.models.ctc:ParakeetCTCFamily",
    "ParakeetForRNNT": "audiorl.models.transducer:TransducerFamily",
    "ParakeetForTDT": "audiorl.models.transducer:TransducerFamily",
    "NemotronAsrStreamingForRNNT": "audiorl.models.transducer:StreamingTransducerFamily",
    "Nemotron3_5AsrForRNNT": "audiorl.models.transducer:PromptedTransducerFamily",
    "WhisperForAudioClassification": "audiorl.models.classifier:WhisperClassifier",
    "Wav2Vec2ForSequenceClassification": "audiorl.models.classifier:WaveformClassifier",
    "HubertForSequenceClassification": "audiorl.models.classifier:WaveformClassifier",
    "WavLMForSequenceClassification": "audiorl.models.classifier:WavLMClassifier",
    "ASTForAudioClassification": "audiorl.models.classifier:SpectrogramClassifier",
}
# Checkpoints of several models, of which one writes text: that part is loaded, tuned and saved.
TEXT_PARTS = {
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration",
}
# What a checkpoint without `architectures` is loaded as: the first that has a class for its config.
HEADS = (MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING, MODEL_FOR_CTC_MAPPING, MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING)


def register_family(name: str, family: type[SpeechFamily]) -> None:
    """Make `speech_family` answer `family` for models of a class and its subclasses, or of a `model_type`.

    Args:
        name: of the class, such as "Wav2Vec2ForCTC"; or the config's model_type, such as "wav2vec2", for those of its
            models whose class is not registered.
    """
    FAMILIES[name] = family


def use_family(name: str) -> type[SpeechFamily]:
    """Register a family of your own by its name, as `--family` does.

    Args:
        name: a dotted path, "my_module.MyFamily" (modules in the working folder are found), or the name of an entry
            point of the group "audiorl.families". The class names in `serves` the models that it answers for. Its
            module also tells transformers of config and model class: `AutoConfig.register`, `AutoModelForCTC.register`.

    Raises:
        ValueError: it cannot be imported, is no family, or serves no model.
    """
    found = find_plugin("family", ENTRY_POINT_GROUP, name, ValueError)
    if not (isinstance(found, type) and issubclass(found, SpeechFamily)):
        said = "is not known" if found is None else "is no subclass of audiorl.models.SpeechFamily"
        raise ValueError(f"The family {name!r} {said}. Pass --family my_module.MyFamily, the path of such a class.")
    if not found.serves:
        raise ValueError(
            f"The family {name!r} does not say which models it serves. Write serves = ('MyModelForCTC',) into it, "
            "names of model classes or model types."
        )
    for served in found.serves:
        register_family(served, found)
    return found


def family_class(model: nn.Module) -> type[SpeechFamily]:
    """The family that answers for a model: by its class, then those it derives from, then by its model_type.

    Raises:
        ValueError: no family knows this kind of model, or the processor is a tokenizer or feature extractor alone.
    """
    base = base_model(model)
    model_type = getattr(getattr(base, "config", None), "model_type", type(base).__name__)
    found = registered_family(type(base), model_type)
    if found is None:
        raise ValueError(
            f"No family knows models of type {model_type!r} ({type(base).__name__}); known: {sorted(FAMILIES)}. "
            "Write one (audiorl/models/family.py describes it) and pass it to audiorl.models.register_family."
        )
    return found


def registered_family(kind: type, model_type: str) -> type[SpeechFamily] | None:
    """`family_class` before there is a model: by its class and the model_type of its config; None for unknown ones."""
    names = [*(ancestor.__name__ for ancestor in kind.__mro__), model_type]
    found = next((FAMILIES[name] for name in names if name in FAMILIES), None)
    if found is None and (
        plugged := next((name for name in names if name in registered_names(ENTRY_POINT_GROUP)), None)
    ):
        return find_plugin("family", ENTRY_POINT_GROUP, plugged, ValueError)
    if isinstance(found, str):
        module, _, name = found.partition(":")
        return getattr(__import__(module, fromlist=[name]), name)
    return found


def speech_family(model: nn.Module, processor: Any) -> SpeechFamily:
    """The family of a model, ready for use: the model's forward answers the family's calls from here on.

    Args:
        model: a transformers model, wrapped by PEFT or not.
        processor: what `load_processor` of the model's family returns for the checkpoint.

    Raises:
        ValueError: no family knows this kind of model.
    """
    base = base_model(model)
    whole = "processing_class=AutoProcessor.from_pretrained(...), which holds both"
    if isinstance(processor, PreTrainedTokenizerBase):
        raise ValueError(f"{type(processor).__name__} is a tokenizer, which cannot read audio. Pass {whole}.")
    try:
        family = family_class(base)(base, processor)
    except AttributeError as error:
        if not isinstance(processor, FeatureExtractionMixin):
            raise
        raise ValueError(
            f"{type(processor).__name__} is a feature extractor, which cannot read texts. Pass {whole}."
        ) from error
    family.install(base)
    return family


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class to load a checkpoint with: the one that its config names, else transformers' for transcripts, else for
    labels. Of a checkpoint of several models (Qwen-Omni) it is the part that writes text.

    Raises:
        ValueError: the config names no class that transformers has, and transformers has no speech model of its type.
        ImportError: its family needs a package that is not installed; better known before weights are loaded.
    """
    named = TEXT_PARTS.get(config.model_type) or (config.architectures or [""])[0]
    found = getattr(transformers, named, None) or next(
        (head[type(config)] for head in HEADS if type(config) in head), None
    )
    if found is None:
        raise ValueError(
            f"No model can be made from this checkpoint: its config, of type {config.model_type!r}, names the class "
            f"{named!r}, which transformers does not have. Check that it is a speech model, or pass a loaded model."
        )
    if (family := registered_family(found, config.model_type)) is not None:
        family.require_packages()
    return found
