"""Alignment via optimal transport: distributions are compared quantile by quantile, not pair by pair.

Both functions rank what they are handed, so their value belongs to the batch: with several processes, hand
them the gathered batch. They return (B,): element b is the part of the pair that holds the rank on the
policy's (the chosen) side, so permuting pairs permutes losses, and the mean is that of the sorted lists.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from audiorl.losses.pair_scores import PairScores


def _of_the_same_rank(others: Tensor, values: Tensor) -> Tensor:
    """(B,): for each of `values` (B,) the one of `others` (B,) with the same rank."""
    ranks = values.argsort(stable=True).argsort(stable=True)
    return others.sort(stable=True).values[ranks]


def _smoothed_logistic(x: Tensor, label_smoothing: float) -> Tensor:
    return -(1 - label_smoothing) * F.logsigmoid(x) - label_smoothing * F.logsigmoid(-x)


def aot_loss(pairs: PairScores, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Make the policy prefer chosen transcripts more than the frozen policy does, quantile by quantile.

        g[b]    = logps[b, 0] - logps[b, 1],   g_ref[b] = ref_logps[b, 0] - ref_logps[b, 1]
        x[b]    = beta * (g[b] - the g_ref of the same rank)
        loss[b] = -(1 - e) log sigmoid(x[b]) - e log sigmoid(-x[b]),  e = label_smoothing

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0.
        label_smoothing: 0 <= e < 0.5.

    Returns:
        (B,) >= 0.

    Source: Melnyk et al. 2024 (AOT), arXiv:2406.05882, section 3, the paired variant.
    """
    preference = pairs.logps[:, 0] - pairs.logps[:, 1]
    ref_logps = pairs.ref_logps.detach()
    ref_preference = ref_logps[:, 0] - ref_logps[:, 1]
    return _smoothed_logistic(beta * (preference - _of_the_same_rank(ref_preference, preference)), label_smoothing)


def aot_unpaired_loss(pairs: PairScores, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Raise the log-ratios of all chosen transcripts above those of all rejected ones, by quantiles.

        x[b]    = beta * (u[b, 0] - the u[., 1] of the same rank),   u = logps - ref_logps
        loss[b] = -(1 - e) log sigmoid(x[b]) - e log sigmoid(-x[b]),  e = label_smoothing

    Args:
        pairs: (B, 2) log-probabilities under both policies; who is paired with whom does not matter.
        beta: > 0.
        label_smoothing: 0 <= e < 0.5.

    Returns:
        (B,) >= 0.

    Source: Melnyk et al. 2024 (AOT), arXiv:2406.05882, section 3, the unpaired variant.
    """
    log_ratios = pairs.log_ratios
    chosen, rejected = log_ratios[:, 0], log_ratios[:, 1]
    return _smoothed_logistic(beta * (chosen - _of_the_same_rank(rejected, chosen)), label_smoothing)
