"""Tiny random encoder-decoders beside Whisper, with processors made here: no download."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CanaryConfig,
    CanaryForConditionalGeneration,
    CanaryProcessor,
    GenerationConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    ParakeetFeatureExtractor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Speech2TextConfig,
    Speech2TextFeatureExtractor,
    Speech2TextForConditionalGeneration,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from tests.tiny_ctc import TINY_FAST_CONFORMER, statistics_of_training
from tests.tiny_models import END_LOGIT, SENTENCES, learnt_pieces

# Every kind; the newest are not in every release of transformers.
CLASSES = {
    "moonshine": "MoonshineForConditionalGeneration",
    "moonshine_streaming": "MoonshineStreamingForConditionalGeneration",
    "speech2text": "Speech2TextForConditionalGeneration",
    "canary": "CanaryForConditionalGeneration",
    "cohere_asr": "CohereAsrForConditionalGeneration",
}
KINDS = tuple(kind for kind, name in CLASSES.items() if hasattr(transformers, name))
PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL = (PAD, START, END, UNKNOWN)
# The marks of canary-1b-v2, the first eight at their ids.
CANARY_MARKS = (
    *(UNKNOWN, "<|nospeech|>", PAD, "<|endoftext|>", "<|startoftranscript|>", "<|pnc|>", "<|nopnc|>"),
    *("<|startofcontext|>", "<|emo:undefined|>", "<|noitn|>", "<|notimestamp|>", "<|nodiarize|>"),
    *("<|en|>", "<|de|>", "<|fr|>"),
)
# Writes what canary-1b-v2's template writes; that file itself was not at hand.
CANARY_TEMPLATE = """
{%- for part in messages[0].content if part.type == "text" -%}
<|startofcontext|><|startoftranscript|><|emo:undefined|><|{{ part.source_language }}|><|{{ part.target_language }}|>
{%- if part.punctuation %}<|pnc|>{% else %}<|nopnc|>{% endif %}<|noitn|><|notimestamp|><|nodiarize|>
{%- endfor -%}"""


class Speech2TextPieces:
    """What the family asks of a `Speech2TextProcessor`, whose own tokenizer needs sentencepiece and a trained model."""

    def __init__(self, feature_extractor: Any, tokenizer: Any):
        self.feature_extractor, self.tokenizer = feature_extractor, tokenizer

    def save_pretrained(self, folder: Any, **_: Any) -> None:
        self.feature_extractor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def tiny_seq2seq(kind: str, **config: Any) -> tuple[PreTrainedModel, Any]:
    """A fresh copy of a tiny random model in evaluation mode, and its processor.

    Args:
        kind: "moonshine", with fewer key than query heads and padded heads; "moonshine_streaming", whose decoder is
            wider than its encoder; "speech2text"; "canary" or "cohere_asr", whose decoders are shallower than their
            encoders.
        config: fields to exchange; the weights stay what they were if their shapes do.
    """
    model, processor = _build(kind, tuple(sorted(config.items())))
    return copy.deepcopy(model), copy.deepcopy(processor)


@functools.cache
def _build(kind: str, changes: tuple[tuple[str, Any], ...]) -> tuple[PreTrainedModel, Any]:
    if kind in ("canary", "cohere_asr"):
        return {"canary": _canary, "cohere_asr": _cohere_asr}[kind](dict(changes))
    tokenizer = _tokenizer()
    ids = {f"{name}_token_id": SPECIAL.index(token) for name, token in (("pad", PAD), ("bos", START), ("eos", END))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, kind)))
        builds = {"moonshine": _moonshine, "moonshine_streaming": _moonshine_streaming, "speech2text": _speech2text}
        model = builds[kind](len(tokenizer), {**ids, **dict(changes)})
        _wake(model.eval(), ids["eos_token_id"])
    start = model.config.decoder_start_token_id
    # what a checkpoint may bring along, and the policy must not take from it
    own = {"suppress_tokens": [7, 8, 9], "min_new_tokens": 4} if kind == "speech2text" else {}
    model.generation_config = GenerationConfig(**ids, decoder_start_token_id=start, max_length=24, **own)
    if kind.startswith("moonshine"):
        extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
        made = Wav2Vec2Processor if kind == "moonshine" else transformers.MoonshineStreamingProcessor
        return model, made(extractor, tokenizer)
    return model, Speech2TextPieces(Speech2TextFeatureExtractor(feature_size=32, num_mel_bins=32), tokenizer)


def _canary(changes: dict[str, Any]) -> tuple[PreTrainedModel, CanaryProcessor]:
    tokenizer = _pieces(CANARY_MARKS)
    decoder = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 48,
        "initializer_range": 0.3,
        "vocab_size": len(tokenizer),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, "canary")))
        config = CanaryConfig(
            encoder_config={**TINY_FAST_CONFORMER, "scale_input": False},
            decoder_config={**decoder, **changes},
            vocab_size=len(tokenizer),
            initializer_range=0.3,
        )
        model = CanaryForConditionalGeneration(config).eval()
        statistics_of_training(model)
        _wake(model, config.eos_token_id)
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    named = {name: getattr(config, name) for name in names}
    # what a checkpoint may bring along, and the policy must not take from it
    model.generation_config = GenerationConfig(**named, max_length=32, suppress_tokens=[20, 21, 22])
    extractor = ParakeetFeatureExtractor(feature_size=TINY_FAST_CONFORMER["num_mel_bins"])
    return model, CanaryProcessor(extractor, tokenizer, chat_template=CANARY_TEMPLATE)


def _cohere_asr(changes: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    """With the marks of Canary, which the released checkpoint has at the same ids, and a space before them."""
    tokenizer = _pieces(CANARY_MARKS)
    ids = {f"{name}_token_id": CANARY_MARKS.index(mark) for name, mark in (("pad", PAD), ("eos", "<|endoftext|>"))}
    ids |= {"bos_token_id": CANARY_MARKS.index("<|startoftranscript|>")}
    ids |= {"decoder_start_token_id": tokenizer.convert_tokens_to_ids("\u2581")}
    decoder = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 48,
        "initializer_range": 0.3,
        "vocab_size": len(tokenizer),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, "cohere_asr")))
        given = {"encoder_config": {**TINY_FAST_CONFORMER, "scale_input": False}, **ids, **decoder, **changes}
        model = transformers.CohereAsrForConditionalGeneration(transformers.CohereAsrConfig(**given)).eval()
        statistics_of_training(model)
        _wake(model, ids["eos_token_id"])
    # what a checkpoint may bring along, and the policy must not take from it
    model.generation_config = GenerationConfig(**ids, max_length=32, suppress_tokens=[20, 21, 22])
    extractor = transformers.CohereAsrFeatureExtractor(feature_size=TINY_FAST_CONFORMER["num_mel_bins"])
    return model, transformers.CohereAsrProcessor(extractor, tokenizer)


def _moonshine_streaming(vocabulary: int, changes: dict[str, Any]) -> PreTrainedModel:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    shape = {"intermediate_size": 48, "num_hidden_layers": 2, **heads}
    heard = {"hidden_size": 24, "sliding_windows": ((6, 3), (6, 0)), **shape}
    encoder = transformers.MoonshineStreamingEncoderConfig(**heard, attention_dropout=0.1)
    fields = {"hidden_size": 32, "pad_head_dim_to_multiple_of": 16, "max_position_embeddings": 80, **shape}
    config = transformers.MoonshineStreamingConfig(
        vocab_size=vocabulary, encoder_config=encoder, **{**fields, **changes}
    )
    return transformers.MoonshineStreamingForConditionalGeneration(config)


def _moonshine(vocabulary: int, changes: dict[str, Any]) -> PreTrainedModel:
    fields = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "encoder_num_hidden_layers": 2,
        "decoder_num_hidden_layers": 2,
        "encoder_num_attention_heads": 4,
        "decoder_num_attention_heads": 4,
        "encoder_num_key_value_heads": 4,
        "decoder_num_key_value_heads": 4,
        "pad_head_dim_to_multiple_of": 16,
        "max_position_embeddings": 48,
        "initializer_range": 0.3,
    }
    return MoonshineForConditionalGeneration(MoonshineConfig(vocab_size=vocabulary, **{**fields, **changes}))


def _speech2text(vocabulary: int, changes: dict[str, Any]) -> PreTrainedModel:
    fields = {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "conv_channels": 32,
        "input_feat_per_channel": 32,
        "max_source_positions": 200,
        "max_target_positions": 64,
        "decoder_start_token_id": SPECIAL.index(END),
        "init_std": 0.3,
        "tie_word_embeddings": False,
    }
    return Speech2TextForConditionalGeneration(Speech2TextConfig(vocab_size=vocabulary, **{**fields, **changes}))


@torch.no_grad()
def _wake(model: PreTrainedModel, end: int) -> None:
    """Give every parameter a part in the result, let hypotheses of Speech2Text, Canary and Cohere end."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
        elif type(model).__name__ == CLASSES["moonshine_streaming"] and parameter.ndim > 1:
            parameter.mul_(15)  # its config says nothing of how wide weights are
    if isinstance(model, Speech2TextForConditionalGeneration):
        _steer(model.lm_head.weight, model.get_decoder().layer_norm.bias, end)
    if type(model).__name__ == CLASSES["moonshine_streaming"]:
        model.proj_out.weight.mul_(1.3)
        model.proj_out.weight[end] *= 2.5
    if type(model).__name__ in (CLASSES["canary"], CLASSES["cohere_asr"]):
        model.proj_out.bias[end] += END_LOGIT - 2  # of fewer pieces


def _steer(head: torch.Tensor, last_bias: torch.Tensor, end: int) -> None:
    """Let hypotheses end, and never draw padding, to which Speech2Text gives no position."""
    away = torch.nn.functional.normalize(torch.randn(head.shape[1]), dim=0)
    head -= (head @ away)[:, None] * away
    last_bias += 10 * away + END_LOGIT * head[end] / head[end].square().sum()
    head[SPECIAL.index(PAD)] = -10 * away


def _tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=learnt_pieces(SPECIAL, unknown=UNKNOWN),
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
    )


def _pieces(marks: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """As sentencepiece would write: pieces that begin with the space before a word; `marks` have the first ids."""
    learner = Tokenizer(models.BPE(unk_token=UNKNOWN))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=list(marks), show_progress=False)
    learner.train_from_iterator(SENTENCES, trainer)
    bos, eos = "<|startoftranscript|>", "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=learner, pad_token=PAD, bos_token=bos, eos_token=eos, unk_token=UNKNOWN
    )
