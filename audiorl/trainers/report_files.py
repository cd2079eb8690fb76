"""What a run leaves for its report, and the page itself where `report_html` asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from transformers.utils import logging

from audiorl.datasets import speech_rows
from audiorl.evaluation import Decoded
from audiorl.evaluation.transcription import decoding_in_force
from audiorl.models import base_model
from audiorl.report import write_report
from audiorl.report.run_folder import (
    KEPT_BYTES,
    UNASKED_BYTES,
    KeptAudio,
    Systems,
    leave_evaluation,
    leave_facts,
    leave_groups,
    leave_pairs,
    place_of,
    start_run,
)
from audiorl.trainers.rollouts import Rollout

logger = logging.get_logger(__name__)


class RunReport(TrainerCallback):
    """Writes what the report reads: facts, pairs and sampled groups; with `report_html` the page too. One process does.

    Args:
        trainer: a `SpeechTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.kept = self._kept_audio()
        self.comes_later = False  # who measures before and after writes the page then, see `leave_comparison`

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        start_run(args.output_dir, state.global_step, state.max_steps)
        self.kept = self._kept_audio()
        rows = self.trainer.train_dataset
        pairs = rows if isinstance(rows, Dataset) and {"chosen", "rejected"} <= set(rows.column_names) else None
        facts = {
            "run_id": self.trainer.saver.fingerprint.run_id,
            "trainer": type(self.trainer).__name__,
            "model": model_name(self.trainer),
            "training_rows": len(rows) if isinstance(rows, Dataset) else "a stream",
            "epochs": args.num_train_epochs,
            "steps": state.max_steps,
            "learning_rate": args.learning_rate,
            "wer_normaliser": self.trainer.normalizer.name,
        }
        leave_facts(args.output_dir, facts if pairs is None else {**facts, "pairs": len(pairs)})
        if pairs is not None:
            leave_pairs(args.output_dir, pairs, self.kept)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and args.report_html and not self.comes_later:
            write_page(args.output_dir)

    def _kept_audio(self) -> KeptAudio:
        args = self.trainer.args
        return KeptAudio(args.output_dir, KEPT_BYTES if args.report_html else UNASKED_BYTES)

    def keep_groups(self, groups: Sequence[dict[str, Any]], step: int) -> None:
        """Write what `group_records` found in this process.

        Args:
            step: the optimizer step that learns from them, > 0.
        """
        if self.trainer.args.process_index:
            return
        words = self.trainer.family.words
        records = [
            {
                **place_of(group["row"], self.kept),
                "step": step,
                "transcript": None if (text := group["row"].get("text")) is None else words(text),
                "hypotheses": group["hypotheses"],
            }
            for group in groups
        ]
        leave_groups(self.trainer.args.output_dir, records)


def write_page(run: str) -> None:
    """Write report.html. A failure is logged and loses no trained model."""
    try:
        page = write_report(run)
    except (OSError, ValueError) as error:
        logger.warning(f"No report was written: {error}\nMend this, then run: audiorl report {run}")
    else:
        print(f"The report lies in {page}", flush=True)


def model_name(trainer: Any) -> str:
    """The name or path of the checkpoint that is trained."""
    return base_model(trainer.model).config._name_or_path or type(base_model(trainer.model)).__name__


def group_records(rollouts: Sequence[Rollout], names: Sequence[str], most: int) -> list[dict[str, Any]]:
    """The first groups of some rollouts: row, K hypotheses with their rewards; None where one abstained.

    Args:
        names: of the rewards.
        most: how many, >= 0.
    """
    places = [(rollout, b) for rollout in rollouts for b in rollout.batch.valid.nonzero().flatten().tolist()]
    return [
        {
            "row": rollout.batch.rows[b],
            "hypotheses": [
                {"text": text, "reward": _known(reward), "rewards": dict(zip(names, map(_known, parts), strict=True))}
                for text, reward, parts in zip(
                    rollout.texts[b], rollout.rewards[b].tolist(), rollout.parts[b].tolist(), strict=True
                )
            ],
        }
        for rollout, b in places[:most]
    ]


def _known(value: float) -> float | None:
    return None if value != value else value


def leave_comparison(trainer: Any, held_out: Any, before: Decoded, after: Decoded, dataset: str | None = None) -> None:
    """Write evaluation.json for clips decoded before and after training and, with `report_html`, the page again.

    Args:
        trainer: a trained `SpeechTrainer`; its weights have been saved.
        held_out: the rows that were decoded.
        dataset: what they are called.
    """
    args = trainer.args
    decoding = decoding_in_force(trainer.model, {}, args.per_device_eval_batch_size)
    systems = Systems(model_name(trainer), args.output_dir, dataset or "held-out clips", decoding)
    leave_evaluation(
        args.output_dir,
        list(speech_rows(held_out)),
        before,
        after,
        systems,
        normalise=trainer.normalizer,
        task=trainer.family.task,
    )
    if args.report_html:
        write_page(args.output_dir)
