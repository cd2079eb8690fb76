"""From hidden states to what losses need: log-probability, entropy, mean logit, top-1 and mean log-probability."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from trl.kernels import ChunkedLogProbFunction

from audiorl.batch import GroupScores

# Width of a vocabulary tile of TRL's fused head: tokens x 32768 logits at a time instead of tokens x V.
VOCABULARY_CHUNK = 32768
# Rows of (tokens, V) logits that the plain head passes over at once: few enough to stay in a CPU's cache.
TOKEN_CHUNK = 16


def score_tokens(
    hidden: Tensor, head: nn.Linear, targets: Tensor, keep: Tensor, states: Tensor, temperature: float
) -> GroupScores:
    """Score the kept tokens; only their positions are projected to the vocabulary.

    Args:
        hidden: (B, K, T, D) decoder states.
        head: D -> V projection.
        targets: (B, K, T) the token to be predicted at each position.
        keep: (B, K, T) bool.
        states: passed through to the result.
        temperature: logits are divided by it.
    """
    rows, labels = hidden[keep], targets[keep]
    # the head is called, not its weight used beside it, so that the wrappers' hooks fire
    if use_fused_head(head, rows.device):
        answer_scores(head)
        logps, entropy, mean_logits, is_top1, mean_logps = head(rows, score_labels=labels, temperature=temperature)
    else:
        logps, entropy, mean_logits, is_top1, mean_logps = TokenStatistics.apply(head(rows), labels, temperature)

    def place(values: Tensor) -> Tensor:
        return values.new_zeros(keep.shape).masked_scatter(keep, values)

    return GroupScores(
        logps=place(logps),
        entropy=place(entropy),
        mean_logits=place(mean_logits),
        is_top1=place(is_top1),
        keep=keep,
        states=states,
        mean_logps=place(mean_logps),
    )


def compare_rows(
    rows: Tensor, project: Callable[[Tensor], Tensor], compare: Callable[[Tensor, slice], Tensor], chunk: int
) -> Tensor:
    """(N, M): `compare(project(rows), place)` of `chunk` rows at a time, whose logits are not kept for the backward."""

    def some(part: Tensor, place: slice) -> Tensor:
        return compare(project(part), place)

    places = [slice(start, start + chunk) for start in range(0, max(len(rows), 1), chunk)]
    return torch.cat([checkpoint(some, rows[place], place, use_reentrant=False) for place in places])


def use_fused_head(head: nn.Module, device: torch.device) -> bool:
    """Whether TRL's fused head scores here: it holds no (tokens, V) logits but computes them twice.

    Worth it on a GPU, where memory is short; on a CPU it took 1.3 times as long and no less memory. It reads the
    weight by itself, so a head that is more than a projection (an adapter on it) is called instead.
    """
    return device.type != "cpu" and isinstance(head, nn.Linear)


def answer_scores(head: nn.Linear) -> None:
    """Teach a head's forward the keyword `score_labels`; without it the forward is the class's own.

    FSDP gathers a weight in the forward of its module only, and scatters its gradient where it was gathered so.
    """
    if getattr(head.forward, "answers_scores", False):
        return

    def forward(
        self: nn.Linear, rows: Tensor, *, score_labels: Tensor | None = None, temperature: float = 1.0
    ) -> Tensor | tuple[Tensor, ...]:
        if score_labels is None:
            return type(self).forward(self, rows)
        return _fused(rows, self.weight, self.bias, score_labels, temperature)

    forward.answers_scores = True  # type: ignore[attr-defined]
    head.forward = types.MethodType(forward, head)  # type: ignore[method-assign]


def scaled_logits(logits: Tensor, temperature: float) -> Tensor:
    """Logits over temperature, in float32 or float64: half precision is too coarse for a softmax over a vocabulary."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if temperature == 1.0 else logits / temperature


def _fused(rows: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, temperature: float):
    logps, entropy, _, mean_logits, is_top1 = ChunkedLogProbFunction.apply(
        rows,
        weight,
        bias,
        labels,
        temperature,
        VOCABULARY_CHUNK,
        None,
        1.0,
        ("entropy", "mean_logits", "is_top1"),
    )
    mean_logps = _mean_logit(rows, weight, bias, temperature) - _label_logit(rows, weight, bias, labels, temperature)
    return logps, entropy, mean_logits, is_top1, mean_logps + logps


def _mean_logit(rows: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """(N,) mean logit over the vocabulary, with gradient: the logits are linear, so their mean is one projection."""
    offset = 0.0 if bias is None else bias.float().mean()
    return (rows.float() @ weight.mean(0, dtype=torch.float32) + offset) / temperature


def _label_logit(rows: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, temperature: float) -> Tensor:
    """(N,) logit of each label, with gradient."""
    offset = 0.0 if bias is None else bias.float()[labels]
    return ((rows.float() * weight[labels].float()).sum(-1) + offset) / temperature


class TokenStatistics(torch.autograd.Function):
    """Log-probability, entropy, mean logit, top-1 and mean log-probability of labels, from logits that are held once.

        z = logits / temperature
        logps[n] = z[n, label] - log sum_v exp z[n, v]
        entropy[n] = -sum_v p[n, v] log p[n, v], p = softmax(z)
        mean_logps[n] = mean_v log p[n, v]
        d logps[n] / d logits[n, v] = ([v = label] - p[n, v]) / temperature
        d entropy[n] / d logits[n, v] = -p[n, v] (log p[n, v] + entropy[n]) / temperature
        d mean_logps[n] / d logits[n, v] = (1 / V - p[n, v]) / temperature

    `log_softmax` of all logits and `gather` would hold two more copies of them, in float32, and every figure
    would pass over all of them; here a few rows at a time are read, while they are in the cache. `logps`, `entropy`
    and `mean_logps` have a gradient; one that is only logged costs nothing in `backward`. The gradient is written over
    the logits, so `backward` runs once for each forward; where `retain_graph=True` asks for a second one, autograd
    notices the changed logits and raises.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, ...]:
        # written in place: results kept from each chunk would lie between what the chunks give back, and the allocator
        # of a CPU would take new memory for many of them
        kind = torch.promote_types(logits.dtype, torch.float32)
        logps, entropy, mean_logits, mean_logps = (logits.new_empty(len(logits), dtype=kind) for _ in range(4))
        is_top1 = torch.empty_like(labels, dtype=torch.bool)
        for start in range(0, len(logits), TOKEN_CHUNK):
            rows = slice(start, start + TOKEN_CHUNK)
            scaled, label = scaled_logits(logits[rows], temperature), labels[rows]
            log_probabilities = scaled.log_softmax(-1)
            logps[rows] = log_probabilities.gather(-1, label[:, None]).squeeze(-1)
            entropy[rows] = -log_probabilities.exp().mul_(log_probabilities).sum(-1)
            mean_logits[rows] = scaled.mean(-1)
            # log p is z less its log-sum-exp, and so is the mean of either
            mean_logps[rows] = mean_logits[rows] - scaled.gather(-1, label[:, None]).squeeze(-1) + logps[rows]
            is_top1[rows] = log_probabilities.argmax(-1) == label
        ctx.save_for_backward(logits, labels)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(mean_logits, is_top1)
        ctx.set_materialize_grads(False)
        return logps, entropy, mean_logits, is_top1, mean_logps

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logps: Tensor | None, grad_entropy: Tensor | None, *rest: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        logits, labels = ctx.saved_tensors
        grad_mean = rest[-1]
        if grad_logps is None and grad_entropy is None and grad_mean is None:
            return None, None, None
        for start in range(0, len(logits), TOKEN_CHUNK):
            rows = slice(start, start + TOKEN_CHUNK)
            scaled = scaled_logits(logits[rows], ctx.temperature)
            grad = _logps_gradient(scaled, labels[rows], *(_rows_of(g, rows) for g in (grad_logps, grad_mean)))
            if grad_entropy is not None:
                grad -= _entropy_slope(scaled) * grad_entropy[rows, None]
            if ctx.temperature != 1.0:
                grad /= ctx.temperature
            # the logits are the largest tensor of the step: their memory is used again
            logits[rows] = grad
        return logits, None, None


def _rows_of(gradient: Tensor | None, rows: slice) -> Tensor | None:
    return None if gradient is None else gradient[rows, None]


def _logps_gradient(scaled: Tensor, labels: Tensor, slope: Tensor | None, mean_slope: Tensor | None) -> Tensor:
    """(n, V): what `logps` and `mean_logps` with gradients of (n, 1), or none, hand to the scaled logits."""
    if slope is None and mean_slope is None:
        return torch.zeros_like(scaled)
    total = sum(part for part in (slope, mean_slope) if part is not None)
    grad = scaled.softmax(-1).mul_(-total)
    if slope is not None:
        grad.scatter_add_(-1, labels[:, None], slope)
    if mean_slope is not None:
        grad += mean_slope / scaled.shape[-1]
    return grad


def _entropy_slope(scaled: Tensor) -> Tensor:
    """p (log p + entropy), (n, V): minus the gradient of the entropy with respect to scaled logits."""
    log_probabilities = scaled.log_softmax(-1)
    probabilities = log_probabilities.exp()
    entropy = -(probabilities * log_probabilities).sum(-1, keepdim=True)
    return probabilities * (log_probabilities + entropy)
