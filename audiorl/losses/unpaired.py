"""Losses of single transcripts that are known to be good or bad, without a second one to compare them with.

1. `mismatched_kl` estimates how far the policy has left the frozen one, from transcripts of other clips.
2. A loss raises a desirable transcript above that point and lowers an undesirable one below it.
3. `UnpairedObjective` binds the settings of one loss, shipped or your own (`settings.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from audiorl.losses.reductions import counted_mean
from audiorl.losses.settings import (
    LossSettingError,
    check_loss_settings,
    check_settings,
    find_loss,
    finite_number,
    is_own,
    loss_name,
    positive_number,
    read_loss_settings,
    try_loss,
)


class UnpairedScores(NamedTuple):
    """Log-probabilities of B transcripts, float32 or float64."""

    logps: Tensor  # (B,) nats, summed over kept tokens
    ref_logps: Tensor  # (B,) the same under the frozen policy; receives no gradient
    desirable: Tensor  # (B,) bool

    @property
    def log_ratios(self) -> Tensor:
        """(B,) nats: how much more probable each transcript is now than under the frozen policy."""
        return self.logps - self.ref_logps.detach()

    def select(self, rows: Tensor) -> UnpairedScores:
        """The transcripts at `rows`, (B,) bool or (N,) long; leaves the placeholders of dropped rows out."""
        return UnpairedScores(self.logps[rows], self.ref_logps[rows], self.desirable[rows])


def mismatched_kl(log_ratio_sum: Tensor, count: Tensor | int) -> Tensor:
    """KL divergence of the policy from the frozen one, as transcripts of other clips show it.

        out = max(0, log_ratio_sum / max(count, 1)),  log_ratio = log p(y' | x) - log p_ref(y' | x)

    y' is what belongs to another clip than x. The estimate is biased, and cheap: nothing is sampled.

    Args:
        log_ratio_sum: scalar, nats, summed over mismatched pairs.
        count: their number, over the whole optimizer step.

    Returns:
        Scalar >= 0 without gradient; 0 where there is no pair.

    Source: Ethayarajh et al. 2024 (KTO), arXiv:2402.01306, the shared reference point z_0.
    """
    return counted_mean(log_ratio_sum.detach(), count).clamp(min=0)


def kto_loss(
    scores: UnpairedScores, kl: Tensor, *, beta: float, desirable_weight: float, undesirable_weight: float
) -> Tensor:
    """Make a desirable transcript more valuable than the reference point, an undesirable one less.

        r[b]    = log_ratios[b]
        loss[b] = desirable_weight   * (1 - sigmoid(beta * (r[b] - kl)))  where desirable
                = undesirable_weight * (1 - sigmoid(beta * (kl - r[b])))  elsewhere

    Args:
        scores: of B transcripts.
        kl: scalar >= 0, see `mismatched_kl`; receives no gradient.
        beta: > 0; larger is more averse to risk, and keeps the policy closer to the frozen one.
        desirable_weight, undesirable_weight: >= 0, lambda_D and lambda_U.

    Returns:
        (B,) >= 0.

    Source: Ethayarajh et al. 2024 (KTO), arXiv:2402.01306, the definition of L_KTO.
    """
    distance = beta * (scores.log_ratios - kl.detach())
    losses = torch.sigmoid(torch.where(scores.desirable, -distance, distance))
    return _weighted(losses, scores.desirable, desirable_weight, undesirable_weight)


def apo_zero_unpaired_loss(
    scores: UnpairedScores, kl: Tensor, *, beta: float, desirable_weight: float, undesirable_weight: float
) -> Tensor:
    """Make a desirable transcript more probable than under the frozen policy, an undesirable one less.

        loss[b] = desirable_weight   * (1 - sigmoid(beta * log_ratios[b]))  where desirable
                = undesirable_weight * sigmoid(beta * log_ratios[b])        elsewhere

    Args:
        scores: of B transcripts.
        kl: not read.
        beta: > 0; larger keeps the policy closer to the frozen one.
        desirable_weight, undesirable_weight: >= 0.

    Returns:
        (B,) >= 0.

    Source: D'Oosterlinck et al. 2024 (APO), arXiv:2408.06266, APO-zero with its two terms apart, as in TRL.
    """
    distance = beta * scores.log_ratios
    losses = torch.sigmoid(torch.where(scores.desirable, -distance, distance))
    return _weighted(losses, scores.desirable, desirable_weight, undesirable_weight)


def _weighted(losses: Tensor, desirable: Tensor, desirable_weight: float, undesirable_weight: float) -> Tensor:
    return torch.where(desirable, losses * desirable_weight, losses * undesirable_weight)


class UnpairedLoss(NamedTuple):
    """A loss of single transcripts."""

    function: Callable[..., Tensor]  # (UnpairedScores, kl, *, settings) -> (B,)
    uses_kl: bool = True  # it reads `kl`

    @property
    def settings(self) -> frozenset[str]:
        """Names of the settings that the function reads: its keyword-only arguments."""
        parameters = inspect.signature(self.function).parameters.values()
        return frozenset(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


UNPAIRED_LOSSES: dict[str, UnpairedLoss] = {
    "kto": UnpairedLoss(kto_loss, uses_kl=True),
    "apo_zero_unpaired": UnpairedLoss(apo_zero_unpaired_loss, uses_kl=False),
}


class UnpairedObjective:
    """One loss with its settings, all checked here and none at a training step.

    Args:
        loss_type: a key of `UNPAIRED_LOSSES`. Or a loss of your own: the name of an entry point of "audiorl.losses", a
            dotted path, a function of `UnpairedScores` and the divergence that returns (B,), or an `UnpairedLoss`. The
            weights are its own to read, as `desirable_weight` and `undesirable_weight`.
        beta: > 0.
        desirable_weight, undesirable_weight: >= 0, not both 0.
        loss_settings: further keyword-only arguments of a loss of your own, by name.

    Attributes:
        uses_kl: whether the loss reads the estimate of `mismatched_kl`.

    Raises:
        LossSettingError: an unknown name, or a value out of its range.
    """

    def __init__(
        self,
        loss_type: str | Callable[..., Tensor] | UnpairedLoss = "kto",
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        loss_settings: Mapping[str, Any] | None = None,
    ):
        loss, name = find_loss(loss_type, UNPAIRED_LOSSES, UnpairedLoss), loss_name(loss_type)
        self.beta = positive_number("beta", beta)
        weights = {
            name: finite_number(name, value)
            for name, value in (("desirable_weight", desirable_weight), ("undesirable_weight", undesirable_weight))
        }
        if min(weights.values()) < 0 or max(weights.values()) == 0:
            raise LossSettingError(
                "desirable_weight and undesirable_weight are >= 0 and not both 0; got "
                f"{desirable_weight!r} and {undesirable_weight!r}. To reverse a judgement, change the row's label."
            )
        self.uses_kl = loss.uses_kl
        settings: dict[str, Any] = {"beta": self.beta, **weights}
        further = read_loss_settings(loss_settings)
        check_loss_settings(further, {name: loss.function}, set(settings))
        settings |= further
        check_settings("loss_type", name, loss.function, settings)
        self._function = partial(loss.function, **{name: settings[name] for name in loss.settings & settings.keys()})
        if is_own(loss_type, UNPAIRED_LOSSES):
            logps = torch.tensor([-3.0, -6.0], requires_grad=True)
            scores = UnpairedScores(logps, torch.tensor([-3.5, -5.0]), torch.tensor([True, False]))
            try_loss(name, lambda made_up: self._function(made_up, torch.tensor(0.1)), scores, (2,))

    def __call__(self, scores: UnpairedScores, kl: Tensor) -> Tensor:
        """(B,) the loss of each transcript; `kl` is a scalar."""
        return self._function(scores, kl)


def balanced_weights(
    desirable: int, undesirable: int, desirable_weight: float, undesirable_weight: float
) -> tuple[float, float] | None:
    """The range of `desirable_weight` that balances both kinds of rows; None where the weight is in it.

        1 <= desirable_weight * desirable / (undesirable_weight * undesirable) <= 4 / 3

    Args:
        desirable, undesirable: rows of each kind.
        desirable_weight, undesirable_weight: the weights in force.

    Source: Ethayarajh et al. 2024 (KTO), arXiv:2402.01306, its advice on lambda_D and lambda_U.
    """
    if not (desirable and undesirable and undesirable_weight):
        return None
    least = undesirable_weight * undesirable / desirable
    return None if least <= desirable_weight <= 4 / 3 * least else (least, 4 / 3 * least)
