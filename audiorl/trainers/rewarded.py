"""Learning from rewarded hypotheses: rows, rewards and evaluation that every such trainer shares.

1. Rows need `audio` and what the rewards read; that is checked before anything is spent. They need `text` only where a
   reward reads it, or `sft_weight` learns from it; evaluation rows always do.
2. `roll_out` samples K hypotheses of each clip from one encoder pass and rewards them (`rollouts.py`).
3. Evaluation decodes the rows and rewards what was decoded; a rollout has no evaluation loss.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, ClassVar, Unpack

from datasets import Dataset, IterableDataset
from torch import nn
from transformers.trainer_utils import EvalLoopOutput

from audiorl.collator import SpeechCollator
from audiorl.datasets import speech_rows
from audiorl.datasets.rows import OURS
from audiorl.evaluation import Decoded
from audiorl.losses.settings import number_not_below, positive_number
from audiorl.models import SpeechFamily
from audiorl.models.sampling import Sampler
from audiorl.rewards import RewardSet
from audiorl.trainers.base import SpeechTrainer, TrainerArguments
from audiorl.trainers.config import SpeechConfig, SyncedReferenceFields
from audiorl.trainers.rollouts import RolloutCollator, RolloutMaker, Sampling, require_rows, reward_texts

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


class RewardedTrainer(SpeechTrainer):
    """Base of the trainers that learn from hypotheses of their own, by what rewards say of them.

    Args:
        model: id or path of a checkpoint, or a model.
        reward_funcs: one reward or several: names, dotted paths, callables with TRL's signature.
        args: the subclass's config.
        num_hypotheses: K, sampled for each clip.
        tries: how often a group without variance may be sampled again.

    The other arguments are those of `SpeechTrainer`.
    """

    text_columns = ("text",)
    args: SamplingConfig

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        reward_funcs: Any,
        args: SamplingConfig,
        *,
        num_hypotheses: int,
        tries: int = 0,
        **kwargs: Unpack[TrainerArguments],
    ):
        self.rewards = RewardSet(reward_funcs, args.reward_weights, args.reward_timeout)
        super().__init__(model, args, **kwargs)
        require_rows(self.data_collator)
        sampling = Sampling(num_hypotheses, args.max_completion_length, args.temperature, args.sampler(), args.seed)
        self.roll_out = RolloutMaker(self.family, self.rewards, self.accelerator, sampling, tries)

    # ---- rows ----

    def _default_collator(self, args: Any) -> SpeechCollator:
        return RolloutCollator(
            self.family,
            text_columns=self.text_columns,
            skipped=self.skipped if args.on_bad_rows == "skip" else None,
            silence=args.allow_silence,
            max_tokens=args.max_completion_length,
            text_optional=self._trains_without_text(args),
        )

    def _trains_without_text(self, args: Any) -> bool:
        """Whether training rows may lack a transcript; one that is there is shown and counted all the same."""
        return not self.rewards.readers_of("text") and args.sft_weight == 0 and self.family.task.writes_text

    def _checked_rows(self, source: Any, args: Any, name: str) -> Any:
        rows = super()._checked_rows(source, args, name)
        if isinstance(rows, Dataset):
            self.rewards.check_columns([column for column in rows.column_names if column not in OURS])
        return rows

    # ---- evaluation ----

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Decode, reward, count errors; nothing is scored."""
        rows = speech_rows(dataloader.dataset)
        decoded = self.decode(rows)
        self._reward_decoded(rows, decoded)
        found = {**self.metrics.drain("eval"), **self.decoder.measure(decoded)}
        metrics = {f"{kwargs.get('metric_key_prefix', 'eval')}_{name}": value for name, value in found.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(rows))

    def _reward_decoded(self, rows: Dataset, decoded: Decoded) -> None:
        """Each process rewards its share of the hypotheses."""
        places = range(self.args.process_index, len(rows), self.args.world_size)
        texts = [decoded.hypotheses[i] for i in places]
        total, parts = reward_texts(self.rewards, self.family, rows.select(places), texts, self.state)
        names = ["reward", *(f"rewards/{name}/mean" for name in self.rewards.names)]
        for name, values in zip(names, [total, *parts.unbind(-1)], strict=True):
            self.metrics.add("eval", name, values.to(self.args.device), ~values.isnan().to(self.args.device))
