"""KTO and APO-zero of single transcripts in float64, written from the papers; nothing here is imported from audiorl."""

from __future__ import annotations

import math
from collections.abc import Sequence


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def reference_point(policy: Sequence[float], frozen: Sequence[float]) -> float:
    """z_0 of arXiv:2402.01306: max(0, mean of log pi(y' | x) / pi_ref(y' | x)) over mismatched pairs; 0 without any."""
    total = 0.0
    for ours, theirs in zip(policy, frozen, strict=True):
        total += ours - theirs
    return max(0.0, total / len(policy)) if policy else 0.0


def kto(
    policy: Sequence[float],
    frozen: Sequence[float],
    desirable: Sequence[bool],
    z0: float,
    beta: float,
    weights: tuple[float, float],
) -> list[float]:
    """lambda_y - v(x, y) of arXiv:2402.01306, v = lambda_y sigmoid(+-beta (r - z_0)); one value for each transcript."""
    losses = []
    for ours, theirs, good in zip(policy, frozen, desirable, strict=True):
        r = ours - theirs
        if good:
            losses.append(weights[0] - weights[0] * sigmoid(beta * (r - z0)))
        else:
            losses.append(weights[1] - weights[1] * sigmoid(beta * (z0 - r)))
    return losses


def apo_zero(
    policy: Sequence[float],
    frozen: Sequence[float],
    desirable: Sequence[bool],
    beta: float,
    weights: tuple[float, float],
) -> list[float]:
    """The two terms of APO-zero, arXiv:2408.06266, each for its own kind of transcript."""
    losses = []
    for ours, theirs, good in zip(policy, frozen, desirable, strict=True):
        risen = sigmoid(beta * (ours - theirs))
        losses.append(weights[0] * (1 - risen) if good else weights[1] * risen)
    return losses
