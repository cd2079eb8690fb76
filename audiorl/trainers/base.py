"""The base of all trainers: rows are checked before anything is spent, counts are global, checkpoints are whole.

1. Find model, processor and family; check every row; freeze the encoder, add an adapter, turn dropout off.
2. Count the clips and tokens of each optimizer step over all micro-batches and processes. A loss is divided once, by
   the count of the whole step, so that 4 micro-batches of 1 equal 1 of 4, and N processes equal one.
3. A subclass computes the loss. If the loss or a gradient is not finite, the run stops before the weights change. If a
   weight is not finite after the step, the run stops before the weights are saved.
4. Write checkpoints aside and rename them when they are complete. A run resumes only from its own whole checkpoints.

Deviation from `transformers.Trainer`: the last batch of an epoch is filled up with repeated rows, so that every process
gets as many. Here the repeated rows have no weight.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypedDict

import torch
from accelerate.utils import DynamoBackend, is_peft_model
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Sampler as RowSampler
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput
from transformers.utils import logging

from audiorl.batch import GroupBatch, GroupScores
from audiorl.collator import SpeechCollator
from audiorl.datasets import RowJudge, SkippedRows
from audiorl.datasets.batching import EpochPlan
from audiorl.datasets.corpora import rows_for
from audiorl.datasets.storage import OURS
from audiorl.elsewhere import AnswersWrongArguments
from audiorl.evaluation import Comparison, Decoded
from audiorl.model_card import MODEL_CARD, DataSource
from audiorl.models import base_model
from audiorl.models.forward import is_sharded
from audiorl.text.normalizers import normalizer
from audiorl.trainers.adapters import RankSchedule, adapter_files, follow_adapter
from audiorl.trainers.batch_budget import BatchBudget, batch_seconds, planned_loader, tell_plan
from audiorl.trainers.callbacks import OwnConfigs, StopOnBadNumbers, StopOnSigterm
from audiorl.trainers.card import RunCard
from audiorl.trainers.checkpoints import CheckpointSaver
from audiorl.trainers.clips import (
    LEFT_OUT_FILE,
    TrainingAugmentation,
    balance_values,
    clips_trained_on,
    filled_stream,
    tell_unused_rows,
    usable_rows,
    warn_of_clips_trained_on,
)
from audiorl.trainers.config import SpeechConfig
from audiorl.trainers.cost import CostMeter
from audiorl.trainers.distributed import BalancedRows, check_parallelism
from audiorl.trainers.hub import HubPusher, tokens_left_out
from audiorl.trainers.loading import (
    check_trained,
    configured_family,
    fill_encoder_cache,
    load_model,
    load_processor,
    make_encoder_cache,
    plan_adapter,
    save_spelling,
    tunable,
)
from audiorl.trainers.logs import closing, console_of, without_other_bars, write_logs
from audiorl.trainers.media import AudioSamples
from audiorl.trainers.metrics import Decoder, Metrics, StepCounts, counted_step, without_repeats
from audiorl.trainers.reference import AdapterOff, FrozenCopy, FrozenPolicy
from audiorl.trainers.report_files import RunReport, leave_comparison

logger = logging.get_logger(__name__)

# Which split of a corpus is meant, by the argument that names it.
_ROLES = {"train": "train", "eval": "validation", "test": "test"}


Collate = Callable[[list[dict[str, Any]]], GroupBatch]
ComputeMetrics = Callable[[EvalPrediction], dict[str, float]]
Optimizers = tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None]


class TrainerArguments(TypedDict, total=False):
    """Arguments of every trainer beside model, args and rewards; `SpeechTrainer` explains them."""

    train_dataset: Any
    eval_dataset: Any
    processing_class: Any
    data_collator: Collate | None
    compute_metrics: ComputeMetrics | None
    callbacks: list[TrainerCallback] | None
    optimizers: Optimizers
    peft_config: PeftConfig | None
    quantization_config: Any


class ExtraState(Protocol):
    """A part of a run that checkpoints hold in addition to what `Trainer` saves. Every process calls both methods."""

    def save(self, checkpoint: str) -> None: ...

    def load(self, checkpoint: str) -> None: ...


class SpeechTrainer(Trainer, metaclass=AnswersWrongArguments):
    """Base of the trainers. A subclass names the text columns that its rows need, and computes the loss.

    Args:
        model: id or path of a checkpoint, or a model.
        args: the subclass's config.
        train_dataset, eval_dataset: anything `audiorl.datasets.speech_rows` takes. A corpus name alone means its split
            "train" or "validation" in the config's language; "librispeech:test.other" names another split.
            `eval_dataset` can also be a dict of data sets.
        processing_class: the checkpoint's processor; default: found by the model's name.
        data_collator: rows -> `GroupBatch`; default `SpeechCollator`.
        compute_metrics: gets an `EvalPrediction` of hypotheses and transcripts, two lists of strings.
        callbacks, optimizers: as in `transformers.Trainer`.
        peft_config: trains a new adapter instead of the model; see `audiorl.adapters` for its target_modules.
        quantization_config: how to load the model by name or path, e.g. `BitsAndBytesConfig(load_in_8bit=True)`.

    Attributes:
        family: how this kind of model is scored, sampled and decoded (`audiorl.models`).
        augmentation: of training clips; false without augmentation.
        saver, checkpoints: save checkpoints and models whole; the checkpoints of `output_dir`.
        card: the model card; `record_data` and `record_evaluation` tell it what the trainer cannot know.
        hub: pushes the model and its checkpoints.
        decoder: transcribes rows with the current model.
        frozen: the frozen policy, if `set_reference` made one.
        built: when, by `time.monotonic`.
        ranks: AdaLoRA's schedule, if the adapter is an AdaLoRA one.
        extra_state: parts of the run that a checkpoint holds besides the model and `Trainer`'s own state.
        budget: the seconds of a batch, under `max_batch_seconds`.
        metrics: what is logged, as means over micro-batches and processes.
        cost: measures where time goes, speech and tokens in a second, memory.
    """

    train_dataset: Any
    eval_dataset: Any
    data_collator: Any
    text_columns: tuple[str, ...] = ("text",)
    flag_columns: tuple[str, ...] = ()
    rewards_evaluations = False  # whether an evaluation rewards what the model says, and decodes for it
    distinct_texts = False
    frozen: FrozenPolicy | None = None
    _balanced: BalancedRows | None = None
    _plan: EpochPlan | None = None

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        args: SpeechConfig,
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
        check_compute_loss(type(self))
        self.built = time.monotonic()
        model = load_model(model, args, quantization_config)
        processor = load_processor(processing_class, model)
        self.family = configured_family(model, processor, args)
        self.normalizer = normalizer(args.wer_normaliser, processor=processor)
        self.own_configs = OwnConfigs(base_model(model))
        planned = plan_adapter(model, peft_config)
        self.skipped = SkippedRows(os.path.join(args.output_dir, "skipped_rows.jsonl"))
        self.left_out = SkippedRows(os.path.join(args.output_dir, LEFT_OUT_FILE))
        self.augmentation = TrainingAugmentation(args)
        self.hub, self.card, self.decoder = HubPusher(self), RunCard(self), Decoder(self)
        self._name_data(train_dataset)
        train_rows = self._checked_rows(train_dataset, args, "train_dataset")
        self._read_rows(train_rows, args)
        eval_rows = self._checked_rows(eval_dataset, args, "eval_dataset")
        for name, rows in eval_rows.items() if isinstance(eval_rows, dict) else [("eval_dataset", eval_rows)]:
            warn_of_clips_trained_on(train_rows, rows, args, name)
        model = tunable(model, planned, self.family, args)
        if train_dataset is not None:
            check_trained(model, args)
        self.family.encoder_cache = make_encoder_cache(model, self.family, args)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or self._default_collator(args),
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            processing_class=processor,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.own_configs.restore_use_cache()
        # Losses are divided by the counts of the whole step; Trainer must not guess from a forward's signature.
        self.model_accepts_loss_kwargs = False
        self.metrics = Metrics(self.accelerator)
        self.cost = CostMeter(self)
        self.step_counts: StepCounts | None = None
        self.extra_state: list[ExtraState] = []
        self.budget: BatchBudget | None = None
        if args.max_batch_seconds is not None:
            self.budget = BatchBudget(self)
            self.extra_state.append(self.budget)
        self.saver = CheckpointSaver(self)
        self.checkpoints = self.saver.folder
        self._add_callbacks(args)
        self.ranks: RankSchedule | None = follow_adapter(self)
        if self.ranks is not None:
            self.extra_state.append(self.ranks)
        self._check_ready()

    def _check_ready(self) -> None:
        """Checks that need accelerate and the finished model."""
        check_parallelism(self.accelerator)
        self.augmentation.collator(self.data_collator)
        self.decoder.check()
        self.hub.check()

    def _name_data(self, train_dataset: Any) -> None:
        """Put the name of the training rows on the card, if they came by a name."""
        if isinstance(train_dataset, str | os.PathLike):
            self.card.source = DataSource(os.path.basename(os.path.normpath(train_dataset)))

    def _add_callbacks(self, args: SpeechConfig) -> None:
        self.add_callback(self.cost)  # before callbacks that take time themselves
        self.stop_on_sigterm = StopOnSigterm(self)
        self.add_callback(self.stop_on_sigterm)
        self.bad_numbers = StopOnBadNumbers(self)
        self.add_callback(self.bad_numbers)  # behind whatever asks for a checkpoint
        self.add_callback(self.own_configs)
        self.add_callback(self.card.stopwatch)
        write_logs(self)
        if args.log_audio_every:
            self.add_callback(AudioSamples(self))
        self.run_report = RunReport(self)
        self.add_callback(self.run_report)

    # ---- rows ----

    def _default_collator(self, args: SpeechConfig) -> SpeechCollator:
        return SpeechCollator(
            self.family,
            text_columns=self.text_columns,
            distinct=self.distinct_texts,
            skipped=self.skipped if args.on_bad_rows == "skip" else None,
            silence=args.allow_silence,
            flag_columns=self.flag_columns,
        )

    def _checked_rows(self, source: Any, args: SpeechConfig, name: str) -> Any:
        """Rows in the library's form, all of them checked first. Rows of a stream are judged one by one later."""
        if source is None:
            return None
        if isinstance(source, dict):
            return {split: self._checked_rows(rows, args, f"{name}[{split!r}]") for split, rows in source.items()}
        role = _ROLES.get(name.partition("_")[0], "validation")
        rows = rows_for(source, role, args.language, args.columns)
        judge = self.row_judge(args)
        if role == "train":
            judge = replace(judge, growth=self.augmentation.growth)
        else:  # what the model says is compared with the texts
            judge = replace(judge, text_optional=False)
        return usable_rows(rows, judge, args, name, self.skipped)

    def _read_rows(self, rows: Any, args: SpeechConfig) -> None:
        """Take from the training rows what the order of an epoch and the changes of its clips need."""
        self.augmentation.read_columns(rows)
        self._balance = balance_values(rows, args)
        batch_seconds(rows, args, self.augmentation.longest)  # refuses what has no plan

    def row_judge(self, args: SpeechConfig) -> RowJudge:
        """What the trainer asks of a row: the same before training and in its default collator."""
        return self._default_collator(args).judge

    def get_train_dataloader(self) -> DataLoader:
        plain, self.data_collator = self.data_collator, self.augmentation.collator(self.data_collator)
        try:
            return super().get_train_dataloader() if self.args.max_batch_seconds is None else self._planned_loader()
        finally:
            self.data_collator = plain

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, *args: Any, **kwargs: Any) -> DataLoader:
        if isinstance(self.data_collator, SpeechCollator):
            dataset = filled_stream(dataset, batch_size, self.accelerator.num_processes)
        return super()._get_dataloader(dataset, description, batch_size, *args, **kwargs)

    def _planned_loader(self) -> DataLoader:
        """The loader of batches under `max_batch_seconds`; this process's share of them."""
        self._plan = plan = self.epoch_plan()
        if self.args.process_index == 0:
            tell_plan(plan, self.family, self.args)
        return self.accelerator.prepare(planned_loader(self.train_dataset, plan, self.args, self.data_collator))

    def epoch_plan(self, repeats: int = 1) -> EpochPlan:
        """The batches of an epoch under `max_batch_seconds`, of all processes.

        Args:
            repeats: how often the batches of an optimizer step come in a row.
        """
        args = self.args
        seconds = batch_seconds(self.train_dataset, args, self.augmentation.longest)
        if seconds is None or self.budget is None:
            raise ValueError("There is no plan without max_batch_seconds. Set it, and pass train_dataset.")
        return EpochPlan(
            seconds,
            self.budget.of(seconds),
            max_clips=self._train_batch_size,
            seed=self._order_seed(),
            num_processes=args.world_size,
            step_batches=args.world_size * args.gradient_accumulation_steps,
            repeats=repeats,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> RowSampler | None:
        if self._balance is None:
            return super()._get_train_sampler(train_dataset)
        self._balanced = BalancedRows(self._balance, self._order_seed())
        return self._balanced

    @property
    def clips_per_step(self) -> int:
        """Clips of an optimizer step over micro-batches and processes; under `max_batch_seconds` their mean."""
        if self._plan is not None:
            return round(self._plan.clips_per_step)
        return self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _order_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def at_the_end(self) -> bool:
        """Whether the resumed checkpoint has already reached the last step. `Trainer` checks only after a step."""
        return self.state.global_step >= self.state.max_steps

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> Any:
        if self.at_the_end():
            self.control.should_training_stop = True
            return None
        self.augmentation.begin_epoch(epoch)
        if self._balanced is not None:
            self._balanced.epoch = epoch
        if self._plan is not None:
            self._plan.epoch = epoch
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    # ---- the frozen policy ----

    def set_reference(
        self, ref_model: str | os.PathLike | nn.Module | None, *, new_adapter: bool, **options: Any
    ) -> None:
        """Build the frozen policy now, while the policy is as it was handed in.

        Args:
            ref_model: id, path or model; None for the policy itself as it is now.
            new_adapter: whether the policy's adapter, if it has one, was made by this trainer.
            options: `sum_tokens` of `FrozenPolicy`.
        """
        self.frozen = FrozenPolicy(self, ref_model, new_adapter=new_adapter, **options)
        self.extra_state.append(self.frozen)

    @property
    def reference(self) -> FrozenCopy | AdapterOff | None:
        """What scores as the frozen policy; None without one, or if its scores were computed beforehand."""
        return None if self.frozen is None else self.frozen.scorer

    def ref_logps(self, model: nn.Module, batch: GroupBatch, scores: GroupScores) -> Tensor:
        """(B, K) nats under the frozen policy; see `FrozenPolicy.sums`."""
        if self.frozen is None:
            raise ValueError("There is no reference to score with. Build the trainer with a loss that uses one.")
        return self.frozen.sums(model, batch, scores)

    # ---- one optimizer step ----

    def try_batch(self, rows: list[dict[str, Any]]) -> None:
        """Forward and backward of a step of these rows, for the memory they take; only gradients stay."""
        self.current_gradient_accumulation_steps = 1
        try:
            batches, _ = self.get_batch_samples(iter([self.data_collator(rows)]), 1, self.args.device)
            self.training_step(self.model, batches[0])
        finally:
            self.step_counts = None
            self.metrics.drain("train")

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch, forward and backward. AdaLoRA's term is added to the last one of a step."""
        self.cost.count_tokens(GroupBatch(inputs))
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.ranks is None or not self.accelerator.sync_gradients:
            return loss
        penalty = self.ranks.add_penalty()
        self.metrics.add("train", "loss/orthogonality", penalty)
        return loss + penalty

    @contextmanager
    def compute_loss_context_manager(self) -> Iterator[None]:
        with self.cost.scoring(), super().compute_loss_context_manager():
            yield

    def _get_grad_norm(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.bad_numbers.gradient_norm = super()._get_grad_norm(model, *args, **kwargs)
        return self.bad_numbers.gradient_norm

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        self.cost.clock.enter("update")
        with self.cost.during("data"):
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            last = self._without_repeats(batches[-1])
            if self._plan is not None and self.accelerator.gradient_state.end_of_dataloader:
                last = self._plan_end(last, self._plan)
            batches = [*batches[:-1], last]
            self.step_counts = counted_step(batches, self.accelerator, device)
            for batch in batches:
                self.cost.count_speech(batch)
        return batches, num_items

    def _without_repeats(self, inputs: Any) -> GroupBatch:
        """The loader's batch, in which rows that only fill it up are placeholders."""
        return without_repeats(GroupBatch(inputs), self.accelerator)

    def _plan_end(self, batch: GroupBatch, plan: EpochPlan) -> GroupBatch:
        """The last batch of an epoch, without its rows if it only repeats others for a process that would have none."""
        filler = plan.is_filler(self.args.process_index)
        return batch.without(torch.ones_like(batch.valid)) if filler else batch

    def counts_of(self, batch: GroupBatch, training: bool) -> StepCounts:
        """The divisors of this batch's losses: the whole step's counts in training, its own in evaluation."""
        if training and self.step_counts is not None:
            return self.step_counts
        return StepCounts(batch.valid.sum(), batch.keep[:, 0].sum())

    def scale_for_step(self, loss: Tensor, training: bool) -> Tensor:
        """Undo the divisions that come later: `Trainer` divides by the micro-batches, DDP by the processes."""
        if not training or self.step_counts is None:
            return loss
        return loss * self.accelerator.num_processes * self.current_gradient_accumulation_steps

    def check_finite(self, loss: Tensor, batch: GroupBatch) -> None:
        """Stop before a step that would spoil the weights.

        Raises:
            FloatingPointError: with the step and the rows.
        """
        self.bad_numbers.check_loss(loss, batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training:
            self.cost.report()
            logs = self.cost.completed({**logs, **self.metrics.drain("train")})
        super().log(logs, start_time)

    # ---- evaluation ----

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """See `transformers.Trainer`; rows are whatever the trainer takes as `eval_dataset`, and are checked."""
        splits = self.eval_dataset if isinstance(self.eval_dataset, dict) else {}
        named = isinstance(eval_dataset, str) and eval_dataset in splits
        if eval_dataset is not None and not named and not isinstance(eval_dataset, dict):  # of a dict, one by one
            eval_dataset = self.prepare_rows(eval_dataset, "eval_dataset")
        return super().evaluate(eval_dataset, *args, **kwargs)

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> PredictionOutput:
        """See `transformers.Trainer`; rows are whatever the trainer takes as `eval_dataset`, and are checked.

        A corpus name alone means its split "test". The predictions are the hypotheses, decoded with the generation
        config, and `label_ids` are the transcripts: two lists of strings.
        """
        rows = self.prepare_rows(test_dataset, "test_dataset")
        if not isinstance(rows, Dataset):
            raise ValueError(
                f"predict reads the rows twice, to score and to decode them, which a {type(rows).__name__} does not "
                "allow. Pass a Dataset, a list or a file; if there are several, one at a time."
            )
        found = super().predict(rows, *args, **kwargs)
        decoded = self.decode(rows)
        return found._replace(predictions=decoded.hypotheses, label_ids=decoded.transcripts)

    def prepare_rows(self, source: Any, name: str) -> Any:
        """The rows that a user passes to `evaluate`, as this trainer reads them."""
        rows = self._checked_rows(source, self.args, name)
        return rows if self.frozen is None else self.frozen.complete(rows, name)

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        console = console_of(self)
        with console.paused():
            fill_encoder_cache(self, dataloader.dataset)
            output = super().evaluation_loop(dataloader, description, *args, **kwargs)
            console.end_prediction()
            found = self.metrics.drain("eval")
            if self.decoder.asked:
                found |= self.decoder.measure(self.decode(dataloader.dataset))
        prefix = kwargs.get("metric_key_prefix", "eval")
        output.metrics.update({f"{prefix}_{name}": value for name, value in found.items()})
        return output

    def transcript_column(self, columns: Sequence[str]) -> str:
        """Which of the columns of rows holds what is said in their clips.

        Raises:
            ValueError: none does.
        """
        for name in ("text", self.text_columns[0]):
            if name in columns:
                return name
        raise ValueError(
            "Measuring compares the model's answers with transcripts, but the rows to measure on have no column "
            f"'text': they have {sorted(set(columns) - set(OURS))}. If it has another name, say so (--columns "
            "text=transcript); else name rows with transcripts (--eval_dataset_name)."
        )

    def decode(self, rows: Any) -> Decoded:
        """Transcribe rows with the current model, spread over the processes. Every process gets all hypotheses.

        Args:
            rows: rows with `audio` and `text`, or pairs, whose `chosen` then counts as the transcript; no stream.

        Raises:
            ValueError: training shards the weights.
        """
        return self.decoder.decode(rows)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, None, None]:
        batch = self._prepare_inputs(self._without_repeats(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, batch).detach(), None, None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, as `transformers.Trainer` does.

        Raises:
            ValueError: another run writes to `output_dir`, or the checkpoint is not whole or another run's.
            FloatingPointError: a loss, a gradient or a weight is not finite.
            OSError: the disk is full; the last checkpoint is named.
            SystemExit: SIGTERM came, a checkpoint is written.
        """
        checkpoint = self.saver.begin(resume_from_checkpoint)
        if checkpoint is not None and self.budget is not None:
            self.budget.load(checkpoint)  # the loader is made before the rest of a checkpoint is read
        fill_encoder_cache(self, self.train_dataset)
        if self.args.eval_strategy != "no":
            for rows in self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]:
                fill_encoder_cache(self, rows)
        self.hub.sweep()
        if self.is_world_process_zero():
            self.card.facts(self.args.output_dir)  # what would keep a card from being written shows before the run
        alike = self.own_configs.agreeing_with(self.processing_class)
        with self.stop_on_sigterm.listening(), self.checkpoints.with_room(), without_other_bars(), alike:
            output = super().train(checkpoint, *args, **kwargs)
        unused = tell_unused_rows(self.args, self.skipped, self.left_out, checkpoint is not None)
        output.metrics.update(self.cost.totals() | unused)
        return output

    # ---- files ----

    def _get_output_dir(self, trial: Any) -> str:
        return self.checkpoints.staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        save = partial(super()._save_checkpoint, model, trial)
        written = self.saver.save_checkpoint(save, super()._get_output_dir(trial))
        if self.args.push_to_hub:
            self._push_from_checkpoint(written)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model, processor and card. Each file appears whole, weights last.

        Unlike `Trainer`'s, it does not push: `push_to_hub()` does, once, when all that the card says is known.
        """
        self.saver.save_model(partial(super().save_model, _internal_call=True), output_dir or self.args.output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            for part in self.extra_state:
                part.load(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.ranks is None:  # else they load the weights, too
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            self.saver.load_renamed(resume_from_checkpoint, self.model if model is None else model)
        cache = self.family.encoder_cache
        if cache is not None and not is_sharded(self.model) and not cache.serves(self.family, self.model):
            raise ValueError(
                f"The encoder in {resume_from_checkpoint} is another one than the model's, whose states are in "
                f"{cache.path}. Pass the model that the run began with, or leave encoder_cache out."
            )

    def _load_best_model(self) -> None:
        if self.ranks is None:
            super()._load_best_model()
        else:
            self.ranks.load(self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save without access tokens. Of an adapter, save what was trained and, to resume, its reference."""
        folder = output_dir or self.args.output_dir
        own = adapter_files(
            self.model, folder, keep_reference=self.checkpoints.staging is not None, cut_ranks=self.ranks is not None
        )
        with tokens_left_out(self.args), own:
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            save_spelling(self.processing_class, folder)

    def describe(self, staged: str, final: str) -> None:
        """Write what describes the model to people. The process that saves calls this before the files appear.

        Args:
            staged: the folder with the model's files, which becomes, or goes into, `final`.
        """
        if is_peft_model(self.model) and getattr(base_model(self.model), "can_generate", bool)():
            # an adapter alone would leave how it decodes to whatever the base's folder says later
            base_model(self.model).generation_config.save_pretrained(staged)
        self.card.write(staged, final)

    # ---- the card ----

    def record_data(self, source: DataSource) -> None:
        """Tell the card the name of the training rows; the trainer fills in their number."""
        self.card.source = source

    def record_evaluation(
        self, before: Decoded, after: Decoded, source: DataSource | None = None, *, rows: Any = None
    ) -> Comparison:
        """Compare what the model wrote before and after training, and put WER and CER on the card.

        For a family that answers with labels, the card gets the share of wrong labels. A card that is already in
        `output_dir` is written again.

        Args:
            before, after: from `decode`, of the same rows; every process calls.
            source: the name of these rows; default: none.
            rows: the rows themselves. If given, evaluation.json is written into `output_dir` and, with `report_html`,
                the page is written again.

        Returns:
            The comparison in words, in characters for scripts without spaces, or of labels.

        Raises:
            ValueError: the two are not of the same clips, or there are fewer than two.
        """
        comparison = self.card.measure(before, after, source, clips_trained_on(self.train_dataset, rows))
        if os.path.exists(os.path.join(self.args.output_dir, MODEL_CARD)):
            self.create_model_card()
        if rows is not None and self.args.process_index == 0:
            leave_comparison(self, rows, before, after, None if source is None else source.name)
        return comparison

    def tell(self, *further: str, next_steps: bool = True) -> None:
        """Print in the first process what came of the run: error rates before and after with their verdict, what it
        took, where the model is, what to do next.

        Args:
            further: lines to add where the model is.
            next_steps: whether to say what to do next; of several runs in a row the last one does.
        """
        if self.is_world_process_zero():
            closing(self, further, next_steps=next_steps).show()

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write the card into `output_dir`, in one rename; the first process does.

        Args:
            model_name: of the tuned model; default as on the Hub, or the folder's.
            dataset_name: id of the training rows on the Hub, if `record_data` was not told.
            tags: beside those of method and model.
        """
        self.card.note(model_name, dataset_name, tags)
        if self.is_world_process_zero():
            self.card.publish()

    # ---- the Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository; see `HubPusher.make_repo`."""
        self.hub.make_repo(token, private)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model into `output_dir` and push it: weights or adapter, processor, generation config and card.

        With `hub_merge_adapter` the base with the adapter merged in is written to "<output_dir>-merged" and pushed.

        Args:
            commit_message, blocking, token, revision, private: as in `transformers.Trainer`.
            kwargs: those of `create_model_card`.

        Returns:
            The commit; a future of it if not `blocking`; None in all processes but the first.

        Raises:
            PushError: the model is on disk; the message has the line that pushes it.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.card.note(**kwargs)
        return self.hub.push(commit_message, blocking, token, revision, private)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self.hub.push_checkpoint(checkpoint_folder)

    def _finish_current_push(self) -> None:
        self.hub.finish()

    def save_merged(self) -> str | None:
        """Write the adapter in `output_dir` merged into its base, in full precision, beside it.

        Returns:
            "<output_dir>-merged": weights, processor, generation config and card. None in all processes but the first.
        """
        return self.hub.merge(self.args.output_dir) if self.is_world_process_zero() else None

    # ---- torch.compile ----

    def create_accelerator_and_postprocess(self) -> None:
        """Keep accelerate from compiling the model. The family compiles its backbone; accelerate would compile the head
        and everything inside the forward, again for each call.
        """
        backend, self.args.torch_compile_backend = self.args.torch_compile_backend, None
        super().create_accelerator_and_postprocess()
        self.args.torch_compile_backend = backend
        if self.accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
            raise ValueError(
                "accelerate was told to compile the whole forward (--dynamo_backend or its config file), which breaks "
                "at the head and compiles again at each call. Set it to no and pass torch_compile=True instead."
            )


def check_compute_loss(trainer: type[Trainer]) -> None:
    """Check that a subclass's loss takes the arguments that transformers passes, before the first step.

    Raises:
        TypeError: its `compute_loss` lacks an argument that it is called with.
    """
    taken = inspect.signature(trainer.compute_loss).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    if missing := [name for name in ("return_outputs", "num_items_in_batch") if name not in taken]:
        raise TypeError(
            f"{trainer.__name__}.compute_loss is called with return_outputs and num_items_in_batch, and does not take "
            f"{' and '.join(missing)}: ({', '.join(taken)}). Write def compute_loss(self, model, inputs, "
            "return_outputs=False, num_items_in_batch=None)."
        )
