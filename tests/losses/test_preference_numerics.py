"""Float32 at its edges: finite values and gradients wherever the formula itself is finite."""

from __future__ import annotations

import pytest
import torch

from audiorl.losses import PREFERENCE_LOSSES, PairScores, discopop_loss
from tests.losses.pair_examples import DIVERGENCES, loss_per_pair

ALLOWING = sorted(name for name, loss in PREFERENCE_LOSSES.items() if loss.allows_f_divergence)


def pairs_with_log_ratios(log_ratios: list[list[float]], length: int = 1) -> PairScores:
    logps = torch.tensor(log_ratios, requires_grad=True)
    return PairScores(logps, torch.zeros_like(logps), torch.full(logps.shape, length))


def assert_finite(name: str, pairs: PairScores, settings: dict) -> None:
    loss = loss_per_pair(name, pairs, settings)
    (gradient,) = torch.autograd.grad(loss.sum(), pairs.logps)
    assert torch.isfinite(loss).all(), loss
    assert torch.isfinite(gradient).all(), gradient


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("name", sorted(PREFERENCE_LOSSES))
def test_finite_up_to_margins_of_ten_thousand_nats(name, beta):
    edges = [-1e4, -300.0, -100.0, -1.0, 0.0, 1.0, 100.0, 300.0, 1e4]
    settings = {"beta": beta, **({"label_smoothing": 1e-3} if name == "exo_pair" else {})}
    assert_finite(name, pairs_with_log_ratios([[a, b] for a in edges for b in (0.0, -a)]), settings)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: "-".join(map(str, d.values())))
@pytest.mark.parametrize("name", ALLOWING)
def test_finite_under_every_divergence_up_to_log_ratios_of_300_nats(name, divergence, beta):
    edges = [-300.0, -90.0, -80.0, -20.0, 0.0, 20.0, 80.0, 90.0, 300.0]
    settings = {"beta": beta, **divergence, **({"label_smoothing": 1e-3} if name == "exo_pair" else {})}
    assert_finite(name, pairs_with_log_ratios([[a, b] for a in edges for b in edges]), settings)


@pytest.mark.parametrize("tau", [0.01, 0.05, 0.5, 1.0])
def test_discopop_of_very_negative_margins_is_the_logistic_loss(tau):
    """m -> 0 faster than exp(-x) grows, so loss -> -log sigmoid(x) = |x|; at tau = 1, m exp(-x) -> 1."""
    pairs = pairs_with_log_ratios([[-200.0, 0.0], [-1e4, 0.0]])
    rest = 1.0 if tau == 1.0 else 0.0
    loss = discopop_loss(pairs, beta=1.0, discopop_tau=tau)
    assert loss.tolist() == pytest.approx([200.0 + rest, 1e4 + rest])


def test_discopop_with_tau_above_one_is_finite_up_to_the_documented_exponent():
    """tau = 2: the formula grows like exp(|x| / 2), so |x| = 170 fits float32 and |x| = 180 cannot."""
    pairs = pairs_with_log_ratios([[-170.0, 0.0], [-180.0, 0.0]])
    assert torch.isfinite(discopop_loss(pairs, beta=1.0, discopop_tau=2.0)).tolist() == [True, False]


@pytest.mark.parametrize("name", sorted(PREFERENCE_LOSSES))
def test_float32_equals_float64_at_ordinary_margins(name):
    ratios = [[2.0, -1.0], [-30.0, 10.0], [0.0, 0.0], [40.0, 45.0]]
    settings = {"label_smoothing": 1e-3} if name == "exo_pair" else {}
    single = pairs_with_log_ratios(ratios, length=7)
    double = PairScores(single.logps.double(), single.ref_logps.double(), single.lengths)
    torch.testing.assert_close(
        loss_per_pair(name, single, settings).double(),
        loss_per_pair(name, double, settings),
        rtol=2e-6,
        atol=1e-6,
    )
