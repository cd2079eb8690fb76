"""Losses as users write them: in a module of their own, found by a dotted path."""

from __future__ import annotations

import torch
from torch import Tensor

from audiorl.losses import PairScores, PolicyMethod, PolicyTerms, PreferenceObjective, Surrogate, UnpairedScores


def simpo(pairs: PairScores, *, scale: float = 2.0, gamma: float) -> Tensor:
    """-log sigmoid(scale * (mean chosen - mean rejected) - gamma), Meng et al. 2024, arXiv:2405.14734, eq. 6."""
    means = pairs.logps / pairs.lengths
    return -torch.nn.functional.logsigmoid(scale * (means[:, 0] - means[:, 1]) - gamma)


simpo_without_reference = PreferenceObjective(simpo, uses_reference=False)


def with_beta(pairs: PairScores, *, beta: float) -> Tensor:
    return beta * -pairs.margin


def reduced(pairs: PairScores) -> Tensor:
    return -pairs.margin.mean(0, keepdim=True).repeat(3)


def detached(pairs: PairScores) -> Tensor:
    return -pairs.margin.detach()


def failing(pairs: PairScores) -> Tensor:
    return pairs.chosen  # type: ignore[attr-defined]


def reinforce(terms: PolicyTerms, *, baseline: float = 0.0) -> Surrogate:
    never = torch.zeros_like(terms.keep)
    return Surrogate(-(terms.advantages - baseline) * terms.logps, never, never)


reinforce_of_hypotheses = PolicyMethod(reinforce, "hypotheses", uses_ratio=False)
not_a_loss = 3


def thumbs(scores: UnpairedScores, kl: Tensor, *, margin: float = 1.0, beta: float) -> Tensor:
    signs = torch.where(scores.desirable, 1.0, -1.0)
    return torch.relu(margin - beta * signs * (scores.log_ratios - kl))
