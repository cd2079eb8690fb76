"""Odds-ratio preference optimisation on speech (Hong et al. 2024, arXiv:2403.07691), every clip encoded once.

1. A batch holds B clips with two transcripts each, chosen and rejected.
2. The policy scores both from one encoder pass over B clips. There is no frozen policy: one run tunes the checkpoint
   on the chosen transcripts and moves it away from the rejected ones.
3. The objective adds the chosen transcript's negative log-likelihood to `beta` times the odds-ratio loss
   (`audiorl.losses.odds_ratio`).

Deviations from the paper:
1. The log-likelihood is a mean over the chosen tokens of the whole optimizer step, the odds-ratio loss a mean over its
   pairs; neither is taken over a micro-batch alone.
2. The prefix tokens (language, task) are conditions and count in neither; the end token counts in both.
3. `nll_weight` may differ from 1.

`eval_loss` is the mean of the evaluation batches' losses, whose token counts differ; `eval_nll_loss` and
`eval_log_odds_ratio` do not depend on the batch size.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn
from transformers import TrainerCallback

from audiorl.batch import GroupBatch, GroupScores
from audiorl.losses import ObjectiveTerms, OddsRatioObjective, PairScores, pair_scores
from audiorl.losses.reductions import length_mean
from audiorl.losses.settings import read_loss_settings
from audiorl.trainers.base import Collate, ComputeMetrics, Optimizers, SpeechTrainer
from audiorl.trainers.config import LOSS_SETTINGS_HELP, SpeechConfig
from audiorl.trainers.loading import default_output_dir
from audiorl.trainers.metrics import add_pair_rewards, add_pair_scores


@dataclass
class ORPOConfig(SpeechConfig):
    """Arguments of `ORPOTrainer`, named as in TRL; the weights are checked by `OddsRatioObjective`."""

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of AdamW."})
    beta: float = field(
        default=0.1,
        metadata={
            "help": "Weight >= 0 of the odds-ratio loss. It is lambda in the paper and alpha in its authors' code."
        },
    )
    nll_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight >= 0 of the chosen transcript's negative log-likelihood; 1 in the paper. With 0 only the "
            "odds ratio is left, which a model can also satisfy by making both transcripts improbable."
        },
    )
    loss_type: str = field(
        default="odds_ratio",
        metadata={
            "help": "odds_ratio, or a loss of your own instead, by its dotted path, my_module.my_loss; in Python also"
            " the function itself."
        },
    )
    loss_settings: list[str] | None | dict[str, Any] | str = field(  # noqa: RUF036
        default=None, metadata={"help": LOSS_SETTINGS_HELP}
    )

    def __post_init__(self):
        super().__post_init__()
        self.loss_settings = read_loss_settings(self.loss_settings) or None
        self.objective()

    def objective(self) -> OddsRatioObjective:
        """The objective these arguments describe.

        Raises:
            ValueError: a weight out of its range.
        """
        return OddsRatioObjective(self.beta, self.nll_weight, self.loss_type, self.loss_settings)  # type: ignore[arg-type]


class ORPOTrainer(SpeechTrainer):
    """Tune a speech model on pairs of transcripts without a frozen policy; rows need `audio`, `chosen`, `rejected`.

    Args:
        model: id or path of a checkpoint, or a model.
        args: `ORPOConfig`; default one that writes to `<model name>-ORPO`.

    The other arguments are those of `SpeechTrainer`.
    """

    text_columns = ("chosen", "rejected")
    distinct_texts = True

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        args: ORPOConfig | None = None,
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
        args = args or ORPOConfig(output_dir=default_output_dir(model, "ORPO"))
        super().__init__(
            model,
            args,
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
        self.objective = args.objective()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor | tuple[Tensor, GroupScores]:
        batch, training = GroupBatch(inputs), model.training
        scores = self.family.score_groups(model, batch)
        pairs = self._pairs(batch, scores)
        counts = self.counts_of(batch, training)
        terms = self.objective(pairs)
        loss = self.scale_for_step(terms.total(counts.clips, counts.tokens), training)
        if training:
            self.check_finite(loss, batch)
        self._log_pairs(pairs, terms, scores, "train" if training else "eval")
        return (loss, scores) if return_outputs else loss

    def _pairs(self, batch: GroupBatch, scores: GroupScores) -> PairScores:
        """The pairs that count. Lengths are the transcripts' own, also where a family scores them as a whole."""
        no_reference = torch.zeros(scores.logps.shape[:2], device=scores.logps.device)
        pairs = pair_scores(scores.logps, scores.keep, no_reference, lengths=batch.keep.sum(-1))
        return pairs.select(batch.valid)

    def _log_pairs(self, pairs: PairScores, terms: ObjectiveTerms, scores: GroupScores, mode: str) -> None:
        """TRL's metrics; as there, log-probabilities and rewards are per token."""
        mean_logps = length_mean(pairs.logps, pairs.lengths)
        add_pair_rewards(self.metrics, mode, self.args.beta * mean_logps)
        add_pair_scores(self.metrics, mode, self.text_columns, mean_logps, scores)
        nll, odds_ratio = terms.terms
        self.metrics.add_ratio(mode, "nll_loss", nll.loss.sum(), terms.chosen_tokens.sum())
        if odds_ratio.name == "odds_ratio":
            self.metrics.add(mode, "log_odds_ratio", -odds_ratio.loss)
        else:
            self.metrics.add(mode, f"loss/{odds_ratio.name}", odds_ratio.loss)
        self.metrics.add(mode, "log_odds_chosen", terms.margin)
