"""Every preference loss against numbers worked by hand and against float64 loops written from the papers."""

from __future__ import annotations

import math

import pytest
import torch

from audiorl.losses import PairScores, aot_unpaired_loss, exo_pair_loss, sigmoid_loss
from tests.losses.pair_examples import (
    LOSS_SETTING_IDS,
    LOSS_SETTINGS,
    loss_per_pair,
    oracle_of,
    random_pairs,
)
from tests.oracles import PairOracle, central_differences

every_loss_setting = pytest.mark.parametrize(("name", "settings"), LOSS_SETTINGS, ids=LOSS_SETTING_IDS)


def test_sigmoid_equals_numbers_worked_by_hand():
    """One pair, beta 0.5.

    log-ratios: chosen -3 - (-4) = 1, rejected -5 - (-4) = -1;  margin 1 - (-1) = 2;  x = 0.5 * 2 = 1
    loss     = -log sigmoid(1) = log(1 + e^-1) = log 1.3678794 = 0.3132617
    gradient = -beta (1 - sigmoid(1)) = -0.5 * 0.2689414 = -0.1344707 on chosen, +0.1344707 on rejected
    """
    logps = torch.tensor([[-3.0, -5.0]], requires_grad=True)
    pairs = PairScores(logps, torch.tensor([[-4.0, -4.0]]), torch.tensor([[3, 4]]))
    loss = sigmoid_loss(pairs, beta=0.5)
    loss.sum().backward()
    assert pairs.margin.tolist() == [2.0]
    assert loss.tolist() == pytest.approx([0.3132617], abs=1e-6)
    assert logps.grad.tolist()[0] == pytest.approx([-0.1344707, 0.1344707], abs=1e-6)


def test_exo_equals_numbers_worked_by_hand():
    """Equal log-ratios: the policy believes (1/2, 1/2), so the loss is the KL of a fair coin to (0.9, 0.1).

    1/2 log(0.5 / 0.9) + 1/2 log(0.5 / 0.1) = (-0.5877867 + 1.6094379) / 2 = 0.5108256
    """
    pairs = PairScores(torch.tensor([[-3.0, -7.0]]), torch.tensor([[-4.0, -8.0]]), torch.tensor([[3, 4]]))
    assert exo_pair_loss(pairs, beta=0.1, label_smoothing=0.1).tolist() == pytest.approx([0.5108256], abs=1e-6)


def test_aot_unpaired_compares_equal_ranks_worked_by_hand():
    """Log-ratios chosen (4, 0), rejected (1, 3), beta 1: rank 2 of chosen meets rank 2 of rejected.

    4 meets 3: log(1 + e^-1) = 0.3132617;  0 meets 1: log(1 + e^1) = 1.3132617
    """
    pairs = PairScores(torch.tensor([[4.0, 1.0], [0.0, 3.0]]), torch.zeros(2, 2), torch.ones(2, 2).long())
    assert aot_unpaired_loss(pairs, beta=1.0).tolist() == pytest.approx([0.3132617, 1.3132617], abs=1e-6)


@every_loss_setting
def test_values_equal_the_float64_loop(name, settings):
    pairs = random_pairs()
    expected = oracle_of(pairs, settings).losses(name)
    assert loss_per_pair(name, pairs, settings).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@every_loss_setting
def test_gradients_equal_finite_differences_of_the_loop(name, settings):
    pairs = random_pairs(seed=1)
    weights = [1.0, -2.0, 0.5, 3.0, 1.5, -0.7]
    (loss_per_pair(name, pairs, settings) * torch.tensor(weights)).sum().backward()

    def weighted_sum(logps: list[list[float]]) -> float:
        oracle: PairOracle = oracle_of(pairs, settings)
        oracle.logps = logps
        return sum(w * loss for w, loss in zip(weights, oracle.losses(name), strict=True))

    expected = central_differences(weighted_sum, pairs.logps.tolist())
    for row, expected_row in zip(pairs.logps.grad.tolist(), expected, strict=True):
        assert row == pytest.approx(expected_row, rel=1e-5, abs=1e-6)


@every_loss_setting
def test_gradients_pass_gradcheck(name, settings):
    pairs = random_pairs(num_pairs=4, seed=2)
    assert torch.autograd.gradcheck(
        lambda logps: loss_per_pair(name, pairs._replace(logps=logps), settings), (pairs.logps,)
    )


def test_robust_is_the_clean_loss_in_expectation_over_flipped_labels():
    """Chowdhury et al. 2024: flipping a share e of the labels leaves the mean of the loss where it was."""
    pairs, flip_rate = random_pairs(), 0.3
    flipped = PairScores(pairs.logps.flip(1), pairs.ref_logps.flip(1), pairs.lengths.flip(1))
    settings = {"label_smoothing": flip_rate}
    expectation = (1 - flip_rate) * loss_per_pair("robust", pairs, settings)
    expectation = expectation + flip_rate * loss_per_pair("robust", flipped, settings)
    torch.testing.assert_close(expectation, loss_per_pair("sigmoid", pairs, {}))


def test_exo_is_least_where_the_policy_believes_the_smoothed_label():
    epsilon, beta = 0.1, 0.5
    best = math.log((1 - epsilon) / epsilon) / beta
    margins = torch.tensor([best - 1, best, best + 1], dtype=torch.float64)
    pairs = PairScores(torch.stack([margins, torch.zeros(3)], dim=1), torch.zeros(3, 2), torch.ones(3, 2).long())
    before, least, after = exo_pair_loss(pairs, beta=beta, label_smoothing=epsilon).tolist()
    assert least == pytest.approx(0.0, abs=1e-12)
    assert before > least < after
