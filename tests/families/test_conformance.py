"""Every family of the library and two toys, run through the conformance suite."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from audiorl.batch import GroupBatch
from audiorl.testing import CHECKS, FamilyCase
from audiorl.testing.wrapping_checks import TRAINING_CHECKS
from tests.families.ctc_cases import CTC_CASES
from tests.families.toys import ToyAudioPrefix, ToyCTC, build_toy
from tests.families.transducer_cases import TRANSDUCER_CASES
from tests.tiny_audio_llms import KINDS as AUDIO_LLMS
from tests.tiny_audio_llms import tiny_audio_llm
from tests.tiny_classifiers import tiny_classifier
from tests.tiny_models import tiny_clips, tiny_whisper
from tests.tiny_seq2seq import KINDS as SEQ2SEQ
from tests.tiny_seq2seq import tiny_seq2seq

TEXTS = [
    ["the quick brown fox", "a fox", ""],
    ["dog", "the lazy dog jumps over", "do g"],
    ["so", "soo", "s o b"],
]
GERMAN_AND_CHINESE = [
    ["der Fuchs springt", "ein Fuchs", ""],
    ["你好世界", "你好", "好"],
    ["the dog", "dog", "dogs"],
]
# unequal prefixes in one batch: a prompt, another task, neither
ROWS = [
    {"language": "german", "prompt": "braune Hunde"},
    {"language": "zh"},
    {"language": "en", "task": "translate"},
]
# It takes no prompt.
ROWS_OF = {"omniasr_llm": [{"language": "english"}, {"language": "deu_Latn"}, {"language": "auto"}]}
WHISPER_LORA = ("q_proj", "v_proj", "fc1")


def ordinary_whisper(model, batch: GroupBatch) -> list[Tensor]:
    """Logits with and without a left-padded decoder mask, and what generate() writes greedily and with beams."""
    ids = batch.tokens[:, 0, :5]
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    given = {"input_features": batch.audio, "decoder_input_ids": ids}
    logits = model(**given).logits, model(**given, decoder_attention_mask=mask).logits
    return [*logits, *(model.generate(batch.audio, max_new_tokens=6, num_beams=beams) for beams in (1, 2))]


def ordinary_moonshine(model, batch: GroupBatch) -> list[Tensor]:
    """Logits of padded audio with a left-padded decoder mask, and what generate() writes greedily and with beams."""
    ids = batch.tokens[:, 0, :5]
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    whole = batch.audio.shape[-1] // 80 * 80  # a streaming model takes no part of a frame
    heard = {"input_values": batch.audio[:, :whole], "attention_mask": batch.audio_mask[:, :whole]}
    logits = model(**heard, decoder_input_ids=ids, decoder_attention_mask=mask).logits
    return [logits, *(model.generate(**heard, max_new_tokens=6, num_beams=beams) for beams in (1, 2))]


def ordinary_speech2text(model, batch: GroupBatch) -> list[Tensor]:
    heard = {"input_features": batch.audio.transpose(1, 2), "attention_mask": batch.audio_mask}
    return [
        model(**heard, decoder_input_ids=batch.tokens[:, 0]).logits,
        *(model.generate(**heard, max_new_tokens=6, num_beams=beams) for beams in (1, 2)),
    ]


def ordinary_canary(model, batch: GroupBatch) -> list[Tensor]:
    """Logits of padded audio with a left-padded decoder mask, and what generate() writes greedily and with beams."""
    ids = batch.tokens[:, 0, :12]
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    heard = {"input_features": batch.audio.transpose(1, 2), "attention_mask": batch.audio_mask.bool()}
    logits = model(**heard, decoder_input_ids=ids, decoder_attention_mask=mask).logits
    asked = {**heard, "decoder_input_ids": ids[:, :9], "max_new_tokens": 6}
    return [logits, *(model.generate(**asked, num_beams=beams) for beams in (1, 2))]


def ordinary_audio_llm(model, batch: GroupBatch) -> list[Tensor]:
    """Logits of padded text, and what generate() writes greedily and with beams."""
    ids = batch.tokens[:, 0, :12].clamp(min=10)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    written = (model.generate(ids, attention_mask=mask, max_new_tokens=6, num_beams=beams) for beams in (1, 2))
    return [model(input_ids=ids, attention_mask=mask).logits, *written]


def audio_llm_encoder(model) -> torch.nn.Module:
    """What reads a row for each clip. The towers of Qwen-Omni read the frames of all clips as one, their first layer a
    row for each second or two; VibeVoice's tokenizers are never trained."""
    names = ("audio_tower", "encoder", "multi_modal_projector")
    places = (model, model.model)  # older releases of transformers have towers beside `model`
    found = next(part for name in names for place in places if (part := getattr(place, name, None)) is not None)
    if "Thinker" in type(model).__name__:
        return getattr(found, "conv1", None) or found.conv2d1
    return found


def whisper_case(name: str, kind: str, texts: list[list[str]], rows: list[dict]) -> FamilyCase:
    return FamilyCase(
        name=name,
        build=lambda: tiny_whisper(kind, dropout=0.1, attention_dropout=0.1, activation_dropout=0.1),
        clips=tiny_clips(len(texts)),
        texts=texts,
        ordinary=ordinary_whisper,
        encoder=lambda model: model.get_encoder(),
        lora_targets=WHISPER_LORA,
        rows=rows,
    )


def toy_case(name: str, model_class, ordinary, **more) -> FamilyCase:
    return FamilyCase(
        name=name,
        build=lambda: build_toy(model_class),
        clips=tiny_clips(len(TEXTS), sampling_rate=1000),
        texts=[[text[:9] for text in group] for group in TEXTS],
        ordinary=ordinary,
        encoder=lambda model: model.encoder,
        **more,
    )


DIGITS = [["one", "seven", "nine"], ["two", "zero", "one"], ["three", "nine", "two"]]
NOISY = {"hidden_dropout": 0.1, "attention_dropout": 0.1, "layerdrop": 0.3, "apply_spec_augment": True}


def classifier_case(kind: str, encoder: str, lora_targets: tuple[str, ...], dropout: dict[str, float]) -> FamilyCase:
    def ordinary(model, batch: GroupBatch) -> list[Tensor]:
        if kind == "ast":
            return [model(input_values=batch.audio.transpose(1, 2)).logits]
        mask = {} if kind == "whisper" else {"attention_mask": batch.audio_mask}
        return [model(batch.audio).logits, model(batch.audio, **mask).logits]

    return FamilyCase(
        name=f"classifier-{kind}",
        build=lambda: tiny_classifier(kind, **dropout),
        clips=tiny_clips(len(DIGITS)),
        texts=DIGITS,
        ordinary=ordinary,
        encoder=lambda model: getattr(model, encoder),
        lora_targets=lora_targets,
        labels=True,
    )


CASES = [
    whisper_case("whisper-english", "english", TEXTS, []),
    whisper_case("whisper-multilingual", "multilingual", GERMAN_AND_CHINESE, ROWS),
    whisper_case("whisper-large-v3-shape", "large_v3", TEXTS, [{"language": "en"}] * 3),
    toy_case(
        "toy-ctc",
        ToyCTC,
        lambda model, batch: [model(batch.audio)],
        lora_targets=("head",),
        checkpointing=False,
    ),
    toy_case(
        "toy-audio-prefix",
        ToyAudioPrefix,
        lambda model, batch: [model(batch.audio, batch.tokens[:, 0])],
        lora_targets=("q_proj", "v_proj"),
    ),
    FamilyCase(
        name="moonshine",
        build=lambda: tiny_seq2seq("moonshine", attention_dropout=0.1),
        clips=tiny_clips(len(TEXTS)),
        texts=TEXTS,
        ordinary=ordinary_moonshine,
        encoder=lambda model: model.get_encoder(),
        lora_targets=("q_proj", "v_proj", "fc1"),
    ),
    FamilyCase(
        name="speech2text",
        build=lambda: tiny_seq2seq("speech2text", dropout=0.1, attention_dropout=0.1, activation_dropout=0.1),
        clips=tiny_clips(len(TEXTS)),
        texts=TEXTS,
        ordinary=ordinary_speech2text,
        encoder=lambda model: model.get_encoder(),
        lora_targets=("q_proj", "v_proj", "fc1"),
    ),
    FamilyCase(
        name="canary",
        build=lambda: tiny_seq2seq("canary", attention_dropout=0.1),
        clips=tiny_clips(len(TEXTS)),
        texts=[["der Fuchs springt", "ein Fuchs", ""], *TEXTS[1:]],
        ordinary=ordinary_canary,
        encoder=lambda model: model.get_encoder(),
        lora_targets=("q_proj", "v_proj", "fc1"),
        rows=[
            {"language": "german"},
            {"language": "fr", "task": "translate"},
            {"language": "en", "task": "translate:de"},
        ],
    ),
    *(
        FamilyCase(
            name="moonshine_streaming",
            build=lambda: tiny_seq2seq("moonshine_streaming", attention_dropout=0.1),
            clips=tiny_clips(len(TEXTS)),
            texts=TEXTS,
            ordinary=ordinary_moonshine,
            encoder=lambda model: model.get_encoder(),
            lora_targets=("q_proj", "v_proj", "fc1"),
        )
        for kind in SEQ2SEQ
        if kind == "moonshine_streaming"
    ),
    *(
        FamilyCase(
            name="cohere_asr",
            build=lambda: tiny_seq2seq("cohere_asr", attention_dropout=0.1),
            clips=tiny_clips(len(TEXTS)),
            texts=TEXTS,
            ordinary=ordinary_canary,
            encoder=lambda model: model.get_encoder(),
            lora_targets=("q_proj", "v_proj", "fc1"),
            rows=[{"language": "german"}, {"language": "en-US"}, {"language": "French"}],
            prompted=True,  # the request begins with a piece that transcripts have, too
        )
        for kind in SEQ2SEQ
        if kind == "cohere_asr"
    ),
    *(
        FamilyCase(
            name=kind,
            build=functools.partial(tiny_audio_llm, kind),
            clips=tiny_clips(len(TEXTS)),
            texts=TEXTS,
            ordinary=ordinary_audio_llm,
            encoder=audio_llm_encoder,
            lora_targets=("q_proj", "v_proj", "down_proj"),
            float64=False,
            prompted=True,
            # unequal prefixes in one batch
            rows=ROWS_OF.get(kind, [{"language": "en"}, {"language": "en", "prompt": "lazy dogs"}, {"language": "en"}]),
        )
        for kind in AUDIO_LLMS
    ),
    classifier_case("wav2vec2-group", "wav2vec2", ("q_proj", "projector", "classifier"), NOISY),
    classifier_case("hubert-layer", "hubert", ("q_proj", "intermediate_dense"), NOISY),
    classifier_case("whisper", "encoder", ("q_proj", "fc1"), {"dropout": 0.1, "encoder_layerdrop": 0.3}),
    classifier_case("ast", "audio_spectrogram_transformer", ("q_proj", "dense"), {"hidden_dropout_prob": 0.1}),
    *CTC_CASES,
    *TRANSDUCER_CASES,
]


# Whisper's training has tests of its own; CTC models, and transducers, differ in little among themselves.
FAST_WHOLE = ("wav2vec2", "parakeet", "toy-ctc", "sew", "lasr", "parakeet_tdt", "nemotron3_5")
# Qwen-Omni, Audio Flamingo 3 and OmniASR differ from other audio language models in their towers alone.
SLOW_WHOLE = ["audio_flamingo3", "qwen2_5_omni", "qwen3_omni", "omniasr_llm"]
SLOW_WHOLE += [str(case) for case in (*CTC_CASES, *TRANSDUCER_CASES) if str(case) not in FAST_WHOLE]


def is_slow(case: FamilyCase, check) -> bool:
    return str(case) in SLOW_WHOLE or (check in TRAINING_CHECKS and str(case) not in FAST_WHOLE)


@pytest.mark.parametrize(
    ("case", "check"),
    [
        pytest.param(
            case, check, id=f"{case}-{check.__name__}", marks=[pytest.mark.slow] if is_slow(case, check) else []
        )
        for case in CASES
        for check in CHECKS
    ],
)
def test_family_conforms(case: FamilyCase, check):
    check(case)
