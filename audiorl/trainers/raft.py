"""Reward-ranked fine-tuning on speech (Dong et al. 2023, arXiv:2304.06767): sample, select, fine-tune, again.

A cycle, `num_cycles` times:
1. Sample K hypotheses of each of its clips from the current policy, with one encoder pass for each clip, and reward
   them. Processes share the clips. The randomness of a clip comes from (seed, cycle, row).
2. Rank the rewards of all processes and keep what `select_hypotheses` chooses.
3. Raise the likelihood of the kept hypotheses, all of a clip from one encoder pass, and, with `sft_weight`, of the true
   transcripts.
4. Multiply the learning rate by `lr_decay_per_cycle`, down to `min_lr`.

It is one `Trainer` run: an epoch of the loader is a cycle, and checkpoints within a cycle hold what it kept.

Deviations from the paper:
1. Several hypotheses of a clip can be kept, or none: they can be ranked over all clips, or need a minimum reward.
2. Hypotheses cut by the length limit are never kept; equal hypotheses of a clip are kept once.
3. A cycle has a fixed number of optimizer steps. If fewer hypotheses were kept, they are repeated. With
   `max_batch_seconds` these are as many steps as batches by seconds of all rows take, in proportion to the clips of
   a cycle.
4. The likelihood is a mean over the tokens of the optimizer step, at temperature 1 whatever the sampling temperature.
5. The learning rate decays by cycles, and the optimizer keeps its state across them.
6. No KL penalty is part of the reward.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from peft import PeftConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torch.utils.data import Sampler as RowSampler
from tqdm.auto import tqdm
from transformers import TrainerCallback

from audiorl.batch import GroupBatch, GroupScores
from audiorl.datasets.batching import EpochPlan
from audiorl.evaluation.transcription import evaluation_mode
from audiorl.losses import supervised_loss
from audiorl.losses.settings import finite_number, number_not_below, positive_number
from audiorl.trainers.base import Collate, ComputeMetrics, Optimizers
from audiorl.trainers.batch_budget import batch_seconds, planned_loader, tell_plan
from audiorl.trainers.callbacks import sampling_guarded
from audiorl.trainers.loading import default_output_dir
from audiorl.trainers.logs import console_of
from audiorl.trainers.raft_cycle import (
    ROUNDING,
    Drawn,
    KeptBatches,
    KeptRows,
    KeptSamples,
    clips_of_cycle,
    cycle_factor,
    drawn_from,
    gather_drawn,
    gather_kept,
    joined,
    load_kept,
    select_hypotheses,
)
from audiorl.trainers.rollout_metrics import (
    GROUPS_A_CYCLE,
    RewardFigures,
    SampledTexts,
    StepRollouts,
    log_engine,
    measured,
    numbers,
    summary,
)
from audiorl.trainers.rollout_trainer import REPEATABLE_ORDERS, RewardedTrainer, SamplingConfig
from audiorl.trainers.rollouts import audio_of, with_transcript

# The learning rate of RAFT; warmup_steps is read as well.
LR_SCHEDULE = "constant_with_warmup"


@dataclass
class RAFTConfig(SamplingConfig):
    """Arguments of `RAFTTrainer`; a batch is counted in clips, an epoch of the loader is a cycle.

    `samples_per_prompt`, the former name of `num_generations`, works everywhere.
    """

    former_names: ClassVar[dict[str, str]] = {"samples_per_prompt": "num_generations"}

    # Defaults that differ
    num_train_epochs: float | None = field(
        default=None, metadata={"help": "Leave unset: an epoch is a cycle, and num_cycles sets how many there are."}
    )
    lr_scheduler_type: str = field(
        default=LR_SCHEDULE,
        metadata={"help": f"Must stay {LR_SCHEDULE}: within a cycle the learning rate is constant."},
    )
    temperature: float = field(
        default=1.0,
        metadata={"help": "> 0; logits are divided by it when sampling. Kept hypotheses are learnt at temperature 1."},
    )
    sft_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight >= 0 of the negative log-likelihood (mean over tokens) of the true transcripts. Above 0, "
            "the model learns from every clip of the cycle, also from those without a kept hypothesis."
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
            "help": "> 0; length of a cycle, in passes over its clips. If fewer hypotheses were kept, they are "
            "repeated."
        },
    )
    steps_per_cycle: int | None = field(
        default=None, metadata={"help": "Length of a cycle in optimizer steps, > 0; unset: epochs_per_cycle sets it."}
    )
    lr_decay_per_cycle: float = field(
        default=0.85, metadata={"help": "The learning rate is multiplied by this after each cycle; above 0 to 1."}
    )
    min_lr: float = field(
        default=1e-6, metadata={"help": "The learning rate does not decay below this; 0 to learning_rate."}
    )

    # Rollouts and selection
    num_generations: int = field(default=4, metadata={"help": "K > 0: hypotheses sampled for each clip."})
    rollout_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Clips sampled at once on each device, > 0; unset: per_device_train_batch_size. Sampling keeps no"
            " graph, so it can be larger."
        },
    )
    max_kept_per_clip: int = field(
        default=1, metadata={"help": "Keep at most this many of each clip's best hypotheses; 1 to num_generations."}
    )
    keep_top_percent: float = field(
        default=1.0,
        metadata={
            "help": "Of those, keep this share with the highest rewards over all clips of the cycle; above 0 to 1 (1:"
            " all)."
        },
    )
    reward_threshold: float | None = field(
        default=None, metadata={"help": "Of those, keep only hypotheses with at least this reward; unset: all."}
    )

    def __post_init__(self):
        self._check_cycles()
        super().__post_init__()
        self._check_selection()
        if self.train_sampling_strategy not in REPEATABLE_ORDERS:
            raise ValueError(
                f"RAFT can read kept rows in these orders: {', '.join(REPEATABLE_ORDERS)}; got "
                f"train_sampling_strategy={self.train_sampling_strategy!r}. Leave it out."
            )

    @property
    def samples_per_prompt(self) -> int:
        """The former name of `num_generations`."""
        return self.num_generations

    @samples_per_prompt.setter
    def samples_per_prompt(self, value: int) -> None:
        self.num_generations = value

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
        number_not_below("num_generations", self.num_generations, 1)
        if not 1 <= self.max_kept_per_clip <= self.num_generations:
            raise ValueError(
                f"max_kept_per_clip is 1 to num_generations={self.num_generations}; got "
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
                "RAFT reads the rows of a cycle several times, which a stream cannot offer. Load the rows as a Dataset "
                "(streaming=False)."
            )
        if rows is not None and self.clips_per_cycle is not None and self.clips_per_cycle > len(rows):
            raise ValueError(
                f"clips_per_cycle={self.clips_per_cycle} asks for more clips than there are rows ({len(rows)}). "
                "Lower it, or leave it out for all rows."
            )


def cycle_metrics(
    cycle: int, chosen: Tensor, step: StepRollouts, names: Sequence[str], passes: float
) -> dict[str, float]:
    """What is logged at the beginning of a cycle.

    Args:
        cycle: counted from 0; logged from 1.
        chosen: (N, K) bool, what is kept, not nothing.
        step: the numbers of the cycle's N clips.
        names: of the rewards.
        passes: how often the optimizer steps go over what they learn from.
    """
    found = {**summary(step, names), "raft/kept_reward": step.rewards[chosen].mean()}
    if step.has_transcripts:
        (name, total, count), (_, kept, of) = measured(step), measured(step, chosen)
        found |= {name: total / count.clamp(min=1), f"raft/kept_{name}": kept / of.clamp(min=1)}
    return {
        "raft/cycle": cycle + 1,
        "raft/generated": chosen.numel(),
        "raft/kept": int(chosen.sum()),
        "raft/kept_clips": int(chosen.any(-1).sum()),
        "raft/passes": passes,
        **{name: value.item() for name, value in found.items()},
    }


def nothing_kept(args: RAFTConfig, cycle: int, step: StepRollouts, global_step: int) -> str:
    """The message of a run that stops because a cycle kept nothing."""
    scored = step.rewards[~step.rewards.isnan()]
    best = f"the best reward is {scored.max().item():.4g}" if len(scored) else "no reward scored any of them"
    return (
        f"Cycle {cycle + 1} of {args.num_cycles} kept none of {step.rewards.numel()} hypotheses: {best}, "
        f"reward_threshold is {args.reward_threshold}, and {int(step.truncated.sum())} were cut at "
        f"max_completion_length={args.max_completion_length}. The weights are those of step {global_step}, and "
        f"checkpoints in {args.output_dir} are intact. Lower reward_threshold, raise num_generations or "
        "max_completion_length, or use a reward that scores these rows."
    )


class RAFTTrainer(RewardedTrainer):
    """Tune a speech model on the best of its own hypotheses; rows need `audio` and what the rewards read.

    Args:
        model: id or path of a checkpoint, or a model.
        reward_funcs: one reward or several: names, dotted paths, callables with TRL's signature.
        args: `RAFTConfig`; default one that writes to `<model name>-RAFT`.

    The other arguments are those of `SpeechTrainer`.

    Attributes:
        kept: what the cycle that is on learns from; None between cycles.

    Raises:
        ValueError: rows or max_steps that do not fit the cycles; in training, a cycle that keeps nothing.
    """

    args: RAFTConfig
    lr_scheduler: Any

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        reward_funcs: Any,
        args: RAFTConfig | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Collate | None = None,
        compute_metrics: ComputeMetrics | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
        peft_config: PeftConfig | None = None,
        quantization_config: Any = None,
    ):
        args = args or RAFTConfig(output_dir=default_output_dir(model, "RAFT"))
        super().__init__(
            model,
            reward_funcs,
            args,
            num_hypotheses=args.num_generations,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=data_collator,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
            quantization_config=quantization_config,
        )
        args.check_rows(self.train_dataset)
        self._whole_plans: dict[int, EpochPlan] = {}  # by per-device batch size, which a search for one may change
        if self.train_dataset is not None and args.max_steps > args.num_cycles * self._steps_per_cycle():
            raise ValueError(
                f"max_steps={args.max_steps} is more than {args.num_cycles} cycles of {self._steps_per_cycle()} "
                "optimizer steps. Leave it out, or raise num_cycles, epochs_per_cycle or steps_per_cycle."
            )
        self.sampled = SampledTexts(self, GROUPS_A_CYCLE)
        self.figures = RewardFigures(self)
        self.kept: KeptSamples | None = None
        self.extra_state.append(KeptInCheckpoints(self))
        self.kept_tokens: Tensor | None = None  # of the optimizer step, over micro-batches and processes

    # ---- cycles ----

    def _step_batches(self) -> int:
        return self.args.gradient_accumulation_steps * self.args.world_size

    def _clips_per_step(self) -> float:
        """Under `max_batch_seconds` a mean over all training rows."""
        if self.args.max_batch_seconds is None:
            return self._train_batch_size * self._step_batches()
        return self._whole_plan().clips_per_step

    @property
    def clips_per_step(self) -> int:
        return round(self._clips_per_step())

    def _steps_per_cycle(self) -> int:
        clips = self.args.clips_per_cycle or len(self.train_dataset)
        steps = self.args.epochs_per_cycle * clips / self._clips_per_step()
        return self.args.steps_per_cycle or math.ceil(steps - ROUNDING)

    def _kept_rows(self) -> tuple[int, list[int]]:
        """The cycle that is on, and the rows it learns from, as indices of the data set."""
        assert self.kept is not None, "sampled before the loader's epoch begins, or read from the checkpoint"
        place = {row: i for i, row in enumerate(self.train_dataset["row_id"])}
        return self.kept.cycle, [place[row] for row in self.kept.row_ids]

    def _get_train_sampler(self, train_dataset: Any = None) -> RowSampler:
        seed = self._order_seed() if self.args.train_sampling_strategy == "random" else None
        length = self._steps_per_cycle() * self._train_batch_size * self._step_batches()
        return KeptRows(length, self._kept_rows, seed, self._balance)

    # ---- batches by seconds ----

    def _planned_loader(self) -> DataLoader:
        if self.args.process_index == 0:
            tell_plan(self._whole_plan(), self.family, self.args)
        batches = KeptBatches(self._steps_per_cycle() * self._step_batches(), self._kept_rows, self._learning_plan)
        return self.accelerator.prepare(planned_loader(self.train_dataset, batches, self.args, self.data_collator))

    def _whole_plan(self) -> EpochPlan:
        """Of all rows, which sets how long a cycle is."""
        size = self._train_batch_size
        if size not in self._whole_plans:
            self._whole_plans[size] = self._learning_plan(range(len(self.train_dataset)))
        return self._whole_plans[size]

    def _learning_plan(self, rows: Sequence[int]) -> EpochPlan:
        """The batches of the optimizer steps that go over these rows once, of all processes."""
        return self._plan_of(rows, self._train_batch_size, self._step_batches())

    def _plan_of(self, rows: Sequence[int], max_clips: int, step_batches: int = 1) -> EpochPlan:
        seconds = batch_seconds(self.train_dataset, self.args, self.augmentation.longest)
        assert seconds is not None and self.budget is not None, "there is a budget, and rows"
        return EpochPlan(
            seconds[np.asarray(rows)],
            self.budget.of(seconds),
            max_clips=max_clips,
            seed=self._order_seed(),
            step_batches=step_batches,
        )

    def _passes(self, rows: Sequence[int]) -> float:
        """How often the steps of a cycle go over these rows."""
        if self.args.max_batch_seconds is None:
            return self._steps_per_cycle() * self._clips_per_step() / len(rows)
        return self._steps_per_cycle() * self._step_batches() / len(self._learning_plan(rows))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        if self.lr_scheduler is None:
            factor = partial(
                cycle_factor,
                steps_per_cycle=self._steps_per_cycle(),
                warmup_steps=self.args.get_warmup_steps(num_training_steps),
                decay=self.args.lr_decay_per_cycle,
                floor=self.args.min_lr / self.args.learning_rate,
            )
            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> Any:
        try:
            if not self.at_the_end() and (self.kept is None or self.kept.cycle != epoch):
                self.kept = self._sample_cycle(epoch)
            return super()._run_epoch(*args, epoch=epoch, **kwargs)
        finally:
            self.kept = None

    @torch.no_grad()
    def _sample_cycle(self, cycle: int) -> KeptSamples:
        """Sample, reward and select, and log the result; a collective call."""
        rows = self.train_dataset
        order = clips_of_cycle(len(rows), self.args.clips_per_cycle or len(rows), cycle, self._order_seed())
        all_ids = rows["row_id"]
        self.sampled.start()
        with evaluation_mode(self.model_wrapped), self.compute_loss_context_manager():
            own = joined([self._draw(batch, cycle) for batch in self._rollout_batches(rows, order, cycle)])
            asked = [all_ids[i] for i in order]
            row_ids, eligible, step = gather_drawn(own, asked, self.accelerator, self.family.task)
            chosen = select_hypotheses(
                step.rewards,
                eligible,
                max_kept_per_clip=self.args.max_kept_per_clip,
                keep_top_percent=self.args.keep_top_percent,
                reward_threshold=self.args.reward_threshold,
            )
            if not chosen.any():
                raise ValueError(nothing_kept(self.args, cycle, step, self.state.global_step))
            learnt = row_ids if self.args.sft_weight > 0 else row_ids[chosen.any(-1)]
            # in evaluation mode, so that it has no part in the metrics of the optimizer steps
            place = {row: i for i, row in zip(order, asked, strict=True)}
            passes = self._passes([place[row] for row in learnt.tolist()])
            temperature = {} if self.args.temperature_end is None else {"temperature": self._temperature(cycle)}
            self.log({**cycle_metrics(cycle, chosen, step, self.rewards.names, passes), **temperature})
        self.figures.log()
        self.sampled.mark_kept(row_ids, chosen)
        self.sampled.tell(self.state.global_step + 1)
        hypotheses = gather_kept(own, row_ids, chosen, self.accelerator)
        return KeptSamples(cycle, learnt.tolist(), hypotheses)

    def _temperature(self, cycle: int) -> float:
        return self.args.temperature_at(cycle, self.args.num_cycles)

    def _draw(self, inputs: GroupBatch, cycle: int) -> Drawn:
        batch = GroupBatch(self._prepare_inputs(inputs))
        with sampling_guarded(self):
            (rollout,) = self.roll_out(
                self.model_wrapped, [batch], cycle, temperature=self._temperature(cycle), trainer_state=self.state
            )
        log_engine(self.metrics, [rollout])
        self.sampled.add([rollout])
        return drawn_from(rollout, numbers(rollout, self.family, self.normalizer))

    def _rollout_batches(self, rows: Dataset, order: Sequence[int], cycle: int) -> Iterator[GroupBatch]:
        """This process's clips of a cycle. Every process gets the same number of batches, because a sharded forward is
        collective.
        """
        own, most = self._own_clips(order, cycle)
        # what is heard in the rollout is what the optimizer steps of this cycle hear
        self.augmentation.begin_epoch(cycle)
        collate = self.augmentation.collator(self.data_collator)
        loader = DataLoader(
            rows,
            batch_sampler=own,
            collate_fn=collate,
            num_workers=self.args.dataloader_num_workers,
            # one of its own: a resumed run does not draw again what an uninterrupted one drew from the global one
            generator=torch.Generator(),
        )
        bar = partial(
            tqdm,
            desc=f"Cycle {cycle + 1} of {self.args.num_cycles}: sampling",
            total=sum(len(batch) for batch in own),
            unit="clip",
            leave=False,
        )
        hidden = self.args.disable_tqdm or not self.is_local_process_zero()
        with console_of(self).paused() as bars, bar(disable=hidden or not bars) as shown:
            for batch in chain(loader, (collate([]) for _ in repeat(None, most - len(own)))):
                yield batch
                shown.update(int(batch.valid.sum()))

    def _own_clips(self, order: Sequence[int], cycle: int) -> tuple[list[list[int]], int]:
        """This process's batches of the rows in `order`, and how many the process with the most has."""
        world, size = self.args.world_size, self.args.rollout_batch_size or self._train_batch_size
        if self.args.max_batch_seconds is not None:
            planned = self._plan_of(order, size).batches_of(cycle)
            batches = [[order[i] for i in batch] for batch in planned]
            return batches[self.args.process_index :: world], math.ceil(len(batches) / world)
        own = list(order[self.args.process_index :: world])
        batches = [own[start : start + size] for start in range(0, len(own), size)]
        return batches, math.ceil(math.ceil(len(order) / world) / size)

    # ---- one optimizer step ----

    def _without_repeats(self, inputs: Any) -> GroupBatch:
        """Keep repeated rows: the loader repeats what was kept."""
        return GroupBatch(inputs)

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, num_items
        batches = [self._with_kept(batch) for batch in batches]
        tokens = torch.stack([batch.keep[:, : self._sampled(batch)].sum() for batch in batches]).sum()
        self.kept_tokens = self.accelerator.reduce(tokens.to(device), reduction="sum")
        return batches, num_items

    def _with_kept(self, batch: GroupBatch) -> GroupBatch:
        """The audio with the kept hypotheses of each clip and, with `sft_weight`, the transcript after them."""
        assert self.kept is not None
        tensors = self.kept.groups(batch.row_ids, self.family.end_token)
        if self.args.sft_weight > 0:
            tensors = with_transcript(tensors, batch, self.family.end_token)
        return GroupBatch({**audio_of(batch), **tensors, "row_ids": batch.row_ids})

    def _sampled(self, batch: GroupBatch) -> int:
        """H, the hypotheses before the transcript."""
        return batch.num_hypotheses - (self.args.sft_weight > 0)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, GroupScores]:
        batch = GroupBatch(inputs)
        assert self.step_counts is not None and self.kept_tokens is not None
        scores = self.family.score_groups(model, batch)
        own = self._sampled(batch)
        loss = supervised_loss(scores.logps[:, :own], scores.keep[:, :own], self.kept_tokens)
        self._log_likelihood("loss/kept", scores.logps[:, :own], scores.keep[:, :own], batch.keep[:, :own])
        if self.args.sft_weight > 0:
            logps, keep = scores.logps[:, own:], scores.keep[:, own:]
            loss = loss + self.args.sft_weight * supervised_loss(logps, keep, self.step_counts.tokens)
            self._log_likelihood("loss/sft", logps, keep, batch.keep[:, own:])
        loss = self.scale_for_step(loss, training=True)
        self.check_finite(loss, batch)
        self.metrics.add("train", "entropy", scores.entropy[:, :own], scores.keep[:, :own])
        return (loss, scores) if return_outputs else loss

    def _log_likelihood(self, name: str, logps: Tensor, keep: Tensor, tokens: Tensor) -> None:
        """The mean over tokens, also where a family scores a hypothesis as a whole."""
        self.metrics.add_ratio("train", name, torch.where(keep, -logps, 0.0).sum(), tokens.sum())


class KeptInCheckpoints:
    """Saves what a cycle kept in the checkpoints that fall within it.

    Args:
        trainer: a `RAFTTrainer`.
    """

    def __init__(self, trainer: RAFTTrainer):
        self.trainer = trainer

    @property
    def _within(self) -> bool:
        return bool(self.trainer.state.global_step % self.trainer._steps_per_cycle())

    def save(self, checkpoint: str) -> None:
        kept = self.trainer.kept
        if kept is not None and self._within and self.trainer.args.should_save:
            kept.save(checkpoint, self.trainer._steps_per_cycle())

    def load(self, checkpoint: str) -> None:
        if self._within:
            self.trainer.kept = load_kept(checkpoint, self.trainer._steps_per_cycle())
