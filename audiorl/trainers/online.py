"""Learning from rollouts: what GRPO and online DPO share.

1. The micro-batches of an optimizer step are rolled out together, before its first loss: every clip is encoded once, K
   hypotheses of it are sampled and rewarded (`rollouts.py`). A batch counts clips, so groups stay whole.
2. Rewards are put together over micro-batches and processes, for advantages and for the log.
3. A subclass says which hypotheses it learns from (`learn_from`) and computes a loss of them (`rollout_loss`). The
   frozen policy scores them once. With a frozen encoder rollout, reference and loss read the same states.
4. The row's transcript stands beside the hypotheses as one more where `sft_weight` is not 0.
5. `num_iterations` steps learn from the same rollouts. The loader repeats the rows of a step (`repeated_blocks.py`);
   what was sampled is kept, and written into the checkpoints that fall between two of these steps.
6. Evaluation decodes the rows and rewards what was decoded; a rollout has no evaluation loss.

Deviations from TRL's GRPOTrainer:
1. `per_device_train_batch_size` counts clips, not completions; `steps_per_generation` is not offered.
2. The randomness of a rollout is drawn from (seed, optimizer step, row), so that N processes sample what one does.
3. `old_logps` are those of sampling, not of a further pass.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import Sampler as RowSampler
from transformers.trainer_utils import EvalLoopOutput

from audiorl.batch import GroupBatch, GroupScores
from audiorl.collator import SpeechCollator
from audiorl.datasets import RowFault, speech_rows
from audiorl.datasets.rows import OURS
from audiorl.evaluation import Decoded
from audiorl.evaluation.transcription import evaluation_mode
from audiorl.losses import supervised_loss
from audiorl.rewards import RewardSet
from audiorl.trainers.repeated_blocks import RepeatedBlocks
from audiorl.trainers.rollout_collator import RolloutCollator, length_fault, require_rows
from audiorl.trainers.rollout_config import RolloutConfig
from audiorl.trainers.rollout_metrics import (
    StepRollouts,
    completion_records,
    gather_step,
    log_step,
    show_completions,
)
from audiorl.trainers.rollouts import Rollout, RolloutMaker, Sampling, reward_texts
from audiorl.trainers.step_data import (
    Learnt,
    StepData,
    audio_of,
    each_row_once,
    load_step_data,
    rollouts_file,
    with_transcript,
)
from audiorl.trainers.with_reference import ReferenceTrainer


class RolloutTrainer(ReferenceTrainer, ABC):
    """Base of the trainers that learn from rewarded rollouts; rows need `audio`, `text` and what the rewards read.

    Args:
        model: id or path of a checkpoint, or a model.
        reward_funcs: one reward or several: names, dotted paths, callables with TRL's signature.
        args: the subclass's config.
        ref_model: the frozen policy, where the method has one; default the model as it is handed in, or, with an
            adapter, the model without it.

    The other arguments are those of `SpeechTrainer`.
    """

    text_columns = ("text",)
    args: RolloutConfig

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        reward_funcs: Any,
        args: RolloutConfig,
        ref_model: str | os.PathLike | nn.Module | None = None,
        *,
        uses_reference: bool,
        **kwargs: Any,
    ):
        self.rewards = RewardSet(reward_funcs, args.reward_weights)
        super().__init__(model, args, **kwargs)
        require_rows(self.data_collator)
        args.check_rows(self.train_dataset)
        if uses_reference:
            self.set_reference(ref_model, new_adapter=kwargs.get("peft_config") is not None)
        elif ref_model is not None:
            raise ValueError("ref_model would not be read: beta is 0. Raise beta, or leave ref_model out.")
        sampling = Sampling(
            args.num_generations, args.max_completion_length, args.temperature, args.sampler(), args.seed
        )
        self.roll_out = RolloutMaker(self.family, self.rewards, self.accelerator, sampling, args.dynamic_sampling_tries)
        self.step_data: StepData | None = None
        self._completions: list[dict[str, Any]] = []

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

    # ---- rows ----

    def _default_collator(self, args: Any) -> SpeechCollator:
        return RolloutCollator(
            self.family,
            text_columns=self.text_columns,
            skipped=self.skipped if args.on_bad_rows == "skip" else None,
            max_tokens=args.max_completion_length,
        )

    def _faults(self, rows: Dataset) -> list[RowFault]:
        faults = super()._faults(rows)
        faulty = {fault.row_id for fault in faults}
        texts = rows.remove_columns([name for name in rows.column_names if name == "audio"])
        longer = (
            length_fault(self.family, row, self._max_tokens)
            for row in (texts if "text" in rows.column_names else [])
            if row["row_id"] not in faulty
        )
        return faults + [fault for fault in longer if fault is not None]

    def _checked_rows(self, source: Any, args: Any, name: str) -> Any:
        self._max_tokens = args.max_completion_length
        rows = super()._checked_rows(source, args, name)
        if isinstance(rows, Dataset):
            self.rewards.check_columns([column for column in rows.column_names if column not in OURS])
        return rows

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
            self.step_data = None  # the states of the last step go before those of this one come
            self.step_data = self._roll_out(batches)
        data = self._data()
        data.check_rows(batches)
        parts = zip(batches, data.batches, data.states, strict=True)
        return [self._input(batch, tensors, states, first=first) for batch, tensors, states in parts], num_items

    @torch.no_grad()
    def _roll_out(self, batches: Sequence[GroupBatch]) -> StepData:
        """Sample, reward, decide what to learn from, and let the frozen policy score it."""
        model = self.model_wrapped
        keeps_states = self.family.encoder_is_frozen(model)
        with evaluation_mode(model), self.compute_loss_context_manager():
            rollouts = self.roll_out(model, batches, self.state.global_step, trainer_state=self.state)
            step = gather_step(rollouts, self.family, self.accelerator, self.args.wer_normaliser)
            log_step(self.metrics, step, self.rewards.names, resampling=self.args.dynamic_sampling_tries > 0)
            if self.args.log_completions:
                self._completions = completion_records(rollouts, self.rewards.names)
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
        scores = self.family.score_groups(model, batch, batch.get("states"), temperature=self.args.temperature)
        sampled = batch.num_hypotheses - (self.args.sft_weight > 0)
        own = scores._replace(**{name: getattr(scores, name)[:, :sampled] for name in scores._fields[:-1]})
        loss = self.rollout_loss(batch, own, self._data().counts)
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
        if self.model.training and self.args.log_completions:
            show_completions(self._completions, self.state.global_step, self.args)
            self._completions = []

    # ---- resuming between two inner updates ----

    def save_extra_state(self, checkpoint: str) -> None:
        super().save_extra_state(checkpoint)
        if self.step_data is not None and self.state.global_step % self.args.num_iterations:
            self.step_data.save(rollouts_file(checkpoint, self.args.process_index))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        self.step_data = None
        if checkpoint is None or not self.state.global_step % self.args.num_iterations:
            return
        path = rollouts_file(checkpoint, self.args.process_index)
        self.step_data = load_step_data(path, self.args.device, self.args.num_iterations)

    def _data(self) -> StepData:
        assert self.step_data is not None, "sampled in the first of the inner updates, or read from the checkpoint"
        return self.step_data

    # ---- evaluation ----

    def _check_decoding(self) -> None:
        if self.eval_dataset is not None:
            super()._check_decoding()

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Decode, reward, count errors; nothing is scored."""
        rows = speech_rows(dataloader.dataset)
        decoded = self.decode(rows)
        self._reward_decoded(rows, decoded)
        found = {**self.metrics.drain("eval"), **self._decoded_metrics(decoded)}
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
