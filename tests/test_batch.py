"""The batch: its shapes, that it travels as a mapping, and packing by hand."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping

import pytest
import torch
from accelerate.utils import concatenate, find_batch_size, send_to_device, slice_tensors
from torch.utils.data import DataLoader

from audiorl.batch import (
    PLACEHOLDER_ROW_ID,
    BatchRows,
    GroupBatch,
    GroupSamples,
    GroupScores,
    pad_to,
    pad_tokens,
)


def tensors(clips: int = 2, hypotheses: int = 3, length: int = 4) -> dict[str, torch.Tensor]:
    return {
        "input_features": torch.randn(clips, 5, 6),
        "tokens": torch.randint(0, 9, (clips, hypotheses, length + 1)),
        "keep": torch.ones(clips, hypotheses, length, dtype=torch.bool),
        "row_ids": torch.arange(clips),
    }


def test_named_tensors_and_counts():
    given = tensors()
    batch = GroupBatch(given, ref_logps=torch.zeros(2, 3))
    assert isinstance(batch, Mapping) and set(batch) == {*given, "ref_logps"} and len(batch) == 5
    assert batch.audio is given["input_features"] and batch.audio_key == "input_features"
    assert batch.tokens is given["tokens"] and batch.keep is given["keep"] and batch.row_ids is given["row_ids"]
    assert batch.audio_mask is None and batch.num_hypotheses == 3
    assert "tokens=(2, 3, 5)" in repr(batch) and "input_features=(2, 5, 6)" in repr(batch)


def test_waveforms_with_a_mask():
    given = tensors()
    wave = given.pop("input_features").flatten(1)
    batch = GroupBatch(given, input_values=wave, audio_mask=torch.ones_like(wave))
    assert batch.audio_key == "input_values" and batch.audio is wave
    assert batch.audio_mask is not None and batch.audio_mask.shape == wave.shape


def test_a_repr_shows_shapes_and_no_numbers():
    values = torch.zeros(2, 3, 4)
    samples = GroupSamples(torch.zeros(2, 3, 5), values.bool(), values, values[..., 0].bool())
    assert repr(samples) == "GroupSamples(tokens=(2, 3, 5), keep=(2, 3, 4), logps=(2, 3, 4), finished=(2, 3))"
    scores = GroupScores(values, values, values, values.bool(), values.bool(), torch.zeros(2, 7, 8))
    assert repr(scores).endswith("states=(2, 7, 8), mean_logps=None)") and len(repr(scores)) < 160
    assert repr(GroupBatch(tensors(), rows=BatchRows([{"text": "a"}, {}]))).endswith("row_ids=(2,), rows=BatchRows(2))")


def test_some_hypotheses_of_scores_are_selected_and_states_stay():
    values, states = torch.arange(24.0).view(2, 3, 4), torch.zeros(2, 7, 8)
    scores = GroupScores(values, values, values, values > 3, values > 5, states, mean_logps=-values)
    first = scores.select_hypotheses(slice(2))
    assert first.states is states and torch.equal(first.mean_logps, -values[:, :2])
    assert torch.equal(first.logps, values[:, :2]) and first.is_top1.shape == (2, 2, 4)
    assert scores._replace(mean_logps=None).select_hypotheses(slice(2, 3)).mean_logps is None


def test_rows_travel_beside_the_tensors():
    batch = GroupBatch(tensors(), rows=BatchRows([{"text": "a"}, {"text": "b"}]))
    moved = send_to_device(batch, torch.device("cpu"))
    (loaded,) = DataLoader([batch], batch_size=None, num_workers=1)
    for other in (moved, loaded, batch.replace(extra=torch.zeros(2)), GroupBatch(batch)):
        assert [row["text"] for row in other.rows] == ["a", "b"] and "rows" in other and "rows" not in other.tensors
    assert len(batch) == 5 and set(batch.tensors) == set(tensors())
    with pytest.raises(KeyError, match="rows"):
        GroupBatch(tensors()).rows  # noqa: B018


def test_without_some_clips_they_are_placeholders_in_their_place():
    batch = GroupBatch(tensors(clips=3), rows=BatchRows([{"text": "a"}, {"text": "b"}, {"text": "c"}]))
    left = batch.without(torch.tensor([False, True, False]))
    assert left.row_ids.tolist() == [0, PLACEHOLDER_ROW_ID, 2] and left.valid.tolist() == [True, False, True]
    assert left.keep.any(-1).any(-1).tolist() == [True, False, True]
    assert left.tokens is batch.tokens and left.audio is batch.audio and left.rows is batch.rows
    assert batch.row_ids.tolist() == [0, 1, 2] and batch.keep.all()


def test_padding_to_a_size_fills_on_the_right():
    assert pad_to(torch.tensor([[1, 2]]), 4, 9).tolist() == [[1, 2, 9, 9]]
    assert pad_to(torch.tensor([[True]]), 2, False).tolist() == [[True, False]]
    assert pad_to(torch.ones(2, 3), 3).tolist() == torch.ones(2, 3).tolist()


def test_rows_below_zero_are_placeholders():
    batch = GroupBatch(tensors(clips=3)).replace(row_ids=torch.tensor([7, -1, 0]))
    assert batch.valid.tolist() == [True, False, True]


def test_replacing_leaves_the_original_alone():
    batch = GroupBatch(tensors())
    other = batch.replace(row_ids=torch.tensor([5, 6]), extra=torch.zeros(2))
    assert batch.row_ids.tolist() == [0, 1] and "extra" not in batch
    assert other.row_ids.tolist() == [5, 6] and other.tokens is batch.tokens


@pytest.mark.parametrize("missing", ["tokens", "keep", "row_ids", "input_features"])
def test_a_missing_tensor_is_named(missing):
    given = tensors()
    del given[missing]
    with pytest.raises(ValueError, match=r"GroupBatch needs one of .*; got .*SpeechCollator"):
        GroupBatch(given)


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"input_values": torch.zeros(2, 9)}, "needs one of"),
        ({"keep": torch.ones(2, 3, 5, dtype=torch.bool)}, r"keep \(2, 3, 5\) for tokens \(2, 3, 5\)"),
        ({"keep": torch.ones(2, 1, 4, dtype=torch.bool)}, r"keep \(2, 1, 4\)"),
        ({"row_ids": torch.arange(6)}, "6 row ids for 2 groups"),
        ({"input_features": torch.zeros(6, 5, 6)}, "6 clips of audio.*Do not repeat the audio"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        GroupBatch({**tensors(), **changes})


def test_accelerate_moves_splits_and_joins_it():
    """What `Trainer` does to a batch: to a device, into slices for the processes, filled up by its first rows."""
    batch = GroupBatch(tensors(clips=4))
    moved = send_to_device(batch, torch.device("cpu"))
    assert isinstance(moved, GroupBatch) and all(torch.equal(moved[name], batch[name]) for name in batch)
    assert find_batch_size(batch) == 4
    half = slice_tensors(batch, slice(0, 2))
    assert isinstance(half, GroupBatch) and half.row_ids.tolist() == [0, 1]
    joined = concatenate([batch, half], dim=0)
    assert isinstance(joined, GroupBatch) and joined.row_ids.tolist() == [0, 1, 2, 3, 0, 1]


def test_it_comes_back_from_a_worker_process():
    batch = GroupBatch(tensors())
    (arrived,) = DataLoader([batch], batch_size=None, num_workers=1)
    for other in (arrived, copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert isinstance(other, GroupBatch) and all(torch.equal(other[name], batch[name]) for name in batch)


def test_packing_by_hand():
    """Two clips; prefixes of 2 and 1, the end token 9 is also the padding and counts where it is the end."""
    sequences = [[[1, 2, 5, 9], [1, 2, 9]], [[1, 6, 7, 8, 9], [1, 9]]]
    tokens, keep = pad_tokens(sequences, [[2, 2], [1, 1]], pad=9)
    assert tokens.tolist() == [[[1, 2, 5, 9, 9], [1, 2, 9, 9, 9]], [[1, 6, 7, 8, 9], [1, 9, 9, 9, 9]]]
    assert keep.int().tolist() == [[[0, 1, 1, 0], [0, 1, 0, 0]], [[1, 1, 1, 1], [1, 0, 0, 0]]]
    assert tokens.dtype == torch.long and keep.dtype == torch.bool
    assert tokens[..., 1:][keep].tolist() == [5, 9, 9, 6, 7, 8, 9, 9]
