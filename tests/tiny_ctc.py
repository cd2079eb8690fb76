"""CTC checkpoints of a few thousand parameters, random but not indifferent: Wav2Vec2 and its relatives, Parakeet, LASR.

Blanks are likely enough that random paths collapse to short texts, some of them again and again.
"""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    HubertConfig,
    HubertForCTC,
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetProcessor,
    ParakeetTokenizer,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WavLMConfig,
    WavLMForCTC,
)

from audiorl.models.granite_speech5 import do_without_torchaudio
from tests.tiny_models import SAMPLING_RATE, SENTENCES

# The symbols of facebook/wav2vec2-base-960h in its order: capitals, `|` between words, `<pad>` for the blank.
SYMBOLS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
BLANK_LOGIT = 7.0
DROPPED = {
    "hidden_dropout": 0.1,
    "activation_dropout": 0.1,
    "attention_dropout": 0.1,
    "feat_proj_dropout": 0.1,
    "final_dropout": 0.1,
    "layerdrop": 0.3,
    # SpecAugment, in time and over features
    "apply_spec_augment": True,
    "mask_time_prob": 0.3,
    "mask_time_length": 4,
    "mask_feature_prob": 0.2,
    "mask_feature_length": 4,
}
WAVEFORM: dict[str, Any] = {
    "vocab_size": len(SYMBOLS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_kernel": (40, 32),
    "conv_stride": (20, 16),  # 320 samples to a frame, as in the checkpoints
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    **DROPPED,
}
# kind -> model class, config class, what differs: the norm of the convolutions, the place of the other norms
WAVEFORM_KINDS: dict[str, tuple[type[PreTrainedModel], type, dict[str, Any]]] = {
    "wav2vec2": (Wav2Vec2ForCTC, Wav2Vec2Config, {"feat_extract_norm": "group"}),
    "wav2vec2-large": (
        Wav2Vec2ForCTC,
        Wav2Vec2Config,
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    ),
    "hubert": (HubertForCTC, HubertConfig, {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    # its config lacks a field that masking features asks for
    "wavlm": (
        WavLMForCTC,
        WavLMConfig,
        {"feat_extract_norm": "group", "num_buckets": 16, "max_bucket_distance": 32, "mask_feature_prob": 0.0},
    ),
}
# What OmniASR's encoder takes of it.
OMNI_TOWER = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "initializer_range")
OMNI_TOWER += tuple(name for name in WAVEFORM if name.startswith(("conv", "num_conv")))
SQUEEZED: dict[str, Any] = {"squeeze_factor": 2, "conv_bias": False, "feat_extract_norm": "group"}
# kind -> name of the model class and of the config, what differs; older transformers lack some of them
RELATIVES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "unispeech": ("UniSpeechForCTC", "UniSpeechConfig", {"feat_extract_norm": "group"}),
    "unispeech_sat": (
        "UniSpeechSatForCTC",
        "UniSpeechSatConfig",
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
    ),
    "data2vec": (
        "Data2VecAudioForCTC",
        "Data2VecAudioConfig",
        {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3},
    ),
    "sew": ("SEWForCTC", "SEWConfig", SQUEEZED),
    "sew_d": ("SEWDForCTC", "SEWDConfig", {**SQUEEZED, "max_position_embeddings": 64, "position_buckets": 32}),
    "wav2vec2_conformer": (
        "Wav2Vec2ConformerForCTC",
        "Wav2Vec2ConformerConfig",
        {"feat_extract_norm": "layer", "conv_depthwise_kernel_size": 5, "conformer_conv_dropout": 0.1},
    ),
    "wav2vec2_bert": (
        "Wav2Vec2BertForCTC",
        "Wav2Vec2BertConfig",
        {"feature_projection_input_dim": 32, "conv_depthwise_kernel_size": 5, "conformer_conv_dropout": 0.1},
    ),
    "omniasr": ("OmniASRForCTC", "OmniASRCTCConfig", {}),
    "lasr": ("LasrForCTC", "LasrCTCConfig", {}),
    "granite_speech5": ("GraniteSpeech5ForCTC", "GraniteSpeech5CTCConfig", {}),
}
NEWER = tuple(kind for kind, (name, _, _) in RELATIVES.items() if hasattr(transformers, name))
KINDS = (*WAVEFORM_KINDS, "parakeet", *NEWER)
# Kinds that have too few frames for a text of letters in a second or two.
SLOW_WRITERS = ("lasr", "granite_speech5")
# Kinds whose symbols are small letters.
LOWER = ("parakeet", "lasr", "granite_speech5")
# The encoder of Parakeet and of Canary.
TINY_FAST_CONFORMER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_kernel_size": 5,
    "subsampling_factor": 4,
    "subsampling_conv_channels": 8,
    "num_mel_bins": 16,
    "initializer_range": 0.2,
    "dropout": 0.1,
    "dropout_positions": 0.1,
    "layerdrop": 0.3,
}


def tiny_ctc(kind: str = "wav2vec2") -> tuple[PreTrainedModel, Any]:
    """A fresh copy of a tiny random CTC model in evaluation mode, its dropouts above zero, and its processor."""
    model, processor = _build(kind)
    return copy.deepcopy(model), copy.deepcopy(processor)


@functools.cache
def _build(kind: str) -> tuple[PreTrainedModel, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, kind)))
        builds = {"parakeet": _parakeet, "omniasr": _omniasr, "lasr": _lasr, "granite_speech5": _granite_speech5}
        model, processor = builds[kind]() if kind in builds else _waveform(kind)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or name.endswith("bias"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
            head = model.lm_head if hasattr(model, "lm_head") else model.ctc_head
            head.bias[getattr(model.config, "blank_token_id", model.config.pad_token_id)] += BLANK_LOGIT
    return model.eval(), processor


def _waveform(kind: str) -> tuple[PreTrainedModel, Wav2Vec2Processor]:
    if kind in WAVEFORM_KINDS:
        model_class, config_class, fields = WAVEFORM_KINDS[kind]
    else:
        model_name, config_name, fields = RELATIVES[kind]
        model_class, config_class = getattr(transformers, model_name), getattr(transformers, config_name)
    if kind == "wav2vec2_bert":
        extractor = transformers.SeamlessM4TFeatureExtractor(
            feature_size=16, num_mel_bins=16, sampling_rate=SAMPLING_RATE, stride=2
        )
        processor = transformers.Wav2Vec2BertProcessor(feature_extractor=extractor, tokenizer=letters_tokenizer())
        conformer = {name: value for name, value in WAVEFORM.items() if not name.startswith(("conv", "num_conv"))}
        return model_class(config_class(**{**conformer, **fields})), processor
    # as the checkpoints say it; what a batch is made with is the family's business
    masked = fields.get("feat_extract_norm", "layer") == "layer"
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLING_RATE, return_attention_mask=masked, do_normalize=True)
    processor = Wav2Vec2Processor(feature_extractor=extractor, tokenizer=letters_tokenizer())
    return model_class(config_class(**{**WAVEFORM, **fields})), processor


def letters_tokenizer(symbols: tuple[str, ...] = SYMBOLS) -> Wav2Vec2CTCTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
        return Wav2Vec2CTCTokenizer(str(path))


def _parakeet() -> tuple[ParakeetForCTC, ParakeetProcessor]:
    tokenizer = _learnt_pieces(["<unk>"])
    encoder = ParakeetEncoderConfig(**TINY_FAST_CONFORMER)
    config = ParakeetCTCConfig(vocab_size=len(tokenizer), encoder_config=encoder, pad_token_id=tokenizer.pad_token_id)
    extractor = ParakeetFeatureExtractor(feature_size=16, sampling_rate=SAMPLING_RATE)
    model = ParakeetForCTC(config)
    statistics_of_training(model)
    return model, ParakeetProcessor(feature_extractor=extractor, tokenizer=tokenizer)


def _omniasr() -> tuple[PreTrainedModel, Any]:
    shape = {name: WAVEFORM[name] for name in OMNI_TOWER}
    dropped = {"hidden_dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "layerdrop": 0.3}
    audio = transformers.OmniASRAudioConfig(**shape, **dropped)
    tokenizer = _pieces(["<s>", "<pad>", "</s>", "<unk>"], capitals=True)
    config = transformers.OmniASRCTCConfig(
        vocab_size=len(tokenizer), audio_config=audio, blank_token_id=0, pad_token_id=1, initializer_range=0.2
    )
    extractor = transformers.OmniASRFeatureExtractor(sampling_rate=SAMPLING_RATE)
    return transformers.OmniASRForCTC(config), transformers.OmniASRCTCProcessor(extractor, tokenizer)


def _lasr() -> tuple[PreTrainedModel, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "initializer_range")
    given = {name: TINY_FAST_CONFORMER[name] for name in (*names, "dropout", "dropout_positions", "layerdrop")}
    convolutions = {"conv_kernel_size": 5, "subsampling_conv_kernel_size": 3, "subsampling_conv_channels": 16}
    encoder = transformers.LasrEncoderConfig(num_mel_bins=16, **convolutions, **given)
    tokenizer = _pieces(["<pad>", "</s>", "<unk>"], capitals=False)
    config = transformers.LasrCTCConfig(vocab_size=len(tokenizer), encoder_config=encoder, pad_token_id=0)
    extractor = transformers.LasrFeatureExtractor(feature_size=16, sampling_rate=SAMPLING_RATE)
    model = transformers.LasrForCTC(config)
    statistics_of_training(model)
    return model, transformers.LasrProcessor(extractor, tokenizer)


def _learnt_pieces(special: list[str]) -> ParakeetTokenizer:
    """Pieces of words behind special tokens; the padding, which is the blank, at the end where it is none of them."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=48, special_tokens=special, show_progress=False)
    learner.train_from_iterator(SENTENCES[:2], trainer)
    learner.add_special_tokens(["<pad>"])
    return ParakeetTokenizer(tokenizer_object=learner, unk_token="<unk>", pad_token="<pad>")


def _granite_speech5() -> tuple[PreTrainedModel, Any]:
    do_without_torchaudio()
    tokenizer = _learnt_pieces(["<pad>", "<unk>"])
    encoder = transformers.GraniteSpeech5EncoderConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_mel_bins=16,
        max_position_embeddings=16,
        context_size=8,
        conv_kernel_size=5,
        attention_dropout=0.1,
        activation_dropout=0.1,
        initializer_range=0.2,
    )
    config = transformers.GraniteSpeech5CTCConfig(vocab_size=len(tokenizer), encoder_config=encoder, pad_token_id=0)
    model = transformers.GraniteSpeech5ForCTC(config)
    statistics_of_training(model)
    extractor = transformers.GraniteSpeech5FeatureExtractor(num_mel_bins=16, sampling_rate=SAMPLING_RATE)
    return model, transformers.GraniteSpeech5Processor(extractor, tokenizer)


def _pieces(special: list[str], *, capitals: bool) -> ParakeetTokenizer:
    """Letters, and a mark before each word, behind special tokens."""
    letters = "\u2581abcdefghijklmnopqrstuvwxyz"
    vocabulary = {symbol: i for i, symbol in enumerate([*special, *(letters.upper() if capitals else letters)])}
    learner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.decoder = decoders.Metaspace()
    return ParakeetTokenizer(tokenizer_object=learner, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")


def statistics_of_training(model: torch.nn.Module) -> None:
    """Give batch norms statistics that are not those of a fresh layer."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
