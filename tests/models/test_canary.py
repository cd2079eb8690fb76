"""Requests of Canary and Cohere Transcribe: those that its processor writes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from audiorl.models import speech_family
from audiorl.models.canary import CanaryText, CohereText
from tests.tiny_seq2seq import KINDS, tiny_seq2seq

SILENCE = np.zeros(1600, dtype=np.float32)


@pytest.fixture(scope="module")
def canary():
    return tiny_seq2seq("canary")


@pytest.fixture
def text(canary) -> CanaryText:
    model, processor = canary
    return CanaryText(processor, model.config)


@pytest.mark.parametrize(
    ("row", "source", "target"),
    [
        ({"language": "en"}, "en", "en"),
        ({"language": "German", "task": "transcribe"}, "de", "de"),
        ({"language": "fr", "task": "translate"}, "fr", "en"),
        ({"language": "english", "task": "translate:de"}, "en", "de"),
        ({"language": "en", "task": "translate: French"}, "en", "fr"),
    ],
)
def test_the_prefix_is_the_request_that_the_processor_writes(canary, text, row, source, target):
    _, processor = canary
    ids, first_kept = text.tokenize("the dog", **row)
    heard = processor.apply_transcription_request(SILENCE, source_language=source, target_language=target)
    assert ids[:first_kept] == heard["decoder_input_ids"][0].tolist()
    written = f"<|startofcontext|><|startoftranscript|><|emo:undefined|><|{source}|><|{target}|><|pnc|><|noitn|>"
    assert processor.tokenizer.decode(ids[:first_kept]) == written + "<|notimestamp|><|nodiarize|>"
    assert processor.tokenizer.decode(ids[first_kept:]) == "the dog<|endoftext|>"
    assert text.decode(ids) == text.decode(ids[first_kept:]) == "the dog"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, "no language is named"),
        ({"language": "klingon"}, "unknown language 'klingon' for Canary"),
        ({"language": "mt"}, r"lacks a mark of its request .*<\|mt\|>"),
        ({"language": "de", "task": "summarise"}, "unknown task 'summarise'. Use 'transcribe'"),
        ({"language": "de", "task": "translate:elvish"}, "unknown language 'elvish' for Canary"),
        ({"language": "en", "task": "translate"}, "translates into the language that is spoken"),
        ({"language": "en", "prompt": "names"}, "no place for a prompt"),
    ],
)
def test_what_the_checkpoint_cannot_be_asked_is_refused(text, row, problem):
    with pytest.raises(ValueError, match=problem):
        text.tokenize("the dog", **row)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("<|nospeech|>", "reads as marks"),
        ("the \N{SNOWMAN}", "characters that this model's vocabulary lacks"),
        ("dog " * 60, "the decoder has 48 positions"),
    ],
)
def test_a_transcript_it_cannot_read_is_refused(text, written, problem):
    with pytest.raises(ValueError, match=problem):
        text.tokenize(written, language="en")


def test_defaults_stand_in_for_what_rows_leave_out(text):
    text.set_defaults(language="german", task="translate")
    assert text.tokenize("a dog") == text.tokenize("a dog", language="de", task="translate:en")
    assert text.tokenize("le chien", language="fr", task="transcribe") != text.tokenize("le chien", language="fr")
    for wrong in ({"language": "klingon"}, {"language": "mt"}, {"task": "sing"}, {"task": "translate:mt"}):
        with pytest.raises(ValueError, match=r"unknown language|lacks|unknown task"):
            text.set_defaults(**{"language": None, "task": None, **wrong})
    assert (text.default_language, text.default_task) == ("german", "translate")


def test_a_processor_of_another_model_is_refused(canary):
    model, processor = tiny_seq2seq("canary")
    model.config.vocab_size -= 1
    with pytest.raises(ValueError, match="does not fit the model"):
        speech_family(model, processor)
    model, processor = canary
    processor = tiny_seq2seq("canary")[1]
    processor.feature_extractor.feature_size = 128
    with pytest.raises(ValueError, match="128 mel bins, the model hears 16"):
        speech_family(model, processor)


def test_the_longest_and_the_shortest_clip_are_those_the_encoder_has_room_for(canary):
    family = speech_family(*canary)
    longest, shortest = (round(seconds * 16_000) for seconds in (family.max_seconds, family.min_seconds))
    assert [family.frames_in(longest), family.frames_in(longest + 1)] == [5000, 5001]
    assert [family.frames_in(shortest), family.frames_in(shortest - 1)] == [1, 0]


# ---- Cohere Transcribe ----

HERE = pytest.mark.skipif("cohere_asr" not in KINDS, reason="this release of transformers has no Cohere Transcribe")


@pytest.fixture
def cohere() -> CohereText:
    model, processor = tiny_seq2seq("cohere_asr")
    return speech_family(model, processor).canary_text


@HERE
@pytest.mark.parametrize(("language", "code"), [("en", "en"), ("German", "de"), ("fr-FR", "fr")])
def test_cohere_s_prefix_is_what_its_processor_writes(cohere, language, code):
    ids, first_kept = cohere.tokenize("the dog", language=language)
    heard = cohere.processor(SILENCE, language=code, sampling_rate=16_000)
    assert ids[:first_kept] == heard["decoder_input_ids"][0].tolist()
    assert cohere.tokenizer.decode(ids[first_kept:]) == "the dog<|endoftext|>"
    assert cohere.decode(ids) == cohere.decode(ids[first_kept:]) == "the dog"


@HERE
def test_a_transcript_may_begin_with_the_piece_that_a_request_begins_with(cohere):
    """A transcript in Chinese does; here a letter that begins no piece."""
    ids, first_kept = cohere.tokenize("quick", language="en")
    assert cohere.start == ids[0] and cohere.start in ids[first_kept:]
    assert cohere.decode(ids) == "quick"


@HERE
@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, "no language is named"),
        ({"language": "klingon"}, "unknown language 'klingon' for Cohere Transcribe"),
        ({"language": "ja"}, "lacks a mark of its request for the language 'ja'"),
        ({"language": "de", "task": "translate"}, "only task is 'transcribe', not 'translate'"),
        ({"language": "en", "prompt": "names"}, "no place for a prompt"),
    ],
)
def test_what_cohere_cannot_be_asked_is_refused(cohere, row, problem):
    with pytest.raises(ValueError, match=problem):
        cohere.tokenize("the dog", **row)


@HERE
def test_cohere_s_defaults_are_a_language_alone(cohere):
    cohere.set_defaults(language="german", task="transcribe")
    assert cohere.tokenize("a dog") == cohere.tokenize("a dog", language="de")
    for wrong in ({"language": "klingon"}, {"language": "ja"}, {"task": "translate"}):
        with pytest.raises(ValueError, match=r"unknown language|lacks|only task"):
            cohere.set_defaults(**{"language": None, "task": None, **wrong})
    assert cohere.default_language == "german"


@HERE
def test_cohere_takes_no_clip_that_its_extractor_would_cut_nor_a_model_that_begins_otherwise():
    model, processor = tiny_seq2seq("cohere_asr")
    family = speech_family(model, processor)
    assert family.max_seconds == 35.0
    made = family.features([np.zeros(round(16_000 * seconds), dtype=np.float32) for seconds in (34.9, 1.0)])
    assert made["audio_mask"].sum(-1).tolist() == [3490, 100]
    model.generation_config.decoder_start_token_id = model.config.bos_token_id
    with pytest.raises(ValueError, match="its decoder_start_token_id is"):
        speech_family(model, processor)
