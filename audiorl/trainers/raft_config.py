"""Arguments of `RAFTTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datasets import IterableDataset

from audiorl.losses.settings import finite_number, number_not_below, positive_number
from audiorl.trainers.rollout_config import REPEATABLE_ORDERS, SamplingConfig

# The learning rate of RAFT; warmup_steps is read as well.
LR_SCHEDULE = "constant_with_warmup"


@dataclass
class RAFTConfig(SamplingConfig):
    """Arguments of `RAFTTrainer`; a batch is counted in clips, an epoch of the loader is a cycle."""

    # Defaults that differ
    num_train_epochs: float | None = field(
        default=None, metadata={"help": "Leave it out: an epoch is a cycle, and num_cycles says how many there are."}
    )
    lr_scheduler_type: str = field(
        default=LR_SCHEDULE,
        metadata={"help": f"Must stay {LR_SCHEDULE}: within a cycle the learning rate is constant."},
    )
    temperature: float = field(
        default=1.0,
        metadata={"help": "> 0; logits are divided by it in rollouts. What is kept is learnt at temperature 1."},
    )
    sft_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight >= 0 of the negative log-likelihood (mean over tokens) of true transcripts. Above 0, every "
            "clip of the cycle is learnt from, by its transcript where none of its hypotheses was kept."
        },
    )

    # Cycles
    num_cycles: int = field(default=6, metadata={"help": "How often to sample, select and fine-tune, > 0."})
    clips_per_cycle: int | None = field(
        default=None, metadata={"help": "Clips sampled in a cycle, > 0; unset: all rows in every cycle."}
    )
    epochs_per_cycle: float = field(
        default=1.0,
        metadata={
            "help": "> 0; a cycle has as many optimizer steps as so many passes over its clips take. They go over what "
            "was kept, again and again where that is less."
        },
    )
    steps_per_cycle: int | None = field(
        default=None, metadata={"help": "Optimizer steps of a cycle, > 0; unset: epochs_per_cycle says."}
    )
    lr_decay_per_cycle: float = field(
        default=0.85, metadata={"help": "Above 0 to 1; the learning rate is multiplied by it after each cycle."}
    )
    min_lr: float = field(
        default=1e-6, metadata={"help": "Below this the learning rate does not decay, 0 to learning_rate."}
    )

    # Rollouts and selection
    samples_per_prompt: int = field(default=4, metadata={"help": "K > 0: hypotheses sampled for each clip."})
    rollout_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Clips sampled at once on each device, > 0; unset: per_device_train_batch_size. It holds no graph, "
            "so it may be larger."
        },
    )
    max_kept_per_clip: int = field(
        default=1, metadata={"help": "The best so many hypotheses of each clip stay in, 1 to samples_per_prompt."}
    )
    keep_top_percent: float = field(
        default=1.0,
        metadata={"help": "Of those, the best share over all clips of the cycle stays in; above 0 to 1 (1: all)."},
    )
    reward_threshold: float | None = field(
        default=None, metadata={"help": "Of those, what is rewarded with at least this is kept; unset: all."}
    )

    def __post_init__(self):
        self._check_cycles()
        super().__post_init__()
        self._check_selection()
        if self.train_sampling_strategy not in REPEATABLE_ORDERS:
            raise ValueError(
                f"RAFT goes over what a cycle kept in the orders {', '.join(REPEATABLE_ORDERS)}; got "
                f"train_sampling_strategy={self.train_sampling_strategy!r}. Leave it out."
            )

    def _check_cycles(self) -> None:
        number_not_below("num_cycles", self.num_cycles, 1)
        for name in ("clips_per_cycle", "steps_per_cycle", "rollout_batch_size"):
            if getattr(self, name) is not None:
                number_not_below(name, getattr(self, name), 1)
        positive_number("epochs_per_cycle", self.epochs_per_cycle)
        if self.num_train_epochs not in (None, self.num_cycles):
            raise ValueError(
                f"RAFT counts cycles, and an epoch is a cycle; got num_train_epochs={self.num_train_epochs} with "
                f"num_cycles={self.num_cycles}. Leave num_train_epochs out; epochs_per_cycle says how long a cycle is."
            )
        self.num_train_epochs = float(self.num_cycles)
        if self.lr_scheduler_type != LR_SCHEDULE:
            raise ValueError(
                f"RAFT's learning rate is learning_rate * lr_decay_per_cycle ** cycle, after warmup_steps; got "
                f"lr_scheduler_type={str(self.lr_scheduler_type)!r}. Leave it out, or pass optimizers=(optimizer, "
                "scheduler) to the trainer."
            )
        positive_number("learning_rate", self.learning_rate)
        if not 0 < self.lr_decay_per_cycle <= 1:
            raise ValueError(
                f"lr_decay_per_cycle is above 0 and at most 1; got {self.lr_decay_per_cycle}. 0.85 is a usual choice, "
                "1 keeps the learning rate."
            )
        if not 0 <= self.min_lr <= self.learning_rate:
            raise ValueError(
                f"min_lr is where the decay of learning_rate={self.learning_rate} ends; got {self.min_lr}. Set it "
                "between 0 and learning_rate."
            )

    def _check_selection(self) -> None:
        number_not_below("samples_per_prompt", self.samples_per_prompt, 1)
        if not 1 <= self.max_kept_per_clip <= self.samples_per_prompt:
            raise ValueError(
                f"max_kept_per_clip is 1 to samples_per_prompt={self.samples_per_prompt}; got "
                f"{self.max_kept_per_clip}. Lower it, or sample more."
            )
        if not 0 < self.keep_top_percent <= 1:
            raise ValueError(
                f"keep_top_percent is a share above 0 and at most 1; got {self.keep_top_percent}. "
                "Write half of them as 0.5."
            )
        if self.reward_threshold is not None:
            finite_number("reward_threshold", self.reward_threshold)

    def check_rows(self, rows: Any) -> None:
        """Refuse rows that cannot be read in cycles.

        Raises:
            ValueError: a stream, or fewer rows than a cycle takes.
        """
        if isinstance(rows, IterableDataset):
            raise ValueError(
                "RAFT samples every clip of a cycle first and then returns to what it kept, which a stream cannot "
                "offer. Load the rows as a Dataset (streaming=False)."
            )
        if rows is not None and self.clips_per_cycle is not None and self.clips_per_cycle > len(rows):
            raise ValueError(
                f"A cycle is to have clips_per_cycle={self.clips_per_cycle} clips, and there are {len(rows)} rows. "
                "Lower it, or leave it out for all rows."
            )
