"""The supervised term: maximum likelihood of the true transcripts, alone or beside a policy loss against forgetting."""

from __future__ import annotations

from torch import Tensor

from audiorl.losses.reductions import counted_mean, sequence_sum


def supervised_loss(logps: Tensor, keep: Tensor, num_tokens: Tensor | int) -> Tensor:
    """Negative log-likelihood of transcripts, a mean over tokens.

        out = -sum over kept tokens of logps / max(num_tokens, 1)

    Args:
        logps: (B, K, T) nats, with graph; entries outside `keep` may hold anything, NaN included. K = 1 for the true
            transcript of each clip.
        keep: (B, K, T) bool, True where a token counts.
        num_tokens: kept tokens of the whole optimizer step, over accumulation steps and processes: parts then add up.

    Returns:
        Scalar >= 0, nats for a token; multiply it by `sft_weight`.

    Source: the token-level cross-entropy of supervised training.
    """
    return counted_mean(-sequence_sum(logps, keep), num_tokens)
