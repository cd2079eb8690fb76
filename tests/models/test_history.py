"""What was said before a clip: in each family's prompt, as training draws it, and as a model writes it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

from audiorl import DPOConfig, DPOTrainer, evaluate_model, mine_pairs, transcribe
from audiorl.collator import HistoryChanges
from audiorl.commands.evaluate import main as evaluate
from audiorl.commands.history import main as history
from audiorl.commands.pairs import main as pairs
from audiorl.datasets import BadRowsError, speech_rows
from audiorl.evaluation import LocalModel, add_history, read_document
from audiorl.models import speech_family
from audiorl.text.history import clips_before, drawn_history, joined, last_words, read_history
from tests.families.toys import ToyCTC, build_toy
from tests.tiny_audio_llms import KINDS, tiny_audio_llm
from tests.tiny_models import SAMPLING_RATE, saved, tiny_clips, tiny_whisper
from tests.trainers import grpo_rows, pair_rows, raft_rows
from tests.trainers.pair_rows import largest_difference, weights
from tests.trainers.text_rows import MAKE, ROWS

TALKS = ["a", "a", "b", "a", "b", "c"]
TEXTS = ["the dog", "a fox", "so", "", "lazy dogs", "dog"]


def rows(**columns: list) -> list[dict]:
    given = [
        {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "text": text, "recording": talk, "language": "en"}
        for clip, text, talk in zip(tiny_clips(6), TEXTS, TALKS, strict=True)
    ]
    return [{**row, **{name: values[i] for name, values in columns.items()}} for i, row in enumerate(given)]


# ---- the column ----


def test_a_history_is_text_or_nothing():
    assert read_history({"history": " a fox "}) == "a fox"
    assert read_history({}) is read_history({"history": None}) is read_history({"history": " "}) is None
    row = {"history": "a fox", "history_hypothesis": "a box"}
    assert (read_history(row, "hypothesis"), read_history(row, "none")) == ("a box", None)
    with pytest.raises(ValueError, match=r"history is 3 \(int\), not text\. Give a string"):
        read_history({"history": 3})
    with pytest.raises(ValueError, match=r"history_hypothesis is .* \(list\), not text"):
        read_history({"history_hypothesis": ["a"]}, "hypothesis")
    with pytest.raises(ValueError, match=r"half of a surrogate pair\. Write"):
        read_history({"history": "\ud800"})
    with pytest.raises(ValueError, match=r"no column history_hypothesis.*Make it with `audiorl history"):
        read_history({"history": "a"}, "hypothesis")


BEFORE = "Just before, this was said: the dog"
PROMPTS = [
    ("qwen3_asr", {}, "the dog"),
    ("qwen3_asr", {"prompt": "A talk.", "hotwords": "Fox"}, "A talk.\nthe dog\nFox"),
    ("qwen2_audio", {}, f"Transcribe the speech.\n{BEFORE}"),
    ("qwen2_audio", {"prompt": "Which animal?"}, f"Which animal?\n{BEFORE}"),
    ("glm_asr", {"hotwords": "Fox"}, f"Please transcribe this audio into text\n{BEFORE}\nThese words may occur: Fox."),
    ("granite_speech", {}, f"can you transcribe the speech into a written format?\n{BEFORE}"),
    ("fun_asr", {"prompt": "A talk."}, "A talk.\nthe dog"),
    ("audio_flamingo3", {}, f"Transcribe the input speech.\n{BEFORE}"),
    ("qwen2_5_omni", {}, f"Transcribe the audio into text.\n{BEFORE}"),
    ("vibevoice", {}, "the dog"),
]


@pytest.mark.parametrize(("kind", "row", "prompt"), [case for case in PROMPTS if case[0] in KINDS])
def test_the_prompt_of_each_audio_language_model(kind, row, prompt):
    family = speech_family(*tiny_audio_llm(kind))
    row = {"language": "en", **row, "history": " the dog "}
    assert family.row_prompt(row) == prompt
    assert family.tokenize_row("a fox", row) == family.tokenize("a fox", language="en", prompt=prompt)
    assert prompt in family.prompt_text("en", prompt)


@pytest.mark.parametrize("kind", [kind for kind in ("qwen3_asr", "qwen2_5_omni", "vibevoice") if kind in KINDS])
def test_no_mark_passes_in_a_history(kind):
    family = speech_family(*tiny_audio_llm(kind))
    for mark in (family.audio_token, "<|im_start|>"):
        with pytest.raises(
            ValueError, match=r"the history contains \['.*'\], which this model reads as marks\. Remove"
        ):
            family.tokenize_row("a fox", {"language": "en", "history": f"the {mark} dog"})


def test_whispers_prompt_ends_with_what_was_said_before():
    model, processor = tiny_whisper("multilingual", max_target_positions=120)
    family = speech_family(model, processor)
    row = {"language": "de", "prompt": "braune Hunde", "hotwords": ["Fuchs"], "history": "ein Hund"}
    ids = family.tokenize_row("ein Fuchs", row).ids
    asked = processor.get_prompt_ids("Glossary: Fuchs. braune Hunde ein Hund").tolist()  # as stock `generate` takes it
    assert ids[: len(asked)] == asked and processor.tokenizer.decode(ids[len(asked)]) == "<|startoftranscript|>"
    family.history_source = "none"
    assert "ein Hund" not in processor.tokenizer.decode(family.tokenize_row("ein Fuchs", row).ids)


@pytest.mark.parametrize("build", [lambda: build_toy(ToyCTC), lambda: tiny_audio_llm("voxtral")])
def test_a_model_without_a_place_for_it_refuses_it(build):
    if build is not None and "voxtral" not in KINDS:
        pytest.skip("mistral-common is not installed")
    family = speech_family(*build())
    with pytest.raises(ValueError, match=r"no place for history.*Leave the column out"):
        family.tokenize_row("two", {"history": "one", "language": "en"})
    assert family.tokenize_row("two", {"history": None}) == family.tokenize_row("two", {})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"history": 3}, r"history is 3 \(int\), not text"),
        ({"history": "a <|endoftext|> dog"}, r"the history contains special tokens .*Remove them"),
        ({"history": "dog " * 60}, r"makes \d+ tokens with its history and hotwords, and Whisper reads at most 24"),
        ({"history_hypothesis": "dog " * 60}, r"reads at most 24.*history_hypothesis was read in place of history"),
        ({"history_hypothesis": 3}, r"history_hypothesis is 3 \(int\), not text"),
    ],
)
def test_bad_histories_are_bad_rows_before_training(tmp_path, changes, problem):
    model, processor = tiny_whisper("multilingual")
    row = {**rows()[0], "chosen": "a fox", "rejected": "dog", **changes}
    with pytest.raises(BadRowsError, match=problem):
        DPOTrainer(model, args=pair_rows.config(tmp_path), train_dataset=[row], processing_class=processor)


# ---- as training draws it ----


def test_a_history_is_left_out_or_a_hypothesis_as_often_as_asked():
    row = {"history": "true", "history_hypothesis": "said", "row_id": 0}

    def drawn(dropout, hypotheses, count=4000):
        generators = map(np.random.default_rng, range(count))
        found = [drawn_history(row, dropout=dropout, hypotheses=hypotheses, rng=rng) for rng in generators]
        assert not any("history_hypothesis" in one for one in found)
        return [one["history"] for one in found]

    assert set(drawn(0, 0)) == {"true"} and set(drawn(1, 0.5)) == {None} and set(drawn(0, 1)) == {"said"}
    mixed = drawn(0.5, 0.25)
    assert 0.47 < mixed.count(None) / 4000 < 0.53 and 0.10 < mixed.count("said") / 4000 < 0.15
    with pytest.raises(ValueError, match=r"clips.jsonl:3 has no column history_hypothesis.*Make it"):
        drawn_history({"where": "clips.jsonl:3"}, dropout=0, hypotheses=1, rng=np.random.default_rng(0))


def test_the_draw_is_of_seed_epoch_and_row_alone():
    """Oracle: numpy's generator seeded with the four numbers."""
    changes = HistoryChanges(0.5, 0.5, seed=3)
    given = [{"row_id": i, "history": "true", "history_hypothesis": "said"} for i in range(20)]
    found = {}
    for epoch in (0, 1):
        changes.set_epoch(epoch)
        found[epoch] = [changes(row)["history"] for row in given]
        assert [changes(row)["history"] for row in reversed(given)] == found[epoch][::-1]
        for row, drawn in zip(given, found[epoch], strict=True):
            left_out, other = np.random.default_rng([3, epoch, row["row_id"], 1]).random(2)
            assert drawn == (None if left_out < 0.5 else "said" if other < 0.5 else "true")
    assert found[0] != found[1]


def trained(folder, given, **changes):
    trainer = pair_rows.trainer(folder, given, kind="multilingual", language="en", **changes)
    trainer.train()
    return weights(trainer.model)


def test_a_history_that_is_always_left_out_is_none_and_one_of_hypotheses_is_the_other_column(tmp_path):
    before = [None, "a fox", "so", "dog"]
    plain = pair_rows.pair_rows(4)
    told = pair_rows.pair_rows(4, history=before)
    both = pair_rows.pair_rows(4, history=["dog", "dog", None, "so"], history_hypothesis=before)
    without, behind = trained(tmp_path / "a", plain), trained(tmp_path / "b", told)
    assert largest_difference(without, trained(tmp_path / "c", told, history_dropout=1.0)) == 0
    assert largest_difference(behind, trained(tmp_path / "d", both, history_hypotheses=1.0)) == 0
    assert largest_difference(without, behind) > 0


def test_a_resumed_run_and_one_of_half_batches_draw_the_same(tmp_path):
    """Stopped in the second epoch; the loader's workers hear of the epoch too."""
    given = pair_rows.pair_rows(4, history=["dog", "a fox", "so", "dog"], history_hypothesis=["do", None, "so so", "a"])
    drawn = {"history_dropout": 0.4, "history_hypotheses": 0.5, "num_train_epochs": 3, **pair_rows.PLAIN_STEPS}
    saving = {**drawn, "save_strategy": "steps", "save_steps": 3}
    whole = trained(tmp_path / "whole", given, **saving)
    again = pair_rows.trainer(tmp_path / "whole", given, kind="multilingual", language="en", **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-3"))
    assert largest_difference(whole, weights(again.model)) == 0
    half = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "dataloader_num_workers": 1}
    assert largest_difference(whole, trained(tmp_path / "half", given, **drawn, **half)) < 1e-6


def test_rollouts_are_sampled_behind_it_and_held_out_rows_keep_theirs(tmp_path):
    told = []

    def reward(completions, history, **columns):
        told.append(history[::4])
        return [float(len(said)) for said in completions]

    given = grpo_rows.rows(2, text=["a", "b"], history=["dog", "fox"], history_hypothesis=["dig", "box"])
    settings = {"history_dropout": 0.3, "history_hypotheses": 0.5, "num_train_epochs": 10, "language": "en"}
    found = grpo_rows.trainer(
        tmp_path,
        given,
        trainer_reward_funcs=[reward],
        trainer_kind="multilingual",
        per_device_train_batch_size=2,
        **settings,
    )
    found.train()
    assert {one for step in told for one in step} == {None, "dog", "fox", "dig", "box"}
    assert found.data_collator.history is None


def notes(monkeypatch) -> list[tuple[int, int, str | None]]:
    """What is drawn from here on: epoch, row and history."""
    drawn, draw = [], HistoryChanges.__call__

    def noted(self, row):
        found = draw(self, row)
        drawn.append((int(self._epoch), row["row_id"], found["history"]))
        return found

    monkeypatch.setattr(HistoryChanges, "__call__", noted)
    return drawn


DRAWN = {"history_dropout": 0.3, "history_hypotheses": 0.5, "language": "en"}
BOTH = {"history": ["dog", "fox", "a", "so"], "history_hypothesis": ["dig", "box", "o", "sow"]}


def test_raft_learns_behind_what_it_sampled_behind(tmp_path, monkeypatch):
    drawn = notes(monkeypatch)
    model, processor = tiny_whisper("multilingual")
    raft = raft_rows.trainer(
        tmp_path,
        grpo_rows.rows(4, **BOTH),
        trainer_model=model,
        trainer_processing_class=processor,
        steps_per_cycle=2,
        **DRAWN,
    )
    raft.train()
    assert len(drawn) == 16 and len(set(drawn)) == 8  # in each cycle twice the same: sampled, learnt
    assert {history for _, _, history in drawn} - {None, *BOTH["history"]}


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(MAKE))
def test_trainers_of_transcripts_draw_histories(tmp_path, monkeypatch, method):
    drawn = notes(monkeypatch)
    given = [{**row, **{name: BOTH[name][i] for name in BOTH}} for i, row in enumerate(ROWS[method](4))]
    MAKE[method](tmp_path, given, kind="multilingual", num_train_epochs=4, **DRAWN).train()
    assert {epoch for epoch, _, _ in drawn} == {0, 1, 2, 3} and len(drawn) == 16
    assert None in {history for _, _, history in drawn}


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({}, {"history_dropout": 0.5}, r"the rows have no history, but .*Make it with `audiorl history`"),
        ({"history": ["a"] * 4}, {"history_hypotheses": 0.5}, "the rows have no history_hypothesis"),
        ({"history_hypothesis": ["a"] * 4}, {"history_hypotheses": 0.5}, "the rows have no history, but"),
        ({}, {"history_dropout": 1.5}, r"history_dropout is a share, 0 to 1; got 1\.5"),
        ({}, {"history_hypotheses": -1}, "history_hypotheses is a share"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, columns, changes, message):
    with pytest.raises(ValueError, match=message):
        pair_rows.trainer(tmp_path, pair_rows.pair_rows(4, **columns), kind="multilingual", language="en", **changes)


# ---- as it is made ----


def test_clips_before_and_the_end_of_a_text():
    assert clips_before(TALKS, 1) == [[], [0], [], [1], [2], []]
    assert clips_before(TALKS, 2) == [[], [0], [], [0, 1], [2], []]
    assert joined(["a", None, " ", "b "]) == "a b" and joined(["", None]) is None
    assert last_words("the lazy dog", 12) == "the lazy dog"
    assert last_words("the lazy dog", 8) == "lazy dog" and last_words("the lazy dog", 7) == "dog"
    assert last_words("懒狗跳过", 2) == "跳过" and last_words("doghouse", 3) == "use"


def test_histories_from_transcripts():
    made = add_history(rows(), clips=2)
    assert made.rows["history"][:] == [None, "the dog", None, "the dog a fox", "so", None]
    assert "history_hypothesis" not in made.rows.column_names and made.recordings == 3
    cut = add_history(rows(), clips=2, characters=6)
    assert cut.rows["history"][:] == [None, "dog", None, "a fox", "so", None]
    assert (cut.cut, cut.cut_characters) == (2, 4 + 8)
    assert str(cut).endswith("2 histories were cut at their beginning, by 12 characters in all")


def test_a_model_decodes_each_recording_behind_its_own_hypotheses():
    """Oracle: stock `generate`, clip by clip in the order of the rows, its last hypothesis as `prompt_ids`."""
    model, processor = tiny_whisper("multilingual")
    family = speech_family(model, processor)
    made = add_history(rows(), model, processor, family=family, clips=1, max_new_tokens=6, progress=False)
    said: dict[str, str] = {}
    for row, found in zip(rows(), made.rows["history_hypothesis"][:], strict=True):
        before = said.get(row["recording"], "").strip()
        assert (found or "") == before
        heard = family.features([row["audio"]["array"]])["input_features"]
        asked = {"prompt_ids": torch.tensor(processor.get_prompt_ids(before))} if before else {}
        ids = model.generate(heard, language="en", task="transcribe", max_new_tokens=6, **asked)
        said[row["recording"]] = processor.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert any(made.rows["history_hypothesis"][:]) and made.rows["history"][:][1] == "the dog"


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"recording": [None, *TALKS[1:]]}, {}, r"recording is None, no recording\. Give it a name"),
        ({"start": [0.0, 2.0, 0.0, 1.0, 1.0, 0.0]}, {}, r"begins at 1 s of 'a', before the one above it\. Sort"),
        ({}, {"recording_column": "talk"}, r"no column 'talk' that says which recording.*Name the column"),
        ({}, {"text_column": "words"}, r"no column 'words'.*Name the column of the transcripts"),
        ({}, {"clips": 0}, r"clips of a history is a number from 1 on; got 0"),
    ],
)
def test_rows_of_which_no_history_can_be_made_are_told(change, settings, message):
    with pytest.raises(ValueError, match=message):
        add_history(rows(**change), **settings)


def test_a_model_that_reads_no_prompts_is_asked_for_no_history(monkeypatch):
    model, processor = build_toy(ToyCTC)
    with pytest.raises(ValueError, match=r"does not read the column history.*or make the column without a model"):
        add_history(rows(), model, processor)
    model, processor = tiny_whisper("english")
    monkeypatch.setattr(model, "generate", None)
    with pytest.raises(ValueError, match=r"takes no prompt: its vocabulary has no <\|startofprev\|>"):
        add_history(rows(), model, processor)


# ---- read again ----


def test_evaluation_and_mining_read_the_column_that_is_asked_for():
    model, processor = tiny_whisper("multilingual")
    before = [None, "a fox", "so", "dog", "do", None]
    both = rows(history=["dog"] * 6, history_hypothesis=before)
    family = speech_family(model, processor)
    settings = {"max_new_tokens": 8, "progress": False}

    def said(source, given):
        family.history_source = source
        return transcribe(model, processor, given, family=family, **settings)

    assert said("hypothesis", both) == said("transcript", rows(history=before))
    assert said("none", both) == said("transcript", rows()) != said("transcript", both)
    local = LocalModel("tiny", model, processor, history_source="hypothesis")
    assert local.decoding()["history_source"] == "hypothesis"
    with pytest.raises(ValueError, match=r"history_source is one of transcript, hypothesis, none; got 'own'"):
        LocalModel("tiny", model, processor, history_source="own")
    family.history_source = "hypothesis"
    both, told = ([{**row, "text": row["text"] or "so"} for row in x] for x in (both, rows(history=before)))
    mined = mine_pairs(model, processor, both, family=family, num_generations=2, language="en", progress=False)
    other = mine_pairs(model, processor, told, num_generations=2, language="en", progress=False)
    assert [row["rejected"] for row in mined.rows] == [row["rejected"] for row in other.rows] and mined.rows


def test_the_commands_make_read_and_measure_it(tmp_path, capsys):
    model = saved(tiny_whisper("multilingual"), tmp_path / "model")
    lines = []
    for i, row in enumerate(rows()):
        soundfile.write(tmp_path / f"{i}.wav", row["audio"]["array"], SAMPLING_RATE)
        lines.append(json.dumps({**row, "audio": f"{i}.wav", "text": row["text"] or "so"}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    made = str(tmp_path / "made.jsonl")
    named = ["--dataset_name", str(tmp_path / "rows.jsonl"), "--output", made, "--history_characters", "20"]
    history([*named, "--model_name_or_path", model, "--max_new_tokens", "4", "--history_clips", "1"])
    assert "6 clips of 3 recordings have a history" in capsys.readouterr().out
    found = list(speech_rows(made))
    assert [row["history"] for row in found] == [None, "the dog", None, "a fox", "so", None]
    assert found[0]["history_hypothesis"] is None and found[1]["recording"] == "a"
    with pytest.raises(ValueError, match=r"exists already\. Choose another --output"):
        history(named)

    flags = ["--model_name_or_path", model, "--dataset_name", made, "--history_source", "hypothesis"]
    evaluate([*flags, "--output", str(tmp_path / "out.json"), "--max_new_tokens", "4", "--resamples", "100"])
    (one,) = read_document(tmp_path / "out.json")["measurements"]
    assert one["decoding"]["history_source"] == "hypothesis"
    served = ["--endpoint", "http://127.0.0.1:1", "--endpoint_model", "tiny", "--dataset_name", made]
    with pytest.raises(ValueError, match="a served model gets the audio alone"):
        evaluate([*served, "--history_source", "none"])
    family = speech_family(*tiny_whisper("multilingual"))
    family.history_source = "hypothesis"
    again = evaluate_model(*tiny_whisper("multilingual"), made, family=family, max_new_tokens=4, progress=False)
    assert [clip["hypothesis"] for clip in one["clips"]] == [row.hypothesis for row in again.rows]
    pairs([*flags, "--output_dir", str(tmp_path / "pairs"), "--num_generations", "2", "--min_margin", "0"])
    mined = [json.loads(line) for line in (tmp_path / "pairs/pairs.jsonl").read_text().splitlines()]
    assert {row["history"] for row in mined} <= {None, "the dog", "a fox", "so"}
    args = DPOConfig(output_dir=str(tmp_path / "out"), history_hypotheses=0.5, history_dropout=0.2)
    assert (args.history_hypotheses, args.history_dropout) == (0.5, 0.2)
