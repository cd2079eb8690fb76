"""The preference losses, each a function of the log-probabilities of pairs (`PairScores`).

Every function returns (B,), one value for each pair, never reduced. There are three kinds:

1. Losses of the difference between the two transcripts' scores. They take any f-divergence; with `divergence` at its
   default the scores are the log-ratios, and the margin in nats is

       delta[b] = divergence(logps - ref_logps)[b, 0] - divergence(logps - ref_logps)[b, 1]

2. Losses that hold each transcript against the frozen policy by itself, and plain supervised training. Below,
   u = logps - ref_logps (B, 2) is the log-ratio in nats, column 0 chosen, column 1 rejected.
3. Alignment via optimal transport (aot), which compares distributions quantile by quantile, not pair by pair. It ranks
   what it gets, so its value belongs to the batch: with several processes, pass the gathered batch. Element b of its
   (B,) is the part of the pair that holds the rank on the policy's (the chosen) side, so permuting pairs permutes
   losses, and the mean is that of the sorted lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from audiorl.batch import shapes_in_words
from audiorl.losses.divergences import ScoreFunction, reverse_kl_scores
from audiorl.losses.reductions import length_mean, sequence_sum


class PairScores(NamedTuple):
    """Log-probabilities of B (chosen, rejected) pairs; column 0 is chosen, column 1 rejected.

    All of them are float32 or float64: a sum of a hundred tokens has no digits left in half precision.
    """

    logps: Tensor  # (B, 2) nats, summed over kept tokens
    ref_logps: Tensor  # (B, 2) the same under the frozen policy; receives no gradient
    lengths: Tensor  # (B, 2) long, number of kept tokens
    unweighted_logps: Tensor | None = None  # (B, 2) `logps` before LD-DPO's weighting; None: `logps` has none

    def __repr__(self) -> str:
        return f"PairScores({shapes_in_words(self._asdict().items())})"

    @property
    def log_ratios(self) -> Tensor:
        """(B, 2) nats: how much more probable each transcript is now than under the frozen policy."""
        return self.logps - self.ref_logps.detach()

    @property
    def margin(self) -> Tensor:
        """(B,) nats: log-ratio of the chosen transcript minus that of the rejected one."""
        log_ratios = self.log_ratios
        return log_ratios[:, 0] - log_ratios[:, 1]

    def select(self, rows: Tensor) -> PairScores:
        """The pairs at `rows`, (B,) bool or (N,) long; leaves the placeholders of dropped rows out."""
        unweighted = None if self.unweighted_logps is None else self.unweighted_logps[rows]
        return PairScores(self.logps[rows], self.ref_logps[rows], self.lengths[rows], unweighted)


def pair_scores(
    token_logps: Tensor,
    keep: Tensor,
    ref_logps: Tensor,
    *,
    sum_tokens: Callable[[Tensor, Tensor], Tensor] = sequence_sum,
    lengths: Tensor | None = None,
) -> PairScores:
    """Sum token log-probabilities into the scores of pairs.

        logps[b, k] = sum_tokens(token_logps, keep)[b, k]

    Args:
        token_logps: (B, 2, T) nats under the policy; entries outside `keep` may hold anything, NaN included.
        keep: (B, 2, T) bool, True where a token counts.
        ref_logps: (B, 2) nats under the frozen policy, summed by the same `sum_tokens`.
        sum_tokens: `sequence_reduction(ld_alpha)`, or `sequence_sum`.
        lengths: (B, 2) number of tokens, for families that score a transcript as a whole (T = 1), where
            `keep` does not tell it; default the number of kept tokens.

    Returns:
        `PairScores` of B pairs.
    """
    if lengths is None:
        lengths = keep.sum(-1)
    logps = sum_tokens(token_logps, keep)
    unweighted = None if sum_tokens is sequence_sum else sequence_sum(token_logps, keep)
    return PairScores(logps, ref_logps.detach(), lengths, unweighted)


# The square of a larger error, times the slope of a clamped exponential, would leave float32.
MAX_SQUARED_ERROR_ROOT = 1e18


# ---- the difference of the two ----


def _difference(scores: Tensor) -> Tensor:
    return scores[:, 0] - scores[:, 1]


def _delta(pairs: PairScores, divergence: ScoreFunction) -> Tensor:
    return _difference(divergence(pairs.log_ratios))


def _delta_per_token(pairs: PairScores, divergence: ScoreFunction) -> Tensor:
    return _difference(length_mean(divergence(pairs.log_ratios), pairs.lengths))


def sigmoid_loss(pairs: PairScores, *, beta: float, divergence: ScoreFunction = reverse_kl_scores) -> Tensor:
    """Raise the chosen transcript above the rejected one, relative to a frozen policy: DPO.

        loss[b] = -log sigmoid(beta * delta[b])

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0; larger keeps the policy closer to the frozen one.
        divergence: from log-ratios to scores.

    Returns:
        (B,) >= 0.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7. As in TRL without label smoothing, which
    `robust_loss` has.
    """
    return -F.logsigmoid(beta * _delta(pairs, divergence))


def hinge_loss(pairs: PairScores, *, beta: float, divergence: ScoreFunction = reverse_kl_scores) -> Tensor:
    """Push the margin up to 1 / beta and no further.

        loss[b] = max(0, 1 - beta * delta[b])

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0; 1 / beta is the wanted margin in nats.
        divergence: from log-ratios to scores.

    Returns:
        (B,) >= 0.

    Source: Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425, section 2; relative to the frozen policy as in
    Liu et al. 2023 (RSO), arXiv:2309.06657.
    """
    return torch.relu(1 - beta * _delta(pairs, divergence))


def ipo_loss(pairs: PairScores, *, beta: float, divergence: ScoreFunction = reverse_kl_scores) -> Tensor:
    """Regress the margin per token onto a fixed target, so that no preference drives it to infinity.

        h[b]    = score[b, 0] / lengths[b, 0] - score[b, 1] / lengths[b, 1]
        loss[b] = (h[b] - 1 / (2 beta))^2

    The division by lengths is TRL's reading, not the equation's. An |error| above 1e18, which only an
    exponential divergence reaches, counts as 1e18 with gradient 0.

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0; the paper's tau.
        divergence: from log-ratios to scores.

    Returns:
        (B,) >= 0.

    Source: Azar et al. 2023, arXiv:2310.12036, eq. 17.
    """
    error = _delta_per_token(pairs, divergence) - 1 / (2 * beta)
    return error.clamp(-MAX_SQUARED_ERROR_ROOT, MAX_SQUARED_ERROR_ROOT).square()


def robust_loss(
    pairs: PairScores,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    divergence: ScoreFunction = reverse_kl_scores,
) -> Tensor:
    """DPO corrected for labels that are flipped at a known rate; its mean over such flips is the clean loss.

        x[b]    = beta * delta[b]
        loss[b] = (-(1 - e) log sigmoid(x[b]) + e log sigmoid(-x[b])) / (1 - 2e),  e = label_smoothing

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0.
        label_smoothing: 0 <= e < 0.5, the share of pairs whose order is wrong.
        divergence: from log-ratios to scores.

    Returns:
        (B,), negative where a large margin is disbelieved.

    Source: Chowdhury et al. 2024, arXiv:2403.00409, section 3.1.
    """
    x = beta * _delta(pairs, divergence)
    as_labelled = -F.logsigmoid(x)
    flipped = -F.logsigmoid(-x)
    return ((1 - label_smoothing) * as_labelled - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def exo_pair_loss(
    pairs: PairScores, *, beta: float, label_smoothing: float, divergence: ScoreFunction = reverse_kl_scores
) -> Tensor:
    """Reverse KL between the policy's belief about the pair and the smoothed label.

        p[b]    = (sigmoid(beta * delta[b]), sigmoid(-beta * delta[b]))
        loss[b] = KL(p[b] || (1 - e, e)),  e = label_smoothing

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0.
        label_smoothing: 0 < e < 0.5; the paper takes 1e-3. At 0 the loss is infinite.
        divergence: from log-ratios to scores.

    Returns:
        (B,) >= 0, at most -log e.

    Source: Ji et al. 2024 (EXO), arXiv:2402.00856, eq. 16.
    """
    x = beta * _delta(pairs, divergence)
    chosen = torch.sigmoid(x) * (F.logsigmoid(x) - math.log1p(-label_smoothing))
    rejected = torch.sigmoid(-x) * (F.logsigmoid(-x) - math.log(label_smoothing))
    return chosen + rejected


def discopop_loss(
    pairs: PairScores,
    *,
    beta: float,
    discopop_tau: float = 0.05,
    divergence: ScoreFunction = reverse_kl_scores,
) -> Tensor:
    """A logistic loss that turns exponential where the margin is positive.

        x[b]    = beta * delta[b],  m[b] = sigmoid(x[b] / tau)
        loss[b] = -(1 - m[b]) log sigmoid(x[b]) + m[b] exp(-x[b])

    exp(-x) alone overflows where the margin is very negative; m exp(-x) = exp(log sigmoid(x / tau) - x) does
    not. For tau <= 1 it is at most 1; for tau > 1 the formula itself grows like exp(|x| (1 - 1 / tau)), and
    float32 ends where that exponent passes 88.

    The formula is not monotone: at tau = 0.05 its slope is positive for -0.12 < x < 0.07, with a local
    minimum at the lower end. Training starts at x = 0, and its first steps narrow the margin.

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0.
        discopop_tau: > 0; the paper takes 0.05.
        divergence: from log-ratios to scores.

    Returns:
        (B,) >= 0.

    Source: Lu et al. 2024 (DiscoPOP), arXiv:2406.08414, eq. 5.
    """
    x = beta * _delta(pairs, divergence)
    logistic = -F.logsigmoid(x) * torch.sigmoid(-x / discopop_tau)
    exponential = torch.exp(F.logsigmoid(x / discopop_tau) - x)
    return logistic + exponential


def sigmoid_norm_loss(pairs: PairScores, *, beta: float, divergence: ScoreFunction = reverse_kl_scores) -> Tensor:
    """DPO on scores per token, so that a long transcript does not weigh more than a short one.

        h[b]    = score[b, 0] / lengths[b, 0] - score[b, 1] / lengths[b, 1]
        loss[b] = -log sigmoid(beta * h[b])

    Args:
        pairs: (B, 2) log-probabilities under both policies.
        beta: > 0; larger than for `sigmoid_loss`, since h is smaller by a length (the source takes 5).
        divergence: from log-ratios to scores.

    Returns:
        (B,) >= 0.

    Source: Lambert et al. 2024 (Tulu 3), arXiv:2411.15124, its length-normalised DPO.
    """
    return -F.logsigmoid(beta * _delta_per_token(pairs, divergence))


# ---- each transcript by itself ----


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


# ---- quantile by quantile ----


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
    chosen, rejected = _chosen_and_rejected(pairs)
    return _smoothed_logistic(beta * (chosen - _of_the_same_rank(rejected, chosen)), label_smoothing)
