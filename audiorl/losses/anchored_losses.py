"""Losses that hold each transcript against the frozen policy by itself, and plain supervised training.

Every function returns (B,), one value for each pair, never reduced. Below, u = logps - ref_logps (B, 2) is
the log-ratio in nats, column 0 chosen, column 1 rejected.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from audiorl.losses.pair_scores import PairScores


def _chosen_and_rejected(pairs: PairScores) -> tuple[Tensor, Tensor]:
    log_ratios = pairs.log_ratios
    return log_ratios[:, 0], log_ratios[:, 1]


def nca_pair_loss(pairs: PairScores, *, beta: float) -> Tensor:
    """Raise the chosen transcript while holding both near the frozen policy: noise contrastive alignment.

        loss[b] = -log sigmoid(beta u[b, 0]) - 1/2 sum over k of log sigmoid(-beta u[b, k])

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0; the paper's alpha.

    Returns:
        (B,) >= 0; 2 log 2 where the policies agree.

    Source: Chen et al. 2024 (NCA), arXiv:2402.05369, section 4.1.
    """
    chosen, rejected = _chosen_and_rejected(pairs)
    pull = -F.logsigmoid(beta * chosen)
    hold = -F.logsigmoid(-beta * chosen) - F.logsigmoid(-beta * rejected)
    return pull + 0.5 * hold


def bco_pair_loss(pairs: PairScores, *, beta: float) -> Tensor:
    """Train the log-ratio as a classifier: chosen is 1, rejected is 0.

        loss[b] = -log sigmoid(beta u[b, 0]) - log sigmoid(-beta u[b, 1])

    The reward shift of the paper, a running mean of beta u, is left out as in TRL's paired version.

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0.

    Returns:
        (B,) >= 0.

    Source: Jung et al. 2024 (BCO), arXiv:2404.04656, section 4.
    """
    chosen, rejected = _chosen_and_rejected(pairs)
    return -F.logsigmoid(beta * chosen) - F.logsigmoid(-beta * rejected)


def sppo_hard_loss(pairs: PairScores, *, beta: float) -> Tensor:
    """Regress the chosen log-ratio onto 1/(2 beta) and the rejected one onto -1/(2 beta).

        loss[b] = (u[b, 0] - 1/(2 beta))^2 + (u[b, 1] + 1/(2 beta))^2

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0; 1 / beta is the paper's eta.

    Returns:
        (B,) >= 0, in square nats.

    Source: Wu et al. 2024 (SPPO), arXiv:2405.00675, eq. 4.7 with win rates 1 and 0.
    """
    chosen, rejected = _chosen_and_rejected(pairs)
    target = 1 / (2 * beta)
    return (chosen - target).square() + (rejected + target).square()


def apo_zero_loss(pairs: PairScores, *, beta: float) -> Tensor:
    """Raise chosen and lower rejected: for chosen transcripts better than the model's own.

        loss[b] = (1 - sigmoid(beta u[b, 0])) + sigmoid(beta u[b, 1])

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0.

    Returns:
        (B,) in 0 ... 2.

    Source: D'Oosterlinck et al. 2024 (APO), arXiv:2408.06266, eq. 7.
    """
    chosen, rejected = _chosen_and_rejected(pairs)
    return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)


def apo_down_loss(pairs: PairScores, *, beta: float) -> Tensor:
    """Lower both, rejected the more: for chosen transcripts worse than the model's own.

        loss[b] = sigmoid(beta u[b, 0]) + (1 - sigmoid(beta (u[b, 0] - u[b, 1])))

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0.

    Returns:
        (B,) in 0 ... 2.

    Source: D'Oosterlinck et al. 2024 (APO), arXiv:2408.06266, eq. 8.
    """
    chosen, rejected = _chosen_and_rejected(pairs)
    return torch.sigmoid(beta * chosen) + torch.sigmoid(-beta * (chosen - rejected))


def sft_loss(pairs: PairScores) -> Tensor:
    """Negative log-likelihood of the chosen transcript, summed over its tokens.

        loss[b] = -logps[b, 0]

    It is to be divided by a number of tokens (`token_mean`), not of pairs. LD-DPO's weighting does not apply
    to it, and the frozen policy plays no part.

    Args:
        pairs: (B, 2) log-probabilities; column 0 is read.

    Returns:
        (B,) >= 0, nats.

    Source: maximum likelihood; as the third term of Wang et al. 2024 (MPO), arXiv:2411.10442.
    """
    logps = pairs.logps if pairs.unweighted_logps is None else pairs.unweighted_logps
    return -logps[:, 0]
