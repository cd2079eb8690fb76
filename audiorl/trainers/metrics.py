"""What a trainer logs: running means, exact over micro-batches of any size and over processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from audiorl.batch import GroupScores


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


def add_pair_rewards(metrics: Metrics, mode: str, rewards: Tensor) -> None:
    """`rewards/*` of (B, 2) rewards: chosen, rejected, their margin, and how often chosen is ahead."""
    chosen, rejected = rewards[:, 0], rewards[:, 1]
    metrics.add(mode, "rewards/chosen", chosen)
    metrics.add(mode, "rewards/rejected", rejected)
    metrics.add(mode, "rewards/margins", chosen - rejected)
    metrics.add(mode, "rewards/accuracies", chosen > rejected)


def add_pair_scores(metrics: Metrics, mode: str, names: Sequence[str], logps: Tensor, scores: GroupScores) -> None:
    """`logps/*` of (B, 2) log-probabilities, `logits/*`, entropy, and how often the chosen token is the top one.

    Args:
        names: what columns 0 and 1 are called.
        scores: of the whole batch, placeholders included, which have no kept token.
    """
    for k, name in enumerate(names):
        metrics.add(mode, f"logps/{name}", logps[:, k])
        metrics.add(mode, f"logits/{name}", scores.mean_logits[:, k], scores.keep[:, k])
    metrics.add(mode, "entropy", scores.entropy, scores.keep)
    metrics.add(mode, "mean_token_accuracy", scores.is_top1[:, 0], scores.keep[:, 0])
