"""From rows to batches: each clip once, the end token kept, bad rows by the policy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from audiorl.batch import PLACEHOLDER_ROW_ID
from audiorl.collator import SpeechCollator
from audiorl.datasets import BadRowsError, SkippedRows, speech_rows
from audiorl.models import speech_family
from tests.tiny_models import SAMPLING_RATE, tiny_whisper
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
