"""The preference losses by name, with what a trainer has to know about each, and the presets made of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from audiorl.losses.preference_losses import (
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

Reduction = Literal["pairs", "tokens"]


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
