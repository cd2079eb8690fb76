"""Evaluation by what the model says: rows decoded over all processes, WER, CER and a user's own metrics of it.

Of a family that answers with labels the accuracy is measured instead: the share of clips whose label is the row's.
"""

from __future__ import annotations

from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from transformers import EvalPrediction
from transformers.trainer_utils import EvalLoopOutput

from audiorl.datasets import speech_rows
from audiorl.evaluation import Decoded, count_errors, transcribe
from audiorl.models import SpeechFamily
from audiorl.text.normalizers import Normalizer
from audiorl.trainers.checkpoints import WholeCheckpoints
from audiorl.trainers.logs import console_of
from audiorl.trainers.metrics import Metrics
from audiorl.trainers.parallel import check_whole_weights


class DecodedEvaluation(WholeCheckpoints):
    """A `Trainer` that decodes its evaluation rows where `eval_wer` or `compute_metrics` ask for it."""

    family: SpeechFamily
    metrics: Metrics
    normalizer: Normalizer
    text_columns: tuple[str, ...]
    eval_dataset: Any

    def _check_decoding(self) -> None:
        """Decoding at evaluation needs rows that can be read again and weights that are in one piece.

        Of labels there is no WER: the checkpoint that would be best by it is the one with the highest accuracy.
        """
        if self.family.labels is not None and self.args.metric_for_best_model == "wer":
            self.args.metric_for_best_model, self.args.greater_is_better = "accuracy", True
        if not self.args.eval_wer and self.compute_metrics is None:
            return
        sets = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        if any(rows is not None and not isinstance(rows, Dataset) for rows in sets):
            raise ValueError(
                "eval_wer and compute_metrics decode the evaluation rows again at each evaluation, which a stream "
                "cannot offer. Load eval_dataset as a Dataset (streaming=False), or turn them off."
            )
        check_whole_weights(self.accelerator, "eval_wer and compute_metrics decode")

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        console = console_of(self)
        with console.paused():
            output = super().evaluation_loop(dataloader, description, *args, **kwargs)
            console.end_prediction()
            self._add_measured(output, dataloader.dataset, kwargs.get("metric_key_prefix", "eval"))
        return output

    def _add_measured(self, output: EvalLoopOutput, rows: Any, prefix: str) -> None:
        output.metrics.update({f"{prefix}_{name}": value for name, value in self.metrics.drain("eval").items()})
        if self.args.eval_wer or self.compute_metrics is not None:
            measured = self._decoded_metrics(self.decode(rows))
            output.metrics.update({f"{prefix}_{name}": value for name, value in measured.items()})

    def decode(self, rows: Any) -> Decoded:
        """Transcribe rows with the model as it is, spread over the processes; every process gets all of it.

        Args:
            rows: rows with `audio` and `text`, or pairs, whose `chosen` then counts as the transcript; no stream.

        Raises:
            ValueError: training shards the weights.
        """
        check_whole_weights(self.accelerator, "decode() transcribes")
        known = speech_rows(rows, columns=self.args.columns)
        rank, world = self.args.process_index, self.args.world_size
        mine = known.select(range(rank, len(known), world))
        written = mine["text" if "text" in known.column_names else self.text_columns[0]]
        transcripts = [self.family.words(text) for text in written]
        with console_of(self).paused():
            hypotheses = transcribe(
                self.model,
                self.processing_class,
                mine,
                batch_size=self.args.per_device_eval_batch_size,
                family=self.family,
                progress=rank == 0 and not self.args.disable_tqdm,
            )
        parts = [list(zip(transcripts, hypotheses, strict=True))]
        if world > 1:
            parts = gather_object(parts)
        # row i went to process i mod world
        ordered = [parts[i % world][i // world] for i in range(len(known))]
        return Decoded([transcript for transcript, _ in ordered], [hypothesis for _, hypothesis in ordered])

    def _decoded_metrics(self, decoded: Decoded) -> dict[str, float]:
        found: dict[str, float] = {}
        if self.args.eval_wer and self.family.labels is not None:
            found["accuracy"] = decoded.accuracy
        elif self.args.eval_wer:
            for name, unit in (("wer", "auto"), ("cer", "character")):
                found[name] = count_errors(*decoded, unit=unit, normalise=self.normalizer).wer
        if self.compute_metrics is not None:
            found.update(
                self.compute_metrics(EvalPrediction(predictions=decoded.hypotheses, label_ids=decoded.transcripts))
            )
        return found
