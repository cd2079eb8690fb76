"""Slow float64 oracles of what adapters compute, written from the papers; nothing of audiorl is imported."""

from __future__ import annotations

import math


def orthogonality_by_loops(factors: list[list[list[float]]]) -> float:
    """AdaLoRA eq. 4 in PEFT's form: mean over factors of the Frobenius norm of M M^T - I, entry by entry."""
    norms = []
    for rows in factors:
        squares = 0.0
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                product = sum(x * y for x, y in zip(a, b, strict=True))
                squares += (product - (1.0 if i == j else 0.0)) ** 2
        norms.append(math.sqrt(squares))
    return sum(norms) / len(norms)
