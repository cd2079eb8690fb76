"""Scores of one label, in float64 loops."""

from __future__ import annotations

import math
from collections.abc import Sequence


def label_statistics(logits: Sequence[float], label: int, temperature: float) -> tuple[float, float, float, bool]:
    """Log-probability, entropy, mean scaled logit, and whether no label is likelier."""
    scaled = [logit / temperature for logit in logits]
    total = sum(math.exp(z) for z in scaled)
    probabilities = [math.exp(z) / total for z in scaled]
    entropy = -sum(p * math.log(p) for p in probabilities)
    likelier = sum(1 for p in probabilities if p > probabilities[label])
    return math.log(probabilities[label]), entropy, sum(scaled) / len(scaled), likelier == 0
