"""Audio language models as a user meets them: exact beside stock forwards, asked as rows say, tuned, loaded back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from peft import LoraConfig
from transformers import AutoProcessor

from audiorl import DPOConfig, DPOTrainer, transcribe
from audiorl.datasets import BadRowsError
from audiorl.models import speech_family
from audiorl.models.audio_llm import group_mask, group_positions
from audiorl.testing.case import group_batch
from tests.forks import run_forked
from tests.tiny_audio_llms import KINDS, UNPROMPTED, stock_answer_logps, stock_inputs, tiny_audio_llm, without_noise
from tests.tiny_models import tiny_clips, tiny_whisper
from tests.trained_models import ADAPTED_SLOWLY, AUDIO_LLMS_LATER
from tests.trainers.grpo_rows import check_that_it_learns_two_words

TEXTS = ["the quick brown fox", "dog", "the lazy dog jumps", "so", "a fox", "dogs", "jumps over", "the dog"]
SETTINGS = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
# What a model writes behind the transcript.
ENDINGS = {"vibevoice": '"}]<|im_end|>\n'}
# The end of an answer in JSON takes some tokens.
LONGER = {"vibevoice": {"max_completion_length": 16}}
WORDS = {"max_steps": 25, "max_completion_length": 8, "sft_weight": 0.5}


def rows(count: int, **columns) -> list[dict]:
    return [
        {
            "audio": {"array": clip, "sampling_rate": 16_000},
            "text": TEXTS[i],
            "chosen": TEXTS[i],
            "rejected": TEXTS[i - 1],
            "language": "en",
            **columns,
        }
        for i, clip in enumerate(tiny_clips(count))
    ]


def in_language_model(name: str) -> bool:
    return "language_model" in name or ".model.model.layers." in name  # of thinkers in older releases


def sixteen_bits(clips: list[np.ndarray]) -> list[np.ndarray]:
    """As files and requests hold them."""
    return [np.round(clip * 32768).astype(np.float32) / 32768 for clip in clips]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_stock_forward_of_what_the_processor_makes(kind):
    """Audio in the prompt by transformers' own code: ids with as many placeholders as there are embeddings."""
    model, processor = tiny_audio_llm(kind)
    family = speech_family(model, processor)
    clips = sixteen_bits(tiny_clips(2))
    texts = [["the quick brown fox", "dog"], ["a fox", ""]]
    asked = [
        {"language": "en"},
        {"language": "de"} if kind in UNPROMPTED else {"language": "en", "prompt": "lazy dogs"},
    ]
    scores = family.score_groups(model, group_batch(family, clips, texts, asked))
    for b, group in enumerate(texts):
        for k, text in enumerate(group):
            made = stock_inputs(kind, family, clips[b], asked[b])
            expected = stock_answer_logps(model, processor, made, text, ENDINGS.get(kind, ""))
            torch.testing.assert_close(scores.logps[b, k][scores.keep[b, k]], expected, rtol=1e-4, atol=1e-4)


def test_a_continuation_sees_its_prefix_and_its_own_past():
    mask = group_mask(torch.tensor([2, 3]), 3, 2, 2)[0, 0]  # a prefix of two, padded to three
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1, 1],
    ]
    assert group_positions(torch.tensor([2, 3]), 3, 2, 2).tolist() == [[0, 1, 2, 2, 3, 2, 3], [0, 1, 2, 3, 4, 3, 4]]


def test_qwen3_asr_is_asked_in_the_row_s_language_with_its_context():
    model, processor = tiny_audio_llm("qwen3_asr")
    family = speech_family(model, processor)
    asked = family.prompt_text("german", "Bach, Händel")
    assert asked.endswith("language German<asr_text>") and "system\nBach, Händel" in asked
    with pytest.raises(ValueError, match="no language is named"):
        family.tokenize("a fox")
    with pytest.raises(ValueError, match=r"(?i)klingon"):
        family.tokenize("a fox", language="klingon")
    family.set_defaults(language="english")
    assert family.tokenize("a fox") == family.tokenize("a fox", language="en")


def test_qwen3_asr_reads_its_own_format_in_rows_and_answers():
    model, processor = tiny_audio_llm("qwen3_asr")
    family = speech_family(model, processor)
    plain = family.tokenize_row("a fox", {"language": "english"})
    tagged = "language English<asr_text>a fox"
    # the language of the text is that of a row without one, and no contradiction to its code
    for row in ({}, {"language": "english"}, {"language": "en"}):
        assert family.tokenize_row(tagged, row) == plain
    with pytest.raises(ValueError, match=r"row's language is 'german', and its text begins with 'language English<asr"):
        family.tokenize_row(tagged, {"language": "german"})
    assert family.words(tagged) == "a fox"
    ids, first = family.tokenize("a fox", language="english")
    again = processor.tokenizer("language English<asr_text>a fox", add_special_tokens=False).input_ids
    for answer in (ids[first:-1], again):
        tokens = torch.tensor([[[0, *answer, family.end_token]]])
        assert family.text(tokens, torch.ones_like(tokens[..., 1:], dtype=torch.bool)) == [["a fox"]]


def test_rows_of_qwen3_asrs_format_train_every_family():
    model, processor = tiny_whisper("multilingual")
    family = speech_family(model, processor)
    assert family.tokenize_row("language German<asr_text>ein Hund", {}) == family.tokenize("ein Hund", language="de")
    assert family.words("language German<asr_text>ein Hund") == "ein Hund"


def test_a_prompt_is_rendered_once_for_each_language_and_question(monkeypatch):
    model, processor = tiny_audio_llm("qwen2_audio")
    family = speech_family(model, processor)
    rendered, render = [], family.prompt_text
    monkeypatch.setattr(family, "prompt_text", lambda *asked: rendered.append(asked) or render(*asked))
    monkeypatch.setattr("audiorl.models.audio_llm.MOST_PREFIXES", 2)
    first = family.tokenize("a fox", prompt="Who?")
    assert family.tokenize("a fox", prompt="Who?") == first != family.tokenize("a fox")
    assert rendered == [(None, "Who?"), (None, None)]
    assert family.tokenize("a fox", prompt="Where?").first_kept and family.tokenize("a fox", prompt="Who?") == first
    assert len(rendered) == 4


def test_a_question_takes_the_place_of_the_request_to_transcribe():
    model, processor = tiny_audio_llm("qwen2_audio")
    family = speech_family(model, processor)
    assert "Transcribe the speech." in family.prompt_text(None, None)
    asked = family.prompt_text(None, "Which animal is it?")
    assert "Which animal is it?" in asked and "Transcribe" not in asked


def test_each_clip_is_decoded_behind_its_row_s_own_question():
    model, processor = tiny_audio_llm("qwen2_audio")
    family = speech_family(model, processor)
    data = [{"audio": row["audio"], "prompt": prompt} for row, prompt in zip(rows(2), ["a fox?", None], strict=True)]
    found = transcribe(model, processor, data, max_new_tokens=5, progress=False, family=family)
    heard = [family.features([row["audio"]["array"]]) for row in data]
    expected = family.transcribe(model, heard[0], prompts=["a fox?"], max_new_tokens=5)
    expected += family.transcribe(model, heard[1], max_new_tokens=5)
    assert found == expected
    assert family.transcribe(model, heard[0], max_new_tokens=5) != expected[:1]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in ADAPTED_SLOWLY)) for kind in KINDS]
)
def test_dpo_lowers_its_loss_with_an_adapter_in_the_language_model_alone(kind, tmp_path):
    model, processor = tiny_audio_llm(kind)
    settings = {"max_steps": 8, "learning_rate": 1e-2, "lr_scheduler_type": "constant", **SETTINGS}
    args = DPOConfig(output_dir=str(tmp_path), **settings)
    lora = LoraConfig(r=8, lora_alpha=16)
    trainer = DPOTrainer(model, args=args, train_dataset=rows(8), processing_class=processor, peft_config=lora)
    adapted = {name.split(".lora_")[0] for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert adapted and all(in_language_model(name) for name in adapted)
    assert trainer.family.encoder_is_frozen(trainer.model)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in AUDIO_LLMS_LATER)) for kind in KINDS]
)
def test_grpo_raises_the_reward_on_four_clips(kind, tmp_path):
    model, processor = tiny_audio_llm(kind)
    check_that_it_learns_two_words(
        model, processor, tmp_path, rows(4), freeze_encoder=True, **{**WORDS, **LONGER.get(kind, {})}
    )


# All of them take a minute: the others run before a release.
@pytest.mark.parametrize("kind", [pytest.param(x, marks=[pytest.mark.slow] * (x != "qwen2_audio")) for x in KINDS])
def test_grpo_raises_the_reward_with_an_adapter_in_the_language_model_alone(kind, tmp_path):
    model, processor = tiny_audio_llm(kind)
    lora = LoraConfig(r=8, lora_alpha=16)
    settings = {"learning_rate": 1e-2, **WORDS, **LONGER.get(kind, {})}
    grpo = check_that_it_learns_two_words(model, processor, tmp_path, rows(4), lora, **settings)
    assert all(in_language_model(name) for name, p in grpo.model.named_parameters() if p.requires_grad)
    assert grpo.family.encoder_is_frozen(grpo.model)


def test_what_is_said_of_a_clip_is_drawn_only_where_the_caller_asks():
    """Some checkpoints come with do_sample in their generation config."""
    model, processor = tiny_audio_llm("qwen2_audio")
    plain = transcribe(model, processor, rows(2), progress=False)
    model.generation_config.update(do_sample=True, temperature=5.0, top_k=0)
    torch.manual_seed(0)
    assert transcribe(model, processor, rows(2), progress=False) == plain
    family = speech_family(model, processor)
    audio = family.features(tiny_clips(2))
    drawn = {tuple(family.transcribe(model, audio, do_sample=True, max_new_tokens=8)) for _ in range(3)}
    assert len(drawn) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_tuned_model_loads_in_plain_transformers(kind, tmp_path):
    model, processor = tiny_audio_llm(kind)
    args = DPOConfig(output_dir=str(tmp_path), max_steps=1, **SETTINGS)
    trainer = DPOTrainer(model, args=args, train_dataset=rows(2), processing_class=processor)
    trainer.train()
    trainer.save_model()
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float32).eval()
    clips = sixteen_bits(tiny_clips(1))
    again = speech_family(loaded, AutoProcessor.from_pretrained(tmp_path))
    made = stock_inputs(kind, again, clips[0], {"language": "en"})
    ids = loaded.generate(**made, **without_noise(loaded), max_new_tokens=6)[0, made["input_ids"].shape[1] :]
    heard = trainer.family.features(clips)
    said = trainer.family.transcribe(trainer.model, heard, languages=["en"], max_new_tokens=6)
    assert said == [trainer.family._decode(ids.tolist())]


def test_rows_that_cannot_be_used_are_told(tmp_path):
    model, processor = tiny_audio_llm("qwen3_asr")
    data = rows(6)
    data[0]["language"] = None
    data[1]["chosen"] = "<|im_end|> " + data[1]["chosen"]
    data[2]["task"] = "translate"
    data[3]["prompt"] = "names <|audio_pad|>"
    data[4]["rejected"] = "dog " * 400
    args = DPOConfig(output_dir=str(tmp_path), **SETTINGS)
    with pytest.raises(BadRowsError) as told:
        DPOTrainer(model, args=args, train_dataset=data, processing_class=processor)
    assert {fault.row_id for fault in told.value.faults} == {0, 1, 2, 3, 4}


@pytest.mark.skipif("qwen3_asr" not in KINDS, reason="this release of transformers has no Qwen3-ASR")
def test_the_example_tunes_by_the_model_s_path_alone(tmp_path):
    model, processor = tiny_audio_llm("qwen3_asr")
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    lines = []
    for i, clip in enumerate(tiny_clips(2)):
        soundfile.write(tmp_path / f"{i}.wav", clip, 16_000)
        lines.append(json.dumps({"audio": f"{i}.wav", "text": TEXTS[i]}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    flags = {
        "model_name_or_path": tmp_path / "base",
        "dataset_name": tmp_path / "rows.jsonl",
        "eval_dataset_name": tmp_path / "rows.jsonl",
        "output_dir": tmp_path / "out",
        "language": "english",
        "max_steps": 1,
        "max_completion_length": 24,
        "report_to": "none",
        "use_cpu": "true",
    }
    example = str(Path(__file__).parents[2] / "examples" / "grpo_qwen3_asr.py")
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    done = run_forked(example, *arguments, "--use_peft", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "WER after" in done.stdout and (tmp_path / "out" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "voxtral"])
def test_no_mark_passes_in_a_text_or_a_prompt(kind):
    """mistral-common reads no marks in texts, so Voxtral has none to refuse."""
    family = speech_family(*tiny_audio_llm(kind))
    for mark in ("<|im_start|>", "<|im_end|>"):
        with pytest.raises(ValueError, match=r"the text contains .*, which this model reads as marks"):
            family.tokenize_row(f"a {mark}", {"language": "en"})
        if kind in UNPROMPTED:
            continue
        for row in ({"prompt": f"names{mark}"}, {"hotwords": ["a", f"b {mark}"]}):
            with pytest.raises(ValueError, match=r"the prompt contains .*, which this model reads as marks"):
                family.tokenize_row("a", {"language": "en", **row})


OMNI = pytest.mark.skipif("omniasr_llm" not in KINDS, reason="this release of transformers has no OmniASR")


@OMNI
@pytest.mark.parametrize(
    ("language", "mark"),
    [(None, "auto"), ("auto", "auto"), ("en", "eng_latn"), ("German", "deu_latn"), ("deu_Latn", "deu_latn")],
)
def test_omniasr_is_asked_in_the_row_s_language_or_in_all_of_them(language, mark):
    family = speech_family(*tiny_audio_llm("omniasr_llm"))
    ids, first = family.tokenize("a fox", language=language)
    assert family.tokenizer.decode(ids[:first]) == f"<extra_id_1><extra_id_0><|lang:{mark}|><s>"
    family.set_defaults(language="german")
    assert family.tokenize("a fox") == family.tokenize("a fox", language="deu_latn")


@OMNI
def test_omniasr_refuses_what_it_cannot_be_asked_or_heard():
    model, processor = tiny_audio_llm("omniasr_llm")
    family = speech_family(model, processor)
    for row, problem in (
        ({"prompt": "names"}, "reads no prompt"),
        ({"hotwords": ["Bach"]}, "no place for hotwords"),
        ({"language": "klingon"}, "Unknown `language='klingon'`"),
        ({"language": "fr"}, "Unknown `language='fr'`"),
    ):
        with pytest.raises(ValueError, match=problem):
            family.tokenize_row("a fox", row)
    assert (family.min_seconds, family.max_seconds) == (660 / 16_000, 512 * 320 / 16_000)
    processor.conv_stride = [5, 2, 2, 2, 2, 2, 2]
    with pytest.raises(ValueError, match="counts frames of convolutions"):
        speech_family(model, processor)


@OMNI
def test_omniasr_s_frames_are_those_of_a_clip_alone():
    model, processor = tiny_audio_llm("omniasr_llm")
    family = speech_family(model, processor)
    long, short = tiny_clips(2)[0], tiny_clips(2)[1][:6000]
    both = family.encode(model, group_batch(family, [long, short], [["a"], ["a"]]))
    alone = model.get_audio_features(**processor.feature_extractor([short], sampling_rate=16_000)).pooler_output
    torch.testing.assert_close(both[1, : len(alone)], alone, rtol=1e-5, atol=1e-5)
    assert len(alone) < both.shape[1] and not both[1, len(alone) :].any()


def test_a_processor_with_another_place_for_the_audio_is_refused():
    model, processor = tiny_audio_llm(next(iter(KINDS)))
    model.config.audio_token_id += 1
    with pytest.raises(ValueError, match="belongs to another checkpoint: its audio_token_id is"):
        speech_family(model, processor)
