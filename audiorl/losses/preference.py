"""The preference losses by name, and the objective: a weighted sum of them, checked once when a trainer is built.

1. `CombinedObjective(loss_type, loss_weights, ...)` looks the names up in `PREFERENCE_LOSSES` (a loss of your own is
   named by a dotted path or passed itself, see `settings.py`), checks every setting and binds it.
2. Called with `PairScores`, it returns `ObjectiveTerms`: each loss for each pair, unreduced.
3. `ObjectiveTerms.total(num_pairs, num_tokens)` is the sum of weight times mean, over pairs or over tokens.

Deviations from the papers are TRL's; the docstring of each loss names its own (`preference_losses.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from audiorl.losses.divergences import f_divergence_scores
from audiorl.losses.preference_losses import (
    PairScores,
    aot_loss,
    aot_unpaired_loss,
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    discopop_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    nca_pair_loss,
    robust_loss,
    sft_loss,
    sigmoid_loss,
    sigmoid_norm_loss,
    sppo_hard_loss,
)
from audiorl.losses.reductions import pair_mean, token_mean
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

Reduction = Literal["pairs", "tokens"]
Count = Tensor | int


class PreferenceObjective(NamedTuple):
    """A loss and what a trainer has to know about it."""

    function: Callable[..., Tensor]  # (PairScores, *, settings) -> (B,)
    reduction: Reduction = "pairs"  # what its sum over the batch is divided by
    batch_wide: bool = False  # its value is the batch's, not a pair's: gather over processes first
    uses_reference: bool = True  # it reads `ref_logps`
    allows_f_divergence: bool = False  # it may be asked for together with another divergence than the reverse KL
    needs_label_smoothing: bool = False  # it is infinite at label_smoothing = 0

    @property
    def settings(self) -> frozenset[str]:
        """Names of the settings that the function reads: its keyword-only arguments."""
        parameters = inspect.signature(self.function).parameters.values()
        return frozenset(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


Loss = str | Callable[..., Tensor] | PreferenceObjective

PREFERENCE_LOSSES: dict[str, PreferenceObjective] = {
    "sigmoid": PreferenceObjective(sigmoid_loss, allows_f_divergence=True),
    "hinge": PreferenceObjective(hinge_loss, allows_f_divergence=True),
    "ipo": PreferenceObjective(ipo_loss, allows_f_divergence=True),
    "robust": PreferenceObjective(robust_loss, allows_f_divergence=True),
    "exo_pair": PreferenceObjective(exo_pair_loss, allows_f_divergence=True, needs_label_smoothing=True),
    "nca_pair": PreferenceObjective(nca_pair_loss),
    "bco_pair": PreferenceObjective(bco_pair_loss),
    "sppo_hard": PreferenceObjective(sppo_hard_loss),
    "aot": PreferenceObjective(aot_loss, batch_wide=True),
    "aot_unpaired": PreferenceObjective(aot_unpaired_loss, batch_wide=True),
    "apo_zero": PreferenceObjective(apo_zero_loss),
    "apo_down": PreferenceObjective(apo_down_loss),
    "discopop": PreferenceObjective(discopop_loss, allows_f_divergence=True),
    "sigmoid_norm": PreferenceObjective(sigmoid_norm_loss, allows_f_divergence=True),
    "sft": PreferenceObjective(sft_loss, reduction="tokens", uses_reference=False, allows_f_divergence=True),
}

# MPO, mixed preference optimisation: preference, quality and generation. Wang et al. 2024, arXiv:2411.10442.
LOSS_PRESETS: dict[str, tuple[list[str], list[float]]] = {
    "mpo": (["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]),
}


class LossTerm(NamedTuple):
    """One loss of an objective, not yet reduced."""

    name: str
    weight: float
    reduction: Reduction
    loss: Tensor  # (B,)

    def mean(self, num_pairs: Count, num_tokens: Count) -> Tensor:
        """Scalar: the sum over the batch divided by the count that belongs to the loss."""
        if self.reduction == "tokens":
            return token_mean(self.loss, num_tokens)
        return pair_mean(self.loss, num_pairs)


class ObjectiveTerms(NamedTuple):
    """What an objective says of a batch.

    Counts default to those of this batch. Pass the counts of the whole optimizer step, over accumulation
    steps and processes, and the totals of its parts add up to the total of one big batch.
    """

    terms: tuple[LossTerm, ...]
    margin: Tensor  # (B,) nats, detached
    chosen_tokens: Tensor  # (B,) long, number of kept tokens of the chosen transcripts

    def _counts(self, num_pairs: Count | None, num_tokens: Count | None) -> tuple[Count, Count]:
        pairs = len(self.margin) if num_pairs is None else num_pairs
        return pairs, self.chosen_tokens.sum() if num_tokens is None else num_tokens

    def total(self, num_pairs: Count | None = None, num_tokens: Count | None = None) -> Tensor:
        """The scalar to call `backward` on.

            total = sum over terms of weight * mean;  a term of weight 0 is left out of the graph

        Args:
            num_pairs: what losses with reduction "pairs" are divided by; default B.
            num_tokens: what losses with reduction "tokens" are divided by; default the chosen tokens of this
                batch.

        Returns:
            Scalar.
        """
        counts = self._counts(num_pairs, num_tokens)
        weighted = [term.weight * term.mean(*counts) for term in self.terms if term.weight]
        return sum(weighted[1:], start=weighted[0])


class CombinedObjective:
    """A weighted sum of preference losses; all settings are checked here, none at a training step.

        total = sum over losses i of loss_weights[i] * mean(loss_type[i])

    Args:
        loss_type: a key of `PREFERENCE_LOSSES` or `LOSS_PRESETS`, or several keys of `PREFERENCE_LOSSES`. Instead of a
            key: the name of an entry point of "audiorl.losses", a dotted path, a function of `PairScores` that returns
            (B,), or a `PreferenceObjective`, which also says how it is divided and what it reads.
        loss_weights: one weight >= 0 for each loss; default 1 each, or the preset's. Weight 0: logged only.
        beta: > 0, how much leaving the frozen policy costs.
        label_smoothing: 0 <= e < 0.5, read by robust, exo_pair (where it must be above 0), aot, aot_unpaired.
        f_divergence_type: a key of `F_DIVERGENCES`.
        f_alpha_divergence_coef: alpha, read by "alpha_divergence".
        discopop_tau: > 0, read by discopop.
        loss_settings: further keyword-only arguments of losses of your own, by name.

    Attributes:
        loss_types: names of the losses, presets spelt out.
        loss_weights: their weights.
        batch_wide: True if some loss wants the batch of all processes.
        uses_reference: False if no loss reads `ref_logps`; zeros may then stand there.

    Raises:
        LossSettingError: an unknown name, a wrong number of weights, a value out of its range, or a
            divergence or label smoothing that the losses cannot take.

    Source: the sum as in Wang et al. 2024 (MPO), arXiv:2411.10442.
    """

    def __init__(
        self,
        loss_type: Loss | Sequence[Loss] = "sigmoid",
        loss_weights: Sequence[float] | None = None,
        *,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        f_divergence_type: str = "reverse_kl",
        f_alpha_divergence_coef: float = 0.5,
        discopop_tau: float = 0.05,
        loss_settings: Mapping[str, Any] | None = None,
    ):
        losses, self.loss_weights = _named_losses(loss_type, loss_weights)
        self._losses = {name: preference_loss(loss) for name, loss in losses.items()}
        self.loss_types = tuple(losses)
        settings: dict[str, Any] = {
            "beta": positive_number("beta", beta),
            "label_smoothing": _checked_label_smoothing(label_smoothing, self._losses),
            "divergence": f_divergence_scores(f_divergence_type, f_alpha_divergence_coef),
            "discopop_tau": positive_number("discopop_tau", discopop_tau),
        }
        _check_f_divergence(f_divergence_type, self._losses)
        further = read_loss_settings(loss_settings)
        check_loss_settings(further, {name: loss.function for name, loss in self._losses.items()}, set(settings))
        settings |= further
        for name, loss in self._losses.items():
            check_settings("loss_type", name, loss.function, settings.keys())
        self._functions = [
            partial(loss.function, **{name: settings[name] for name in loss.settings & settings.keys()})
            for loss in self._losses.values()
        ]
        for (name, given), function in zip(losses.items(), self._functions, strict=True):
            if is_own(given, PREFERENCE_LOSSES):
                try_loss(name, function, made_up_pairs(), (2,))
        self.batch_wide = any(loss.batch_wide for loss in self._losses.values())
        self.uses_reference = any(loss.uses_reference for loss in self._losses.values())

    def __call__(self, pairs: PairScores) -> ObjectiveTerms:
        """Every loss for every pair of the batch."""
        bound = zip(self._losses.items(), self.loss_weights, self._functions, strict=True)
        terms = [LossTerm(name, weight, loss.reduction, function(pairs)) for (name, loss), weight, function in bound]
        return ObjectiveTerms(tuple(terms), pairs.margin.detach(), pairs.lengths[:, 0])


def preference_loss(loss: Loss) -> PreferenceObjective:
    """A preference loss by its key, the name of an entry point, its dotted path, or from its function.

    A plain function is divided by the pairs and may read `ref_logps`; it takes other f-divergences where it has an
    argument `divergence`.

    Raises:
        LossSettingError: there is none, or it is no function.
    """
    return find_loss(loss, PREFERENCE_LOSSES, _from_function, also=LOSS_PRESETS)


def _from_function(function: Callable[..., Tensor]) -> PreferenceObjective:
    plain = PreferenceObjective(function)
    return plain._replace(allows_f_divergence="divergence" in plain.settings)


def made_up_pairs() -> PairScores:
    """Scores of two pairs, to try a loss on."""
    logps = torch.tensor([[-3.0, -4.0], [-6.0, -2.0]], requires_grad=True)
    return PairScores(logps, torch.tensor([[-3.5, -3.5], [-5.0, -2.5]]), torch.tensor([[2, 3], [4, 2]]))


def resolve_losses(
    loss_type: Loss | Sequence[Loss], loss_weights: Sequence[float] | None = None
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Names and weights of the losses that a user asked for, presets spelt out.

    Args:
        loss_type: as for `CombinedObjective`; a list of one preset counts as that preset.
        loss_weights: one for each loss, or None.

    Returns:
        (names, weights), equally long.

    Raises:
        LossSettingError: an unknown or repeated name, or weights that do not fit.
    """
    losses, weights = _named_losses(loss_type, loss_weights)
    return tuple(losses), weights


def _named_losses(
    loss_type: Loss | Sequence[Loss], loss_weights: Sequence[float] | None
) -> tuple[dict[str, Loss], tuple[float, ...]]:
    one = isinstance(loss_type, str | PreferenceObjective) or not isinstance(loss_type, Sequence)
    losses: list[Loss] = [loss_type] if one else list(loss_type)  # type: ignore[list-item, arg-type]
    weights = None if loss_weights is None else list(loss_weights)
    if len(losses) == 1 and isinstance(losses[0], str) and losses[0] in LOSS_PRESETS:
        preset, preset_weights = LOSS_PRESETS[losses[0]]
        losses, weights = list(preset), preset_weights if weights is None else weights
    for loss in losses:
        _check_no_preset(loss)
    names = [loss_name(loss) for loss in losses]
    if not names or len(set(names)) < len(names):
        raise LossSettingError(
            f"loss_type needs at least one loss, each named once; got {names}. "
            "Name a loss once and put the sum of its weights into loss_weights."
        )
    for loss in losses:
        preference_loss(loss)
    checked = _checked_weights(names, [1.0] * len(names) if weights is None else weights)
    return dict(zip(names, losses, strict=True)), checked


def _check_no_preset(loss: Loss) -> None:
    if isinstance(loss, str) and loss in LOSS_PRESETS:
        losses, weights = LOSS_PRESETS[loss]
        raise LossSettingError(
            f"loss_type {loss!r} is a preset and stands alone; got it in a list with others. "
            f"Write its losses out: loss_type={losses}, loss_weights={weights}."
        )


def _checked_weights(names: Sequence[str], weights: Sequence[float]) -> tuple[float, ...]:
    if len(weights) != len(names):
        raise LossSettingError(
            f"loss_weights holds one weight for each loss; got {len(weights)} for {list(names)}. "
            f"Give {len(names)} weights, or leave loss_weights out for the usual ones."
        )
    numbers = tuple(finite_number(f"loss_weights[{i}]", weight) for i, weight in enumerate(weights))
    if min(numbers) < 0 or max(numbers) == 0:
        raise LossSettingError(
            f"loss_weights are >= 0 and not all 0; got {list(numbers)} for {list(names)}. "
            "To reverse a preference, swap chosen and rejected; to only log a loss, weight it 0."
        )
    return numbers


def _check_f_divergence(f_divergence_type: str, losses: Mapping[str, PreferenceObjective]) -> None:
    refusing = [name for name, loss in losses.items() if not loss.allows_f_divergence]
    if f_divergence_type != "reverse_kl" and refusing:
        allowed = [name for name, loss in PREFERENCE_LOSSES.items() if loss.allows_f_divergence]
        raise LossSettingError(
            f"f_divergence_type={f_divergence_type!r} leaves a term that depends on the audio alone and cancels only "
            f"in the difference chosen - rejected; {', '.join(refusing)} does not use that difference. "
            f"Set f_divergence_type='reverse_kl', or choose from: {', '.join(allowed)}."
        )


def _checked_label_smoothing(label_smoothing: float, losses: Mapping[str, PreferenceObjective]) -> float:
    smoothing = finite_number("label_smoothing", label_smoothing)
    if not 0.0 <= smoothing < 0.5:
        raise LossSettingError(
            f"label_smoothing is the share of pairs whose order is wrong, so 0 <= label_smoothing < 0.5; got "
            f"{label_smoothing!r}. If most pairs are wrong, swap chosen and rejected."
        )
    needing = [name for name, loss in losses.items() if loss.needs_label_smoothing]
    if smoothing == 0.0 and needing:
        raise LossSettingError(
            f"{', '.join(needing)} is infinite at label_smoothing=0. Set it to 1e-3, as the paper does."
        )
    if smoothing > 0.0 and not any("label_smoothing" in loss.settings for loss in losses.values()):
        readers = [name for name, loss in PREFERENCE_LOSSES.items() if "label_smoothing" in loss.settings]
        raise LossSettingError(
            f"label_smoothing={label_smoothing!r} would change nothing: no loss of {list(losses)} reads it. "
            f"Set it to 0, or choose from: {', '.join(readers)} ('robust' is 'sigmoid' with label smoothing)."
        )
    return smoothing
