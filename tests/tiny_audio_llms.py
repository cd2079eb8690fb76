"""Tiny random audio language models with processors made here: no download."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import is_mistral_common_available

from audiorl.models.granite_speech import do_without_torchaudio
from tests.kaldi_stand_in import hear_without_torchaudio
from tests.tiny_ctc import statistics_of_training
from tests.tiny_models import END_LOGIT, SAMPLING_RATE, learnt_pieces
from tests.tiny_tekken import CHUNK_SECONDS, tekken_tokenizer, voxtral_inputs

AUDIO, AUDIO_START, AUDIO_END = "<|audio_pad|>", "<|audio_start|>", "<|audio_end|>"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL = (PAD, START, END, AUDIO, AUDIO_START, AUDIO_END, "<asr_text>")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'language' %}{{ part['language'] }}"
    "{% endif %}{% endfor %}"
    "{% if not loop.last or add_generation_prompt or message['role'] != 'assistant' %}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Context, then the request, then the audio, as in the template that the released checkpoint brings.
FUN_ASR_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% set context = message['content'] | selectattr('type', 'in', ['text', 'keywords']) | list %}"
    "{% if context %}**上下文信息：**\n{% endif %}"  # noqa: RUF001
    "{% for part in context %}{% if part['type'] == 'text' %}{{ part['text'] }}\n"
    "{% else %}热词列表：[{{ part['keywords'] | join(', ') }}]\n{% endif %}{% endfor %}"  # noqa: RUF001
    "语音转写{% for part in message['content'] if part['type'] == 'language' %}成{{ part['language'] }}{% endfor %}："  # noqa: RUF001
    "<|audio_pad|><|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "attention_dropout": 0.1,
}
WHISPER_TOWER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 16,
    "initializer_range": 0.2,
}
# of GLM-ASR and Voxtral, whose projector takes four neighbouring states at once
CHUNK_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_mel_bins": 16,
    "initializer_range": 0.2,
}
# of the head, so that some tokens are far more probable than others
HEAD_SCALE = 3.0
# weights with which hypotheses end and repeat themselves now and then, so that there is something to check
SEEDS = {
    "qwen3_asr": 0,
    "qwen2_audio": 1,
    "glm_asr": 0,
    "voxtral": 1,
    "fun_asr": 0,
    "granite_speech": 0,
    "granite_speech_plus": 0,
}
CONFIGS = {
    "qwen3_asr": "Qwen3ASRConfig",
    "qwen2_audio": "Qwen2AudioConfig",
    "glm_asr": "GlmAsrConfig",
    "voxtral": "VoxtralConfig",
    "fun_asr": "FunAsrNanoConfig",
    "granite_speech": "GraniteSpeechConfig",
}
# not all of them are in every release, and one has its tokenizer from a package of its own
HERE = {"voxtral": is_mistral_common_available()}
KINDS = tuple(kind for kind, name in CONFIGS.items() if hasattr(transformers, name) and HERE.get(kind, True))


def tiny_audio_llm(kind: str) -> tuple[PreTrainedModel, Any]:
    """A fresh copy of a tiny random model in evaluation mode, and its processor; `kind` is one of `BUILDERS`."""
    return copy.deepcopy(_build(kind))


@functools.cache
def _build(kind: str) -> tuple[PreTrainedModel, Any]:
    tokenizer = tekken_tokenizer() if kind == "voxtral" else _tokenizer()
    audio = tokenizer.convert_tokens_to_ids("[AUDIO]" if kind == "voxtral" else AUDIO)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEEDS[kind])
        text = {**TEXT, "vocab_size": len(tokenizer)}
        model, processor = BUILDERS[kind](tokenizer, text, audio)
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        _let_it_end(model.eval(), end)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, max_new_tokens=8)
    return model, processor


@torch.no_grad()
def _let_it_end(model: PreTrainedModel, end: int) -> None:
    """Probabilities that differ, and an end that comes: its logit goes up by what hidden states have in common."""
    head = model.get_output_embeddings().weight
    head *= HEAD_SCALE
    ids = torch.randint(10, 250, (4, 32), generator=torch.Generator().manual_seed(0))
    hidden = model.get_decoder()(input_ids=ids).last_hidden_state.mean((0, 1))
    head[end] += END_LOGIT * hidden / hidden.square().sum()


def _qwen3_asr(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    tower = {
        **WHISPER_TOWER,
        "output_dim": 32,
        "downsample_hidden_size": 8,
        "n_window": 50,
        "n_window_infer": 200,
        "max_position_embeddings": 16,
    }
    config = transformers.Qwen3ASRConfig(
        audio_config={"model_type": "qwen3_asr_encoder", **tower},
        text_config={"model_type": "qwen3", **text},
        audio_token_id=audio,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    extractor = transformers.Qwen3ASRFeatureExtractor(feature_size=16, min_length=1600)
    processor = transformers.Qwen3ASRProcessor(extractor, tokenizer, chat_template=CHAT)
    return transformers.Qwen3ASRForConditionalGeneration(config), processor


def _qwen2_audio(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    config = transformers.Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **WHISPER_TOWER, "max_source_positions": 50},
        text_config={"model_type": "qwen2", **text},
        audio_token_index=audio,
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    processor = transformers.Qwen2AudioProcessor(extractor, tokenizer, chat_template=CHAT, audio_token=AUDIO)
    return transformers.Qwen2AudioForConditionalGeneration(config), processor


def _glm_asr(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    config = transformers.GlmAsrConfig(
        audio_config={"model_type": "glmasr_encoder", **CHUNK_TOWER},
        text_config={"model_type": "llama", **text},
        audio_token_id=audio,
        tie_word_embeddings=False,
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    processor = transformers.GlmAsrProcessor(extractor, tokenizer, chat_template=CHAT, audio_token=AUDIO)
    return transformers.GlmAsrForConditionalGeneration(config), processor


def _voxtral(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    tower = {**CHUNK_TOWER, "max_source_positions": 50 * CHUNK_SECONDS}
    config = transformers.VoxtralConfig(
        audio_config={"model_type": "voxtral_encoder", **tower},
        text_config={"model_type": "llama", **text},
        audio_token_id=audio,
        tie_word_embeddings=False,
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=CHUNK_SECONDS)
    return transformers.VoxtralForConditionalGeneration(config), transformers.VoxtralProcessor(extractor, tokenizer)


def _fun_asr(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    tower = {
        "num_mel_bins": 16,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_timestamp_prediction_layers": 1,
        "fsmn_kernel_size": 5,
        "max_position_embeddings": 65,
    }
    adaptor = {
        "hidden_size": text["hidden_size"],
        "intermediate_size": text["hidden_size"] // 4,
        "num_attention_heads": 4,
        "projector_hidden_size": 48,
        "attention_dropout": 0.1,
    }
    config = transformers.FunAsrNanoConfig(
        audio_config={"model_type": "fun_asr_nano_encoder", **tower},
        adaptor_config=adaptor,
        text_config={"model_type": "qwen3", **text},
        audio_token_id=audio,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    hear_without_torchaudio()
    extractor = transformers.FunAsrNanoFeatureExtractor(feature_size=16)
    processor = transformers.FunAsrNanoProcessor(extractor, tokenizer, chat_template=FUN_ASR_CHAT, audio_token=AUDIO)
    return transformers.FunAsrNanoForConditionalGeneration(config), processor


# Granite's placeholder comes last and has no embedding, as in its first checkpoints; its turns are plain text.
GRANITE_AUDIO = "<|audio|>"
GRANITE_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONFORMER = {
    "input_dim": 160,  # the extractor forgets any other number of mel bins when it is saved
    "num_layers": 2,
    "hidden_dim": 32,
    "num_heads": 4,
    "dim_head": 8,
    "output_dim": 12,
    "context_size": 10,
    "max_pos_emb": 16,
    "conv_kernel_size": 5,
}


def _granite_speech(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    return _granite("GraniteSpeech", tokenizer, text, CONFORMER, 32)


def _granite_speech_plus(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    return _granite("GraniteSpeechPlus", tokenizer, text, {**CONFORMER, "cat_hidden_layers": [1]}, 64)


def _granite(
    name: str, tokenizer: Any, text: dict, conformer: dict, projected_size: int
) -> tuple[PreTrainedModel, Any]:
    do_without_torchaudio()
    tokenizer.add_special_tokens({"audio_token": GRANITE_AUDIO}, replace_extra_special_tokens=False)
    tokenizer.chat_template = GRANITE_CHAT
    multipliers = {"embedding_multiplier": 2.0, "logits_scaling": 4.0, "residual_multiplier": 0.7}
    config = getattr(transformers, f"{name}Config")(
        encoder_config=getattr(transformers, f"{name}EncoderConfig")(**conformer, initializer_range=0.2),
        projector_config={
            "model_type": "blip_2_qformer",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "cross_attention_frequency": 1,
            "encoder_hidden_size": projected_size,
            "initializer_range": 0.2,
        },
        window_size=6,
        downsample_rate=3,
        text_config={"model_type": "granite", **text, **multipliers, "attention_multiplier": 0.25},
        audio_token_index=tokenizer.convert_tokens_to_ids(GRANITE_AUDIO),
        has_lora_adapter=False,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    statistics_of_training(model)
    extractor = transformers.GraniteSpeechFeatureExtractor(projector_window_size=6, projector_downsample_rate=3)
    return model, transformers.GraniteSpeechProcessor(extractor, tokenizer)


BUILDERS = {
    "qwen3_asr": _qwen3_asr,
    "qwen2_audio": _qwen2_audio,
    "glm_asr": _glm_asr,
    "voxtral": _voxtral,
    "fun_asr": _fun_asr,
    "granite_speech": _granite_speech,
    "granite_speech_plus": _granite_speech_plus,
}


def stock_inputs(kind: str, family: Any, clip: np.ndarray, row: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' own processor makes of a clip and its row: the prompt, audio expanded, and features."""
    if kind == "voxtral":
        return dict(voxtral_inputs(family.processor, clip, row))
    prompt = family.prompt_text(row.get("language"), row.get("prompt"))
    made = family.processor(text=[prompt], audio=[clip], sampling_rate=SAMPLING_RATE, return_tensors="pt")
    made.pop("num_audio_tokens", None)
    return dict(made)


@torch.no_grad()
def stock_answer_logps(model: PreTrainedModel, processor: Any, made: Mapping[str, Any], text: str) -> Tensor:
    """Log-probabilities of an answer and its end by the stock forward, behind what `stock_inputs` made."""
    tokenizer = processor.tokenizer
    answer = torch.tensor([[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]])
    ids = torch.cat([made["input_ids"], answer], 1)
    logits = model(**{**made, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
    return logits[0, -answer.shape[1] - 1 : -1].log_softmax(-1).gather(-1, answer[0, :, None])[:, 0]


def _tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=learnt_pieces(SPECIAL),
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens={"audio_token": AUDIO, "audio_bos_token": AUDIO_START, "audio_eos_token": AUDIO_END},
    )
