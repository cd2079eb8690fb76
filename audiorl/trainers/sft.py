"""Supervised fine-tuning on transcribed speech: the method to begin with if rows have transcripts.

1. A batch holds B clips with one transcript each, K = 1.
2. The model scores the transcript's tokens; only their positions reach the vocabulary.
3. The loss is the negative log-likelihood, a mean over the tokens of the whole optimizer step. Labels can be smoothed
   as in transformers' `Trainer`. CTC models get their CTC loss, classifiers the cross-entropy of their labels.

Deviations from transformers' `Seq2SeqTrainer`:
1. The mean is over the tokens of the whole step, also for models whose forward takes the mean of its micro-batch
   (Whisper's does).
2. The prefix tokens (language, task, a prompt) are conditions and do not count as labels; the end token does.
3. Dropout, layerdrop and SpecAugment are off unless `disable_dropout` is turned off.
4. CTC losses are summed over clips and divided by all their symbols, plus one for each clip; torch's "mean" divides
   each clip's loss by that clip's symbols.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft import PeftConfig
from torch import Tensor, nn
from transformers import TrainerCallback

from audiorl.batch import GroupBatch, GroupScores
from audiorl.losses import supervised_loss
from audiorl.losses.settings import finite_number
from audiorl.models import SpeechFamily
from audiorl.trainers.base import Collate, ComputeMetrics, Optimizers, SpeechTrainer
from audiorl.trainers.config import SpeechConfig
from audiorl.trainers.loading import default_output_dir


@dataclass
class SFTConfig(SpeechConfig):
    """Arguments of `SFTTrainer`, named as in transformers."""

    smooths_labels: ClassVar[bool] = True

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of AdamW."})
    label_smoothing_factor: float = field(
        default=0.0,
        metadata={
            "help": "Share of each token's target that is spread evenly over the vocabulary, 0 to below 1; not for CTC."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 <= finite_number("label_smoothing_factor", self.label_smoothing_factor) < 1.0:
            raise ValueError(
                "label_smoothing_factor is the share of each target that goes to all tokens alike, 0 to below 1; got "
                f"{self.label_smoothing_factor}. 0.1 is a usual value."
            )

    def check_family(self, family: SpeechFamily) -> None:
        super().check_family(family)
        if self.label_smoothing_factor and not family.has_distributions:
            raise ValueError(
                f"label_smoothing_factor={self.label_smoothing_factor:g} spreads the target of each token, but "
                f"{type(family).__name__} scores a transcript as a whole. Leave label_smoothing_factor out."
            )


class SFTTrainer(SpeechTrainer):
    """Tune a speech model on transcripts; rows need `audio` and `text`.

    Args:
        model: id or path of a checkpoint, or a model.
        args: `SFTConfig`; default one that writes to `<model name>-SFT`.

    The other arguments are those of `SpeechTrainer`.
    """

    text_columns = ("text",)
    args: SFTConfig

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        args: SFTConfig | None = None,
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
        super().__init__(
            model,
            args or SFTConfig(output_dir=default_output_dir(model, "SFT")),
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

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor | tuple[Tensor, GroupScores]:
        batch, training = GroupBatch(inputs), model.training
        scores = self.family.score_groups(model, batch)
        loss = supervised_loss(
            scores.logps,
            scores.keep,
            self.counts_of(batch, training).tokens,
            mean_logps=scores.mean_logps,
            label_smoothing=self.args.label_smoothing_factor,
        )
        loss = self.scale_for_step(loss, training)
        if training:
            self.check_finite(loss, batch)
        self._log_scores(batch, scores, "train" if training else "eval")
        return (loss, scores) if return_outputs else loss

    def _log_scores(self, batch: GroupBatch, scores: GroupScores, mode: str) -> None:
        """TRL's names. `nll_loss` is without smoothing and does not depend on the batch size."""
        self.metrics.add_ratio(mode, "nll_loss", -scores.logps.detach().sum(), batch.keep.sum())
        self.metrics.add(mode, "entropy", scores.entropy, scores.keep)
        self.metrics.add(mode, "mean_token_accuracy", scores.is_top1, scores.keep)
