"""Evaluation by what the model says: rows decoded over all processes, WER, CER and a user's own metrics of it.

Of a family that answers with labels the accuracy is measured instead: the share of clips whose label is the row's.
"""

from __future__ import annotations

from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from transformers import EvalPrediction

from audiorl.datasets import speech_rows
from audiorl.evaluation import Decoded, transcribe
from audiorl.trainers.distributed import check_whole_weights
from audiorl.trainers.logs import console_of


class Decoder:
    """Transcribes rows with a trainer's model as it is, and measures what it says.

    Args:
        trainer: a `SpeechTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    @property
    def asked(self) -> bool:
        """Whether an evaluation of this trainer decodes its rows."""
        return self.trainer.args.eval_wer or self.trainer.compute_metrics is not None

    def check(self) -> None:
        """Decoding at evaluation needs rows that can be read again and weights that are in one piece.

        Where the best checkpoint is chosen by "wer", labels, which have none, choose it by accuracy.

        Raises:
            ValueError: evaluation rows that are a stream, or weights that are sharded.
        """
        trainer, rows = self.trainer, self.trainer.eval_dataset
        if trainer.args.metric_for_best_model == "wer":
            task = trainer.family.task
            trainer.args.metric_for_best_model, trainer.args.greater_is_better = task.metric, task.greater_is_better
        if rows is None or not self.asked:
            return
        if any(not isinstance(part, Dataset) for part in (rows.values() if isinstance(rows, dict) else [rows])):
            raise ValueError(
                "eval_wer and compute_metrics decode the evaluation rows again at each evaluation, which a stream "
                "cannot offer. Load eval_dataset as a Dataset (streaming=False), or turn them off."
            )
        check_whole_weights(trainer.accelerator, "eval_wer and compute_metrics decode")

    def decode(self, rows: Any) -> Decoded:
        """Transcribe rows, spread over the processes; see `SpeechTrainer.decode`."""
        trainer = self.trainer
        check_whole_weights(trainer.accelerator, "decode() transcribes")
        known = speech_rows(rows, columns=trainer.args.columns)
        rank, world = trainer.args.process_index, trainer.args.world_size
        if "text" not in known.column_names and trainer.text_columns[0] not in known.column_names:
            raise ValueError(
                "What the model says is compared with transcripts (eval_wer, decode, log_audio_every), and the rows "
                f"have no column 'text': {sorted(known.column_names)}. Name rows with transcripts as eval_dataset."
            )
        mine = known.select(range(rank, len(known), world))
        written = mine["text" if "text" in known.column_names else trainer.text_columns[0]]
        transcripts = [trainer.family.words(text) for text in written]
        with console_of(trainer).paused() as bars:
            hypotheses = transcribe(
                trainer.model,
                trainer.processing_class,
                mine,
                batch_size=trainer.args.per_device_eval_batch_size,
                family=trainer.family,
                progress=rank == 0 and bars and not trainer.args.disable_tqdm,
            )
        parts = [list(zip(transcripts, hypotheses, strict=True))]
        if world > 1:
            parts = gather_object(parts)
        # row i went to process i mod world
        ordered = [parts[i % world][i // world] for i in range(len(known))]
        return Decoded([transcript for transcript, _ in ordered], [hypothesis for _, hypothesis in ordered])

    def measure(self, decoded: Decoded) -> dict[str, float]:
        """WER and CER, or accuracy, where `eval_wer` asks for them, and what `compute_metrics` makes of the texts."""
        args, found = self.trainer.args, dict[str, float]()
        if args.eval_wer:
            found.update(self.trainer.family.task.metrics(*decoded, self.trainer.normalizer))
        if self.trainer.compute_metrics is not None:
            texts = EvalPrediction(predictions=decoded.hypotheses, label_ids=decoded.transcripts)
            found.update(self.trainer.compute_metrics(texts))
        return found
