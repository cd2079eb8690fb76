"""Terms added to a loss: the likelihood of true transcripts, and the orthogonality of an adapter's factors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from audiorl.losses.reductions import counted_mean, sequence_sum


def supervised_loss(
    logps: Tensor,
    keep: Tensor,
    num_tokens: Tensor | int,
    *,
    mean_logps: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of transcripts, a mean over tokens.

        out = -sum over kept tokens of ((1 - e) logps + e mean_logps) / max(num_tokens, 1),  e = label_smoothing

    Args:
        logps: (B, K, T) nats, with graph; entries outside `keep` may hold anything, NaN included. K = 1 for the true
            transcript of each clip.
        keep: (B, K, T) bool, True where a token counts.
        num_tokens: kept tokens of the whole optimizer step, over accumulation steps and processes: parts then add up.
        mean_logps: (B, K, T) nats, mean log-probability over the vocabulary, with graph; read where `label_smoothing`
            is above 0.
        label_smoothing: 0 ... below 1, the share of each token's target that is spread evenly over the vocabulary.

    Returns:
        Scalar >= 0, nats for a token; multiply it by `sft_weight`.

    Raises:
        ValueError: labels are to be smoothed, and there is no `mean_logps`.

    Source: the token-level cross-entropy of supervised training; smoothing, Szegedy et al. 2016, arXiv:1512.00567,
    section 7, with transformers' meaning of the share.
    """
    if label_smoothing == 0.0:
        return counted_mean(-sequence_sum(logps, keep), num_tokens)
    if mean_logps is None:
        raise ValueError(
            f"label_smoothing={label_smoothing:g} needs mean_logps, and the family that scored has none: it scores a "
            "transcript as a whole. Set label_smoothing_factor to 0."
        )
    target = (1.0 - label_smoothing) * logps + label_smoothing * mean_logps
    return counted_mean(-sequence_sum(target, keep), num_tokens)


def orthogonality(factors: Sequence[Tensor]) -> Tensor:
    """How far the rows of each factor are from being orthonormal, averaged over factors.

        loss = mean over M of || M M^T - I ||_F

    Args:
        factors: matrices (r, n) of any number and shapes, one for each side of each adapted layer: P^T and Q of the
            change P diag(E) Q.

    Returns:
        Scalar in the factors' precision, at least float32; 0 for no factors.

    Source: Zhang et al. 2023 (AdaLoRA), arXiv:2303.10512, eq. 4; the norm is not squared and the mean is taken, as in
    PEFT, so that PEFT's weights mean the same here.
    """
    alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for factor in factors:
        alike[factor.shape].append(factor)
    if not alike:
        return torch.zeros(())
    total = sum(_distances(torch.stack(group)).sum() for group in alike.values())
    return torch.as_tensor(total) / len(factors)


def _distances(factors: Tensor) -> Tensor:
    """(N, r, n) -> (N,): a few large products instead of hundreds of small ones."""
    factors = factors.to(torch.promote_types(factors.dtype, torch.float32))
    identity = torch.eye(factors.shape[1], dtype=factors.dtype, device=factors.device)
    return torch.linalg.matrix_norm(factors @ factors.mT - identity)
