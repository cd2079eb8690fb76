"""Learning from rollouts: what GRPO and online DPO share.

1. The micro-batches of an optimizer step are rolled out together, before its first loss: every clip is encoded once, K
   hypotheses of it are sampled and rewarded (`rollouts.py`). A batch counts clips, so groups stay whole.
2. Rewards are put together over micro-batches and processes, for advantages and for the log.
3. A subclass says which hypotheses it learns from (`learn_from`) and computes a loss of them (`rollout_loss`). The
   frozen policy scores them once. With a frozen encoder rollout, reference and loss read the same states.
4. The row's transcript stands beside the hypotheses as one more where `sft_weight` is not 0.
5. `num_iterations` steps learn from the same rollouts. The loader repeats the rows of a step (`repeated_blocks.py`);
   what was sampled is kept, and written into the checkpoints that fall between two of these steps.
6. Rows, rewards and evaluation are those of `rewarded.py`.

Deviations from TRL's GRPOTrainer:
1. `per_device_train_batch_size` counts clips, not completions; `steps_per_generation` is not offered.
2. The randomness of a rollout is drawn from (seed, optimizer step, row), so that N processes sample what one does.
3. `old_logps` are those of sampling, not of a further pass.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Unpack

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import Sampler
from torch.utils.data import Sampler as RowSampler

from audiorl.batch import GroupBatch, GroupScores
from audiorl.evaluation.transcription import evaluation_mode
from audiorl.losses import supervised_loss
from audiorl.trainers.base import TrainerArguments
from audiorl.trainers.callbacks import sampling_guarded
from audiorl.trainers.rewarded import RewardedTrainer, RolloutConfig
from audiorl.trainers.rollout_metrics import (
    SampledTexts,
    StepRollouts,
    gather_step,
    log_step,
)
from audiorl.trainers.rollouts import (
    HeldRollouts,
    Learnt,
    Rollout,
    StepData,
    audio_of,
    each_row_once,
    with_transcript,
)


class RepeatedBlocks(Sampler[int]):
    """The rows of each optimizer step, several times in a row; epochs, steps and resuming stay the loader's own.

        [4 2 0 3 | 4 2 0 3 | 1 1 1 1 | 1 1 1 1]      five rows in blocks of 4, twice each

    A last block that is shorter is filled up with its own rows, so that steps stay aligned; the trainer gives the
    repetitions no weight.

    Args:
        num_rows: rows of the data set, > 0.
        block: clips of an optimizer step, over micro-batches and processes, > 0.
        repeats: `num_iterations`, > 0.
        seed: of the order, which is another one in each epoch and the same in each process; None keeps the rows' order.
        steps_done: tells how many optimizer steps lie behind, from which the epoch follows, however a run was resumed.
        drop_last: leave a last block that is shorter out.
    """

    def __init__(
        self,
        num_rows: int,
        block: int,
        repeats: int,
        *,
        seed: int | None,
        steps_done: Callable[[], int],
        drop_last: bool = False,
    ):
        self.num_rows = num_rows
        self.block = block
        self.repeats = repeats
        self.seed = seed
        self.steps_done = steps_done
        self.drop_last = drop_last

    def __len__(self) -> int:
        blocks = self.num_rows // self.block if self.drop_last else -(-self.num_rows // self.block)
        return blocks * self.block * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.num_rows))
        if self.seed is not None:
            epoch = self.steps_done() * self.block // len(self)
            generator = torch.Generator().manual_seed(self.seed + epoch)
            order = torch.randperm(self.num_rows, generator=generator).tolist()
        for start in range(0, len(self) // self.repeats, self.block):
            rows = list(islice(cycle(order[start : start + self.block]), self.block))
            for _ in range(self.repeats):
                yield from rows


class RolloutTrainer(RewardedTrainer, ABC):
    """Base of the trainers that learn from rewarded rollouts; rows need `audio` and what the rewards read.

    Args:
        model: id or path of a checkpoint, or a model.
        reward_funcs: one reward or several: names, dotted paths, callables with TRL's signature.
        args: the subclass's config.
        ref_model: the frozen policy, where the method has one; default the model as it is handed in, or, with an
            adapter, the model without it.

    The other arguments are those of `SpeechTrainer`.
    """

    args: RolloutConfig

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        reward_funcs: Any,
        args: RolloutConfig,
        ref_model: str | os.PathLike | nn.Module | None = None,
        *,
        uses_reference: bool,
        **kwargs: Unpack[TrainerArguments],
    ):
        tries = args.dynamic_sampling_tries
        super().__init__(model, reward_funcs, args, num_hypotheses=args.num_generations, tries=tries, **kwargs)
        args.check_rows(self.train_dataset)
        if uses_reference:
            self.set_reference(ref_model, new_adapter=kwargs.get("peft_config") is not None)
        elif ref_model is not None:
            raise ValueError("ref_model would not be read: beta is 0. Raise beta, or leave ref_model out.")
        self.held = HeldRollouts(self)
        self.extra_state.append(self.held)
        self.sampled = SampledTexts(self)

    # ---- what a subclass says ----

    @abstractmethod
    def learn_from(self, rollouts: Sequence[Rollout], step: StepRollouts) -> list[Learnt]:
        """Which hypotheses of each micro-batch the loss is made of, and what it is divided by.

        Args:
            rollouts: of this process.
            step: the numbers of all processes.
        """

    @abstractmethod
    def rollout_loss(self, batch: GroupBatch, scores: GroupScores, counts: Tensor) -> Tensor:
        """The loss of one micro-batch, a scalar; those of all micro-batches and processes add up to the step's.

        Args:
            batch: the clips with the tensors of `learn_from`.
            scores: of its H hypotheses under the policy, with graph.
            counts: (n,) those of `learn_from`, over micro-batches and processes.
        """

    # ---- order of rows ----

    def _get_train_sampler(self, train_dataset: Any = None) -> RowSampler | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.args.num_iterations == 1 or not isinstance(rows, Dataset):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return RepeatedBlocks(
            len(rows),
            self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            self.args.num_iterations,
            seed=seed if self.args.train_sampling_strategy == "random" else None,
            steps_done=lambda: self.state.global_step,
            drop_last=self.args.dataloader_drop_last,
        )

    # ---- one optimizer step ----

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, num_items
        if self.args.num_iterations > 1:
            batches = each_row_once(batches, self.accelerator)
            self.step_counts = self._count(batches, device)
        first = self.state.global_step % self.args.num_iterations == 0
        if first:
            self.held.data = None  # the states of the last step go before those of this one come
            self.held.data = self._roll_out(batches)
        data = self.held.get()
        data.check_rows(batches)
        parts = zip(batches, data.batches, data.states, strict=True)
        return [self._input(batch, tensors, states, first=first) for batch, tensors, states in parts], num_items

    @torch.no_grad()
    def _roll_out(self, batches: Sequence[GroupBatch]) -> StepData:
        """Sample, reward, decide what to learn from, and let the frozen policy score it."""
        model = self.model_wrapped
        keeps_states = self.family.encoder_is_frozen(model)
        with sampling_guarded(self), evaluation_mode(model), self.compute_loss_context_manager():
            rollouts = self.roll_out(model, batches, self.state.global_step, trainer_state=self.state)
            step = gather_step(rollouts, self.family, self.accelerator, self.normalizer)
            log_step(self.metrics, step, self.rewards.names, resampling=self.args.dynamic_sampling_tries > 0)
            self.sampled.start()
            self.sampled.add(rollouts)
            learnt = self.learn_from(rollouts, step)
            tensors = [
                self._scored(model, rollout, part.tensors, keeps_states)
                for rollout, part in zip(rollouts, learnt, strict=True)
            ]
        counts = torch.stack([part.counts for part in learnt]).sum(0).to(self.accelerator.device)
        return StepData(
            self.state.global_step,
            tensors,
            self.accelerator.reduce(counts, reduction="sum"),
            [rollout.states if keeps_states else None for rollout in rollouts],
        )

    def _scored(
        self, model: nn.Module, rollout: Rollout, tensors: dict[str, Tensor], keeps_states: bool
    ) -> dict[str, Tensor]:
        """The tensors with the frozen policy's log-probabilities and the transcript added."""
        tensors = {"row_ids": rollout.batch.row_ids, **tensors}
        if self.reference is not None:
            batch = GroupBatch({**audio_of(rollout.batch), **tensors})
            states = rollout.states if keeps_states and self.reference.same_encoder else None
            tensors["ref_logps"] = self.reference.token_logps(model, batch, states, temperature=self.args.temperature)
        if self.args.sft_weight > 0:
            tensors = with_transcript(tensors, rollout.batch, self.family.end_token)
        return tensors

    def _input(
        self, batch: GroupBatch, tensors: dict[str, Tensor], states: Tensor | None, *, first: bool
    ) -> GroupBatch:
        """What `compute_loss` reads: this step's audio with what was sampled for it."""
        device = batch.tokens.device
        found = {name: tensor.to(device) for name, tensor in tensors.items()}
        if first:
            found.pop("old_logps", None)  # the policy has not moved: its own scores are the old ones
        if states is None and self.family.encoder_is_frozen(self.model_wrapped):
            with torch.no_grad(), self.compute_loss_context_manager():
                states = self.family.encode(self.model_wrapped, batch)
        return GroupBatch({**audio_of(batch), **found, **({} if states is None else {"states": states})})

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, GroupScores]:
        batch = GroupBatch(inputs)
        assert self.step_counts is not None
        scores = self.family.score_groups(model, batch, batch.tensors.get("states"), temperature=self.args.temperature)
        sampled = batch.num_hypotheses - (self.args.sft_weight > 0)
        own = scores.select_hypotheses(slice(sampled))
        loss = self.rollout_loss(batch, own, self.held.get().counts)
        if self.args.sft_weight > 0:
            logps, keep = scores.logps[:, sampled:], scores.keep[:, sampled:]
            loss = loss + self.args.sft_weight * supervised_loss(logps, keep, self.step_counts.tokens)
            self.metrics.add_ratio("train", "loss/sft", torch.where(keep, -logps, 0.0).sum(), batch.keep[:, -1].sum())
        loss = self.scale_for_step(loss, training=True)
        self.check_finite(loss, batch)
        self.metrics.add("train", "entropy", own.entropy, own.keep)
        return (loss, scores) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if self.model.training:
            self.sampled.tell(self.state.global_step)
