"""Every entry takes the same rows, and judges them alike: trainers, `evaluate`, `predict`, mining, transcription."""

from __future__ import annotations

import json

import pytest
import soundfile
from datasets import Dataset

from audiorl import BadRowsError, evaluate_model, mine_pairs, transcribe
from audiorl.datasets import SkippedRows, export_rows, speech_rows
from audiorl.evaluation.run import NamedRows, evaluate
from audiorl.evaluation.settings import EvaluationSettings
from audiorl.evaluation.systems import LocalModel
from audiorl.pairs.miner import Miner
from audiorl.pairs.settings import MiningConfig
from audiorl.trainers.clips import clips_trained_on
from tests.tiny_ctc import tiny_ctc
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper
from tests.trainers import grpo_rows
from tests.trainers.pair_rows import CHOSEN, pair_rows, trainer
from tests.trainers.text_rows import sft, text_rows

FORMS = ("list", "file", "dataset", "rows")


def as_form(form: str, rows: list, folder):
    """The same rows as a list, a JSON lines file, a `Dataset` or what `speech_rows` made of them."""
    files = []
    for i, row in enumerate(rows):
        soundfile.write(folder / f"{i}.wav", row["audio"]["array"], SAMPLING_RATE, subtype="FLOAT")
        files.append({**row, "audio": f"{i}.wav"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in files))
    made = {"list": rows, "file": str(folder / "rows.jsonl"), "dataset": Dataset.from_list(rows)}
    return made.get(form) or speech_rows(rows)


def texts(count: int = 3, **columns) -> list[dict]:
    return [
        {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "text": CHOSEN[i], **columns}
        for i, clip in enumerate(tiny_clips(count))
    ]


@pytest.mark.parametrize("form", FORMS)
def test_evaluate_and_predict_take_rows_in_every_form(tmp_path, form):
    dpo = trainer(tmp_path / "out", eval_wer=True, trainer_eval_dataset=pair_rows(3))
    rows = as_form(form, pair_rows(3), tmp_path)
    expected = dpo.evaluate()
    measured = dpo.evaluate(rows)
    found = dpo.predict(rows)
    for name in ("loss", "wer", "rewards/margins"):
        assert measured[f"eval_{name}"] == pytest.approx(expected[f"eval_{name}"], rel=1e-5)
        assert found.metrics[f"test_{name}"] == pytest.approx(expected[f"eval_{name}"], rel=1e-5)
    assert found.label_ids == list(CHOSEN[:3])
    assert found.predictions == dpo.decode(rows).hypotheses
    assert len(found.predictions) == 3 and all(isinstance(text, str) for text in found.predictions)


def test_predict_of_rewarded_rollouts_and_of_rows_that_are_none(tmp_path):
    grpo = grpo_rows.trainer(tmp_path, grpo_rows.rows(2))
    found = grpo.predict(grpo_rows.rows(3))
    assert "test_reward" in found.metrics and len(found.predictions) == 3
    with pytest.raises(BadRowsError, match="row 0: text is 5"):
        grpo.predict([{**grpo_rows.rows(1)[0], "text": 5}])
    with pytest.raises(ValueError, match="which a dict does not allow"):
        grpo.predict({"a": grpo_rows.rows(2), "b": grpo_rows.rows(2)})


@pytest.mark.parametrize("form", FORMS)
def test_other_entries_take_rows_in_every_form(tmp_path, form):
    model, processor = tiny_whisper()
    rows = as_form(form, texts(), tmp_path)
    said = transcribe(model, processor, rows, progress=False)
    assert len(said) == 3
    result = evaluate_model(model, processor, rows, progress=False)
    settings = EvaluationSettings(resamples=10)
    found = evaluate([LocalModel("tiny", model, processor)], [NamedRows("rows", rows)], settings, progress=False)
    assert found.evaluated[0].measured.summary().wer == pytest.approx(result.wer)
    assert mine_pairs(model, processor, rows, num_generations=2, progress=False).clips == 3
    assert export_rows(rows, tmp_path / "export.jsonl", progress=False) == 3


HOSTILE = {
    "half a pair": ({"text": "a\ud800b"}, "text holds half of a surrogate pair"),
    "language": ({"language": 7}, "language is 7"),
    "offset": ({"offset": 3.5}, "the segment from 3.5 s to its end does not lie inside"),
    "duration": ({"duration": 3600}, "duration says 3600 s"),
    "no duration": ({"duration": [1]}, "duration is \\[1\\]"),
    "no audio": ({"audio": 5}, "audio entry 5"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_every_entry_refuses_the_same_rows_by_their_place(tmp_path, name, streaming):
    changes, problem = HOSTILE[name]
    model, processor = tiny_whisper()
    rows = [*texts(1), {**texts(1)[0], **changes}]

    def source():
        from datasets import IterableDataset

        return IterableDataset.from_generator(lambda: iter(rows)) if streaming else rows

    def expect(call, *args, **kwargs):
        with pytest.raises(ValueError, match=f"row 1: .*{problem}"):
            call(*args, **kwargs)

    data = [NamedRows("rows", source())]
    expect(mine_pairs, model, processor, source(), num_generations=2, progress=False)
    expect(evaluate_model, model, processor, source(), progress=False)
    expect(evaluate, [LocalModel("tiny", model, processor)], data, EvaluationSettings(), progress=False)
    if "text" not in changes:
        expect(transcribe, model, processor, source(), progress=False)
    if streaming:
        expect(grpo_rows.trainer(tmp_path, source(), max_steps=1).train)
    else:
        expect(grpo_rows.trainer, tmp_path, rows)


def test_an_export_is_trained_on_and_measured_as_it_lies(tmp_path):
    """A row of `audiorl datasets --export` says task "asr", and has its language among its metadata."""
    path = tmp_path / "export.jsonl"
    export_rows(texts(3, language="de"), path, progress=False)
    model, processor = tiny_whisper("multilingual")
    assert evaluate_model(model, processor, path, progress=False).wer >= 0
    grpo = grpo_rows.trainer(tmp_path / "out", str(path), trainer_kind="multilingual")
    assert [row["language"] for row in grpo.train_dataset] == ["de"] * 3
    for task in ("asr", "classification", "tts"):
        again = [{**row, "task": task} for row in texts(2, language="de")]
        batch = grpo.data_collator(list(speech_rows(again)))
        plain = grpo.data_collator(list(speech_rows(texts(2, language="de"))))
        assert batch.tokens.tolist() == plain.tokens.tolist()
        assert len(transcribe(model, processor, again, progress=False)) == 2


@pytest.mark.parametrize(("chosen", "rejected"), [("<|0.00|> hi", "<|0.00|>hi"), ("<|0.00|>hi", " <|0.00|> hi ")])
def test_a_pair_that_whisper_writes_alike_is_refused(tmp_path, chosen, rejected):
    rows = pair_rows(1, chosen=[chosen], rejected=[rejected])
    with pytest.raises(BadRowsError, match="row 0: chosen and rejected become the same tokens"):
        trainer(tmp_path, rows, kind="multilingual", language="en")


def test_a_pair_that_ctc_writes_alike_is_refused_and_never_mined():
    from audiorl.datasets import check_rows
    from audiorl.models import speech_family

    model, processor = tiny_ctc()
    family = speech_family(model, processor)
    word = "the water"
    assert family.tokenize(word).ids == family.tokenize(word.upper() + " ").ids
    rows = speech_rows(pair_rows(1, chosen=[word], rejected=[word.upper()]))
    (fault,) = check_rows(rows, **family.limits._asdict(), text_columns=("chosen", "rejected"), distinct=True)
    assert fault.problem == "chosen and rejected become the same tokens"
    miner = Miner(model, family, MiningConfig(normalise="none"))
    assert not miner._allowed([0.0, -1.0], ["a", "A"], [[1, 2], [1, 2]], [], 0, 1)
    assert miner._allowed([0.0, -1.0], ["a", "A"], [[1, 2], [1, 3]], [], 0, 1)


def test_transcribed_rows_given_to_dpo_are_sent_to_mining(tmp_path):
    with pytest.raises(BadRowsError, match=r"audiorl\.pairs\.mine_pairs\(model, processor, rows\)"):
        trainer(tmp_path, texts(2))


def broken_file(folder, rows):
    """The rows in a file whose third line is cut."""
    path = as_form("file", rows, folder)
    lines = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("\n".join([*lines[:2], lines[2][:-9], *lines[2:]]))
    return path


def test_a_line_that_is_no_json_is_left_out_of_training_where_bad_rows_are(tmp_path):
    path = broken_file(tmp_path, pair_rows(4))
    with pytest.raises(BadRowsError, match=r"rows\.jsonl:3: this is not JSON"):
        trainer(tmp_path / "out", path)
    dpo = trainer(tmp_path / "out", path, on_bad_rows="skip")
    assert dpo.train_dataset["chosen"][:] == list(CHOSEN[:4])
    (skipped,) = map(json.loads, (tmp_path / "out" / "skipped_rows.jsonl").read_text().splitlines())
    assert skipped["where"] == f"{path}:3" and "not JSON" in skipped["problem"]


def test_rows_that_an_earlier_run_skipped_count_only_where_it_goes_on(tmp_path):
    bad = pair_rows(4)
    bad[3]["chosen"] = ""
    settings = {"on_bad_rows": "skip", "max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    first = trainer(tmp_path, bad, trainer_eval_dataset=bad, **settings)
    assert first.train().metrics["skipped_rows"] == 2  # of the rows to train on, and of those to measure
    again = trainer(tmp_path, bad, trainer_eval_dataset=bad, **settings)
    assert again.train(resume_from_checkpoint=True).metrics["skipped_rows"] == 2
    other = trainer(tmp_path, pair_rows(4), **settings)
    assert "skipped_rows" not in other.train().metrics


@pytest.mark.parametrize("languages", [None, ("en",)])
def test_a_line_that_is_no_json_is_left_out_of_mining_where_bad_rows_are(tmp_path, languages):
    path = broken_file(tmp_path, texts(language="en"))
    asked = {"progress": False, "source": "synthetic", "languages": languages}
    with pytest.raises(BadRowsError, match=r"rows\.jsonl:3: this is not JSON"):
        mine_pairs(None, None, path, **asked)
    skipped = SkippedRows(tmp_path / "skipped_rows.jsonl")
    assert mine_pairs(None, None, path, skipped=skipped, **asked).clips == 3
    assert json.loads((tmp_path / "skipped_rows.jsonl").read_text())["where"] == f"{path}:3"


# ---- what is trained on and measured ----


def parts(path, *starts):
    return [{"audio": path, "text": "a fox", "start": start, "end": start + 0.4} for start in starts]


def test_clips_that_are_trained_on_and_measured_are_counted_by_what_is_heard(tmp_path):
    clips = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    for path, clip in zip(clips, tiny_clips(2), strict=True):
        soundfile.write(path, clip, 16_000)
    train = speech_rows([*parts(clips[0], 0.0, 0.4), {"audio": clips[1], "text": "dog", "duration": 0.9}])
    measured = [*parts(clips[0], 0.4), *parts(clips[1], 0.0), {"audio": clips[1], "text": "another text"}]
    assert clips_trained_on(train, measured) == 2
    assert clips_trained_on(train, speech_rows(measured).to_iterable_dataset()) == clips_trained_on(train, None) == 0


def test_a_run_that_measures_what_it_learns_says_so_before_it_trains_and_on_its_card(tmp_path, caplog):
    rows = text_rows(4)
    made = sft(tmp_path, rows, trainer_eval_dataset=rows[2:], max_steps=1)
    assert "2 of 2 clips of eval_dataset are trained on too" in caplog.text and "--eval_share 0.1" in caplog.text
    made.train()
    made.save_model()
    said = made.decode(rows[2:])
    made.record_evaluation(said, said, rows=rows[2:])
    assert "**2 of these clips were trained on too.**" in (tmp_path / "README.md").read_text()
    caplog.clear()
    sft(tmp_path / "apart", rows[:2], trainer_eval_dataset=rows[2:])
    assert "trained on" not in caplog.text
