"""What every preference loss is computed from: the log-probabilities of pairs of transcripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from audiorl.losses.reductions import sequence_sum


class PairScores(NamedTuple):
    """Log-probabilities of B (chosen, rejected) pairs; column 0 is chosen, column 1 rejected.

    All of them are float32 or float64: a sum of a hundred tokens has no digits left in half precision.
    """

    logps: Tensor  # (B, 2) nats, summed over kept tokens
    ref_logps: Tensor  # (B, 2) the same under the frozen policy; receives no gradient
    lengths: Tensor  # (B, 2) long, number of kept tokens
    unweighted_logps: Tensor | None = None  # (B, 2) `logps` before LD-DPO's weighting; None: `logps` has none

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
