"""ORPO: raise the odds of the chosen transcript over the rejected one's, while learning the chosen one.

1. A transcript's probability is the geometric mean of its tokens' probabilities, so its log-probability is the mean.
2. `odds_ratio_loss` compares the odds of both: -log sigmoid(log-odds of chosen - log-odds of rejected).
3. `OddsRatioObjective` adds it, `beta` times, to the chosen transcript's negative log-likelihood; a loss of your
   own may stand in its place.

There is no frozen policy: `ref_logps` of the pairs is not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audiorl.losses.preference import Loss, LossTerm, ObjectiveTerms, PreferenceObjective, made_up_pairs
from audiorl.losses.preference_losses import PairScores, sft_loss
from audiorl.losses.reductions import length_mean
from audiorl.losses.settings import (
    LossSettingError,
    check_loss_settings,
    check_settings,
    find_loss,
    finite_number,
    is_own,
    loss_name,
    read_loss_settings,
    try_loss,
)

# Log of the largest float32 probability below 1, which is 1 - 2^-24; nearer to 1 the odds have no value.
MAX_LOGP = -(2.0**-24)
# Nearer to 0 than this exp(x) is close to 1 and 1 - exp(x) loses its digits.
_NEAR_ZERO = -math.log(2)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) without loss of digits at either end.

    Args:
        x: any shape, below 0.

    Returns:
        The same shape, below 0; value and gradient are finite.

    Source: Mächler 2012, "Accurately computing log(1 - exp(-|a|))", eq. 7.
    """
    near = x > _NEAR_ZERO
    # the branch that is not taken gets a harmless number: `where` would pass on the NaN of its gradient
    for_expm1, for_exp = torch.where(near, x, -1.0), torch.where(near, -1.0, x)
    return torch.where(near, torch.log(-torch.expm1(for_expm1)), torch.log1p(-torch.exp(for_exp)))


def log_odds(mean_logps: Tensor) -> Tensor:
    """Log-odds of transcripts from the mean log-probability of their tokens.

        out = log(p / (1 - p)) = x - log(1 - exp(x)),  p = exp(x)

    The odds are infinite at x = 0, and float32 knows no probability between 1 - 2^-24 and 1: above -2^-24 the value
    stays at that of -2^-24, 16.6 nats, and its gradient is 0.

    Args:
        mean_logps: x <= 0 up to rounding, nats per token, any shape; float32 or float64.

    Returns:
        The same shape, finite.

    Source: Hong et al. 2024 (ORPO), arXiv:2403.07691, eq. 4.
    """
    x = mean_logps.clamp(max=MAX_LOGP)
    return x - log1mexp(x)


def log_odds_ratio(pairs: PairScores) -> Tensor:
    """(B,) nats: log-odds of the chosen transcript minus those of the rejected one.

    Args:
        pairs: (B, 2) log-probabilities and lengths.

    Source: Hong et al. 2024 (ORPO), arXiv:2403.07691, eq. 5.
    """
    odds = log_odds(length_mean(pairs.logps, pairs.lengths))
    return odds[:, 0] - odds[:, 1]


def odds_ratio_loss(pairs: PairScores) -> Tensor:
    """Raise the odds of the chosen transcript over the rejected one's.

        x[b, k] = logps[b, k] / lengths[b, k]
        loss[b] = -log sigmoid(log_odds(x[b, 0]) - log_odds(x[b, 1]))

    Args:
        pairs: (B, 2) log-probabilities and lengths; `ref_logps` is not read.

    Returns:
        (B,) >= 0.

    Source: Hong et al. 2024 (ORPO), arXiv:2403.07691, eq. 7.
    """
    return -F.logsigmoid(log_odds_ratio(pairs))


# name -> the loss beside the log-likelihood
ODDS_RATIO_LOSSES: dict[str, PreferenceObjective] = {
    "odds_ratio": PreferenceObjective(odds_ratio_loss, uses_reference=False),
}


class OddsRatioObjective:
    """Negative log-likelihood of the chosen transcript plus the odds-ratio loss.

        total = nll_weight * (-sum of chosen logps / chosen tokens) + beta * (sum of odds_ratio_loss / pairs)

    Args:
        beta: >= 0, weight of the odds-ratio loss; the paper's lambda, `alpha` in the authors' code.
        nll_weight: >= 0, weight of the log-likelihood; 1 in the paper. At 0 nothing holds the chosen transcript up but
            its odds against the rejected one, which also grow when both become improbable.
        loss_type: "odds_ratio", or a loss of your own in its place: the name of an entry point of "audiorl.losses", a
            dotted path, a function of `PairScores` that returns (B,), or a `PreferenceObjective`. There is no frozen
            policy, so `ref_logps` is 0.
        loss_settings: keyword-only arguments of a loss of your own, by name.

    Raises:
        LossSettingError: a weight below 0 or not finite, or both 0; or a loss that cannot be called.

    Source: Hong et al. 2024 (ORPO), arXiv:2403.07691, eq. 6.
    """

    def __init__(
        self,
        beta: float = 0.1,
        nll_weight: float = 1.0,
        loss_type: Loss = "odds_ratio",
        loss_settings: Mapping[str, Any] | None = None,
    ):
        self.beta = finite_number("beta", beta)
        self.nll_weight = finite_number("nll_weight", nll_weight)
        if min(self.beta, self.nll_weight) < 0 or max(self.beta, self.nll_weight) == 0:
            raise LossSettingError(
                "beta and nll_weight are the weights of ORPO's two losses: >= 0, not both 0; got "
                f"{beta!r} and {nll_weight!r}. "
                "The paper uses 0.1 to 0.25 and 1; to reverse a preference, swap chosen and rejected."
            )
        self.loss = find_loss(loss_type, ODDS_RATIO_LOSSES, lambda function: PreferenceObjective(function))
        self.loss_type = loss_name(loss_type)
        settings = read_loss_settings(loss_settings)
        check_loss_settings(settings, {self.loss_type: self.loss.function}, {"beta", "nll_weight"})
        check_settings("loss_type", self.loss_type, self.loss.function, settings)
        if self.loss.batch_wide:
            raise LossSettingError(
                f"loss_type {self.loss_type!r} gives one value for the whole batch, and ORPO adds one for each pair. "
                "Use it with DPOTrainer (audiorl dpo)."
            )
        self._function = partial(self.loss.function, **settings)
        if is_own(loss_type, ODDS_RATIO_LOSSES):
            no_reference = made_up_pairs()
            no_reference = no_reference._replace(ref_logps=torch.zeros_like(no_reference.ref_logps))
            try_loss(self.loss_type, self._function, no_reference, (2,))

    def __call__(self, pairs: PairScores) -> ObjectiveTerms:
        """Both losses for every pair; the margin is the log of the odds ratio."""
        terms = (
            LossTerm("nll", self.nll_weight, "tokens", sft_loss(pairs)),
            LossTerm(self.loss_type, self.beta, self.loss.reduction, self._function(pairs)),
        )
        return ObjectiveTerms(terms, log_odds_ratio(pairs).detach(), pairs.lengths[:, 0])
