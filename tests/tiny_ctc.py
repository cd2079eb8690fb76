"""CTC checkpoints of a few thousand parameters: Wav2Vec2, HuBERT, WavLM and Parakeet, random but not indifferent.

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
KINDS = (*WAVEFORM_KINDS, "parakeet")
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
        model, processor = _parakeet() if kind == "parakeet" else _waveform(kind)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or name.endswith("bias"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
            head = model.ctc_head if kind == "parakeet" else model.lm_head
            head.bias[model.config.pad_token_id] += BLANK_LOGIT
    return model.eval(), processor


def _waveform(kind: str) -> tuple[PreTrainedModel, Wav2Vec2Processor]:
    model_class, config_class, fields = WAVEFORM_KINDS[kind]
    # as the checkpoints say it; what a batch is made with is the family's business
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=SAMPLING_RATE, return_attention_mask=fields["feat_extract_norm"] == "layer", do_normalize=True
    )
    processor = Wav2Vec2Processor(feature_extractor=extractor, tokenizer=letters_tokenizer())
    return model_class(config_class(**{**WAVEFORM, **fields})), processor


def letters_tokenizer(symbols: tuple[str, ...] = SYMBOLS) -> Wav2Vec2CTCTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
        return Wav2Vec2CTCTokenizer(str(path))


def _parakeet() -> tuple[ParakeetForCTC, ParakeetProcessor]:
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=48, special_tokens=["<unk>"], show_progress=False)
    learner.train_from_iterator(SENTENCES[:2], trainer)
    learner.add_special_tokens(["<pad>"])
    tokenizer = ParakeetTokenizer(tokenizer_object=learner, unk_token="<unk>", pad_token="<pad>")
    encoder = ParakeetEncoderConfig(**TINY_FAST_CONFORMER)
    config = ParakeetCTCConfig(vocab_size=len(tokenizer), encoder_config=encoder, pad_token_id=tokenizer.pad_token_id)
    extractor = ParakeetFeatureExtractor(feature_size=16, sampling_rate=SAMPLING_RATE)
    model = ParakeetForCTC(config)
    statistics_of_training(model)
    return model, ParakeetProcessor(feature_extractor=extractor, tokenizer=tokenizer)


def statistics_of_training(model: torch.nn.Module) -> None:
    """Give batch norms statistics that are not those of a fresh layer."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
