"""From tokens to transcripts, from pairs or hypotheses to one number: the only place where losses divide by a count.

Counts are passed in, because the mean of an optimizer step is not the mean of its micro-batches' means:
whoever knows the pairs or tokens of all accumulation steps and processes hands that count over, and the
parts then add up to the whole. A `keep` mask selects and never multiplies: a product would carry a NaN out
of the padding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from audiorl.losses.settings import LossSettingError, finite_number

if TYPE_CHECKING:
    from audiorl.losses.policy_losses import PolicyCounts

PolicyReduction = Literal["hypotheses", "tokens", "budget", "clips"]
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


def sequence_mean(token_values: Tensor, keep: Tensor) -> Tensor:
    """Mean of each hypothesis over its kept tokens.

        out[b, k] = sum over t with keep[b, k, t] of token_values[b, k, t] / max(number of them, 1)

    Args:
        token_values: (B, K, T); entries outside `keep` may hold anything, NaN included.
        keep: (B, K, T) bool, True where a token counts.

    Returns:
        (B, K), 0 where nothing is kept.

    Source: Shao et al. 2024 (GRPO), arXiv:2402.03300, the inner mean of eq. 3.
    """
    return _divide(_kept_sum(token_values, keep), keep.sum(-1))


def distinct_mean(values: Tensor, copies: Tensor, counted: Tensor) -> Tensor:
    """Mean over a list whose repetitions count as one.

        out[b, 0] = sum_k values[b, k] / copies[b, k] / (sum_k 1 / copies[b, k]),  over k with counted[b, k]

    Args:
        values: (B, K).
        copies: (B, K) >= 1, how often each entry stands among those that count.
        counted: (B, K) bool.

    Returns:
        (B, 1), 0 where nothing counts.
    """
    weights = torch.where(counted, copies.to(values.dtype).reciprocal(), 0.0)
    total = weights.sum(-1, keepdim=True)
    return torch.where(counted, weights * values, 0.0).sum(-1, keepdim=True) / torch.where(total > 0, total, 1.0)


def counted_mean(loss: Tensor, count: Tensor | int) -> Tensor:
    """Mean of values over a count that is known elsewhere: clips, hypotheses or tokens of the optimizer step.

        out = sum of loss / max(count, 1)

    Args:
        loss: any shape, one sum for each clip, hypothesis or token.
        count: of the whole optimizer step, over accumulation steps and processes.

    Returns:
        Scalar; parts of a step add up to the whole.
    """
    return _divide(loss.sum(), count)


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


def policy_reduction(
    reduction: PolicyReduction, max_completion_length: int | None = None
) -> Callable[[Tensor, Tensor, PolicyCounts], Tensor]:
    """Pick, once, how the values of a policy loss become one number.

        "hypotheses": sum over hypotheses of the mean over its tokens / hypotheses of the step
        "tokens":     sum over tokens / tokens of the step
        "budget":     sum over tokens / (hypotheses of the step * max_completion_length)
        "clips":      sum over hypotheses of the mean over its tokens / clips of the step

    Args:
        reduction: one of the four.
        max_completion_length: tokens, read by "budget".

    Returns:
        A function (values (B, K, T) or (B, K, 1), keep (B, K, T), counts) -> scalar. A value of a hypothesis stands
        for each of its tokens. Parts of a step add up to the whole.

    Source: each is the normalisation of a paper, named at the loss in `policy_losses.py`.
    """

    def reduce(values: Tensor, keep: Tensor, counts: PolicyCounts) -> Tensor:
        values = values.expand_as(keep)
        if reduction in ("hypotheses", "clips"):
            return counted_mean(sequence_mean(values, keep), getattr(counts, reduction))
        count = counts.tokens if reduction == "tokens" else counts.hypotheses * (max_completion_length or 1)
        return counted_mean(sequence_sum(values, keep), count)

    return reduce


def valid_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of the valid entries of each row.

    Args:
        values: (B, K), finite.
        valid: (B, K) bool.

    Returns:
        (B, 1), 0 where nothing is valid.
    """
    return _divide(torch.where(valid, values, 0.0).sum(-1, keepdim=True), valid.sum(-1, keepdim=True))


def valid_deviation(values: Tensor, valid: Tensor) -> Tensor:
    """Standard deviation of the valid entries of each row.

        out[b, 0] = sqrt(sum over valid k of (values[b, k] - mean_b)^2 / (n_b - 1))

    Args:
        values: (B, K), finite.
        valid: (B, K) bool.

    Returns:
        (B, 1), 0 where fewer than two are valid.
    """
    squares = torch.where(valid, values - valid_mean(values, valid), 0.0).square().sum(-1, keepdim=True)
    return _divide(squares, valid.sum(-1, keepdim=True) - 1).sqrt()


def scaled_by_deviation(differences: Tensor, deviation: Tensor) -> Tensor:
    """`differences` (B, K) over `deviation` + 1e-4, (B, 1) or (1, 1); the 1e-4 is TRL's, and bounds the quotient."""
    return differences / (deviation + 1e-4)


def leave_one_out_difference(differences: Tensor, valid: Tensor) -> Tensor:
    """Turn differences to the mean of all into differences to the mean of the others.

        out[b, k] = differences[b, k] n_b / (n_b - 1),  because mean of the others = (n mean - r) / (n - 1)

    Args:
        differences: (B, K), 0 outside `valid`.
        valid: (B, K) bool.

    Returns:
        (B, K).
    """
    count = valid.sum(-1, keepdim=True)
    return _divide(differences * count, count - 1)
