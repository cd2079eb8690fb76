"""Sums over tokens and means over pairs against loops, split batches, NaN in padding."""

from __future__ import annotations

import random

import pytest
import torch

from audiorl.losses import (
    LossSettingError,
    length_desensitized_sum,
    length_mean,
    pair_mean,
    pair_scores,
    sequence_reduction,
    sequence_sum,
    token_mean,
)
from tests import oracles

NAN = float("nan")


def random_tokens(seed: int, hypotheses: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """(4, K, 9) float64 with NaN outside `keep`, whose rows have holes and may be empty."""
    rng = random.Random(seed)
    keep = torch.tensor([[[rng.random() < 0.6 for _ in range(9)] for _ in range(hypotheses)] for _ in range(4)])
    keep[0, 0] = False
    logps = torch.tensor([[[-rng.random() for _ in range(9)] for _ in range(hypotheses)] for _ in range(4)])
    return torch.where(keep, logps.double(), NAN), keep


@pytest.mark.parametrize("hypotheses", [1, 2, 5])
def test_sequence_sum_equals_the_loop_for_any_number_of_hypotheses(hypotheses):
    token_logps, keep = random_tokens(0, hypotheses)
    expected = [
        [oracles.sequence_sum(token_logps[b, k].tolist(), keep[b, k].tolist()) for k in range(hypotheses)]
        for b in range(4)
    ]
    torch.testing.assert_close(sequence_sum(token_logps, keep), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("ld_alpha", [0.0, 0.3, 1.0])
def test_length_desensitized_sum_equals_the_loop(ld_alpha):
    for seed in range(5):
        token_logps, keep = random_tokens(seed)
        expected = [
            oracles.length_desensitized_pair(token_logps[b].tolist(), keep[b].tolist(), ld_alpha) for b in range(4)
        ]
        actual = length_desensitized_sum(token_logps, keep, ld_alpha)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_length_desensitized_sum_equals_numbers_worked_by_hand():
    """Chosen has 3 tokens, rejected 2, so 2 are shared: -1 - 2 + 0.5 * -4 = -5, and -3 - 1 = -4."""
    token_logps = torch.tensor([[[-1.0, -2.0, -4.0], [-3.0, -1.0, NAN]]])
    keep = torch.tensor([[[True, True, True], [True, True, False]]])
    assert length_desensitized_sum(token_logps, keep, 0.5).tolist() == [[-5.0, -4.0]]


def test_ld_alpha_of_one_is_the_plain_sum():
    token_logps, keep = random_tokens(3)
    torch.testing.assert_close(sequence_reduction(1.0)(token_logps, keep), sequence_sum(token_logps, keep))
    assert sequence_reduction(None) is sequence_sum


@pytest.mark.parametrize("ld_alpha", [None, 0.3])
def test_nan_in_padding_receives_a_gradient_of_zero(ld_alpha):
    token_logps, keep = random_tokens(4)
    token_logps.requires_grad_()
    sequence_reduction(ld_alpha)(token_logps, keep).sum().backward()
    assert token_logps.grad[~keep].tolist() == [0.0] * int((~keep).sum())
    assert (token_logps.grad[keep] > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tokens_are_summed_in_float32(dtype):
    """600 tokens of -0.5 are -300; in bfloat16 numbers near 300 lie 2 apart, so -300.5 needs float32."""
    token_logps = torch.full((1, 2, 601), -0.5, dtype=dtype)
    out = sequence_sum(token_logps, torch.ones(1, 2, 601, dtype=torch.bool))
    assert out.dtype == torch.float32
    assert out.tolist() == [[-300.5, -300.5]]


@pytest.mark.parametrize("ld_alpha", [-0.1, 1.1, NAN, "0.5", True])
def test_an_ld_alpha_outside_its_range_is_refused_when_picked(ld_alpha):
    with pytest.raises(LossSettingError, match="ld_alpha"):
        sequence_reduction(ld_alpha)


def test_length_mean_divides_by_tokens_and_takes_an_empty_transcript_as_one_token():
    assert length_mean(torch.tensor([[6.0, 5.0]]), torch.tensor([[3, 0]])).tolist() == [[2.0, 5.0]]


def test_means_divide_by_the_given_count_and_never_by_zero():
    loss = torch.tensor([1.0, 2.0, 6.0])
    assert pair_mean(loss).item() == 3.0
    assert pair_mean(loss, 18).item() == 0.5
    assert pair_mean(loss, torch.tensor(18)).item() == 0.5
    assert token_mean(loss, torch.tensor(90)).item() == pytest.approx(0.1)
    assert token_mean(loss, 0).item() == token_mean(loss, torch.tensor(0)).item() == 9.0
    assert pair_mean(loss[:0]).item() == 0.0


def test_pair_scores_keep_the_unweighted_sums_beside_the_weighted_ones():
    token_logps, keep = random_tokens(1)
    pairs = pair_scores(token_logps, keep, torch.zeros(4, 2), sum_tokens=sequence_reduction(0.2))
    torch.testing.assert_close(pairs.logps, length_desensitized_sum(token_logps, keep, 0.2))
    torch.testing.assert_close(pairs.unweighted_logps, sequence_sum(token_logps, keep))
    assert pairs.lengths.tolist() == keep.sum(-1).tolist()
    chosen = pairs.select(torch.tensor([False, True, True, False]))
    torch.testing.assert_close(chosen.unweighted_logps, pairs.unweighted_logps[1:3])
    assert pair_scores(token_logps, keep, torch.zeros(4, 2)).unweighted_logps is None


def test_given_lengths_replace_the_number_of_kept_entries():
    """A family that scores a transcript as a whole has one kept entry, however long the transcript is."""
    keep = torch.ones(2, 2, 1, dtype=torch.bool)
    lengths = torch.tensor([[4, 6], [7, 7]])
    assert pair_scores(torch.zeros(2, 2, 1), keep, torch.zeros(2, 2), lengths=lengths).lengths is lengths
