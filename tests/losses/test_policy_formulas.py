"""What the formulas of the policy losses promise: directions, divisors, where clipping begins and ends."""

from __future__ import annotations

import pytest
import torch

from audiorl.losses import POLICY_LOSSES, PolicyBatch
from tests.losses.policy_examples import CLIPPED, POLICY_SETTINGS, gradients_of, loss_of, random_batch

every_loss = pytest.mark.parametrize("name", sorted(POLICY_LOSSES))


@every_loss
def test_the_first_update_raises_what_is_better_than_its_group(name):
    """Two hypotheses that the policy gave equal probability, advantages 1 and -1."""
    logps = torch.full((1, 2, 3), -1.0, dtype=torch.float64, requires_grad=True)
    keep, ones = torch.ones(1, 2, 3, dtype=torch.bool), torch.ones(1, 2).long()
    batch = PolicyBatch(logps, logps.detach(), keep, torch.tensor([[1.0, -1.0]]), copies=ones)
    _, gradient = gradients_of(name, batch)
    assert (gradient[0, 0] < 0).all() and (gradient[0, 1] > 0).all()


@pytest.mark.parametrize(
    ("name", "divisor"),
    [
        ("grpo", [[2 * 2, 2 * 2], [2 * 4] * 4]),
        ("dapo", [[6] * 2, [6] * 4]),
        ("bnpo", [[6] * 2, [6] * 4]),
        ("cispo", [[6] * 2, [6] * 4]),
        ("dr_grpo", [[2 * 7] * 2, [2 * 7] * 4]),
        ("gspo", [[2 * 2, 2 * 2], [2 * 4] * 4]),
    ],
)
def test_the_divisor_is_what_the_first_update_tells_the_losses_apart_by(name, divisor):
    """Hypotheses of 2 and 4 tokens, advantages 1 and -1: the gradient on a token is -A / divisor."""
    keep = torch.tensor([[[True, True, False, False], [True] * 4]])
    logps = torch.full((1, 2, 4), -1.0, dtype=torch.float64, requires_grad=True)
    _, gradient = gradients_of(name, PolicyBatch(logps, logps.detach(), keep, torch.tensor([[1.0, -1.0]])))
    expected = [-1 / d for d in divisor[0]] + [1 / d for d in divisor[1]]
    assert gradient[keep].tolist() == pytest.approx(expected)


@every_loss
def test_advantages_of_zero_teach_nothing(name):
    batch = random_batch()
    loss, gradient = gradients_of(name, batch._replace(advantages=torch.zeros(3, 4)))
    assert loss.item() == 0 and gradient.abs().sum() == 0


@pytest.mark.parametrize("settings", [kwargs for name, kwargs in POLICY_SETTINGS if name == "bnpo"], ids=str)
def test_bnpo_of_a_whole_step_is_dapo(settings):
    batch = random_batch()
    torch.testing.assert_close(gradients_of("bnpo", batch, settings), gradients_of("dapo", batch, settings))


def test_gspo_is_grpo_at_the_level_of_sequences():
    batch, level = random_batch(), {"importance_sampling_level": "sequence"}
    for settings in ({}, {"beta": 0.3}, {"epsilon": 0.05, "delta": 1.5}):
        torch.testing.assert_close(gradients_of("gspo", batch, settings), gradients_of("grpo", batch, level | settings))


def one_token(ratio: float, advantage: float) -> PolicyBatch:
    logps = torch.tensor([[[ratio]]], dtype=torch.float64).log().requires_grad_()
    one = torch.ones(1, 1, 1, dtype=torch.bool)
    return PolicyBatch(logps, torch.zeros(1, 1, 1).double(), one, torch.tensor([[advantage]], dtype=torch.float64))


@pytest.mark.parametrize("name", CLIPPED)
def test_clipping_stops_a_token_only_where_it_has_gone_far_enough(name):
    """epsilon 0.2, epsilon_high 0.3, without and with delta 2; gradient on log pi is -ratio A where nothing is clipped.

    Rising with A > 0 stops above 1.3, falling with A < 0 below 0.8; against its advantage a token is never clipped,
    unless the ratio is above delta.
    """
    settings = {"epsilon": 0.2, "epsilon_high": 0.3, **({"max_completion_length": 1} if name == "dr_grpo" else {})}
    cases = [
        (1.29, 1.0, -1.29, -1.29),
        (1.31, 1.0, 0.0, 0.0),
        (0.1, 1.0, -0.1, -0.1),
        (0.81, -1.0, 0.81, 0.81),
        (0.79, -1.0, 0.0, 0.0),
        (1.9, -1.0, 1.9, 1.9),
        (2.1, -1.0, 2.1, 0.0),
    ]
    for ratio, advantage, plain, dual in cases:
        batch = one_token(ratio, advantage)
        assert gradients_of(name, batch, settings)[1].item() == pytest.approx(plain)
        assert gradients_of(name, batch, settings | {"delta": 2.0})[1].item() == pytest.approx(dual)
    assert loss_of(name, one_token(50.0, -1.0), settings | {"delta": 2.0}).loss.item() == pytest.approx(2.0)


def test_an_epsilon_of_one_or_more_leaves_the_ratio_without_a_lower_bound():
    """DeepSeek-R1 takes 10."""
    assert gradients_of("grpo", one_token(1e-3, -1.0), {"epsilon": 10.0})[1].item() == pytest.approx(1e-3)


def test_cispo_never_loses_the_gradient_of_a_token():
    for ratio, weight in ((0.1, 0.1), (1.2, 1.2), (50.0, 1.3)):
        for advantage in (1.0, -1.0):
            gradient = gradients_of("cispo", one_token(ratio, advantage))[1]
            assert gradient.item() == pytest.approx(-weight * advantage)


def test_bias_correction_turns_the_slope_of_k3_into_that_of_the_kl():
    """On-policy, the mean over the policy of d(kl term)/d(theta) is the gradient of KL(pi || pi_ref).

    A policy over 3 tokens with logits theta; the mean is taken exactly, by weighing each token with its probability.
    """
    theta = torch.tensor([0.3, -0.8, 0.1], dtype=torch.float64, requires_grad=True)
    ref_logps = torch.tensor([-0.2, 0.9, 0.4], dtype=torch.float64).log_softmax(0)
    exact = (theta.softmax(0) * (theta.log_softmax(0) - ref_logps)).sum()
    (expected,) = torch.autograd.grad(exact, theta)
    slopes = {}
    for corrected in (True, False):
        logps = theta.log_softmax(0)
        total = torch.zeros((), dtype=torch.float64)
        for token, probability in enumerate(theta.detach().softmax(0)):
            one = logps[token].reshape(1, 1, 1)
            batch = PolicyBatch(
                one,
                one.detach(),
                torch.ones(1, 1, 1, dtype=torch.bool),
                torch.zeros(1, 1),
                ref_logps[token].reshape(1, 1, 1),
            )
            settings = {"beta": 1.0, "use_bias_correction_kl": corrected}
            total = total + probability * loss_of("grpo", batch, settings).loss
        assert total.item() == pytest.approx(exact.item())
        (slopes[corrected],) = torch.autograd.grad(total, theta)
    torch.testing.assert_close(slopes[True], expected)
    assert not torch.allclose(slopes[False], expected, rtol=0.05)
