"""The shapes that families.py measures, among them those of CTC models, classifiers and audio language models; encoder-
decoders are in `encoder_decoder_cases.py`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoder_decoder_cases import ENCODER_DECODERS
from family_shape import FamilyShape, random_words, word_tokenizer
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Processor,
    WhisperFeatureExtractor,
)

from audiorl.batch import GroupBatch
from audiorl.models import SpeechFamily

# ---- CTC ----

LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
CTC_LETTERS = 60  # in 5 seconds
QUIET = {
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}


SMALL: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "conv_dim": (256,) * 7,
}
# for the tests
TOY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_kernel": (40, 32),
    "conv_stride": (20, 16),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}


def build_ctc(**sizes: Any) -> tuple[PreTrainedModel, Wav2Vec2Processor]:
    """Wav2Vec2 with the frames and the vocabulary of its checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({letter: i for i, letter in enumerate(LETTERS)}))
        tokenizer = Wav2Vec2CTCTokenizer(str(path))
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    torch.manual_seed(0)
    config = Wav2Vec2Config(vocab_size=len(LETTERS), pad_token_id=0, feat_extract_norm="layer", **QUIET, **sizes)
    processor = Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)
    return Wav2Vec2ForCTC(config).train(), processor


def random_letters(count: int) -> Callable[[np.random.Generator], str]:
    return lambda generator: "".join(generator.choice(list(LETTERS[5:]), count))


def separate_ctc(model: PreTrainedModel, family: SpeechFamily, batch: GroupBatch, k: int) -> Tensor:
    """Logits of all clips and torch's own CTC loss of one hypothesis each."""
    frame_logps = model(batch.audio, attention_mask=batch.audio_mask).logits.log_softmax(-1)
    frames = model._get_feat_extract_output_lengths(batch.audio_mask.sum(-1))
    lengths = batch.keep[:, k].sum(-1) - 1
    loss = nn.functional.ctc_loss(
        frame_logps.transpose(0, 1), batch.tokens[:, k, 1:-1], frames, lengths, blank=0, reduction="none"
    )
    return -loss


# ---- classifiers ----

CLASSES = tuple(f"label{i}" for i in range(35))  # as many as the words of Speech Commands


def build_classifier(**sizes: Any) -> tuple[PreTrainedModel, Wav2Vec2FeatureExtractor]:
    """The same Wav2Vec2, with a head for labels."""
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(CLASSES)), "label2id": {label: i for i, label in enumerate(CLASSES)}}
    config = Wav2Vec2Config(feat_extract_norm="layer", **names, **QUIET, **sizes)
    return Wav2Vec2ForSequenceClassification(config).train(), Wav2Vec2FeatureExtractor(return_attention_mask=True)


def random_label(generator: np.random.Generator) -> str:
    return str(generator.choice(CLASSES))


def separate_classifier(model: PreTrainedModel, family: SpeechFamily, batch: GroupBatch, k: int) -> Tensor:
    """Logits of all clips, and the log-probability of one label each."""
    logits = model(batch.audio, attention_mask=batch.audio_mask).logits
    return logits.log_softmax(-1).gather(-1, batch.tokens[:, k, 1:]).squeeze(-1)


# ---- audio language models ----

AUDIO, END = "<|AUDIO|>", "<|im_end|>"
AUDIO_LLM_WORDS = 63  # and the end: 64 tokens


def build_audio_llm(width: int, layers: int, vocabulary: int, window: int) -> tuple[PreTrainedModel, Any]:
    """Qwen2-Audio, 25 audio tokens a second, with a prompt of words that its tokenizer mostly does not know."""
    tokenizer = word_tokenizer("<unk>", "<pad>", END, AUDIO, eos_token=END, extra_special_tokens=[AUDIO])
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=window)
    processor = Qwen2AudioProcessor(extractor, tokenizer)
    heads = width // 64 or 1
    tower = {"d_model": width, "encoder_layers": 2, "encoder_attention_heads": heads, "encoder_ffn_dim": 4 * width}
    text = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "vocab_size": vocabulary}
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": 80,
            "max_source_positions": 50 * window,
            **tower,
        },
        text_config={"model_type": "qwen2", "num_attention_heads": heads, "num_key_value_heads": heads, **text},
        audio_token_index=tokenizer.convert_tokens_to_ids(AUDIO),
    )
    torch.manual_seed(0)
    return Qwen2AudioForConditionalGeneration(config).train(), processor


QWEN3_CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_start|>"
    + AUDIO
    + "<|audio_end|>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def build_qwen3_asr(width: int, layers: int, vocabulary: int) -> tuple[PreTrainedModel, Any]:
    """Qwen3-ASR, 13 audio tokens a second; the chat is the audio alone."""
    marks = {"audio_token": AUDIO, "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
    tokenizer = word_tokenizer("<unk>", "<pad>", END, *marks.values(), eos_token=END, extra_special_tokens=marks)
    extractor = Qwen3ASRFeatureExtractor()
    processor = Qwen3ASRProcessor(extractor, tokenizer, chat_template=QWEN3_CHAT)
    heads = width // 64 or 1
    tower = {"d_model": width, "encoder_layers": 2, "encoder_attention_heads": heads, "encoder_ffn_dim": 4 * width}
    text = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers, "vocab_size": vocabulary}
    config = Qwen3ASRConfig(
        audio_config={"model_type": "qwen3_asr_encoder", "output_dim": width, **tower},
        text_config={
            **{"model_type": "qwen3", "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": 64},
            **text,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids(AUDIO),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    return Qwen3ASRForConditionalGeneration(config).train(), processor


def separate_audio_llm(model: PreTrainedModel, family: SpeechFamily, batch: GroupBatch, k: int) -> Tensor:
    """Audio, prompt and one answer for each clip; the head sees the answer alone. The clips are equally long."""
    row, place = batch.tokens[:, k], int((batch.tokens[0, k] == family.audio_token_id).nonzero())
    audio = row[:, place : place + 1].expand(-1, int(batch["audio_tokens"][0]))
    ids = torch.cat([row[:, :place], audio, row[:, place + 1 :]], 1)
    hidden = model.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_features=batch.audio,
        feature_attention_mask=batch.audio_mask,
        use_cache=False,
    ).last_hidden_state
    answers = int(batch.keep[0, k].sum())
    logps = model.lm_head(hidden[:, -answers - 1 : -1]).log_softmax(-1)
    return logps.gather(-1, ids[:, -answers:, None]).squeeze(-1).sum(-1)


FAMILY_SHAPES = {
    "ctc": FamilyShape(
        f"CTC: Wav2Vec2, 4 layers of width 384, 5 s, {CTC_LETTERS} letters",
        partial(build_ctc, **SMALL),
        5.0,
        random_letters(CTC_LETTERS),
        separate_ctc,
    ),
    "audio-llm": FamilyShape(
        f"audio LLM: Qwen2-Audio, 4 layers of width 256, 750 audio tokens, {AUDIO_LLM_WORDS + 1} in an answer",
        partial(build_audio_llm, 256, 4, 8192, 30),
        30.0,
        random_words(AUDIO_LLM_WORDS),
        separate_audio_llm,
    ),
    "classifier": FamilyShape(
        f"classifier: Wav2Vec2, 4 layers of width 384, 5 s, {len(CLASSES)} labels",
        partial(build_classifier, **SMALL),
        5.0,
        random_label,
        separate_classifier,
    ),
    **ENCODER_DECODERS,
    "audio-llm-toy": FamilyShape(
        "audio LLM, for the tests", partial(build_audio_llm, 32, 1, 300, 1), 1.0, random_words(5), separate_audio_llm
    ),
    "ctc-toy": FamilyShape("CTC, for the tests", partial(build_ctc, **TOY), 0.5, random_letters(6), separate_ctc),
    "classifier-toy": FamilyShape(
        "classifier, for the tests",
        partial(build_classifier, **TOY, classifier_proj_size=16),
        0.5,
        random_label,
        separate_classifier,
    ),
}
# Shapes that are measured where none is named.
DEFAULT = tuple(name for name in FAMILY_SHAPES if not name.endswith("-toy"))
