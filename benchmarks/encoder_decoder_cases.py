"""The encoder-decoders that families.py measures beside Whisper, which has benchmarks of its own.

All have 4 + 4 layers of width 384, a vocabulary of 8192, clips of 10 seconds and 40 words.

Counted before they were measured. Work: multiplications of a forward; memory: what a step keeps for its backward, and
its gradients; groups against K stock forwards, at 4 clips for K = 2 and 2 clips for K = 8. Moonshine and Canary project
cross-attention once for each clip, Speech2Text once for each hypothesis. The classifier of `family_cases.py` does
nothing that grows with K:

    family         states of a clip    times as fast, K = 2, 8    of the memory, K = 2, 8
    moonshine      415                 1.8, 4.9                   0.60, 0.28
    speech2text    250                 1.6, 3.1                   0.67, 0.39
    canary         125                 1.7, 3.9                   0.58, 0.24
    classifier     249                 2.0, 8.0                   0.66, 0.28
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from family_shape import FamilyShape, random_words, word_tokenizer
from torch import Tensor
from transformers import (
    CanaryConfig,
    CanaryForConditionalGeneration,
    CanaryProcessor,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    ParakeetFeatureExtractor,
    PreTrainedModel,
    Speech2TextConfig,
    Speech2TextFeatureExtractor,
    Speech2TextForConditionalGeneration,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from audiorl.batch import GroupBatch
from audiorl.models import SpeechFamily

WORDS = 40
MARKS = ("<unk>", "<s>", "<pad>", "</s>")  # of all three tokenizers
IDS = {"bos_token_id": 1, "pad_token_id": 2, "eos_token_id": 3}
MARKED = {"bos_token": "<s>", "eos_token": "</s>"}
HEADS = ("attention", "key_value")
REQUEST = ("<|startofcontext|>", "<|startoftranscript|>", "<|emo:undefined|>", "<|en|>", "<|pnc|>", "<|noitn|>")
REQUEST_END = ("<|notimestamp|>", "<|nodiarize|>")


def build_moonshine(width: int, layers: int, vocabulary: int) -> tuple[PreTrainedModel, Any]:
    heads = {f"{part}_num_{what}_heads": width // 64 or 1 for part in ("encoder", "decoder") for what in HEADS}
    depth = {"encoder_num_hidden_layers": layers, "decoder_num_hidden_layers": layers}
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "vocab_size": vocabulary}
    torch.manual_seed(0)
    config = MoonshineConfig(**sizes, **depth, **heads, **IDS, decoder_start_token_id=1)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    processor = Wav2Vec2Processor(extractor, word_tokenizer(*MARKS, **MARKED))
    return MoonshineForConditionalGeneration(config).train(), processor


def build_speech2text(width: int, layers: int, vocabulary: int) -> tuple[PreTrainedModel, Any]:
    parts = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", width // 64 or 1), ("ffn_dim", 4 * width))
    }
    quiet = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    torch.manual_seed(0)
    config = Speech2TextConfig(d_model=width, vocab_size=vocabulary, **parts, **quiet, **IDS, decoder_start_token_id=3)
    tokenizer = word_tokenizer(*MARKS, **MARKED)
    processor = SimpleNamespace(feature_extractor=Speech2TextFeatureExtractor(), tokenizer=tokenizer)
    return Speech2TextForConditionalGeneration(config).train(), processor


def build_canary(width: int, layers: int, vocabulary: int) -> tuple[PreTrainedModel, Any]:
    heads = {"num_attention_heads": width // 64 or 1}
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, **heads}
    silent = ("dropout", "layerdrop", "activation_dropout", "attention_dropout")
    encoder = {**sizes, "num_mel_bins": 128, "scale_input": False, **dict.fromkeys(silent, 0.0)}
    own = {"head_dim": width // heads["num_attention_heads"], "num_key_value_heads": heads["num_attention_heads"]}
    tokenizer = word_tokenizer(*MARKS, *REQUEST, *REQUEST_END, **MARKED)
    torch.manual_seed(0)
    config = CanaryConfig(
        encoder_config=encoder,
        decoder_config={**sizes, **own, "vocab_size": vocabulary},
        vocab_size=vocabulary,
        decoder_start_token_id=tokenizer.convert_tokens_to_ids(REQUEST[0]),
        **IDS,
    )
    # its tokenizer knows words by the spaces between them
    request = " ".join([*REQUEST[:4], *REQUEST[3:], *REQUEST_END])
    processor = CanaryProcessor(ParakeetFeatureExtractor(feature_size=128), tokenizer, chat_template=request)
    return CanaryForConditionalGeneration(config).train(), processor


def separate(
    heard: Callable[[GroupBatch], dict[str, Tensor]],
    model: PreTrainedModel,
    family: SpeechFamily,
    batch: GroupBatch,
    k: int,
) -> Tensor:
    """Stock logits of one hypothesis of each clip. The clips are equally long and need no mask."""
    tokens = batch.tokens[:, k]
    logits = model(**heard(batch), decoder_input_ids=tokens[:, :-1], use_cache=False).logits
    logps = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return torch.where(batch.keep[:, k], logps, 0.0).sum(-1)


def waveform(batch: GroupBatch) -> dict[str, Tensor]:
    return {"input_values": batch.audio}


def mel_frames(batch: GroupBatch) -> dict[str, Tensor]:
    return {"input_features": batch.audio.transpose(1, 2)}


def masked_mel_frames(batch: GroupBatch) -> dict[str, Tensor]:
    """The extractor of Parakeet and Canary makes a last frame that is not to be heard."""
    assert batch.audio_mask is not None
    return {**mel_frames(batch), "attention_mask": batch.audio_mask.bool()}


# name -> (what the table calls it, model and processor, what a stock forward hears, what rows say)
KINDS = {
    "moonshine": ("Moonshine", build_moonshine, waveform, {}),
    "speech2text": ("Speech2Text", build_speech2text, mel_frames, {}),
    "canary": ("Canary", build_canary, masked_mel_frames, {"language": "en"}),
}
ENCODER_DECODERS = {
    name: FamilyShape(
        f"{called}, 4 + 4 layers of width 384, 10 s, {WORDS} words",
        partial(build, 384, 4, 8192),
        10.0,
        random_words(WORDS),
        partial(separate, heard),
        row,
    )
    for name, (called, build, heard, row) in KINDS.items()
} | {
    f"{name}-toy": FamilyShape(
        f"{called}, for the tests", partial(build, 32, 1, 300), 0.5, random_words(5), partial(separate, heard), row
    )
    for name, (called, build, heard, row) in KINDS.items()
}
