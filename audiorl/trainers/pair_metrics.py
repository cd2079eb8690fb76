"""What trainers on pairs log, by TRL's names; means over the pairs and tokens of all micro-batches and processes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from audiorl.batch import GroupScores
from audiorl.trainers.metrics import Metrics


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
