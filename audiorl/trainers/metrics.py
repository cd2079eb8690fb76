"""What a trainer counts, measures and logs.

1. `counted_step` counts what the losses of an optimizer step are divided by.
2. `Metrics` holds running means, exact over micro-batches of any size and over processes.
3. `Decoder` transcribes rows over all processes and measures the hypotheses: WER and CER, or the accuracy of labels,
   and a user's own metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction

from audiorl.batch import GroupBatch, GroupScores
from audiorl.datasets import speech_rows
from audiorl.evaluation import Decoded, transcribe
from audiorl.trainers.distributed import check_whole_weights
from audiorl.trainers.logs import console_of


class StepCounts(NamedTuple):
    """What the losses of one optimizer step are divided by, over its micro-batches and all processes."""

    clips: Tensor  # scalar: rows that count
    tokens: Tensor  # scalar: kept tokens of the first hypothesis of each


def counted_step(batches: Sequence[GroupBatch], accelerator: Accelerator, device: torch.device) -> StepCounts:
    """Count the micro-batches of an optimizer step over all processes; a collective call."""
    counts = sum(torch.stack([batch.valid.sum(), batch.keep[:, 0].sum()]) for batch in batches)
    clips, tokens = accelerator.reduce(torch.as_tensor(counts).to(device), reduction="sum")
    return StepCounts(clips, tokens)


def without_repeats(batch: GroupBatch, accelerator: Accelerator) -> GroupBatch:
    """Turn rows that only fill up the last batch of an epoch into placeholders.

    Batches go round the processes in order, so of the last round only the first `remainder` rows are new.
    """
    state = accelerator.gradient_state
    if accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return batch
    new = state.remainder - accelerator.process_index * len(batch.row_ids)
    return batch.without(torch.arange(len(batch.row_ids), device=batch.row_ids.device) >= new)


class Metrics:
    """Sums and counts for the log. They stay on the device until they are logged, so that a training step does not
    wait.

    A mean over an optimizer step is total / count over all its micro-batches and all processes, not a mean of means.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._sums: dict[str, dict[str, Tensor]] = {"train": {}, "eval": {}}
        self._differences: dict[str, tuple[str, str]] = {}

    def add(self, mode: str, name: str, values: Tensor, keep: Tensor | None = None) -> None:
        """Add values of any shape to a metric.

        Args:
            mode: "train" or "eval".
            keep: bool, the same shape; entries that do not count are left out, NaN or not.
        """
        values = values.detach().double()
        if keep is None:
            keep = torch.ones_like(values, dtype=torch.bool)
        self.add_ratio(mode, name, torch.where(keep, values, 0.0).sum(), keep.sum())

    def add_ratio(self, mode: str, name: str, total: Tensor, count: Tensor) -> None:
        """Add a sum (scalar) and the number of things (scalar) it was taken over."""
        entry = torch.stack([total.detach().double(), count.double()])
        sums = self._sums[mode]
        sums[name] = sums[name] + entry if name in sums else entry

    def add_difference(self, name: str, first: str, second: str) -> None:
        """From now on log one metric's mean less another's, wherever both are logged."""
        self._differences[name] = first, second

    def drain(self, mode: str) -> dict[str, float]:
        """Means over all processes since the last call; a collective call if there are several processes."""
        sums, self._sums[mode] = self._sums[mode], {}
        if not sums:
            return {}
        totals = self.accelerator.reduce(torch.stack(list(sums.values())), reduction="sum").cpu()
        means = {
            name: (total / count).item() if count > 0 else float("nan")
            for name, (total, count) in zip(sums, totals, strict=True)
        }
        both = {name: pair for name, pair in self._differences.items() if set(pair) <= means.keys()}
        return means | {name: means[first] - means[second] for name, (first, second) in both.items()}


def add_pair_rewards(metrics: Metrics, mode: str, rewards: Tensor) -> None:
    """`rewards/*` of (B, 2) rewards: chosen, rejected, their margin, and how often chosen is higher."""
    chosen, rejected = rewards[:, 0], rewards[:, 1]
    metrics.add(mode, "rewards/chosen", chosen)
    metrics.add(mode, "rewards/rejected", rejected)
    metrics.add(mode, "rewards/margins", chosen - rejected)
    metrics.add(mode, "rewards/accuracies", chosen > rejected)


def add_pair_scores(metrics: Metrics, mode: str, names: Sequence[str], logps: Tensor, scores: GroupScores) -> None:
    """`logps/*` of (B, 2) log-probabilities, `logits/*`, entropy, and how often the chosen token is the top one.

    Args:
        names: what columns 0 and 1 are called.
        scores: of the whole batch, placeholders included, which have no kept token.
    """
    for k, name in enumerate(names):
        metrics.add(mode, f"logps/{name}", logps[:, k])
        metrics.add(mode, f"logits/{name}", scores.mean_logits[:, k], scores.keep[:, k])
    metrics.add(mode, "entropy", scores.entropy, scores.keep)
    metrics.add(mode, "mean_token_accuracy", scores.is_top1[:, 0], scores.keep[:, 0])


# ---- evaluation by what the model writes ----


class Decoder:
    """Transcribes rows with a trainer's current model, and measures the hypotheses.

    Args:
        trainer: a `SpeechTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    @property
    def asked(self) -> bool:
        """Whether an evaluation of this trainer decodes its rows."""
        return self._what_asks() is not None

    def _what_asks(self) -> str | None:
        trainer = self.trainer
        if trainer.args.eval_wer or trainer.compute_metrics is not None:
            return "eval_wer and compute_metrics decode"
        return "Rewards at an evaluation decode" if trainer.rewards_evaluations else None

    def check(self) -> None:
        """Decoding at evaluation needs rows that can be read again and weights that are not sharded.

        If `metric_for_best_model` is "wer", the best checkpoint has the lowest WER; for labels, the highest accuracy.

        Raises:
            ValueError: evaluation rows that are a stream or have no transcripts, or weights that are sharded.
        """
        trainer, rows = self.trainer, self.trainer.eval_dataset
        if trainer.args.metric_for_best_model == "wer":
            task = trainer.family.task
            trainer.args.metric_for_best_model, trainer.args.greater_is_better = task.metric, task.greater_is_better
        asks = self._what_asks()
        if rows is None or asks is None:
            return
        parts = list(rows.values()) if isinstance(rows, dict) else [rows]
        if any(not isinstance(part, Dataset) for part in parts):
            instead = "leave it out" if trainer.rewards_evaluations else "turn them off"
            raise ValueError(
                f"{asks} the evaluation rows again at each evaluation, which a stream does not allow. Load "
                f"eval_dataset as a Dataset (streaming=False), or {instead}."
            )
        for part in parts:
            trainer.transcript_column(part.column_names)
        check_whole_weights(trainer.accelerator, asks)

    def decode(self, rows: Any) -> Decoded:
        """Transcribe rows, spread over the processes; see `SpeechTrainer.decode`."""
        known = speech_rows(rows, columns=self.trainer.args.columns)
        column = self.trainer.transcript_column(known.column_names)
        transcripts = [self.trainer.family.words(text) for text in known[column]]
        return Decoded(transcripts, self.transcribe(known))

    def transcribe(self, rows: Any) -> list[str]:
        """What the model says of rows with `audio`, spread over the processes; every process gets all of it."""
        trainer = self.trainer
        check_whole_weights(trainer.accelerator, "decode() transcribes")
        known = speech_rows(rows, columns=trainer.args.columns)
        rank, world = trainer.args.process_index, trainer.args.world_size
        with console_of(trainer).paused() as bars:
            said = transcribe(
                trainer.model,
                trainer.processing_class,
                known.select(range(rank, len(known), world)),
                batch_size=trainer.args.per_device_eval_batch_size,
                family=trainer.family,
                progress=rank == 0 and bars and not trainer.args.disable_tqdm,
            )
        parts = gather_object([said]) if world > 1 else [said]
        return [parts[i % world][i // world] for i in range(len(known))]  # row i went to process i mod world

    def measure(self, decoded: Decoded) -> dict[str, float]:
        """WER and CER, or accuracy, if `eval_wer` is set, and the values that `compute_metrics` returns."""
        args, found = self.trainer.args, dict[str, float]()
        if args.eval_wer:
            found.update(self.trainer.family.task.metrics(*decoded, self.trainer.normalizer))
        if self.trainer.compute_metrics is not None:
            texts = EvalPrediction(predictions=decoded.hypotheses, label_ids=decoded.transcripts)
            found.update(self.trainer.compute_metrics(texts))
        return found
