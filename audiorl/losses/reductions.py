"""From tokens to transcripts and from pairs to one number: the only place where losses divide by a count.

Counts are passed in, because the mean of an optimizer step is not the mean of its micro-batches' means:
whoever knows the pairs or tokens of all accumulation steps and processes hands that count over, and the
parts then add up to the whole. A `keep` mask selects and never multiplies: a product would carry a NaN out
of the padding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from audiorl.losses.settings import LossSettingError, finite_number

HALF_PRECISION = (torch.float16, torch.bfloat16)


def _kept_sum(token_logps: Tensor, keep: Tensor) -> Tensor:
    dtype = torch.float32 if token_logps.dtype in HALF_PRECISION else token_logps.dtype
    return torch.where(keep, token_logps, 0.0).sum(-1, dtype=dtype)


def sequence_sum(token_logps: Tensor, keep: Tensor) -> Tensor:
    """Log-probability of each hypothesis: the sum over its kept tokens.

        out[b, k] = sum over t with keep[b, k, t] of token_logps[b, k, t]

    Args:
        token_logps: (B, K, T) nats; entries outside `keep` may hold anything, NaN included.
        keep: (B, K, T) bool, True where a token counts.

    Returns:
        (B, K) nats; float32 where `token_logps` is in half precision, otherwise its dtype. 0 where nothing
        is kept.

    Source: the chain rule of probability.
    """
    return _kept_sum(token_logps, keep)


def length_desensitized_sum(token_logps: Tensor, keep: Tensor, ld_alpha: float) -> Tensor:
    """Log-probability of each transcript of a pair, with the longer one's surplus tokens weighted down.

        shared[b]  = min(kept tokens of chosen b, kept tokens of rejected b)
        out[b, k]  = sum of the first shared[b] kept tokens + ld_alpha * sum of the others

    Args:
        token_logps: (B, 2, T) nats; entries outside `keep` may hold anything, NaN included.
        keep: (B, 2, T) bool, True where a token counts.
        ld_alpha: 0 ... 1; 1 is `sequence_sum`, 0 leaves the surplus out.

    Returns:
        (B, 2) nats.

    Source: Liu et al. 2024 (LD-DPO), arXiv:2409.06411, the definition of its modified likelihood.
    """
    position = keep.cumsum(-1)
    shared = keep.sum(-1).amin(-1)[:, None, None]
    common = _kept_sum(token_logps, keep & (position <= shared))
    surplus = _kept_sum(token_logps, keep & (position > shared))
    return common + ld_alpha * surplus


def sequence_reduction(ld_alpha: float | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Pick, once, how token log-probabilities become those of transcripts.

    Args:
        ld_alpha: None for `sequence_sum`; 0 ... 1 for `length_desensitized_sum`.

    Returns:
        A function (token_logps (B, 2, T), keep (B, 2, T)) -> (B, 2).

    Raises:
        LossSettingError: `ld_alpha` is no number or outside 0 ... 1.
    """
    if ld_alpha is None:
        return sequence_sum
    weight = finite_number("ld_alpha", ld_alpha)
    if not 0.0 <= weight <= 1.0:
        raise LossSettingError(
            f"ld_alpha weights the longer transcript's surplus tokens, so it is 0 ... 1; got {ld_alpha!r}. "
            "Set 1.0 for full weight, 0.0 to leave the surplus out, or None to switch LD-DPO off."
        )
    return partial(length_desensitized_sum, ld_alpha=weight)


def length_mean(scores: Tensor, lengths: Tensor) -> Tensor:
    """Scores per token: `scores` (B, 2) divided by `lengths` (B, 2); an empty transcript has length 1."""
    return scores / lengths.clamp(min=1)


def _divide(total: Tensor, count: Tensor | int) -> Tensor:
    return total / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


def pair_mean(loss: Tensor, num_pairs: Tensor | int | None = None) -> Tensor:
    """Mean of a loss over pairs.

        out = sum_b loss[b] / max(num_pairs, 1)

    Args:
        loss: (B,) one value for each pair.
        num_pairs: pairs of the whole optimizer step, over accumulation steps and processes; default B.

    Returns:
        Scalar; 0, still part of the graph, when B = 0.

    Source: Rafailov et al. 2023, arXiv:2305.18290, the expectation of eq. 7.
    """
    return _divide(loss.sum(), len(loss) if num_pairs is None else num_pairs)


def token_mean(loss: Tensor, num_tokens: Tensor | int) -> Tensor:
    """Mean over tokens of a loss that is already summed over the tokens of each transcript.

        out = sum_b loss[b] / max(num_tokens, 1)

    Args:
        loss: (B,) one sum for each pair.
        num_tokens: tokens behind all those sums: of this batch, or of the whole optimizer step.

    Returns:
        Scalar.

    Source: the token-level cross-entropy of supervised training.
    """
    return _divide(loss.sum(), num_tokens)
