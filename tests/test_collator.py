"""From rows to batches: each clip once, the end token kept, bad rows by the policy."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

import audiorl.audio.load as load_module
from audiorl.augment import load_augmentation
from audiorl.batch import PLACEHOLDER_ROW_ID
from audiorl.collator import SpeechCollator
from audiorl.datasets import BadRowsError, SkippedRows, speech_rows
from audiorl.models import speech_family
from audiorl.models.whisper import WhisperFamily
from audiorl.trainers.rollouts import RolloutCollator
from tests.tiny_models import SAMPLING_RATE, tiny_whisper
from tests.trainers import grpo_rows
from tests.trainers.pair_rows import CHOSEN, REJECTED, pair_rows


@pytest.fixture
def family():
    return speech_family(*tiny_whisper())


def silent(rows: list[dict], *places: int) -> list[dict]:
    for i in places:
        rows[i]["audio"] = {"array": np.zeros(8000, dtype=np.float32), "sampling_rate": SAMPLING_RATE}
    return rows


def test_texts_become_hypotheses_and_each_clip_is_there_once(family):
    batch = SpeechCollator(family)(list(speech_rows(pair_rows(3))))
    assert batch.tokens.shape[:2] == (3, 2)
    assert batch.audio.shape[0] == 3
    assert family.text(batch.tokens, batch.keep) == [[CHOSEN[i], REJECTED[i]] for i in range(3)]
    assert batch.row_ids.tolist() == [0, 1, 2]


def test_the_end_token_counts_although_padding_has_its_id_and_the_start_does_not(family):
    batch = SpeechCollator(family)(list(speech_rows(pair_rows(2))))
    targets = batch.tokens[..., 1:]
    ends = ((targets == family.end_token) & batch.keep).sum(-1)
    assert (ends == 1).all()
    assert (batch.keep.sum(-1) < batch.keep.shape[-1]).any()
    start = family.processor.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    assert ((batch.tokens == start).sum(-1) == 1).all()
    assert not ((targets == start) & batch.keep).any()


def test_numeric_columns_travel_along(family):
    rows = list(speech_rows(pair_rows(2, ref_logps=[[1.0, 2.0], [3.0, 4.0]])))
    batch = SpeechCollator(family, tensor_columns=("ref_logps",))(rows)
    assert torch.equal(batch["ref_logps"], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_that_breaks_on_decoding_stops_the_loader_with_its_place(family, workers):
    rows = speech_rows(silent(pair_rows(4), 2))
    loader = DataLoader(rows, batch_size=2, collate_fn=SpeechCollator(family), num_workers=workers)
    with pytest.raises(BadRowsError, match=r"row 2.*silent"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_leaves_the_row_out_and_writes_it_down(family, tmp_path, workers):
    skipped = SkippedRows(tmp_path / "skipped_rows.jsonl")
    rows = speech_rows(silent(pair_rows(4), 1, 2, 3))
    loader = DataLoader(rows, batch_size=2, collate_fn=SpeechCollator(family, skipped=skipped), num_workers=workers)
    first, second = list(loader)
    assert first.row_ids.tolist() == [0]
    assert second.row_ids.tolist() == [PLACEHOLDER_ROW_ID]
    assert not second.keep.any() and not second.valid.any()
    lines = [json.loads(line) for line in (tmp_path / "skipped_rows.jsonl").read_text().splitlines()]
    assert sorted(line["row_id"] for line in lines) == [1, 2, 3]
    assert skipped.count() == 3


def test_rows_of_a_stream_are_judged_when_they_come(family):
    rows = pair_rows(2)
    rows[1]["rejected"] = rows[1]["chosen"]
    with pytest.raises(BadRowsError, match="same text"):
        SpeechCollator(family, distinct=True)(list(speech_rows(rows)))


# ---- a row is judged once ----


@pytest.fixture
def work(monkeypatch) -> Counter:
    """How often a file is opened, and how often a text becomes tokens."""
    done: Counter = Counter()
    opened, tokenize = load_module._opened, WhisperFamily.tokenize

    def counted_open(source):
        done["opened"] += 1
        return opened(source)

    def counted_tokenize(self, text, **settings):
        done["tokenized"] += 1
        return tokenize(self, text, **settings)

    monkeypatch.setattr(load_module, "_opened", counted_open)
    monkeypatch.setattr(WhisperFamily, "tokenize", counted_tokenize)
    return done


def on_disk(folder, rows: list[dict]) -> list[dict]:
    """The same rows with their clips as WAV files."""
    for i, row in enumerate(rows):
        soundfile.write(folder / f"{i}.wav", row["audio"]["array"], row["audio"]["sampling_rate"])
    return [{**row, "audio": str(folder / f"{i}.wav")} for i, row in enumerate(rows)]


def test_a_batch_opens_each_clip_once_and_tokenizes_each_text_once(family, tmp_path, work):
    rows = list(speech_rows(on_disk(tmp_path, pair_rows(3))))
    speed = load_augmentation({"speed": {"factor": [0.95, 1.05]}})
    SpeechCollator(family, distinct=True, augmentation=speed)(rows)
    assert work == {"opened": 3, "tokenized": 6}


def test_a_rollout_batch_tokenizes_the_transcript_once_though_its_length_is_limited(family, tmp_path, work):
    rows = list(speech_rows(on_disk(tmp_path, grpo_rows.rows(2))))
    RolloutCollator(family, max_tokens=64)(rows)
    assert work == {"opened": 2, "tokenized": 2}
    with pytest.raises(BadRowsError, match=r"row 0: text has \d+ tokens, rollouts stop after 1\. Raise max_completion"):
        RolloutCollator(family, max_tokens=1)(rows)


def test_the_check_before_training_opens_and_tokenizes_once_whatever_is_asked(tmp_path, work):
    """Wanted lengths, slowed clips and the reach of rollouts are judged in one pass."""
    rows = on_disk(tmp_path, grpo_rows.rows(4))
    grpo_rows.trainer(
        tmp_path / "out",
        rows,
        min_audio_seconds=0.1,
        max_audio_seconds=0.99,
        augmentation='{"speed": {"factor": [0.99, 1.0]}}',
    )
    assert work == {"opened": 4, "tokenized": 4}


def test_a_row_that_its_header_refuses_is_not_decoded(family, tmp_path, monkeypatch):
    long = [{**pair_rows(1)[0], "audio": {"array": np.full(SAMPLING_RATE * 2, 0.1), "sampling_rate": SAMPLING_RATE}}]
    rows = list(speech_rows(on_disk(tmp_path, long)))
    monkeypatch.setattr(load_module.libsndfile, "decode", lambda *args: pytest.fail("decoded"))
    with pytest.raises(BadRowsError, match=r"the clip is 2\.00 s long, the model hears"):
        SpeechCollator(family)(rows)
