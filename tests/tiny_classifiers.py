"""Classifiers of a few thousand parameters, random but not indifferent: built in a moment, without network."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import nn
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    HubertConfig,
    HubertForSequenceClassification,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WavLMConfig,
    WavLMForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)

from tests.tiny_models import SAMPLING_RATE, WINDOW_FRAMES_PER_SECOND, tiny_clips

# torch's own, of the masks that transformers' WavLM hands to its attention
WAVLM_MASKS = "ignore:Support for mismatched key_padding_mask and attn_mask is deprecated:UserWarning"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Standard deviation of the ten logits of a clip.
LOGIT_SPREAD = 1.2

LABELS: dict[str, Any] = {"id2label": dict(enumerate(DIGITS)), "label2id": {label: i for i, label in enumerate(DIGITS)}}
WAVEFORM: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "classifier_proj_size": 16,
    "conv_dim": (16, 16, 16, 16),
    "conv_kernel": (10, 8, 8, 4),
    "conv_stride": (5, 4, 4, 4),
    "num_feat_extract_layers": 4,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "initializer_range": 0.3,
}
GROUP = {"feat_extract_norm": "group"}
LAYER = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}

# kind -> (model class, config class, fields, feature extractor)
KINDS: dict[str, tuple[type[PreTrainedModel], type, dict[str, Any], Any]] = {
    # without a mask from its own extractor, as facebook/wav2vec2-base
    "wav2vec2-group": (
        Wav2Vec2ForSequenceClassification,
        Wav2Vec2Config,
        {**WAVEFORM, **GROUP},
        lambda: Wav2Vec2FeatureExtractor(return_attention_mask=False),
    ),
    "wav2vec2-weighted": (
        Wav2Vec2ForSequenceClassification,
        Wav2Vec2Config,
        {**WAVEFORM, **GROUP, "use_weighted_layer_sum": True},
        lambda: Wav2Vec2FeatureExtractor(return_attention_mask=False),
    ),
    "hubert-layer": (
        HubertForSequenceClassification,
        HubertConfig,
        {**WAVEFORM, **LAYER, "use_weighted_layer_sum": True},
        lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True),
    ),
    "wavlm-group": (
        WavLMForSequenceClassification,
        WavLMConfig,
        {**WAVEFORM, **GROUP},
        lambda: Wav2Vec2FeatureExtractor(return_attention_mask=False),
    ),
    "ast": (
        ASTForAudioClassification,
        ASTConfig,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "num_mel_bins": 32,
            "max_length": 100,
            "initializer_range": 0.3,
        },
        lambda: ASTFeatureExtractor(num_mel_bins=32, max_length=100),
    ),
    "whisper": (
        WhisperForAudioClassification,
        WhisperConfig,
        {
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "max_source_positions": WINDOW_FRAMES_PER_SECOND,
            "classifier_proj_size": 16,
            "init_std": 0.3,
            "use_weighted_layer_sum": True,
        },
        lambda: WhisperFeatureExtractor(sampling_rate=SAMPLING_RATE, chunk_length=1),
    ),
}


def tiny_classifier(kind: str, **config: Any) -> tuple[PreTrainedModel, Any]:
    """A fresh copy of a tiny random classifier of the ten digits in evaluation mode, and its feature extractor.

    Args:
        kind: a key of `KINDS`.
        config: fields to exchange; the weights stay what they were if their shapes do.
    """
    model, extractor = _build(kind, tuple(sorted(config.items())))
    return copy.deepcopy(model), copy.deepcopy(extractor)


@functools.cache
def _build(kind: str, changes: tuple[tuple[str, Any], ...]) -> tuple[PreTrainedModel, Any]:
    model_class, config_class, fields, extractor = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, kind)))
        model = model_class(config_class(**{**LABELS, **fields, **dict(changes)})).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or name.endswith("bias"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
            _spread(model, extractor())
    return model, extractor()


def _spread(model: PreTrainedModel, extractor: Any) -> None:
    """Scale the last projection so that the labels differ as wanted: some are likely, none is certain."""
    head = model.classifier if isinstance(model.classifier, nn.Linear) else model.classifier.dense
    head.weight.copy_(torch.randn_like(head.weight) / head.in_features**0.5)
    heard = extractor(tiny_clips(1), sampling_rate=SAMPLING_RATE, return_tensors="pt")
    head.weight.mul_(LOGIT_SPREAD / model(heard[model.main_input_name]).logits.std())
