"""Scores of labels, K of each clip from the clip's one distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from audiorl.batch import GroupBatch, GroupScores
from audiorl.models.head import at_least_float32


def label_scores(logits: Tensor, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
    """Score K labels of each clip by the clip's one distribution.

        logps[b, k] = log_softmax(logits[b] / temperature)[label[b, k]]

    Args:
        logits: (B, C).
        batch: its `tokens` hold one kept token for each hypothesis, the label.
        states: passed through to the result.
        temperature: > 0.

    Returns:
        Scores with T = 1; `entropy`, with gradient, and `mean_logits` are the clip's.
    """
    keep = batch.keep.any(-1, keepdim=True)  # (B, K, 1)
    labels = batch.tokens[..., 1:].gather(-1, batch.keep.int().argmax(-1, keepdim=True))
    labels = labels.masked_fill(~keep, 0).squeeze(-1)
    scaled = at_least_float32(logits) / temperature
    label_logps = scaled.log_softmax(-1)  # (B, C)
    entropy = -(label_logps.exp() * label_logps).sum(-1)

    def place(values: Tensor) -> Tensor:
        """(B,) or (B, K) -> (B, K, 1), zero where nothing counts."""
        each = values if values.ndim == 2 else values[:, None].expand_as(labels)
        return torch.where(keep, each[..., None], torch.zeros_like(each[..., None]))

    best = labels == scaled.argmax(-1, keepdim=True)
    mean_logits = scaled.detach().mean(-1)
    return GroupScores(
        place(label_logps.gather(-1, labels)), place(entropy), place(mean_logits), place(best), keep, states
    )
