"""Hot words of rows: read, written into each family's prompt, and heard of wherever rows are."""

from __future__ import annotations

import functools

import pytest
import torch

from audiorl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, transcribe
from audiorl.collator import SpeechCollator
from audiorl.datasets import BadRowsError, speech_rows
from audiorl.models import speech_family
from audiorl.pairs import mine_pairs
from audiorl.rewards import KeywordRecall
from audiorl.text.keywords import read_hotwords
from tests.families.toys import ToyCTC, build_toy
from tests.tiny_audio_llms import KINDS, tiny_audio_llm
from tests.tiny_classifiers import tiny_classifier
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper
from tests.tiny_seq2seq import KINDS as SEQ2SEQ
from tests.tiny_seq2seq import tiny_seq2seq

TEXTS = ["the dog", "a fox"]


def rows(*hotwords, **columns) -> list[dict]:
    return [
        {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "text": TEXTS[i], "hotwords": words, **columns}
        for i, (clip, words) in enumerate(zip(tiny_clips(len(hotwords)), hotwords, strict=True))
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, []),
        ([], []),
        (" ", []),
        (["Nguyen", " New York "], ["Nguyen", "New York"]),
        (["Acme, Inc."], ["Acme, Inc."]),
        ("Nguyen", ["Nguyen"]),
        ("Nguyen, New York,", ["Nguyen", "New York"]),
        ("开放时间，张伟、北京", ["开放时间", "张伟", "北京"]),  # noqa: RUF001
    ],
)
def test_hotwords_are_a_list_or_a_string_with_commas(value, words):
    assert read_hotwords(value) == words


@pytest.mark.parametrize("value", [3, {"Nguyen": 2.0}, ["Nguyen", 3], ["Nguyen", " "], [None], b"Nguyen"])
def test_what_is_no_words_is_refused(value):
    with pytest.raises(ValueError, match=r"hotwords (is|has) .*\. (Give|Make)"):
        read_hotwords(value)


PROMPTS = [
    ("qwen3_asr", {}, "Fox, Dachs"),
    ("qwen3_asr", {"prompt": "A talk on animals."}, "A talk on animals.\nFox, Dachs"),
    ("qwen2_audio", {}, "Transcribe the speech.\nThese words may occur: Fox, Dachs."),
    ("qwen2_audio", {"prompt": "Which animal?"}, "Which animal?\nThese words may occur: Fox, Dachs."),
    ("glm_asr", {}, "Please transcribe this audio into text\nThese words may occur: Fox, Dachs."),
    ("glm_asr", {"prompt": "Which animal?"}, "Which animal?\nThese words may occur: Fox, Dachs."),
    ("audio_flamingo3", {}, "Transcribe the input speech.\nThese words may occur: Fox, Dachs."),
    ("audio_flamingo3", {"prompt": "Which animal?"}, "Which animal?\nThese words may occur: Fox, Dachs."),
    ("qwen3_omni", {}, "Transcribe the audio into text.\nThese words may occur: Fox, Dachs."),
    ("vibevoice", {"prompt": "A talk on animals."}, "A talk on animals.\nFox, Dachs"),
    ("granite_speech", {}, "can you transcribe the speech into a written format? Keywords: Fox, Dachs"),
    ("granite_speech", {"prompt": "Which animal?"}, "Which animal? Keywords: Fox, Dachs"),
    ("fun_asr", {}, "热词列表：[Fox, Dachs]"),  # noqa: RUF001
    ("fun_asr", {"prompt": "A talk on animals."}, "A talk on animals.\n热词列表：[Fox, Dachs]"),  # noqa: RUF001
]


@pytest.mark.parametrize(("kind", "row", "prompt"), [case for case in PROMPTS if case[0] in KINDS])
def test_the_prompt_of_each_audio_language_model(kind, row, prompt):
    family = speech_family(*tiny_audio_llm(kind))
    row = {"language": "en", **row, "hotwords": "Fox, Dachs"}
    assert family.row_prompt(row) == prompt
    assert family.tokenize_row("a fox", row) == family.tokenize("a fox", language="en", prompt=prompt)
    assert prompt in family.prompt_text("en", family.row_prompt(row))
    assert family.tokenize_row("a fox", {**row, "hotwords": []}).ids != family.tokenize_row("a fox", row).ids


@pytest.mark.parametrize(
    ("row", "prompt"),
    [({}, "Glossary: Fuchs, Hund."), ({"prompt": " braune Hunde "}, "Glossary: Fuchs, Hund. braune Hunde")],
)
def test_whispers_prompt_is_a_glossary_and_then_the_row_s_own(row, prompt, monkeypatch):
    model, processor = tiny_whisper("multilingual", max_target_positions=120)
    family = speech_family(model, processor)
    row = {"language": "de", **row, "hotwords": ["Fuchs", "Hund"]}
    found = family.tokenize_row("ein Hund", row)
    assert found == family.tokenize("ein Hund", language="de", prompt=prompt)
    asked = processor.get_prompt_ids(prompt).tolist()  # as stock `generate` takes it
    assert found.ids[: len(asked)] == asked
    assert processor.tokenizer.convert_ids_to_tokens(found.ids[len(asked)]) == "<|startoftranscript|>"


def count(text, words: int) -> int:
    """Tokens of so many dogs."""
    return len(text.plain_ids(" dog" * words))


def test_whisper_reads_half_of_its_positions_as_a_prompt_and_nothing_is_cut():
    """Of 48 positions 24, <|startofprev|> among them; of a released checkpoint's 448, 224."""
    family = speech_family(*tiny_whisper("multilingual"))
    text = family.whisper_text
    longest = " ".join(["dog"] * next(n for n in range(40, 0, -1) if count(text, n) <= 23))
    longest += "!" * (23 - len(text.plain_ids(" " + longest)))
    assert len(text.prompt_ids(longest)) == 24
    assert family.tokenize("a", language="en", prompt=longest).first_kept == 24 + 4
    with pytest.raises(
        ValueError, match=r"prompt makes \d+ tokens with its history and hotwords, and Whisper reads at most 24\. "
    ):
        family.row_prompt({"language": "en", "prompt": longest, "hotwords": "a"})
    with pytest.raises(ValueError, match=r"reads at most 24"):
        family.tokenize("a", language="en", prompt=f"{longest}!")


@pytest.mark.parametrize(
    "build",
    [
        functools.partial(tiny_whisper, "english"),
        functools.partial(build_toy, ToyCTC),
        functools.partial(tiny_classifier, "ast"),
        *(functools.partial(tiny_seq2seq, kind) for kind in SEQ2SEQ if kind not in ("canary", "cohere_asr")),
    ],
)
def test_a_model_without_a_prompt_refuses_them(build):
    family = speech_family(*build())
    with pytest.raises(ValueError, match=r"(no place for hotwords\. Leave|takes no prompt.* Drop)"):
        family.tokenize_row("two", {"hotwords": ["two"]})
    assert family.tokenize_row("two", {"hotwords": []}) == family.tokenize_row("two", {})


def test_bad_hotwords_are_bad_rows(tmp_path):
    model, processor = tiny_whisper("multilingual")
    given = [
        {**row, "chosen": "a fox", "rejected": "dog", "language": "en"}
        for row in rows([["fox"]], ["a " * 60])  # a list in a list; more than the prompt holds
    ]
    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    for row, problem in zip(given, ("which is no word", "at most 24"), strict=True):
        with pytest.raises(BadRowsError, match=problem):
            DPOTrainer(model, args=args, train_dataset=[row], processing_class=processor)


def test_rollouts_are_sampled_behind_them_and_rewards_read_the_column(tmp_path):
    model, processor = tiny_audio_llm("qwen2_audio")
    seen = []

    def recall(completions, text, hotwords, **columns):
        seen.extend(hotwords)
        return KeywordRecall()(completions, text=text, keywords=hotwords)

    args = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=8,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    given = rows(["dog"], ["fox", "Fuchs"])
    trainer = GRPOTrainer(model, recall, args, train_dataset=given, processing_class=processor)
    sampled, sample = [], trainer.family.sample_groups

    def noted(model, batch, *others, **options):
        sampled.append(batch)
        return sample(model, batch, *others, **options)

    trainer.family.sample_groups = noted
    trainer.train()
    assert sorted(map(tuple, seen)) == [("dog",)] * 2 + [("fox", "Fuchs")] * 2
    (batch,) = sampled
    for row_id, tokens in zip(batch.row_ids.tolist(), batch.tokens[:, 0].tolist(), strict=True):
        asked = f"Transcribe the speech.\nThese words may occur: {', '.join(given[row_id]['hotwords'])}."
        prefix = trainer.family.tokenize("", prompt=asked)
        assert tokens[: prefix.first_kept] == prefix.ids[: prefix.first_kept]


def test_whisper_is_evaluated_behind_each_row_s_own():
    """Oracle: stock `generate` with `prompt_ids`, clip by clip."""
    model, processor = tiny_whisper("multilingual")
    family = speech_family(model, processor)
    given = [*rows(["dog"], ["fox"], language="en"), rows(["dog"], None, language="en")[1]]
    given[1]["prompt"] = "so"
    found = transcribe(model, processor, given, max_new_tokens=12, progress=False, family=family)
    for row, prompt, said in zip(given, ("Glossary: dog.", "Glossary: fox. so", None), found, strict=True):
        heard = family.features([row["audio"]["array"]])["input_features"]
        asked = {} if prompt is None else {"prompt_ids": torch.tensor(processor.get_prompt_ids(prompt))}
        ids = model.generate(heard, language="en", task="transcribe", max_new_tokens=12, **asked)
        assert said == processor.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    plain = [{**row, "hotwords": None} for row in given]
    assert transcribe(model, processor, plain, max_new_tokens=12, progress=False, family=family)[0] != found[0]


def test_greedy_sampling_and_evaluation_of_whisper_agree_on_a_prompt():
    """The best beam of one behind the row's own prefix is what `generate` writes behind its `prompt_ids`."""
    model, processor = tiny_whisper("multilingual")
    family = speech_family(model, processor)
    (row,) = rows(["dog"], language="en", prompt="so")
    batch = SpeechCollator(family, text_columns=("text",))(list(speech_rows([row])))
    beams = family.beam_groups(model, batch, 1, max_tokens=10)
    found = transcribe(model, processor, [row], max_new_tokens=10, num_beams=1, progress=False, family=family)
    assert family.text(beams.tokens, beams.keep) == [found]


def test_bad_hotwords_stop_an_evaluation_before_anything_is_decoded(monkeypatch):
    model, processor = tiny_whisper("multilingual")
    monkeypatch.setattr(model, "generate", None)
    with pytest.raises(ValueError, match=r"row 1: hotwords has 3 \(int\).*Make"):
        transcribe(model, processor, rows(["dog"], [3], language="en"), progress=False)


def test_pairs_are_mined_behind_them_and_keep_the_column():
    model, processor = tiny_whisper("multilingual")
    settings = {"num_generations": 2, "language": "en", "progress": False}
    found = mine_pairs(model, processor, rows(["dog"], ["fox"]), **settings)
    plain = mine_pairs(model, processor, rows([], []), **settings)
    assert [pair["hotwords"] for pair in found.rows] == [["dog"], ["fox"]][: len(found.rows)]
    assert [pair["rejected"] for pair in found.rows] != [pair["rejected"] for pair in plain.rows]
