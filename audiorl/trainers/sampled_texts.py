"""What a trainer's last rollouts said, kept until the next log: for the terminal, the loggers and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from audiorl.trainers.media import log_completions
from audiorl.trainers.report_files import group_records
from audiorl.trainers.rollout_metrics import completion_records, show_completions
from audiorl.trainers.rollouts import Rollout


class SampledTexts:
    """The completions of `log_completions` and the groups of `report_html`.

    Args:
        trainer: a `RolloutTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.completions: list[dict[str, Any]] = []
        self.groups: list[dict[str, Any]] = []

    def remember(self, rollouts: Sequence[Rollout]) -> None:
        """The rollouts of a step in the place of those of the step before."""
        names = self.trainer.rewards.names
        if self.trainer.args.log_completions:
            self.completions = completion_records(rollouts, names)
        if self.trainer.run_report is not None:
            self.groups = group_records(rollouts, names)

    def tell(self) -> None:
        """Show, log and keep them, once; a collective call where there are several processes."""
        trainer = self.trainer
        if trainer.args.log_completions:
            log_completions(trainer, show_completions(self.completions, trainer.state.global_step, trainer.args))
        if trainer.run_report is not None:
            trainer.run_report.keep_groups(self.groups)
        self.completions, self.groups = [], []
