"""Mined pairs: the transcript against the hypothesis with the most word errors."""

from __future__ import annotations

import pytest

from audiorl.datasets import BadRowsError, SkippedRows
from audiorl.evaluation import count_errors
from audiorl.pairs import mine_pairs
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper

TEXTS = ("the lazy dog", "all year", "she had your dark suit", "jumps over", "water")


def rows(count: int = 5) -> list[dict]:
    return [
        {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "text": TEXTS[i], "speaker": f"s{i}"}
        for i, clip in enumerate(tiny_clips(count))
    ]


def mined(**changes):
    model, processor = tiny_whisper()
    settings = {"num_generations": 4, "progress": False, "batch_size": 2, **changes}
    return mine_pairs(model, processor, settings.pop("rows", rows()), **settings)


def test_the_rejected_text_is_the_worst_of_the_samples_and_the_transcript_is_chosen():
    found = mined()
    assert found.clips == 5
    assert [pair["chosen"] for pair in found.rows] == list(TEXTS)
    for pair in found.rows:
        rate = count_errors([pair["chosen"]], [pair["rejected"]], unit="word", normalise="basic").wer
        assert rate == pytest.approx(pair["rejected_wer"])
        assert rate > 0 and pair["rejected"].strip()
        assert pair["speaker"] == f"s{TEXTS.index(pair['chosen'])}"


def test_more_samples_never_make_the_worst_one_better():
    few, many = mined(num_generations=2), mined(num_generations=6)
    worst = [{pair["chosen"]: pair["rejected_wer"] for pair in found.rows} for found in (few, many)]
    assert all(worst[1][text] >= worst[0][text] for text in worst[0])


def test_pairs_do_not_depend_on_the_batch_size_and_follow_the_seed():
    texts = [[pair["rejected"] for pair in mined(batch_size=size).rows] for size in (1, 2, 5)]
    assert texts[0] == texts[1] == texts[2]
    assert [pair["rejected"] for pair in mined(seed=1).rows] != texts[0]


def test_a_model_without_mistakes_gives_no_pairs():
    model, processor = tiny_whisper()

    class Right:
        """The family, with every sample replaced by the truth."""

        def __init__(self, family):
            self.family, self.seen = family, 0

        def __getattr__(self, name):
            return getattr(self.family, name)

        def text(self, tokens, keep):
            texts = [[TEXTS[self.seen + b].upper() + "."] * tokens.shape[1] for b in range(len(tokens))]
            self.seen += len(tokens)
            return texts

    from audiorl.models import speech_family

    found = mine_pairs(model, processor, rows(), progress=False, family=Right(speech_family(model, processor)))
    assert found.rows == [] and found.clips == 5 and found.mean_wer == 0
    assert str(found).startswith("0 pairs from 5 clips (0%)")


def test_bad_rows_and_settings_are_refused():
    broken = rows(2)
    broken[1]["text"] = ""
    with pytest.raises(BadRowsError, match="row 1"):
        mined(rows=broken)
    for changes in ({"num_generations": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="num_generations >= 1 hypotheses at a temperature > 0"):
            mined(**changes)


def test_all_bad_rows_are_told_before_anything_is_sampled(tmp_path, monkeypatch):
    model, processor = tiny_whisper()
    rows = [{"audio": {"array": clip, "sampling_rate": 16_000}, "text": "water"} for clip in tiny_clips(3)]
    rows[0]["text"], rows[2]["audio"] = " ", "missing.wav"
    with monkeypatch.context() as patched:
        patched.setattr("audiorl.pairs._sample_texts", None)
        with pytest.raises(BadRowsError) as told:
            mine_pairs(model, processor, rows, progress=False)
    assert [fault.row_id for fault in told.value.faults] == [0, 2]
    skipped = SkippedRows(tmp_path / "skipped_rows.jsonl")
    assert mine_pairs(model, processor, rows, progress=False, skipped=skipped).clips == 1
    assert skipped.count() == 2
