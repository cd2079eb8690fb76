"""The rules of RAFT's cycles as pure functions: what is kept, which clips a cycle has, how fast it learns."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

# Keeps 0.1 * 30 = 3.0000000000000004 from being 4.
ROUNDING = 1e-9


def select_hypotheses(
    rewards: Tensor,
    eligible: Tensor,
    *,
    max_kept_per_clip: int = 1,
    keep_top_percent: float = 1.0,
    reward_threshold: float | None = None,
) -> Tensor:
    """Which hypotheses of a cycle are learnt from.

    1. Of each clip, the `max_kept_per_clip` best.
    2. Of these n, over all clips, the ceil(keep_top_percent * n) best.
    3. Of these, whatever has a reward of at least `reward_threshold`.

    Equal rewards go by order: the earlier clip, the earlier hypothesis.

    Args:
        rewards: (N, K) of N clips; entries outside `eligible` may hold anything, NaN included.
        eligible: (N, K) bool, False for hypotheses that may not be kept whatever their reward.
        max_kept_per_clip: >= 1.
        keep_top_percent: share, above 0 to 1.
        reward_threshold: None for none.

    Returns:
        (N, K) bool.

    Source: Dong et al. 2023 (RAFT), arXiv:2304.06767, algorithm 1, is rule 1 with one hypothesis for each clip; rules 2
    and 3 are the ranking over all samples and the threshold of later implementations.
    """
    values = torch.where(eligible, rewards, -torch.inf)
    rank = values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    best = eligible & (rank < max_kept_per_clip)
    order = torch.where(best, values, -torch.inf).flatten().argsort(dim=0, descending=True, stable=True)
    top = torch.zeros_like(best).flatten()
    top[order[: math.ceil(keep_top_percent * int(best.sum()) - ROUNDING)]] = True
    kept = best & top.view_as(best)
    return kept if reward_threshold is None else kept & (values >= reward_threshold)


def clips_of_cycle(num_rows: int, count: int, cycle: int, seed: int) -> list[int]:
    """The `count` <= `num_rows` rows that a cycle samples, in an order that is another one in each cycle.

    Cycles walk through the rows in a shuffled order and shuffle anew where fewer than `count` are left of it, so that
    a cycle has no row twice.
    """
    windows = num_rows // count
    order = np.random.default_rng([seed, cycle // windows]).permutation(num_rows)
    start = cycle % windows * count
    return order[start : start + count].tolist()


def cycle_factor(step: int, *, steps_per_cycle: int, warmup_steps: int, decay: float, floor: float) -> float:
    """What the learning rate is multiplied by at an optimizer step.

        factor = max(decay ** cycle, floor) * min(1, step / warmup_steps),  cycle = step // steps_per_cycle

    Args:
        step: >= 0, steps that lie behind.
        warmup_steps: >= 0, over the whole run.
        decay: above 0 to 1.
        floor: 0 to 1, the smallest learning rate as a share of the first.
    """
    warm = 1.0 if step >= warmup_steps else step / warmup_steps
    return max(decay ** (step // steps_per_cycle), floor) * warm
