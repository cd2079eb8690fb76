"""Tiny random audio language models with processors made here: no download."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Regex, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import is_mistral_common_available

from audiorl.models.granite_speech import do_without_torchaudio
from audiorl.models.vibevoice import ANSWER_START
from tests.kaldi_stand_in import hear_without_torchaudio
from tests.tiny_ctc import OMNI_TOWER, WAVEFORM, statistics_of_training
from tests.tiny_models import END_LOGIT, SAMPLING_RATE, learnt_pieces
from tests.tiny_tekken import CHUNK_SECONDS, tekken_tokenizer, voxtral_inputs
from tests.video_stand_in import video_processor

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
    "audio_flamingo3": 0,
    "qwen2_5_omni": 0,
    "qwen3_omni": 0,
    "vibevoice": 0,
    "omniasr_llm": 7,
}
CONFIGS = {
    "qwen3_asr": "Qwen3ASRConfig",
    "qwen2_audio": "Qwen2AudioConfig",
    "glm_asr": "GlmAsrConfig",
    "voxtral": "VoxtralConfig",
    "fun_asr": "FunAsrNanoConfig",
    "granite_speech": "GraniteSpeechConfig",
    "audio_flamingo3": "AudioFlamingo3Config",
    "qwen2_5_omni": "Qwen2_5OmniThinkerConfig",
    "qwen3_omni": "Qwen3OmniMoeThinkerConfig",
    "vibevoice": "VibeVoiceAsrConfig",
    "omniasr_llm": "OmniASRConfig",
}
# not all of them are in every release, and one has its tokenizer from a package of its own
HERE = {"voxtral": is_mistral_common_available()}
KINDS = tuple(kind for kind, name in CONFIGS.items() if hasattr(transformers, name) and HERE.get(kind, True))
# Those that take no prompt.
UNPROMPTED = ("omniasr_llm",)


def tiny_audio_llm(kind: str) -> tuple[PreTrainedModel, Any]:
    """A fresh copy of a tiny random model in evaluation mode, and its processor; `kind` is one of `BUILDERS`."""
    return copy.deepcopy(_build(kind))


@functools.cache
def _build(kind: str) -> tuple[PreTrainedModel, Any]:
    tokenizer = TOKENIZERS.get(kind, _tokenizer)()
    audio = tokenizer.convert_tokens_to_ids(PLACES.get(kind, AUDIO))
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


# What the templates of released checkpoints write: audio in front of the request, a system turn where they bring one.
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
TURNS = (
    "{%% if messages[0]['role'] != 'system' %%}%s{%% endif %%}"
    "{%% for message in messages %%}<|im_start|>{{ message['role'] }}\n"
    "{%% for part in message['content'] if part['type'] == 'audio' %%}%s{%% endfor %%}"
    "{%% for part in message['content'] if part['type'] == 'text' %%}{{ part['text'] }}{%% endfor %%}<|im_end|>\n"
    "{%% endfor %%}{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}"
)


def _audio_flamingo3(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    config = transformers.AudioFlamingo3Config(
        audio_config={"model_type": "audioflamingo3_encoder", **WHISPER_TOWER, "max_source_positions": 50},
        text_config={"model_type": "qwen2", **text},
        audio_token_id=audio,
        initializer_range=0.2,
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1, return_attention_mask=True)
    processor = transformers.AudioFlamingo3Processor(
        extractor, tokenizer, chat_template=TURNS % (SYSTEM, SOUND), audio_token=SOUND
    )
    return transformers.AudioFlamingo3ForConditionalGeneration(config), processor


# part of an image tower that is never read
VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}


def _ends(tokenizer: Any) -> dict[str, int]:
    """Ids of the marks before and behind audio and images, by their names in configs."""
    marks = {
        f"{kind}_{place}": getattr(tokenizer, f"{kind}_{end}_token")
        for kind in ("audio", "vision")
        for place, end in (("start", "bos"), ("end", "eos"))
    }
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()}


def _qwen2_5_omni(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    places = {f"{kind}_token_index": tokenizer.convert_tokens_to_ids(f"<|{kind.upper()}|>") for kind in VISIBLE}
    places |= _ends(tokenizer)
    config = transformers.Qwen2_5OmniThinkerConfig(
        audio_config={**WHISPER_TOWER, "output_dim": 32, "max_source_positions": 100},
        vision_config={**VISION, "fullatt_block_indexes": [0]},
        text_config={**_without(text, "head_dim"), "rope_parameters": ROPE, "tie_word_embeddings": False},
        audio_token_index=audio,
        initializer_range=0.2,
        **places,
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=3)
    heard = f"<|audio_bos|>{OMNI_AUDIO}<|audio_eos|>"
    processor = transformers.Qwen2_5OmniProcessor(
        transformers.Qwen2VLImageProcessor(),
        video_processor(),
        extractor,
        tokenizer,
        chat_template=TURNS % (SYSTEM, heard),
    )
    return transformers.Qwen2_5OmniThinkerForConditionalGeneration(config), processor


def _qwen3_omni(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    places = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in VISIBLE}
    places |= _ends(tokenizer)
    tower = {**WHISPER_TOWER, "output_dim": 32, "downsample_hidden_size": 8, "n_window_infer": 200}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    config = transformers.Qwen3OmniMoeThinkerConfig(
        audio_config=tower,
        vision_config={**VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        text_config={**text, **experts, "rope_parameters": {**ROPE, "mrope_interleaved": True}},
        audio_token_id=audio,
        initializer_range=0.2,
        **places,
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=16)
    heard = f"{AUDIO_START}{AUDIO}{AUDIO_END}"
    processor = transformers.Qwen3OmniMoeProcessor(
        transformers.Qwen2VLImageProcessor(), video_processor(), extractor, tokenizer, chat_template=TURNS % ("", heard)
    )
    return transformers.Qwen3OmniMoeThinkerForConditionalGeneration(config), processor


# No header of the answer, and the place of the clip's length, as in the template of the released checkpoint.
VIBEVOICE_CHAT = (
    "<|im_start|>system\nYou transcribe audio.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>user\n<|object_ref_start|><|box_start|><|object_ref_end|>\n"
    "{% set context = message['content'] | selectattr('type', 'equalto', 'text') | list %}"
    "This is a <|AUDIO_DURATION|> seconds audio, "
    "{% if context %}with extra info: {{ context[0]['text'] }}\n\nPlease{% else %}please{% endif %}"
    " transcribe it with these keys: Content<|im_end|>\n{% endfor %}"
)


def _vibevoice(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    tokens = {"num_filters": 4, "downsampling_ratios": [8, 20, 20], "depths": [1] * 4, "layer_scale_init_value": 0.5}
    config = transformers.VibeVoiceAsrConfig(
        acoustic_tokenizer_encoder_config={**VIBEVOICE_TOKENIZER, **tokens, "hidden_size": 8},
        semantic_tokenizer_encoder_config={**VIBEVOICE_TOKENIZER, **tokens, "hidden_size": 12},
        text_config={"model_type": "qwen2", **text},
        audio_token_id=audio,
        audio_bos_token_id=tokenizer.convert_tokens_to_ids("<|object_ref_start|>"),
        audio_eos_token_id=tokenizer.convert_tokens_to_ids("<|object_ref_end|>"),
        acoustic_tokenizer_chunk_size=2 * 3200,  # shorter than most clips
    )
    extractor = transformers.VibeVoiceAcousticTokenizerFeatureExtractor()
    processor = transformers.VibeVoiceAsrProcessor(extractor, tokenizer, chat_template=VIBEVOICE_CHAT)
    return transformers.VibeVoiceAsrForConditionalGeneration(config), processor


def _without(values: dict, name: str) -> dict:
    return {key: value for key, value in values.items() if key != name}


# A frame of audio, the mark of a language, two languages and the mode for all of them.
OMNI_MARKS = ("<extra_id_1>", "<extra_id_0>", "<|lang:eng_latn|>", "<|lang:deu_latn|>", "<|lang:auto|>", "<s>")
# The order of the model's paper; the template of the released checkpoints was not at hand.
OMNI_CHAT = (
    "{% for message in messages %}"
    "{% set named = message['content'] | selectattr('type', 'equalto', 'language') | list %}"
    "<extra_id_1><extra_id_0><|lang:{{ named[0]['language'] if named else 'auto' }}|>{% endfor %}"
    "{% if add_generation_prompt %}<s>{% endif %}"
)


def _omniasr_llm(tokenizer: Any, text: dict, audio: int) -> tuple[PreTrainedModel, Any]:
    tokenizer.add_special_tokens({"extra_special_tokens": list(OMNI_MARKS)}, replace_extra_special_tokens=False)
    tower = {name: WAVEFORM[name] for name in OMNI_TOWER}
    config = transformers.OmniASRConfig(
        audio_config=transformers.OmniASRAudioConfig(**tower, hidden_dropout=0.1, layerdrop=0.3),
        text_config={"model_type": "llama", **text, "vocab_size": len(tokenizer)},
        audio_token_id=tokenizer.convert_tokens_to_ids(OMNI_MARKS[0]),
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    kernels = {"conv_kernel": list(tower["conv_kernel"]), "conv_stride": list(tower["conv_stride"])}
    extractor = transformers.OmniASRFeatureExtractor(sampling_rate=SAMPLING_RATE)
    processor = transformers.OmniASRProcessor(extractor, tokenizer, chat_template=OMNI_CHAT, **kernels)
    return transformers.OmniASRForConditionalGeneration(config), processor


BUILDERS = {
    "audio_flamingo3": _audio_flamingo3,
    "qwen2_5_omni": _qwen2_5_omni,
    "qwen3_omni": _qwen3_omni,
    "vibevoice": _vibevoice,
    "qwen3_asr": _qwen3_asr,
    "qwen2_audio": _qwen2_audio,
    "glm_asr": _glm_asr,
    "voxtral": _voxtral,
    "fun_asr": _fun_asr,
    "granite_speech": _granite_speech,
    "granite_speech_plus": _granite_speech_plus,
    "omniasr_llm": _omniasr_llm,
}


def stock_inputs(kind: str, family: Any, clip: np.ndarray, row: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' own processor makes of a clip and its row: the prompt, audio expanded, and features."""
    if kind == "voxtral":
        return dict(voxtral_inputs(family.processor, clip, row))
    prompt, opening = family.prompt_text(row.get("language"), row.get("prompt")), ""
    if kind == "vibevoice":  # its processor counts clips by their lengths, and the opening names the length again
        prompt, _, opening = prompt.rpartition(ANSWER_START)
        opening = ANSWER_START + opening.replace("<|AUDIO_DURATION|>", f"{len(clip) / 24_000:.2f}")
    rate = family.sampling_rate
    made = family.processor(text=[prompt], audio=[clip], sampling_rate=rate, return_tensors="pt")
    made.pop("num_audio_tokens", None)
    opened = torch.tensor([family.tokenizer(opening, add_special_tokens=False).input_ids], dtype=torch.long)
    ids = torch.cat([made["input_ids"], opened], 1)
    return {**made, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def without_noise(model: PreTrainedModel) -> dict[str, bool]:
    """Options of the stock forward under which VibeVoice-ASR adds no noise; older releases read its config instead."""
    if "sample" in inspect.signature(type(model).forward).parameters:
        return {"sample": False}
    if hasattr(model.config, "acoustic_tokenizer_encoder_config"):
        model.config.acoustic_tokenizer_encoder_config.vae_std = 0.0
    return {}


@torch.no_grad()
def stock_answer_logps(
    model: PreTrainedModel, processor: Any, made: Mapping[str, Any], text: str, ending: str = ""
) -> Tensor:
    """Log-probabilities of an answer and its end by the stock forward, behind what `stock_inputs` made."""
    tokenizer = processor.tokenizer
    written = tokenizer(text + ending, add_special_tokens=False).input_ids
    answer = torch.tensor([[*written, tokenizer.eos_token_id]])
    ids = torch.cat([made["input_ids"], answer], 1)
    given = {**made, "input_ids": ids, "attention_mask": torch.ones_like(ids), **without_noise(model)}
    logits = model(**given).logits
    return logits[0, -answer.shape[1] - 1 : -1].log_softmax(-1).gather(-1, answer[0, :, None])[:, 0]


def _tokenizer(**marks: str) -> PreTrainedTokenizerFast:
    named = marks or {"audio_token": AUDIO, "audio_bos_token": AUDIO_START, "audio_eos_token": AUDIO_END}
    return PreTrainedTokenizerFast(
        tokenizer_object=learnt_pieces([*SPECIAL, *(mark for mark in named.values() if mark not in SPECIAL)]),
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=named,
    )


def _omni_tokenizer(audio: tuple[str, str, str], pad: str, vision: str) -> PreTrainedTokenizerFast:
    place, start, end = audio
    return _tokenizer(
        audio_token=place,
        audio_bos_token=start,
        audio_eos_token=end,
        image_token=pad % ("IMAGE" if pad == "<|%s|>" else "image"),
        video_token=pad % ("VIDEO" if pad == "<|%s|>" else "video"),
        vision_bos_token=f"<|vision_{vision}|>",
        vision_eos_token="<|vision_end|>",
    )


def _base_tokenizer() -> PreTrainedTokenizerFast:
    """Of a base model, as VibeVoice-ASR has it: turns do not end with the end token. Digits are single pieces."""
    pieces = learnt_pieces([PAD, START, END, *VIBEVOICE_MARKS])
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        eos_token=PAD,
        pad_token=PAD,
        extra_special_tokens={f"mark_{i}": mark for i, mark in enumerate([START, END, *VIBEVOICE_MARKS])},
    )


OMNI_AUDIO, SOUND = "<|AUDIO|>", "<sound>"
VISIBLE = ("image", "video")
VIBEVOICE_MARKS = ("<|object_ref_start|>", "<|box_start|>", "<|object_ref_end|>")
VIBEVOICE_TOKENIZER = {"model_type": "vibevoice_acoustic_tokenizer_encoder", "initializer_range": 0.2}
# How Qwen2's tokenizer parts a text before it looks for pieces.
QWEN_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# kind -> its tokenizer and its placeholder, where they are not Qwen's
TOKENIZERS = {
    "voxtral": tekken_tokenizer,
    "audio_flamingo3": lambda: _tokenizer(audio_token=SOUND),
    "qwen2_5_omni": lambda: _omni_tokenizer((OMNI_AUDIO, "<|audio_bos|>", "<|audio_eos|>"), "<|%s|>", "bos"),
    "qwen3_omni": lambda: _omni_tokenizer((AUDIO, AUDIO_START, AUDIO_END), "<|%s_pad|>", "start"),
    "vibevoice": _base_tokenizer,
}
PLACES = {"voxtral": "[AUDIO]", "audio_flamingo3": SOUND, "qwen2_5_omni": OMNI_AUDIO, "vibevoice": "<|box_start|>"}
