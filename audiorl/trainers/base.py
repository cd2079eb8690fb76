"""What all trainers share: rows are checked before anything is spent, counts are global, checkpoints are whole.

1. Model, processor and family are found; every row is checked; the encoder is frozen, an adapter added, dropout off.
2. For each optimizer step the pairs and tokens of all its micro-batches and processes are counted, so that a loss is
   divided once, by the count of the whole step: 4 micro-batches of 1 equal 1 of 4, N processes equal one.
3. A subclass computes the loss. Where it or a gradient is not finite the run stops before the weights are touched;
   where a weight is not finite after the step it stops before they are saved.
4. Checkpoints are written aside and renamed when they are complete; a run goes on from whole ones of its own only.

Deviation from `transformers.Trainer`: where the last batch of an epoch is filled up with repeated rows, so that every
process gets as many, the repeated rows have no weight.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import PredictionOutput
from transformers.utils import logging

from audiorl.batch import GroupBatch
from audiorl.collator import SpeechCollator
from audiorl.datasets import BadRowsError, RowFault, SkippedRows, check_rows, drop_bad_rows
from audiorl.datasets.corpora import rows_for
from audiorl.elsewhere import AnswersWrongArguments
from audiorl.model_card import DataSource
from audiorl.models import base_model, disable_dropout
from audiorl.text.normalizers import normalizer
from audiorl.trainers.adapters import AdapterTrainer
from audiorl.trainers.audio_bounds import LEFT_OUT_FILE, count_left_out_of_streams, rows_within_bounds
from audiorl.trainers.augmenting import AugmentedTraining
from audiorl.trainers.bad_numbers import StopOnBadNumbers
from audiorl.trainers.config import SpeechConfig
from audiorl.trainers.decoding import DecodedEvaluation
from audiorl.trainers.loading import (
    add_adapter,
    check_trained,
    check_untouched_encoder,
    configured_family,
    load_model,
    load_processor,
    plan_adapter,
)
from audiorl.trainers.logs import without_other_bars, write_logs
from audiorl.trainers.media import AudioSamples
from audiorl.trainers.metrics import Metrics
from audiorl.trainers.parallel import check_parallelism
from audiorl.trainers.preemption import StopOnSigterm
from audiorl.trainers.publishing import PublishingTrainer
from audiorl.trainers.report_files import RunReport
from audiorl.trainers.special_tokens import OwnConfigs

logger = logging.get_logger(__name__)

# Which split of a corpus is meant, by the argument that names it.
_ROLES = {"train": "train", "eval": "validation", "test": "test"}


Collate = Callable[[list[dict[str, Any]]], GroupBatch]
ComputeMetrics = Callable[[EvalPrediction], dict[str, float]]
Optimizers = tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None]


class TrainerArguments(TypedDict, total=False):
    """What every trainer takes beside model, args and rewards; `SpeechTrainer` says what each is."""

    train_dataset: Any
    eval_dataset: Any
    processing_class: Any
    data_collator: Collate | None
    compute_metrics: ComputeMetrics | None
    callbacks: list[TrainerCallback] | None
    optimizers: Optimizers
    peft_config: PeftConfig | None
    quantization_config: Any


class StepCounts(NamedTuple):
    """What the losses of one optimizer step are divided by, over its micro-batches and all processes."""

    clips: Tensor  # scalar: rows that count
    tokens: Tensor  # scalar: kept tokens of the first hypothesis of each


class SpeechTrainer(
    PublishingTrainer, AdapterTrainer, AugmentedTraining, DecodedEvaluation, metaclass=AnswersWrongArguments
):
    """Base of the trainers; a subclass says which text columns its rows need and computes the loss.

    Args:
        model: id or path of a checkpoint, or a model.
        args: the subclass's config.
        train_dataset, eval_dataset: anything `audiorl.datasets.speech_rows` takes. Of a corpus by its name the former
            is the split "train", the latter "validation", in the config's language; "librispeech:test.other" names
            another one. `eval_dataset` also a dict of them.
        processing_class: the checkpoint's processor; found by the model's name where it is left out.
        data_collator: rows -> `GroupBatch`; default `SpeechCollator`.
        compute_metrics: gets an `EvalPrediction` of hypotheses and transcripts, two lists of strings.
        callbacks, optimizers: as in `transformers.Trainer`.
        peft_config: trains a new adapter instead of the model; see `audiorl.adapters` for its target_modules.
        quantization_config: how to load the model by name or path, e.g. `BitsAndBytesConfig(load_in_8bit=True)`.
    """

    train_dataset: Any
    eval_dataset: Any
    text_columns: tuple[str, ...] = ("text",)
    distinct_texts = False

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
        self._check_overrides()
        model = load_model(model, args, quantization_config)
        processor = load_processor(processing_class, model)
        self.family = configured_family(model, processor, args)
        self.normalizer = normalizer(args.wer_normaliser, processor=processor)
        self.own_configs = OwnConfigs(base_model(model))
        planned = plan_adapter(model, peft_config)
        self._allow_silence = args.allow_silence
        self.skipped = SkippedRows(os.path.join(args.output_dir, "skipped_rows.jsonl"))
        self.set_augmentation(args)
        self._name_data(train_dataset)
        train_rows = self._checked_rows(train_dataset, args, "train_dataset")
        eval_rows = self._checked_rows(eval_dataset, args, "eval_dataset")
        model = self._tunable(model, planned, args)
        if train_dataset is not None:
            check_trained(model, args)
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
        self.step_counts: StepCounts | None = None
        self._add_callbacks(args)
        self.follow_adapter()
        self._check_ready()

    def _check_overrides(self) -> None:
        """A subclass's own loss is called as this version of transformers calls it, at the first step and no sooner.

        Raises:
            TypeError: `compute_loss` lacks an argument that it is called with.
        """
        taken = inspect.signature(type(self).compute_loss).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
            return
        if missing := [name for name in ("return_outputs", "num_items_in_batch") if name not in taken]:
            raise TypeError(
                f"{type(self).__name__}.compute_loss is called with return_outputs and num_items_in_batch, and does "
                f"not take {' and '.join(missing)}: ({', '.join(taken)}). Write def compute_loss(self, model, inputs, "
                "return_outputs=False, num_items_in_batch=None)."
            )

    def _check_ready(self) -> None:
        """What only shows once accelerate and the model are ready."""
        check_parallelism(self.accelerator)
        self.check_augmentation()
        self._check_decoding()

    def _name_data(self, train_dataset: Any) -> None:
        """Rows that came by a name are on the card by it."""
        if isinstance(train_dataset, str | os.PathLike):
            self.record_data(DataSource(os.path.basename(os.path.normpath(train_dataset))))

    def _tunable(self, model: nn.Module, planned: PeftConfig | None, args: SpeechConfig) -> nn.Module:
        """The model with its adapter, encoder and dropout as the config says."""
        model = add_adapter(model, planned, args.seed)
        if args.freeze_encoder:
            check_untouched_encoder(model, planned, self.family)
            self.family.freeze_encoder(model)
        if args.disable_dropout:
            disable_dropout(model)
        return model

    def _add_callbacks(self, args: SpeechConfig) -> None:
        self.add_callback(StopOnBadNumbers(self))
        self.stop_on_sigterm = StopOnSigterm(self)
        self.add_callback(self.stop_on_sigterm)
        self.add_callback(self.own_configs)
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
        )

    def _checked_rows(self, source: Any, args: SpeechConfig, name: str) -> Any:
        """Rows in the library's form, all faults of all rows found first; streams are judged row by row later."""
        if source is None:
            return None
        if isinstance(source, dict):
            return {split: self._checked_rows(rows, args, f"{name}[{split!r}]") for split, rows in source.items()}
        role = _ROLES.get(name.partition("_")[0], "validation")
        rows = rows_within_bounds(rows_for(source, role, args.language, args.columns), args, name)
        if not isinstance(rows, Dataset):
            return rows
        # one process looks at every file, all of them hear what it found
        found: list[list[RowFault]] = [[]]
        if args.process_index == 0:
            found = [self._faults(rows) + (self.growth_faults(rows) if name.startswith("train_dataset") else [])]
        faults = broadcast_object_list(found)[0] if args.world_size > 1 else found[0]
        if faults and args.on_bad_rows == "error":
            raise BadRowsError(faults)
        kept = drop_bad_rows(rows, faults, self.skipped if args.process_index == 0 else None)
        if len(kept) == 0:
            raise ValueError(f"{name} has no usable row left: {len(rows)} rows, {len(faults)} faults. Mend the rows.")
        return kept

    def _faults(self, rows: Dataset) -> list[RowFault]:
        return check_rows(
            rows,
            **self.family.limits._asdict(),
            text_columns=self.text_columns,
            distinct=self.distinct_texts,
            silence=self._allow_silence,
        )

    # ---- one optimizer step ----

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            batches = [*batches[:-1], self._without_repeats(batches[-1])]
            self.step_counts = self._count(batches, device)
        return batches, num_items

    def _without_repeats(self, inputs: Any) -> GroupBatch:
        """Turn rows that only fill up the last batch of an epoch into placeholders.

        Batches go round the processes in order, so of the last round only the first `remainder` rows are new.
        """
        batch = GroupBatch(inputs)
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return batch
        new = state.remainder - self.accelerator.process_index * len(batch.row_ids)
        repeated = torch.arange(len(batch.row_ids), device=batch.row_ids.device) >= new
        return batch.without(repeated)

    def _count(self, batches: Sequence[GroupBatch], device: torch.device) -> StepCounts:
        counts = sum(torch.stack([batch.valid.sum(), batch.keep[:, 0].sum()]) for batch in batches)
        clips, tokens = self.accelerator.reduce(torch.as_tensor(counts).to(device), reduction="sum")
        return StepCounts(clips, tokens)

    def counts_of(self, batch: GroupBatch, training: bool) -> StepCounts:
        """What to divide the losses of this batch by: the whole step's counts in training, its own in evaluation."""
        if training and self.step_counts is not None:
            return self.step_counts
        return StepCounts(batch.valid.sum(), batch.keep[:, 0].sum())

    def scale_for_step(self, loss: Tensor, training: bool) -> Tensor:
        """Undo the divisions that follow: `Trainer` divides by the micro-batches, DDP by the processes."""
        if not training or self.step_counts is None:
            return loss
        return loss * self.accelerator.num_processes * self.current_gradient_accumulation_steps

    def check_finite(self, loss: Tensor, batch: GroupBatch) -> None:
        """Stop before a step that would spoil the weights.

        Raises:
            FloatingPointError: with the step and the rows.
        """
        if not torch.isfinite(loss):
            rows = batch.row_ids[batch.valid].tolist()
            raise FloatingPointError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1}, rows {rows} of the training set "
                f"(process {self.args.process_index}). The weights were not updated. Lower the learning rate, use "
                f"bf16, not fp16, or look at the rows. {self.checkpoints.last()}"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training:
            logs = {**logs, **self.metrics.drain("train")}
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

        Of a corpus by its name it is the split "test". The predictions are what the model says of each clip, decoded as
        its generation config says, and `label_ids` the transcripts: two lists of strings.
        """
        rows = self.prepare_rows(test_dataset, "test_dataset")
        if not isinstance(rows, Dataset):
            raise ValueError(
                f"predict scores the rows and decodes them, which a {type(rows).__name__} cannot offer. Pass a "
                "Dataset, a list or a file; of several, one at a time."
            )
        found = super().predict(rows, *args, **kwargs)
        decoded = self.decode(rows)
        return found._replace(predictions=decoded.hypotheses, label_ids=decoded.transcripts)

    def prepare_rows(self, source: Any, name: str) -> Any:
        """Rows as this trainer reads them, from whatever a user passes to `evaluate`."""
        return self._checked_rows(source, self.args, name)

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
        checkpoint = self.begin(resume_from_checkpoint)
        alike = self.own_configs.agreeing_with(self.processing_class)
        with self.stop_on_sigterm.listening(), self.checkpoints.with_room(), without_other_bars(), alike:
            output = super().train(checkpoint, *args, **kwargs)
        if self.args.on_bad_rows == "skip" and (count := self.skipped.count()):
            output.metrics["skipped_rows"] = count
            logger.warning(f"{count} rows could not be used; {self.skipped.path} says which and why.")
        if count := count_left_out_of_streams(self.args):
            output.metrics["left_out_clips"] = count
            logger.warning(f"{count} clips of streams were left out for their length; {LEFT_OUT_FILE} says which.")
        return output
