"""Running means of what a trainer logs, exact over micro-batches of any size and over processes."""

from __future__ import annotations

from collections import defaultdict

import torch
from accelerate import Accelerator
from torch import Tensor


class Metrics:
    """Sums and counts, kept on the device until they are logged, so that a training step waits for nothing.

    A mean over an optimizer step is total / count over all its micro-batches and all processes, not a mean of means.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._sums: dict[str, dict[str, Tensor]] = {"train": {}, "eval": {}}
        self._names: dict[str, list[str]] = defaultdict(list)

    def add(self, mode: str, name: str, values: Tensor, keep: Tensor | None = None) -> None:
        """Add values of any shape to a metric.

        Args:
            mode: "train" or "eval".
            keep: bool, the same shape; entries that do not count are left out, NaN or not.
        """
        values = values.detach().double()
        if keep is None:
            keep = torch.ones_like(values, dtype=torch.bool)
        self.add_ratio(mode, name, torch.where(keep, values, 0.0).sum(), keep.sum())

    def add_ratio(self, mode: str, name: str, total: Tensor, count: Tensor) -> None:
        """Add a sum (scalar) and the number of things (scalar) it was taken over."""
        entry = torch.stack([total.detach().double(), count.double()])
        sums = self._sums[mode]
        sums[name] = sums[name] + entry if name in sums else entry

    def drain(self, mode: str) -> dict[str, float]:
        """Means over all processes since the last call; a collective call where there are several processes."""
        sums, self._sums[mode] = self._sums[mode], {}
        if not sums:
            return {}
        totals = self.accelerator.reduce(torch.stack(list(sums.values())), reduction="sum").cpu()
        return {
            name: (total / count).item() if count > 0 else float("nan")
            for name, (total, count) in zip(sums, totals, strict=True)
        }
