"""What every policy loss is computed from, what it is divided by, and what comes out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyBatch(NamedTuple):
    """K sampled hypotheses for each of B clips; what lies outside `keep` may hold anything, NaN included.

    A family that scores a hypothesis as a whole has T = 1. A hypothesis whose `keep` is all False counts nowhere: a
    cut-off one that is masked, one that no reward scored, the placeholder of a dropped row.
    """

    logps: Tensor  # (B, K, T) nats under the policy, with graph
    old_logps: Tensor  # (B, K, T) under the policy that sampled; logps.detach() on the first inner update
    keep: Tensor  # (B, K, T) bool, True where a token counts
    advantages: Tensor  # (B, K), receive no gradient
    ref_logps: Tensor | None = None  # (B, K, T) under the frozen policy, receives no gradient; None when beta = 0
    entropy: Tensor | None = None  # (B, K, T) nats, for the entropy bonus, with graph; None without one
    copies: Tensor | None = None  # (B, K) long >= 1, `count_copies`; None unless the loss is mwer


class PolicyCounts(NamedTuple):
    """What the losses of one optimizer step are divided by: sums of `policy_counts` over micro-batches and
    processes."""

    clips: Tensor  # scalar: clips with at least one hypothesis that counts
    hypotheses: Tensor  # scalar: hypotheses that count
    tokens: Tensor  # scalar: kept tokens


class PolicyLoss(NamedTuple):
    """The scalar to call `backward` on, and what a log shows of it; all but `loss` is detached."""

    loss: Tensor  # scalar, already divided by the counts: parts add up to the whole step
    ratio: Tensor  # (B, K, T) pi / pi_old, the same for all tokens of a hypothesis at level "sequence"; 1 outside keep
    clipped_low: Tensor  # (B, K, T) bool: ratio below its lower bound where the advantage is negative
    clipped_high: Tensor  # (B, K, T) bool: ratio above its upper bound where the advantage is positive
    kl: Tensor | None  # (B, K, T) nats, k3 as it enters the loss; 0 outside keep; None when beta = 0


def policy_counts(keep: Tensor) -> PolicyCounts:
    """Counts of one micro-batch.

    Args:
        keep: (B, K, T) bool.

    Returns:
        Three scalars; add those of all micro-batches and processes field by field.
    """
    counted = keep.any(-1)
    return PolicyCounts(counted.any(-1).sum(), counted.sum(), keep.sum())


def count_copies(tokens: Tensor, keep: Tensor) -> Tensor:
    """How often each hypothesis stands in the list of its clip, itself included.

        copies[b, k] = number of j whose kept tokens are those of k, at the same positions

    Args:
        tokens: (B, K, T + 1) long, as in `GroupBatch`.
        keep: (B, K, T) bool over `tokens[..., 1:]`, of the tokens themselves: for a family with T = 1 the `keep` of
            the `GroupBatch`, not that of its scores. All False for a hypothesis that does not count.

    Returns:
        (B, K) long >= 1.
    """
    shown = torch.where(keep, tokens[..., 1:], -1)
    return (shown[:, :, None] == shown[:, None]).all(-1).sum(-1)
