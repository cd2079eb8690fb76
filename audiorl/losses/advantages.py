"""Advantages: how much better a hypothesis is than the others of its clip.

All functions read (rewards (B, K), valid (B, K)) and return (B, K): 0 where `valid` is False, because no reward
scored the hypothesis or its clip is a placeholder, and 0 for all of a group whose valid rewards are equal, since
nothing can be learned from it. For "batch", pass the clips of all processes; the others look at one clip at a time.

A constant added to the rewards of a clip changes none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from audiorl.losses.reductions import (
    HALF_PRECISION,
    leave_one_out_difference,
    scaled_by_deviation,
    valid_deviation,
    valid_mean,
)

AdvantageFunction = Callable[[Tensor, Tensor], Tensor]


def mean_advantages(rewards: Tensor, valid: Tensor) -> Tensor:
    """Reward minus the mean of its group.

        A[b, k] = r[b, k] - mean_b,  mean_b over the valid rewards of clip b

    Args:
        rewards: (B, K); entries outside `valid` may hold anything, NaN included.
        valid: (B, K) bool.

    Returns:
        (B, K), of mean 0 over the valid entries of a clip.

    Source: Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783; TRL's `scale_rewards="none"`.
    """
    rewards = _cleared(rewards, valid)
    moving = valid & ~zero_variance(rewards, valid)[:, None]
    return torch.where(moving, rewards - valid_mean(rewards, valid), 0.0)


def group_advantages(rewards: Tensor, valid: Tensor) -> Tensor:
    """Z-score of a reward within its group.

        A[b, k] = (r[b, k] - mean_b) / (std_b + 1e-4),  std_b with n - 1 in the divisor

    Args and returns as `mean_advantages`; the valid entries of a clip have standard deviation 1 where 1e-4 is
    negligible.

    Source: Shao et al. 2024 (GRPO), arXiv:2402.03300, section 4.1.2; 1e-4 and n - 1 are TRL's.
    """
    return scaled_by_deviation(mean_advantages(rewards, valid), valid_deviation(_cleared(rewards, valid), valid))


def batch_advantages(rewards: Tensor, valid: Tensor) -> Tensor:
    """Reward minus the mean of its group, over the standard deviation of the batch.

        A[b, k] = (r[b, k] - mean_b) / (std + 1e-4),  std over all valid rewards, with n - 1 in the divisor

    Easy and hard clips keep their proportions, which a standard deviation of each group levels.

    Args and returns as `mean_advantages`; B counts the clips of all processes.

    Source: Liu et al. 2025 (Lite PPO), arXiv:2508.08221; TRL's `scale_rewards="batch"`.
    """
    flat = _cleared(rewards, valid).reshape(1, -1)
    return scaled_by_deviation(mean_advantages(rewards, valid), valid_deviation(flat, valid.reshape(1, -1)))


def rloo_advantages(rewards: Tensor, valid: Tensor) -> Tensor:
    """Reward minus the mean of the others in its group: a baseline that does not contain the reward itself.

        A[b, k] = r[b, k] - mean over valid j != k of r[b, j]

    It is `mean_advantages` times n / (n - 1) for n valid rewards, and makes the policy gradient unbiased.

    Args and returns as `mean_advantages`; 0 for the only valid entry of a clip.

    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al. 2024,
    arXiv:2402.14740, section 3.2.
    """
    return leave_one_out_difference(mean_advantages(rewards, valid), valid)


def decoupled_advantages(parts: Tensor, weights: Sequence[float], valid: Tensor) -> Tensor:
    """Each reward normalised within its group, then weighed and summed, then normalised over the step.

        z_i[b, k] = (r_i[b, k] - mean_b) / (std_b + 1e-4),  mean and deviation over the hypotheses that reward i scored
        s[b, k] = sum_i w_i z_i[b, k]
        A[b, k] = (s[b, k] - mean) / (std + 1e-4),  over all valid hypotheses

    Summed first, (1, 0) and (0, 1) become one advantage, and a reward with a wide spread hides the others; here every
    reward has its say in proportion to its weight.

    Args:
        parts: (B, K, R) each reward by itself; NaN where it abstained.
        weights: R numbers; 0 for a reward that is only logged.
        valid: (B, K) bool, hypotheses that any reward of non-zero weight scored; B counts the clips of all processes.

    Returns:
        (B, K), 0 outside `valid`.

    Source: Liu et al. 2026 (GDPO), arXiv:2601.05242; the 1e-4 are those of TRL's
    `multi_objective_aggregation="normalize_then_sum"`, with which it agrees.
    """
    total = torch.zeros_like(parts[..., 0])
    for part, weight in zip(parts.unbind(-1), weights, strict=True):
        known = valid & ~part.isnan()
        total = total + weight * _deviations(_cleared(part, known), known)
    flat = _deviations(total.reshape(1, -1), valid.reshape(1, -1))
    return flat.reshape(valid.shape)


def _deviations(rewards: Tensor, valid: Tensor) -> Tensor:
    """(B, K) z-scores of the valid entries of each row, 0 elsewhere."""
    differences = torch.where(valid, rewards - valid_mean(rewards, valid), 0.0)
    return scaled_by_deviation(differences, valid_deviation(rewards, valid))


# TRL's names of `multi_objective_aggregation`.
SUM_THEN_NORMALIZE, NORMALIZE_THEN_SUM = "sum_then_normalize", "normalize_then_sum"

# "group", "batch" and "none" are TRL's values of `scale_rewards` with TRL's meaning; "mean" says what "none" does.
ADVANTAGES: dict[str, AdvantageFunction] = {
    "group": group_advantages,
    "batch": batch_advantages,
    "none": mean_advantages,
    "mean": mean_advantages,
    "rloo": rloo_advantages,
}


def zero_variance(rewards: Tensor, valid: Tensor | None = None) -> Tensor:
    """Which groups teach nothing: their valid rewards are all equal, or there is at most one.

    Args:
        rewards: (B, K); entries outside `valid` may hold anything, NaN included.
        valid: (B, K) bool; default all.

    Returns:
        (B,) bool. True as well for a clip without a valid reward: leave placeholders out of a share by
        `GroupBatch.valid`.
    """
    if valid is None:
        valid = torch.ones_like(rewards, dtype=torch.bool)
    highest = torch.where(valid, rewards, -torch.inf).amax(-1)
    lowest = torch.where(valid, rewards, torch.inf).amin(-1)
    return highest <= lowest


def _cleared(rewards: Tensor, valid: Tensor) -> Tensor:
    rewards = rewards.float() if rewards.dtype in HALF_PRECISION else rewards
    return torch.where(valid, rewards, 0.0)
