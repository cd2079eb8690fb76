"""Batches of pairs and the settings under which every loss is examined."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from audiorl.losses import PREFERENCE_LOSSES, CombinedObjective, PairScores
from tests.oracles import PairOracle

DIVERGENCES: list[dict[str, Any]] = [
    {"f_divergence_type": "forward_kl"},
    {"f_divergence_type": "js_divergence"},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.5},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0},
]
# One setting that every loss works with, then those that only some losses read.
LOSS_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"label_smoothing": 1e-3} if name == "exo_pair" else {}) for name in PREFERENCE_LOSSES),
    *((name, {"beta": 0.7}) for name in PREFERENCE_LOSSES if name not in ("sft", "exo_pair")),
    *((name, {"label_smoothing": 0.2}) for name in ("robust", "exo_pair", "aot", "aot_unpaired")),
    ("discopop", {"discopop_tau": 0.5}),
    *(
        (name, divergence | ({"label_smoothing": 1e-2} if name == "exo_pair" else {}))
        for name, loss in PREFERENCE_LOSSES.items()
        for divergence in DIVERGENCES
        if loss.allows_f_divergence
    ),
]
LOSS_SETTING_IDS = ["-".join([name, *(str(value) for value in settings.values())]) for name, settings in LOSS_SETTINGS]


def random_pairs(num_pairs: int = 6, seed: int = 0, spread: float = 2.0) -> PairScores:
    """Float64 pairs whose log-ratios have a standard deviation of `spread` nats."""
    rng = random.Random(seed)
    ref = [[-rng.uniform(5, 60) for _ in range(2)] for _ in range(num_pairs)]
    logps = [[value + rng.gauss(0, spread) for value in row] for row in ref]
    lengths = [[rng.randint(3, 20) for _ in range(2)] for _ in range(num_pairs)]
    return PairScores(
        torch.tensor(logps, dtype=torch.float64, requires_grad=True),
        torch.tensor(ref, dtype=torch.float64),
        torch.tensor(lengths),
    )


def oracle_of(pairs: PairScores, settings: dict[str, Any]) -> PairOracle:
    names = {"f_divergence_type": "divergence", "f_alpha_divergence_coef": "alpha"}
    return PairOracle(
        pairs.logps.tolist(),
        pairs.ref_logps.tolist(),
        pairs.lengths.tolist(),
        **{names.get(name, name): value for name, value in settings.items()},
    )


def loss_per_pair(name: str, pairs: PairScores, settings: dict[str, Any]) -> Tensor:
    """(B,) of one loss, bound and checked the way a trainer does it."""
    return CombinedObjective(name, **settings)(pairs).terms[0].loss
