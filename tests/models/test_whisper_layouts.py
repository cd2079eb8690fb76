"""Tokens, ids and decoding of the released Whispers, with their own tokenizers and configs and random weights."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GenerationConfig, WhisperForConditionalGeneration

from audiorl.models import speech_family
from tests.tiny_models import tiny_clips
from tests.whisper_layouts import LAYOUTS, layout

pytestmark = pytest.mark.real_speech


@pytest.fixture(scope="module")
def released(request):
    """name -> (model, processor), each built once."""
    import os
    from pathlib import Path

    if "AUDIORL_TEST_DATA" not in os.environ:
        pytest.skip("AUDIORL_TEST_DATA is not set")
    return {name: layout(Path(os.environ["AUDIORL_TEST_DATA"]), name) for name in LAYOUTS}


def family_of(released, name: str):
    model, processor = released[name]
    return speech_family(model, processor)


# the ids as openai-whisper's tokenizer gives them
@pytest.mark.parametrize(
    ("name", "row", "prefix"),
    [
        ("tiny.en", {}, [50257, 50362]),
        ("tiny.en", {"language": "english"}, [50257, 50362]),
        ("tiny.en", {"language": "en-US", "task": "transcribe"}, [50257, 50362]),
        ("tiny", {"language": "english"}, [50258, 50259, 50359, 50363]),
        ("tiny", {"language": "german", "task": "translate"}, [50258, 50261, 50358, 50363]),
        ("large-v3", {"language": "<|de|>"}, [50258, 50261, 50360, 50364]),
        ("large-v3", {"language": "cantonese"}, [50258, 50358, 50360, 50364]),
    ],
)
def test_prefixes(released, name, row, prefix):
    text = family_of(released, name).tokenize("a dog", **row)
    assert text.ids[: text.first_kept] == prefix


@pytest.mark.parametrize(
    "row", [{"language": "german"}, {"task": "translate"}, {"language": "en", "task": "translate"}]
)
def test_an_english_only_checkpoint_refuses_other_languages_and_translation(released, row):
    with pytest.raises(ValueError, match="only transcribes English"):
        family_of(released, "tiny.en").tokenize("a dog", **row)


def test_cantonese_is_no_language_of_an_older_checkpoint_and_no_other_is_suggested(released):
    with pytest.raises(ValueError, match=r"unknown language .cantonese. for this checkpoint\. Use"):
        family_of(released, "tiny").tokenize("a dog", language="cantonese")


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("zh-CN", "zh"),
        ("cmn_hans_cn", "zh"),
        ("pt-BR", "pt"),
        (" English ", "en"),
        ("Haitian-Creole", "ht"),
        ("nb-NO", "no"),
        ("fil_ph", "tl"),
        ("jv", "jw"),
        ("Lao", "lo"),
        ("yue-Hant-HK", "yue"),
        ("zh-yue", "yue"),
    ],
)
def test_languages_as_people_write_them(released, written, code):
    family = family_of(released, "large-v3")
    assert family.tokenize("a", language=written) == family.tokenize("a", language=code)
    assert family.tokenize("a", language=code).ids[1] == family.whisper_text.vocab[f"<|{code}|>"]


@pytest.mark.parametrize("code", ["zh", "ja", "th", "lo", "my", "yue", "km", "ko", "ru"])
def test_the_language_decides_about_the_first_space(released, code):
    family = family_of(released, "large-v3")
    tokenizer = family.whisper_text.tokenizer
    for text in ("2024年3月", "ﾃｽﾄ", "ＡＢＣ", "OK", "สวัสดี", "ສະບາຍດີ", "မင်္ဂလာပါ"):  # noqa: RUF001
        made = family.tokenize(text, language=code)
        begins = text if code in ("zh", "ja", "th", "lo", "my", "yue") else f" {text}"
        assert made.ids[made.first_kept : -1] == tokenizer(begins, add_special_tokens=False).input_ids


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_special_token_passes_in_any_text(released, name):
    """Not in a text, nor in a prompt or hot words: a timestamp begins a timed text, and is nothing else."""
    family = family_of(released, name)
    row = {} if name == "tiny.en" else {"language": "en"}
    marks = [token for token in family.whisper_text.vocab if token.startswith("<|")]
    assert len(marks) > 1600
    for mark in marks[:120] + marks[-3:]:
        for more in ({"prompt": f"{mark} hello"}, {"hotwords": ["a", f"b{mark}"]}):
            with pytest.raises(ValueError, match="prompt contains special tokens"):
                family.tokenize_row("hello", {**row, **more})
        if not mark[2].isdigit():
            with pytest.raises(ValueError, match="text contains special tokens"):
                family.tokenize_row(f"hello {mark}", row)


@pytest.mark.parametrize("model", LAYOUTS)
@pytest.mark.parametrize("processor", LAYOUTS)
def test_a_processor_of_another_checkpoint_is_refused(released, model, processor):
    made = released[model][0], released[processor][1]
    if model == processor:
        speech_family(*made)
        return
    with pytest.raises(ValueError, match=r"model's own checkpoint") as raised:
        speech_family(*made)
    if (model, processor) == ("tiny", "tiny.en"):  # whose ids all fit
        assert "50257" in str(raised.value) and "50258" in str(raised.value)


def test_a_generation_config_of_another_checkpoint_is_refused(released):
    """Same ends, same sizes: large-v3 has one language more, and so its tasks are other tokens."""
    model, processor = copy.deepcopy(released["large-v3"][0]), released["large-v3"][1]
    model.generation_config.task_to_id = {"transcribe": 50359, "translate": 50358}
    with pytest.raises(ValueError, match=r"task_to_id is {'transcribe': 50360}, the model's generation_config says"):
        speech_family(model, processor)


# ---- decoding ----


def old_config(model: WhisperForConditionalGeneration) -> GenerationConfig:
    """As a checkpoint of 2022 has it: nothing of languages, tasks and timestamps."""
    old = copy.deepcopy(model.generation_config)
    for name in ("lang_to_id", "task_to_id", "is_multilingual", "no_timestamps_token_id", "prev_sot_token_id"):
        if hasattr(old, name):
            delattr(old, name)
    return old


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("beams", [1, 2])
def test_transcripts_are_those_of_whispers_own_generate(released, name, beams):
    family, (model, processor) = family_of(released, name), released[name]
    audio = family.features(tiny_clips(2, 2.0))
    rows = [{}] if name == "tiny.en" else [{"language": "de", "task": "translate"}, {}]
    for row in rows:
        asked = {"languages": [row["language"]] * 2, "tasks": [row["task"]] * 2} if row else {}
        ours = family.transcribe(model, audio, max_new_tokens=5, num_beams=beams, **asked)
        theirs = model.generate(audio["input_features"], max_new_tokens=5, num_beams=beams, **row)
        assert ours == [text.strip() for text in processor.batch_decode(theirs, skip_special_tokens=True)]
        assert any(ours)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kind", ["old", "none", "two sequences", "dictionaries"])
def test_what_a_generation_config_lacks_or_adds_changes_no_transcript(released, name, kind):
    model, processor = released[name]
    family = speech_family(model, processor)
    audio = family.features(tiny_clips(2, 2.0))
    asked = {} if name == "tiny.en" else {"languages": ["de"] * 2}
    kept = model.generation_config
    full = family.transcribe(model, audio, max_new_tokens=5, num_beams=2, **asked)
    changed = old_config(model)
    if kind == "none":
        changed = GenerationConfig(
            suppress_tokens=kept.suppress_tokens, begin_suppress_tokens=kept.begin_suppress_tokens
        )
    if kind == "two sequences":
        changed = copy.deepcopy(kept)
        changed.num_return_sequences = 2
    if kind == "dictionaries":
        changed = copy.deepcopy(kept)
        changed.return_dict_in_generate = changed.output_scores = True
    try:
        model.generation_config = changed
        again = speech_family(model, processor)
        assert again.transcribe(model, audio, max_new_tokens=5, num_beams=2, **asked) == full
        assert model.generation_config is changed
    finally:
        model.generation_config = kept


def test_a_batch_may_name_the_language_of_some_clips_and_of_others_not(released):
    model, _ = released["tiny"]
    family = family_of(released, "tiny")
    clips = tiny_clips(3, 2.0)
    mixed = family.transcribe(
        model,
        family.features(clips),
        languages=["de", None, "fr"],
        prompts=[None, "braune Hunde", None],
        tasks=["translate", None, None],
        max_new_tokens=5,
    )
    alone = [
        family.transcribe(model, family.features([clip]), max_new_tokens=5, **asked)[0]
        for clip, asked in zip(
            clips,
            ({"languages": ["de"], "tasks": ["translate"]}, {"prompts": ["braune Hunde"]}, {"languages": ["fr"]}),
            strict=True,
        )
    ]
    assert mixed == alone


def test_an_old_checkpoint_decodes_in_the_language_it_forces(released):
    """`forced_decoder_ids`, as fine-tunes of 2022 saved them, count where neither row nor config names a language."""
    model, processor = copy.deepcopy(released["tiny"][0]), released["tiny"][1]
    model.generation_config = old_config(model)
    model.generation_config.forced_decoder_ids = [[1, 50276], [2, 50359], [3, 50363]]  # Hindi
    family = speech_family(model, processor)
    audio = family.features(tiny_clips(2, 2.0))
    hindi = family.transcribe(model, audio, languages=["hi"] * 2, max_new_tokens=5)
    assert family.transcribe(model, audio, max_new_tokens=5) == hindi
    with pytest.raises(ValueError, match="no language is named"):
        family.tokenize("a")


def test_a_tuned_checkpoint_says_its_language_in_its_generation_config(released):
    model, processor = copy.deepcopy(released["tiny"][0]), released["tiny"][1]
    model.generation_config.language, model.generation_config.task = "hindi", "transcribe"
    family = speech_family(model, processor)
    assert family.tokenize("a").ids[:3] == [50258, 50276, 50359]


def test_more_tokens_than_the_decoder_has_room_for_are_refused_with_the_number_that_fits(released):
    family, (model, _) = family_of(released, "tiny"), released["tiny"]
    audio = family.features(tiny_clips(1, 2.0))
    with pytest.raises(ValueError, match=r"max_new_tokens=448 and a prefix of 4 .* 448 positions. Lower .* to 444"):
        family.transcribe(model, audio, languages=["en"], max_new_tokens=448)


def test_timestamps_are_asked_of_whispers_own_generate(released):
    """A window is gone over segment by segment then; the transcript is the same text without its times."""
    model, processor = released["tiny"]
    family = family_of(released, "tiny")
    audio = family.features(tiny_clips(2, 2.0))
    torch.manual_seed(0)
    ours = family.transcribe(model, audio, languages=["en", "de"], max_new_tokens=5, return_timestamps=True)
    theirs = model.generate(
        audio["input_features"],
        attention_mask=torch.ones(2, audio["input_features"].shape[-1]),
        language=["en", "de"],
        task="transcribe",
        max_new_tokens=5,
        return_timestamps=True,
    )
    assert ours == [text.strip() for text in processor.batch_decode(theirs, skip_special_tokens=True)]
