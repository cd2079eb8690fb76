"""Transducers of a few thousand parameters: Parakeet's and Nemotron's, random but not indifferent.

Blanks are likely enough that random alignments write short texts. As in a trained TDT model, steps that the likelihood
does not count (a blank of no frame, steps beyond the end) are rare.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetProcessor,
    ParakeetTokenizer,
    PreTrainedModel,
)

from tests.tiny_ctc import TINY_FAST_CONFORMER, statistics_of_training
from tests.tiny_models import SAMPLING_RATE, SENTENCES

BLANK_LOGITS = {"parakeet_rnnt": 9.0, "parakeet_tdt": 7.0, "nemotron_streaming": 6.0, "nemotron3_5": 6.0}
CLASSES = {
    "parakeet_rnnt": "ParakeetForRNNT",
    "parakeet_tdt": "ParakeetForTDT",
    "nemotron_streaming": "NemotronAsrStreamingForRNNT",
    "nemotron3_5": "Nemotron3_5AsrForRNNT",
}
# Older transformers lack some of them.
KINDS = tuple(kind for kind, name in CLASSES.items() if hasattr(transformers, name))
# Of durations 0 to 4: the likely ones, as in a released checkpoint's config.
DURATION_LOGITS = (-4.0, 6.0, -4.0, -6.0, -8.0)
# Standard deviations of weights, so that symbols depend on the audio and on what was written.
SPREADS = {"encoder_projector": 0.2, "prompt_projector": 0.15, "decoder": 0.6, "joint": 0.35}
JOINT: dict[str, Any] = {"decoder_hidden_size": 24, "num_decoder_layers": 2, "max_symbols_per_step": 6}
LOOKAHEAD = (3, 1, 0)
PROMPTS = {"en-US": 0, "en": 0, "de-DE": 2, "de": 2, "fr-FR": 3, "fr": 3, "auto": 5}


def tiny_transducer(kind: str = "parakeet_rnnt") -> tuple[PreTrainedModel, Any]:
    """A fresh copy of a tiny random transducer in evaluation mode, its dropouts above zero, and its processor."""
    model, processor = _build(kind)
    return copy.deepcopy(model), copy.deepcopy(processor)


@functools.cache
def _build(kind: str) -> tuple[PreTrainedModel, Any]:
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, kind)))
        model, processor = (_parakeet if kind.startswith("parakeet") else _nemotron)(kind, tokenizer)
        statistics_of_training(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or name.endswith("bias"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif (spread := SPREADS.get(name.split(".")[0])) is not None:
                    parameter.normal_(0, spread)
            model.joint.head.bias[model.config.blank_token_id] += BLANK_LOGITS[kind]
            if kind == "parakeet_tdt":
                model.joint.head.bias[-len(DURATION_LOGITS) :] += torch.tensor(DURATION_LOGITS)
                # generate() takes its argmax over symbols and durations alike
                durations = range(model.config.vocab_size, model.joint.head.out_features)
                model.generation_config.suppress_tokens = list(durations)
    model.generation_config.decoder_start_token_id = model.config.blank_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id
    return model.eval(), processor


def _tokenizer() -> ParakeetTokenizer:
    """Word pieces between an unknown one, a padding, and at the end the blank, as released checkpoints have them."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=48, special_tokens=["<unk>", "<pad>"], show_progress=False)
    learner.train_from_iterator(SENTENCES[:2], trainer)
    learner.add_special_tokens(["<blank>"])
    return ParakeetTokenizer(tokenizer_object=learner, unk_token="<unk>", pad_token="<pad>")


def _ids(tokenizer: ParakeetTokenizer) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "blank_token_id": tokenizer.convert_tokens_to_ids("<blank>"),
        **JOINT,
    }


def _parakeet(kind: str, tokenizer: ParakeetTokenizer) -> tuple[PreTrainedModel, Any]:
    given = {"encoder_config": ParakeetEncoderConfig(**TINY_FAST_CONFORMER), **_ids(tokenizer)}
    if kind == "parakeet_tdt":
        config = transformers.ParakeetTDTConfig(durations=[0, 1, 2, 3, 4], **given)
    else:
        config = transformers.ParakeetRNNTConfig(**given)
    extractor = ParakeetFeatureExtractor(feature_size=16, sampling_rate=SAMPLING_RATE)
    return getattr(transformers, CLASSES[kind])(config), ParakeetProcessor(extractor, tokenizer)


def _nemotron(kind: str, tokenizer: ParakeetTokenizer) -> tuple[PreTrainedModel, Any]:
    window = {"sliding_window": 9, "default_num_lookahead_tokens": LOOKAHEAD[0]}
    encoder = transformers.NemotronAsrStreamingEncoderConfig(**TINY_FAST_CONFORMER, **window)
    extractor = transformers.NemotronAsrStreamingFeatureExtractor(feature_size=16, sampling_rate=SAMPLING_RATE)
    given = {"encoder_config": encoder, **_ids(tokenizer)}
    looks = {"supported_num_lookahead_tokens": list(LOOKAHEAD)}
    if kind == "nemotron3_5":
        prompted = {"num_prompts": 8, "prompt_intermediate_size": 24, "default_prompt_id": 5}
        config = transformers.Nemotron3_5AsrConfig(**prompted, **given)
        known = {"prompt_dictionary": PROMPTS, "num_prompts": 8}
        processor = transformers.Nemotron3_5AsrProcessor(extractor, tokenizer, **known, **looks)
    else:
        config = transformers.NemotronAsrStreamingConfig(**given)
        processor = transformers.NemotronAsrStreamingProcessor(extractor, tokenizer, **looks)
    return getattr(transformers, CLASSES[kind])(config), processor
