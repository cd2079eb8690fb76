"""Arguments of the trainers that learn from what the model itself says: sampling and rewards, then inner updates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from datasets import IterableDataset

from audiorl.losses.settings import number_not_below, positive_number
from audiorl.models import SpeechFamily
from audiorl.models.sampling import Sampler
from audiorl.trainers.config import SpeechConfig, SyncedReferenceFields

# Orders of rows that can be repeated in blocks.
REPEATABLE_ORDERS = ("random", "sequential")


@dataclass
class SamplingConfig(SpeechConfig):
    """How hypotheses are sampled and rewarded, for every trainer that learns from them; named as in TRL."""

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of AdamW."})
    eval_wer: bool = field(
        default=True,
        metadata={"help": "Log eval_wer and eval_cer of the evaluation set, decoded as the generation config says."},
    )

    # Rollouts
    max_completion_length: int = field(
        default=256,
        metadata={"help": "Tokens after which a hypothesis is cut, > 0; a longer transcript is refused as a bad row."},
    )
    temperature: float = field(
        default=1.0, metadata={"help": "> 0; logits are divided by it in rollouts and in every score alike."}
    )
    top_k: int = field(default=0, metadata={"help": "Sample from the k most probable tokens; 0: from all."})
    top_p: float = field(
        default=1.0, metadata={"help": "Sample from the tokens that make up this probability, above 0 to 1; 1: all."}
    )
    min_p: float | None = field(
        default=None,
        metadata={"help": "Sample from tokens at least this share as probable as the most probable one, 0 to 1."},
    )
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "Above 1 makes tokens that were sampled before less probable; 1: off."}
    )

    # Rewards
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "A weight for each reward; 1 each where left out. 0 only logs a reward."}
    )
    reward_timeout: float | None = field(
        default=1800.0,
        metadata={
            "help": "Seconds, > 0, that an asynchronous reward may take for all hypotheses of a step; then the run "
            "stops with the reward's name. None: wait for ever."
        },
    )

    # Learning
    sft_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight >= 0 of the negative log-likelihood (mean over tokens) of the rows' transcripts, against "
            "forgetting. It costs one more hypothesis for each clip and no encoder pass."
        },
    )

    # Logging
    log_completions: bool = field(
        default=False,
        metadata={
            "help": "Whenever rollouts are logged, print transcript, best and worst hypothesis of each clip, and write "
            "them to completions/ in output_dir."
        },
    )
    num_completions_to_print: int | None = field(
        default=None, metadata={"help": "Clips of that table; unset: all of them."}
    )

    def __post_init__(self):
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            # a rollout has no evaluation loss
            self.metric_for_best_model, self.greater_is_better = "wer", False
        super().__post_init__()
        number_not_below("max_completion_length", self.max_completion_length, 1)
        number_not_below("sft_weight", self.sft_weight, 0)
        positive_number("temperature", self.temperature)
        if self.reward_timeout is not None:
            positive_number("reward_timeout", self.reward_timeout)
        self.sampler()

    def sampler(self) -> Sampler | None:
        """The truncating sampler these arguments describe; None for the policy as it is.

        Raises:
            ValueError: a value out of its range.
        """
        sampler = Sampler(self.top_k, self.top_p, self.min_p, self.repetition_penalty)
        return None if sampler == Sampler() else sampler


@dataclass
class RolloutConfig(SyncedReferenceFields, SamplingConfig):
    """What `GRPOConfig` and `OnlineDPOConfig` share, named as in TRL; a batch is counted in clips, not hypotheses."""

    # Rollouts
    num_generations: int = field(default=8, metadata={"help": "K >= 2: hypotheses sampled for each clip."})
    dynamic_sampling_tries: int = field(
        default=0,
        metadata={
            "help": "How often a group whose rewards are all equal is sampled again; 0: never. What stays equal is "
            "kept and teaches nothing."
        },
    )

    # Learning
    num_iterations: int = field(
        default=1, metadata={"help": "Optimizer steps on the same rollouts, > 0; an epoch has as many times the steps."}
    )

    # Fresh samples have no scores beforehand; `ReferenceTrainer` asks.
    precompute_ref_log_probs: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        self._check_group()
        number_not_below("num_iterations", self.num_iterations, 1)
        number_not_below("dynamic_sampling_tries", self.dynamic_sampling_tries, 0)
        if self.num_iterations > 1 and self.train_sampling_strategy not in REPEATABLE_ORDERS:
            raise ValueError(
                f"num_iterations > 1 repeats the rows of a step in the orders {', '.join(REPEATABLE_ORDERS)}; got "
                f"train_sampling_strategy={self.train_sampling_strategy!r}. Leave it out, or set num_iterations=1."
            )
        self.check_synced_reference()

    def _check_group(self) -> None:
        if self.num_generations < 2:
            raise ValueError(
                f"{type(self).__name__} compares hypotheses of one clip, so it needs num_generations >= 2; got "
                f"{self.num_generations}. Raise it to 4 or more; where memory is short, lower "
                "per_device_train_batch_size and raise gradient_accumulation_steps."
            )

    def check_family(self, family: SpeechFamily) -> None:
        super().check_family(family)
        if self.sampler() is not None and not family.token_level:
            raise ValueError(
                f"top_k, top_p, min_p and repetition_penalty choose among tokens, but {type(family).__name__} samples "
                "a hypothesis as a whole. Leave them out; temperature applies."
            )

    def check_rows(self, rows: Any) -> None:
        """Refuse rows that cannot be read as these arguments ask.

        Raises:
            ValueError: a stream, whose rows cannot be repeated.
        """
        if self.num_iterations > 1 and isinstance(rows, IterableDataset):
            raise ValueError(
                "num_iterations > 1 repeats the rows of a step, which a stream cannot offer. Load the rows as a "
                "Dataset (streaming=False), or set num_iterations=1."
            )
