"""Float32 at its edges: finite values and gradients, however far the policies have drifted apart."""

from __future__ import annotations

import math

import pytest
import torch

from audiorl.losses import POLICY_LOSSES, PolicyBatch, k3_divergence
from audiorl.losses.policy_losses import MAX_LOG_RATIO, bounded_exp
from tests.losses.policy_examples import (
    POLICY_SETTING_IDS,
    POLICY_SETTINGS,
    gradients_of,
    loss_of,
    random_batch,
)

every_setting = pytest.mark.parametrize(("name", "settings"), POLICY_SETTINGS, ids=POLICY_SETTING_IDS)
EDGES = [-1e4, -300.0, -90.0, -30.0, 0.0, 30.0, 90.0, 300.0, 1e4]


def drifted(length: int) -> PolicyBatch:
    """Float32: every pair of edges as drift from the sampling and from the frozen policy, both signs of advantage."""
    pairs = torch.tensor([[a, b] for a in EDGES for b in EDGES])
    logps = torch.full((1, 2 * len(pairs), length), -1e4).requires_grad_()
    drift = pairs.repeat(2, 1)[None, :, None, :].expand(1, -1, length, 2)
    advantages = torch.tensor([1.0, -1.0]).repeat_interleave(len(pairs))[None]
    return PolicyBatch(
        logps,
        logps.detach() - drift[..., 0],
        torch.ones(logps.shape, dtype=torch.bool),
        advantages,
        logps.detach() - drift[..., 1],
        torch.ones(logps.shape).requires_grad_(),
        torch.ones(logps.shape[:2]).long(),
    )


@pytest.mark.parametrize("length", [1, 3])
@every_setting
def test_finite_up_to_log_ratios_of_ten_thousand_nats(name, settings, length):
    batch = drifted(length)
    loss, gradient = gradients_of(name, batch, settings)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient.square().sum().isfinite() or settings.get("beta")
    assert all(x.isfinite().all() for x in loss_of(name, batch, settings)[1:] if x is not None)


def test_the_likeliest_of_very_unlikely_hypotheses_takes_the_mass():
    """Sums of log-probabilities thousands of nats apart: the likeliest has p = 1, risk 0.3 against a mean of 0.1."""
    logps = torch.tensor([[[-1e4], [-2e4], [-5e3]]]).requires_grad_()
    batch = PolicyBatch(
        logps,
        logps.detach(),
        torch.ones(1, 3, 1, dtype=torch.bool),
        torch.tensor([[0.0, 0.0, -0.3]]),
        copies=torch.ones(1, 3).long(),
    )
    assert loss_of("mwer", batch).loss.item() == pytest.approx(0.2)


def test_beyond_its_bound_the_exponential_and_its_slope_stand_still():
    x = torch.tensor([-200.0, 0.0, 10.0, MAX_LOG_RATIO, 60.0, 1e4], requires_grad=True)
    out = bounded_exp(x)
    out.sum().backward()
    expected = [math.exp(min(v, MAX_LOG_RATIO)) for v in x.tolist()]
    assert out.tolist() == pytest.approx(expected, rel=1e-5)
    assert x.grad.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_policy_that_lost_a_token_of_the_frozen_one_is_pulled_back():
    logps = torch.tensor([-1.0, -300.0, -1e4], requires_grad=True)
    k3_divergence(logps, torch.tensor([-1.0, -1.0, -1.0])).sum().backward()
    assert logps.grad[0] == 0 and (logps.grad[1:] < -1e17).all()


@every_setting
def test_float32_equals_float64_at_ordinary_ratios(name, settings):
    double = random_batch(padding=0.0)
    single = PolicyBatch(*(x.detach().float() if x is not None and x.is_floating_point() else x for x in double))
    single = single._replace(logps=single.logps.requires_grad_(), entropy=single.entropy.requires_grad_())
    results = [gradients_of(name, batch, settings) for batch in (single, double)]
    torch.testing.assert_close([x.double() for x in results[0]], list(results[1]), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(POLICY_LOSSES))
def test_half_precision_is_left_before_ratios_are_taken(name, dtype):
    batch = random_batch(padding=0.0)
    half = PolicyBatch(*(x.detach().to(dtype) if x is not None and x.is_floating_point() else x for x in batch))
    single = PolicyBatch(*(x.float() if x is not None and x.is_floating_point() else x for x in half))
    settings = {"beta": 0.3}
    assert loss_of(name, half, settings).loss.dtype == torch.float32
    torch.testing.assert_close(loss_of(name, half, settings).loss, loss_of(name, single, settings).loss)
