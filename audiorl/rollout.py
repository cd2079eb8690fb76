"""Sampling K hypotheses for each clip, repeatable whatever the batch, the process or the resumed step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def rollout_noise(row_ids: Sequence[int], *, seed: int, step: int, num_generations: int, max_tokens: int) -> Tensor:
    """The randomness of a rollout, drawn for each row from (seed, step, row) and from nothing else.

    A row's numbers do not depend on the rows beside it, on the process, on the global generators, or on `max_tokens`
    (a smaller limit gives the first of them).

    Args:
        row_ids: B row numbers, >= 0; negative ones (placeholders) get numbers as well.
        seed, step: integers >= 0.
        num_generations: K.
        max_tokens: T.

    Returns:
        (B, K, T) float64, uniform in [0, 1).
    """
    drawn = [
        np.random.default_rng([seed, step, row + 1]).random((max_tokens, num_generations)).T
        for row in (max(row, -1) for row in row_ids)
    ]
    return torch.from_numpy(np.ascontiguousarray(np.stack(drawn)))
