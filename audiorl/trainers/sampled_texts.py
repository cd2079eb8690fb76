"""What a trainer's last rollouts said, kept until they are told: to the terminal, the loggers and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from audiorl.trainers.media import log_completions
from audiorl.trainers.report_files import group_records
from audiorl.trainers.rollout_metrics import completion_records, show_completions
from audiorl.trainers.rollouts import Rollout

# For the report, of process 0: a run of a thousand logs leaves some thousand groups, one of six cycles 300.
GROUPS_A_LOG = 4
GROUPS_A_CYCLE = 50


class SampledTexts:
    """The completions of `log_completions` and some groups for the report.

    Args:
        trainer: a `RewardedTrainer`.
        most_groups: that are kept until they are told.
    """

    def __init__(self, trainer: Any, most_groups: int = GROUPS_A_LOG):
        self.trainer = trainer
        self.most_groups = most_groups
        self.start()

    def start(self) -> None:
        """Forget what was not told."""
        self.completions: list[dict[str, Any]] = []
        self.groups: list[dict[str, Any]] = []

    def add(self, rollouts: Sequence[Rollout]) -> None:
        names = self.trainer.rewards.names
        if self.trainer.args.log_completions:
            self.completions += completion_records(rollouts, names)
        self.groups += group_records(rollouts, names, self.most_groups - len(self.groups))

    def mark_kept(self, row_ids: Tensor, kept: Tensor) -> None:
        """Note which hypotheses are learnt from, where not all are.

        Args:
            row_ids, kept: (N,) and (N, K) bool of all clips.
        """
        of_row = dict(zip(row_ids.tolist(), kept.tolist(), strict=True))
        for group in self.groups:
            for hypothesis, is_kept in zip(group["hypotheses"], of_row[group["row"]["row_id"]], strict=True):
                hypothesis["kept"] = is_kept

    def tell(self, learnt_at: int) -> None:
        """Show, log and keep them, once; a collective call where there are several processes.

        Args:
            learnt_at: the optimizer step that learns from the groups, the first one where several do.
        """
        trainer = self.trainer
        if trainer.args.log_completions:
            log_completions(trainer, show_completions(self.completions, trainer.state.global_step, trainer.args))
        trainer.run_report.keep_groups(self.groups, learnt_at)
        self.start()
