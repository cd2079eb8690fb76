"""ORPO in float64 and higher precision, written from arXiv:2403.07691; nothing here is imported from audiorl."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext

DIGITS = 60


def log_odds(mean_logp: float) -> float:
    """log(p / (1 - p)) for p = exp(mean_logp) < 1, with 60 digits on the way; eq. 4."""
    with localcontext() as context:
        context.prec = DIGITS
        p = Decimal(mean_logp).exp()
        return float((p / (1 - p)).ln()) if p > Decimal(10) ** -50 else mean_logp


def log_odds_slope(mean_logp: float) -> float:
    """d log_odds / d mean_logp = 1 / (1 - p)."""
    with localcontext() as context:
        context.prec = DIGITS
        return float(1 / (1 - Decimal(mean_logp).exp()))


def orpo_loss(
    token_logps: Sequence[Sequence[Sequence[float]]],
    keep: Sequence[Sequence[Sequence[bool]]],
    beta: float,
    nll_weight: float = 1.0,
) -> float:
    """Eq. 6 of B pairs of token log-probabilities: the mean over chosen tokens plus beta times the mean over pairs."""
    nll, chosen_tokens, odds_ratio = 0.0, 0, 0.0
    for pair, masks in zip(token_logps, keep, strict=True):
        mean_logps = []
        for tokens, mask in zip(pair, masks, strict=True):
            counted = [logp for logp, counts in zip(tokens, mask, strict=True) if counts]
            mean_logps.append(sum(counted) / len(counted))  # eq. 3
            if len(mean_logps) == 1:
                nll -= sum(counted)
                chosen_tokens += len(counted)
        odds = [math.exp(x) / (1 - math.exp(x)) for x in mean_logps]  # eq. 4
        ratio = odds[0] / odds[1]  # eq. 5
        odds_ratio -= math.log(ratio / (1 + ratio))  # eq. 7: sigmoid(log r) = r / (1 + r)
    return nll_weight * nll / chosen_tokens + beta * odds_ratio / len(token_logps)
