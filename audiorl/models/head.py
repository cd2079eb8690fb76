"""From hidden states to what the losses need: log-probability, entropy and two statistics of each kept token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from trl.kernels import ChunkedLogProbFunction

from audiorl.batch import GroupScores

# Width of a vocabulary tile of TRL's fused head: tokens x 32768 logits at a time instead of tokens x V.
VOCABULARY_CHUNK = 32768
# Rows of (tokens, V) turned into probabilities at once for the entropy, which needs no gradient.
ENTROPY_CHUNK = 64


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
    weight = head.weight.full_tensor() if isinstance(head.weight, DTensor) else head.weight
    # TRL's fused head holds no (tokens, V) logits but computes them twice: worth it on a GPU, where memory is short;
    # on a CPU it took 1.3 times as long and no less memory.
    score = _fused if rows.device.type != "cpu" else _plain
    logps, entropy, mean_logits, is_top1 = score(rows, weight, head.bias, labels, temperature)

    def place(values: Tensor) -> Tensor:
        return values.new_zeros(keep.shape).masked_scatter(keep, values)

    return GroupScores(place(logps), place(entropy), place(mean_logits), place(is_top1), keep, states)


def at_least_float32(logits: Tensor) -> Tensor:
    """Half precision is too coarse for a softmax over a vocabulary; float64 stays what it is."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


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
    return logps, entropy.detach(), mean_logits, is_top1


def _plain(rows: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, temperature: float):
    logits = at_least_float32(nn.functional.linear(rows, weight, bias)) / temperature
    mean_logits = logits.detach().mean(-1)
    log_probabilities = torch.log_softmax(logits, -1)
    logps = log_probabilities.gather(-1, labels[:, None]).squeeze(-1)
    detached = log_probabilities.detach()
    is_top1 = detached.argmax(-1) == labels
    entropy = [-(chunk.exp() * chunk).sum(-1) for chunk in detached.split(ENTROPY_CHUNK)]
    return logps, torch.cat(entropy), mean_logits, is_top1
