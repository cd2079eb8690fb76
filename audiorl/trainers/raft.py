"""Reward-ranked fine-tuning on speech (Dong et al. 2023, arXiv:2304.06767): sample, select, fine-tune, again.

A cycle, `num_cycles` times:
1. K hypotheses of each of its clips are sampled from the policy as it is now, the audio encoded once, and rewarded;
   processes share the clips, and the randomness of a clip comes from (seed, cycle, row).
2. Rewards of all processes are ranked, and `select_hypotheses` says what is kept.
3. The policy learns what was kept by its likelihood, all kept hypotheses of a clip from one encoder pass, and, with
   `sft_weight`, the true transcripts beside it.
4. The learning rate is multiplied by `lr_decay_per_cycle`, down to `min_lr`.

It is one `Trainer` run: an epoch of the loader is a cycle, and checkpoints within a cycle hold what it kept.

Deviations from the paper:
1. Several hypotheses of a clip can be kept, and fewer than one of each: by their rank over all clips, by a threshold.
2. What the length limit cut is never kept, what a clip says twice only once.
3. A cycle has a fixed number of optimizer steps. They go over what was kept as often as it takes.
4. The likelihood is a mean over the tokens of the optimizer step, at temperature 1 however it was sampled.
5. The learning rate decays by cycles, and the optimizer keeps its state across them.
6. No KL penalty is part of the reward.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torch.utils.data import Sampler as RowSampler
from tqdm.auto import tqdm
from transformers import TrainerCallback

from audiorl.batch import GroupBatch, GroupScores
from audiorl.evaluation.transcription import evaluation_mode
from audiorl.losses import supervised_loss
from audiorl.trainers.bad_numbers import sampling_guarded
from audiorl.trainers.base import Collate, ComputeMetrics, Optimizers
from audiorl.trainers.loading import default_output_dir
from audiorl.trainers.logs import console_of
from audiorl.trainers.raft_config import RAFTConfig
from audiorl.trainers.raft_report import cycle_metrics, nothing_kept
from audiorl.trainers.raft_samples import (
    Drawn,
    KeptRows,
    KeptSamples,
    drawn_from,
    gather_drawn,
    gather_kept,
    joined,
    load_kept,
)
from audiorl.trainers.raft_selection import clips_of_cycle, cycle_factor, select_hypotheses
from audiorl.trainers.rewarded import RewardedTrainer
from audiorl.trainers.rollout_metrics import numbers
from audiorl.trainers.sampled_texts import GROUPS_A_CYCLE, SampledTexts
from audiorl.trainers.step_data import audio_of, with_transcript

__all__ = ["RAFTConfig", "RAFTTrainer"]


class RAFTTrainer(RewardedTrainer):
    """Tune a speech model on the best of its own hypotheses; rows need `audio`, `text` and what the rewards read.

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
            num_hypotheses=args.samples_per_prompt,
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
        if self.train_dataset is not None and args.max_steps > args.num_cycles * self._steps_per_cycle():
            raise ValueError(
                f"max_steps={args.max_steps} is more than {args.num_cycles} cycles of {self._steps_per_cycle()} "
                "optimizer steps. Leave it out, or raise num_cycles, epochs_per_cycle or steps_per_cycle."
            )
        self.sampled = SampledTexts(self, GROUPS_A_CYCLE)
        self.kept: KeptSamples | None = None
        self.extra_state.append(KeptInCheckpoints(self))
        self.kept_tokens: Tensor | None = None  # of the optimizer step, over micro-batches and processes

    # ---- cycles ----

    def _clips_per_step(self) -> int:
        return self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _steps_per_cycle(self) -> int:
        clips = self.args.clips_per_cycle or len(self.train_dataset)
        return self.args.steps_per_cycle or math.ceil(self.args.epochs_per_cycle * clips / self._clips_per_step())

    def _order_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _get_train_sampler(self, train_dataset: Any = None) -> RowSampler:
        place = {row: i for i, row in enumerate(self.train_dataset["row_id"])}

        def rows() -> tuple[int, list[int]]:
            assert self.kept is not None, "sampled before the loader's epoch begins, or read from the checkpoint"
            return self.kept.cycle, [place[row] for row in self.kept.row_ids]

        seed = self._order_seed() if self.args.train_sampling_strategy == "random" else None
        return KeptRows(self._steps_per_cycle() * self._clips_per_step(), rows, seed)

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
        """Sample, reward and select, and log what came of it; a collective call."""
        rows = self.train_dataset
        order = clips_of_cycle(len(rows), self.args.clips_per_cycle or len(rows), cycle, self._order_seed())
        all_ids = rows["row_id"]
        self.sampled.start()
        with evaluation_mode(self.model_wrapped), self.compute_loss_context_manager():
            own = joined([self._draw(batch, cycle) for batch in self._rollout_batches(rows, order, cycle)])
            asked = [all_ids[i] for i in order]
            row_ids, eligible, step = gather_drawn(own, asked, self.accelerator, labels=self.family.labels is not None)
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
            passes = self._steps_per_cycle() * self._clips_per_step() / len(learnt)
            self.log(cycle_metrics(cycle, chosen, step, self.rewards.names, passes))
        self.sampled.mark_kept(row_ids, chosen)
        self.sampled.tell(self.state.global_step + 1)
        hypotheses = gather_kept(own, row_ids, chosen, self.accelerator)
        return KeptSamples(cycle, learnt.tolist(), hypotheses)

    def _draw(self, inputs: GroupBatch, cycle: int) -> Drawn:
        batch = GroupBatch(self._prepare_inputs(inputs))
        with sampling_guarded(self):
            (rollout,) = self.roll_out(self.model_wrapped, [batch], cycle, trainer_state=self.state)
        self.sampled.add([rollout])
        return drawn_from(rollout, numbers(rollout, self.family, self.normalizer))

    def _rollout_batches(self, rows: Dataset, order: Sequence[int], cycle: int) -> Iterator[GroupBatch]:
        """This process's clips of a cycle; every process gets as many batches, for a sharded forward is collective."""
        world, size = self.args.world_size, self.args.rollout_batch_size or self._train_batch_size
        own = list(order[self.args.process_index :: world])
        batches = [own[start : start + size] for start in range(0, len(own), size)]
        # what is heard in the rollout is what the optimizer steps of this cycle hear
        self.augmentation.begin_epoch(cycle)
        collate = self.augmentation.collator(self.data_collator)
        loader = DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.args.dataloader_num_workers,
            # one of its own: a resumed run does not draw again what an uninterrupted one drew from the global one
            generator=torch.Generator(),
        )
        missing = math.ceil(math.ceil(len(order) / world) / size) - len(batches)
        bar = partial(
            tqdm,
            desc=f"Cycle {cycle + 1} of {self.args.num_cycles}: sampling",
            total=len(own),
            unit="clip",
            leave=False,
            disable=self.args.disable_tqdm or not self.is_local_process_zero(),
        )
        with console_of(self).paused(), bar() as shown:
            for batch in chain(loader, (collate([]) for _ in repeat(None, missing))):
                yield batch
                shown.update(int(batch.valid.sum()))

    # ---- one optimizer step ----

    def _without_repeats(self, inputs: Any) -> GroupBatch:
        """The loader goes over what was kept, so a row that comes again is meant to."""
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
        """The audio with what was kept of each clip and, where that counts, the transcript behind it."""
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
    """What a cycle kept, in the checkpoints that fall within it.

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
