"""The head against numpy, and its two implementations, written out and TRL's fused one, against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from audiorl.models.head import TokenStatistics, _fused, score_tokens

WIDTH, VOCABULARY = 8, 50


def random_head(rows: int, dtype: torch.dtype = torch.float32, bias: bool = True):
    """rows (N, D), weight (V, D), bias (V,) or None, labels (N,)."""
    generator = torch.Generator().manual_seed(rows)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    labels = torch.randint(0, VOCABULARY, (rows,), generator=generator)
    return random(rows, WIDTH), random(VOCABULARY, WIDTH), random(VOCABULARY) if bias else None, labels


def _plain(rows, weight, bias, labels, temperature):
    return TokenStatistics.apply(nn.functional.linear(rows, weight, bias), labels, temperature)


def statistics_in_numpy(rows, weight, bias, labels, temperature):
    """log-probability of the label, entropy, mean logit, label is the likeliest, mean log-probability; row by row."""
    found = []
    for row, label in zip(rows.detach().numpy(), labels.numpy(), strict=True):
        logits = (weight.detach().numpy() @ row + (0 if bias is None else bias.detach().numpy())) / temperature
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        entropy = -sum(p * np.log(p) for p in probabilities)
        top, mean = probabilities.argmax() == label, np.log(probabilities).mean()
        found.append((np.log(probabilities[label]), entropy, logits.mean(), top, mean))
    return [np.array(column) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("bias", [False, True])
def test_statistics_equal_numpy_in_float64(temperature, bias):
    """70 rows, so that the entropy's chunks have a remainder."""
    rows, weight, offset, labels = random_head(70, torch.float64, bias)
    labels[:20] = nn.functional.linear(rows, weight, offset).argmax(-1)[:20]
    found = _plain(rows, weight, offset, labels, temperature)
    expected = statistics_in_numpy(rows, weight, offset, labels, temperature)
    assert expected[3].any() and not expected[3].all()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [0, 5, 130])
@pytest.mark.parametrize("bias", [False, True])
def test_fused_head_equals_plain_head_in_values_and_gradients(rows, bias):
    *inputs, labels = random_head(rows, bias=bias)
    weights = torch.randn(rows)
    results, slopes = [], []
    for head in (_plain, _fused):
        values = head(*inputs, labels, 0.7)
        results.append(values)
        total = (values[0] * weights).sum() + (values[1] * weights.flip(0)).sum() + (values[4] * weights.roll(1)).sum()
        slopes.append(torch.autograd.grad(total, [x for x in inputs if x is not None]))
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    for plain, fused in zip(*slopes, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=5e-5)
    for values in results:
        assert [value.requires_grad for value in values] == [True, True, False, False, True]


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_gradients_equal_those_of_the_formulas(used):
    """Of logps, entropy and mean log-probability; 20 rows are more than one chunk."""
    *inputs, labels = random_head(20, torch.float64)
    weights = torch.randn(3, 20, dtype=torch.float64)

    def gradients(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(sum((values[i] * weights[i]).sum() for i in used), inputs)

    log_probabilities = (nn.functional.linear(*inputs) / 0.7).log_softmax(-1)
    logps = log_probabilities.gather(-1, labels[:, None]).squeeze(-1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
    expected = gradients(logps, entropy, log_probabilities.mean(-1))
    found = _plain(*inputs, labels, 0.7)
    found = gradients(found[0], found[1], found[4])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_half_precision_logits_are_normalised_in_float32():
    rows, weight, bias, labels = random_head(40, torch.bfloat16)
    logps, entropy, mean_logits, _, mean_logps = _plain(rows, weight, bias, labels, 1.0)
    assert logps.dtype == entropy.dtype == mean_logits.dtype == mean_logps.dtype == torch.float32
    logits = nn.functional.linear(rows, weight, bias).double()
    expected = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    torch.testing.assert_close(logps.double(), expected, rtol=1e-5, atol=1e-5)


def test_only_kept_positions_reach_the_vocabulary():
    """A NaN at a position that does not count reaches neither values nor gradients."""
    head = nn.Linear(WIDTH, VOCABULARY)
    hidden = torch.randn(2, 3, 4, WIDTH)
    keep = torch.rand(2, 3, 4) > 0.5
    targets = torch.randint(0, VOCABULARY, (2, 3, 4))
    states = torch.zeros(2, 1, 1)
    expected = score_tokens(hidden, head, targets, torch.ones_like(keep), states, 1.0)
    spoilt = hidden.masked_fill(~keep[..., None], float("nan"))
    scores = score_tokens(spoilt, head, targets, keep, states, 1.0)
    scores.logps.sum().backward()
    assert torch.isfinite(head.weight.grad).all() and head.weight.grad.any()
    assert scores.keep is keep and scores.states is states
    for field in ("logps", "entropy", "mean_logits", "is_top1", "mean_logps"):
        found = getattr(scores, field)
        assert not found[~keep].any()
        torch.testing.assert_close(found[keep], getattr(expected, field)[keep], rtol=1e-6, atol=1e-6)


def test_a_second_backward_through_the_reused_memory_is_an_error_and_not_a_wrong_gradient():
    *inputs, labels = random_head(5)
    logps = _plain(*inputs, labels, 1.0)[0]
    logps.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logps.sum().backward()
