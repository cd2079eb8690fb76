"""Whisper checkpoints of a few thousand parameters, random but not indifferent: built in a moment, without network.

Their weights are spread widely enough that audio, history and position all move the probabilities, and the end token
is likely enough that sampled hypotheses end.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

SAMPLING_RATE = 16_000
# The first three stand where transformers' tokenizer expects them: at their place in Whisper's list.
LANGUAGES = ("en", "zh", "de", "hi")
END, START, NO_TIMESTAMPS = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
# Text from which the pieces are learnt, every language of LANGUAGES among it.
SENTENCES = (
    "the quick brown fox jumps over the lazy dog",
    "she had your dark suit in greasy wash water all year",
    "der schnelle braune Fuchs springt über den faulen Hund",
    "नमस्ते दुनिया",
    "你好世界",
)
# What the end token's logit gets on top: about one sampled token in twelve is the end.
END_LOGIT = 5.0
WINDOW_FRAMES_PER_SECOND = 50

# kind -> (special tokens are multilingual, seconds of the window, mel bins, sizes that differ from the default)
KINDS: dict[str, tuple[bool, int, int, dict[str, int]]] = {
    "english": (False, 1, 80, {}),
    "multilingual": (True, 2, 80, {}),
    # large-v3's mel bins and turbo's shallow decoder
    "large_v3": (True, 1, 128, {"encoder_layers": 3, "decoder_layers": 1, "decoder_attention_heads": 2}),
}


def tiny_whisper(kind: str = "english", **config: Any) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """A fresh copy of a tiny random Whisper in evaluation mode, and its processor.

    Args:
        kind: a key of `KINDS`.
        config: fields of `WhisperConfig` to exchange, e.g. `dropout=0.1`; the weights stay what they were if their
            shapes do.
    """
    model, processor = _build(kind, tuple(sorted(config.items())))
    return copy.deepcopy(model), copy.deepcopy(processor)


def tiny_clips(count: int, seconds: float = 0.9, sampling_rate: int = SAMPLING_RATE) -> list[np.ndarray]:
    """Clips that differ: each a chord of its own in noise, a little shorter than the one before."""
    rng = np.random.default_rng(0)
    clips = []
    for i in range(count):
        time = np.arange(int(seconds * (1 - 0.1 * (i % 5)) * sampling_rate)) / sampling_rate
        chord = sum(np.sin(2 * np.pi * frequency * time) for frequency in rng.uniform(0.01, 0.2, 3) * sampling_rate)
        clips.append((0.1 * chord + 0.02 * rng.standard_normal(len(time))).astype(np.float32))
    return clips


@functools.cache
def _build(kind: str, changes: tuple[tuple[str, Any], ...]) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    multilingual, seconds, mel_bins, sizes = KINDS[kind]
    processor = _processor(multilingual, seconds, mel_bins)
    end = processor.tokenizer.eos_token_id
    start = processor.tokenizer.convert_tokens_to_ids(START)
    fields: dict[str, Any] = {
        "vocab_size": len(processor.tokenizer),
        "num_mel_bins": mel_bins,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_source_positions": WINDOW_FRAMES_PER_SECOND * seconds,
        "max_target_positions": 48,
        "init_std": 0.3,
        "pad_token_id": end,
        "bos_token_id": end,
        "eos_token_id": end,
        "decoder_start_token_id": start,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, kind)))
        model = WhisperForConditionalGeneration(WhisperConfig(**{**fields, **sizes, **dict(changes)})).eval()
        _wake(model, end)
    model.generation_config = _generation_config(processor.tokenizer, multilingual)
    return model, processor


def saved(made: tuple[Any, Any], folder: str | Path) -> str:
    """A checkpoint of a model and its processor; the folder's name."""
    for part in made:
        part.save_pretrained(folder)
    return str(folder)


def learnt_pieces(special: Sequence[str] = (), unknown: str | None = None) -> Tokenizer:
    """Bytes and two dozen pairs of them, learnt from `SENTENCES`; `special` come first."""
    learner = Tokenizer(models.BPE(unk_token=unknown))
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 24, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False
    )
    learner.train_from_iterator(SENTENCES, trainer)
    return learner


@torch.no_grad()
def _wake(model: WhisperForConditionalGeneration, end: int) -> None:
    """Give every parameter a part in the result: fresh models have zero biases and a zero end token."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "layer_norm" in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
    embedding = model.get_input_embeddings().weight
    embedding[end] = 0.3 * torch.randn_like(embedding[end])
    model.get_decoder().layer_norm.bias.add_(END_LOGIT * embedding[end] / embedding[end].square().sum())


def _processor(multilingual: bool, seconds: int, mel_bins: int) -> WhisperProcessor:
    learnt = json.loads(learnt_pieces().to_str())["model"]
    special = [START, NO_TIMESTAMPS]
    if multilingual:
        languages = [f"<|{code}|>" for code in LANGUAGES]
        special = [START, *languages, "<|translate|>", "<|transcribe|>", "<|startofprev|>", NO_TIMESTAMPS]
    tokenizer = WhisperTokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(merge) for merge in learnt["merges"]],
        pad_token=END,
        extra_special_tokens=special,
    )
    if multilingual:
        tokenizer.add_tokens([f"<|{step / 50:.2f}|>" for step in range(50 * seconds + 1)])
    extractor = WhisperFeatureExtractor(feature_size=mel_bins, sampling_rate=SAMPLING_RATE, chunk_length=seconds)
    return WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer)


def _generation_config(tokenizer: WhisperTokenizer, multilingual: bool) -> GenerationConfig:
    ids = tokenizer.get_vocab()
    end = tokenizer.eos_token_id
    named = {}
    if multilingual:
        named = {
            "lang_to_id": {f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES},
            "task_to_id": {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
            "prev_sot_token_id": ids["<|startofprev|>"],
        }
    return GenerationConfig(
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=ids[START],
        no_timestamps_token_id=ids[NO_TIMESTAMPS],
        is_multilingual=multilingual,
        return_timestamps=False,
        max_length=24,
        **named,
    )
