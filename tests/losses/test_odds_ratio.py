"""ORPO's loss against loops in higher precision, numbers worked by hand, and TRL."""

from __future__ import annotations

import math
import random
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from audiorl.losses import (
    LossSettingError,
    OddsRatioObjective,
    PairScores,
    log1mexp,
    log_odds,
    odds_ratio_loss,
    pair_scores,
)
from tests import oracles_odds_ratio as oracle
from tests.oracles import central_differences

# from almost certain to hopeless; float32 knows no probability between 1 - 2^-24 and 1
EDGES = [-1e-7, -1e-6, -1e-3, -0.1, -0.5, -0.6931471, -0.7, -1.0, -5.0, -20.0, -100.0, -1e4]


def pairs_of(mean_logps: list[list[float]], lengths: list[list[int]] | None = None, dtype=torch.float64) -> PairScores:
    counts = torch.tensor(lengths or [[1, 1]] * len(mean_logps))
    logps = (torch.tensor(mean_logps, dtype=dtype) * counts).requires_grad_()
    return PairScores(logps, torch.zeros_like(logps), counts)


def token_example(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float64 `token_logps` and `keep` (4, 2, 6) with uneven ends and NaN outside."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([[6, 2], [1, 4], [3, 3], [5, 6]])
    keep = torch.arange(6) < lengths[..., None]
    logps = -3 * torch.rand(keep.shape, generator=generator, dtype=torch.float64) - 0.01
    return torch.where(keep, logps, float("nan")), keep


def total(token_logps: Tensor, keep: Tensor, **weights: float) -> Tensor:
    pairs = pair_scores(token_logps, keep, torch.zeros(token_logps.shape[:2]))
    return OddsRatioObjective(**weights)(pairs).total()


def test_loss_equals_numbers_worked_by_hand():
    """One pair, p(chosen) = 1/2 over 2 tokens, p(rejected) = 1/4 over 1, beta 0.5.

    mean log-probabilities -0.6931472, -1.3862944;  odds 1 and 1/3;  ratio 3
    odds-ratio loss = -log sigmoid(log 3) = -log(3/4) = 0.2876821;  nll = 2 * 0.6931472 / 2 = 0.6931472
    total = 0.6931472 + 0.5 * 0.2876821 = 0.8369882
    """
    pairs = pairs_of([[math.log(1 / 2), math.log(1 / 4)]], [[2, 1]])
    terms = OddsRatioObjective(beta=0.5)(pairs)
    assert odds_ratio_loss(pairs).tolist() == pytest.approx([0.2876821], abs=1e-7)
    assert terms.margin.tolist() == pytest.approx([math.log(3)])
    assert terms.total().item() == pytest.approx(0.8369882, abs=1e-7)
    nll = terms.terms[0]
    assert (nll.name, nll.mean(1, 2).item()) == ("nll", pytest.approx(0.6931472, abs=1e-7))


@pytest.mark.parametrize("weights", [{"beta": 0.1}, {"beta": 1.0}, {"beta": 0.3, "nll_weight": 0.0}, {"beta": 0.0}])
def test_value_and_gradient_equal_the_float64_loop(weights):
    token_logps, keep = token_example()
    token_logps.requires_grad_()
    loss = total(token_logps, keep, **weights)
    loss.backward()
    kept = [[list(row) for row in pair] for pair in keep.tolist()]

    def of(values: list[list[float]]) -> float:
        return oracle.orpo_loss([values[i : i + 2] for i in range(0, 8, 2)], kept, **weights)

    table = [list(row) for row in token_logps.detach().flatten(0, 1).tolist()]
    assert loss.item() == pytest.approx(of(table), rel=1e-12)
    expected = torch.tensor(central_differences(of, table), dtype=torch.float64).view_as(token_logps)
    counted = torch.where(keep, token_logps.grad, 0.0)
    torch.testing.assert_close(counted, torch.where(keep, expected, 0.0), rtol=1e-6, atol=1e-9)
    assert (token_logps.grad[~keep] == 0).all()


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 3e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("x", EDGES)
def test_log_odds_and_slope_keep_their_digits_from_certain_to_hopeless(x, dtype, rel):
    value = torch.tensor(x, dtype=dtype, requires_grad=True)
    odds = log_odds(value)
    odds.backward()
    at = value.item()  # as float32 holds it
    assert odds.item() == pytest.approx(oracle.log_odds(at), rel=rel, abs=rel)
    assert value.grad.item() == pytest.approx(oracle.log_odds_slope(at), rel=rel)


@pytest.mark.parametrize("x", [-40.0, -16.0, -1.0, -0.6932, -0.6931, -0.1, -1e-3, -1e-7])
def test_log1mexp_keeps_its_digits_on_both_branches(x):
    """Of -40 it is -4.2e-18: one formula alone gives 0."""
    value = torch.tensor(x, dtype=torch.float64)
    exact = oracle.log_odds(x)
    assert log1mexp(value).item() == pytest.approx(math.log(-math.expm1(x)), rel=1e-12, abs=1e-15)
    assert (value - log1mexp(value)).item() == pytest.approx(exact, rel=1e-12)
    assert log1mexp(torch.tensor(-40.0)).item() == pytest.approx(-math.exp(-40), rel=1e-5)


@pytest.mark.parametrize("x", [0.0, -1e-12, 1e-7])
def test_a_probability_that_float32_rounds_to_one_has_finite_odds_and_no_slope(x):
    value = torch.tensor(x, requires_grad=True)
    odds = log_odds(value)
    odds.backward()
    assert odds.item() == pytest.approx(24 * math.log(2), rel=1e-6)
    assert value.grad.item() == 0


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_float32_loss_and_gradient_are_finite_at_all_edges(beta):
    edges = [0.0, *EDGES]
    pairs = pairs_of([[a, b] for a in edges for b in edges], dtype=torch.float32)
    loss = OddsRatioObjective(beta)(pairs).total()
    (gradient,) = torch.autograd.grad(loss, pairs.logps)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    assert (gradient[:, 0] <= 0).all(), "a step never lowers the chosen transcript"
    assert (gradient[:, 1] >= 0).all(), "a step never raises the rejected one"


def test_the_sign_follows_the_preference():
    better, worse = pairs_of([[-0.5, -2.0]]), pairs_of([[-2.0, -0.5]])
    assert odds_ratio_loss(better) < math.log(2) < odds_ratio_loss(worse)
    assert odds_ratio_loss(pairs_of([[-0.7, -0.7]])).item() == pytest.approx(math.log(2))


def test_placeholders_permutations_and_padding_change_nothing():
    token_logps, keep = token_example()
    expected = total(token_logps, keep)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(total(token_logps[order], keep[order]), expected)
    wider = torch.nn.functional.pad(token_logps, (0, 3), value=float("inf"))
    torch.testing.assert_close(total(wider, torch.nn.functional.pad(keep, (0, 3))), expected)


def test_parts_of_a_step_add_up_to_the_whole():
    token_logps, keep = token_example()
    whole = total(token_logps, keep, beta=0.3)
    pairs = pair_scores(token_logps, keep, torch.zeros(4, 2))
    tokens = keep[:, 0].sum()
    parts = [OddsRatioObjective(0.3)(pairs.select(torch.tensor(rows))).total(4, tokens) for rows in ([0], [1, 2], [3])]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize(
    ("beta", "nll_weight"), [(-0.1, 1.0), (0.1, -1.0), (0.0, 0.0), (float("nan"), 1.0), ("0.1", 1.0), (0.1, True)]
)
def test_weights_out_of_range_are_refused(beta, nll_weight):
    with pytest.raises(LossSettingError, match=r"beta|nll_weight"):
        OddsRatioObjective(beta, nll_weight)


# ---- TRL ----


@pytest.fixture(scope="module")
def trl_orpo():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL says of all its experimental modules that they may change
        from trl.experimental.orpo import orpo_trainer
    return orpo_trainer


def test_odds_ratio_agrees_with_trl_in_value_and_gradient(trl_orpo):
    rng = random.Random(0)
    mean_logps = [[-rng.uniform(0.01, 6), -rng.uniform(0.01, 6)] for _ in range(8)]
    mine, theirs = (pairs_of(mean_logps, dtype=torch.float32) for _ in range(2))
    trainer = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device=torch.device("cpu")))
    losses, chosen_rewards, _, ratio, odds = trl_orpo.ORPOTrainer.odds_ratio_loss(
        trainer, theirs.logps[:, 0], theirs.logps[:, 1]
    )
    own = odds_ratio_loss(mine)
    torch.testing.assert_close(0.3 * own, -losses, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(x, p.logps)[0] for x, p in ((0.3 * own.sum(), mine), (-losses.sum(), theirs))]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    assert gradients[0].abs().max() > 0.01
    terms = OddsRatioObjective(0.3)(mine)
    torch.testing.assert_close((-own.mean(), terms.margin.mean()), (ratio, odds), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(0.3 * mine.logps[:, 0].detach(), chosen_rewards)


def test_where_trl_loses_the_gradient_ours_stands(trl_orpo):
    """At p = 1 - 2^-25, which float32 writes as 1, TRL's unused branch turns the gradient into NaN."""
    x = torch.tensor([-1e-8], requires_grad=True)
    trl_orpo.log1mexp(x).sum().backward()
    assert torch.isnan(x.grad).all()
    own = torch.tensor([-1e-8], requires_grad=True)
    log1mexp(own).sum().backward()
    assert own.grad.item() == pytest.approx(-1e8, rel=1e-5)
