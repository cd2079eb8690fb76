"""Direct preference optimisation on speech (Rafailov et al. 2023, arXiv:2305.18290), every clip encoded once.

1. A batch holds B clips with two transcripts each, chosen and rejected.
2. The policy scores both from one encoder pass over B clips.
3. The frozen policy scores both: a copy, the policy with its adapter off, or a table made before the first step. If
   nothing in the encoder is trained, it reads the policy's encoder states and encodes nothing.
4. The objective turns the four log-probabilities of each pair into a loss (`audiorl.losses.preference`).

Deviations from the paper:
1. Losses other than eq. 7 are offered, alone or summed, as in TRL.
2. Means are over the pairs of the whole optimizer step, not of each micro-batch.
3. The prefix tokens (language, task) are conditions and do not count as transcript; the end token does.
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
from audiorl.losses import ObjectiveTerms, PairScores, pair_scores, sequence_reduction
from audiorl.models import SpeechFamily
from audiorl.trainers.base import Collate, ComputeMetrics, Optimizers, SpeechTrainer
from audiorl.trainers.config import PreferenceLossFields, SpeechConfig, SyncedReferenceFields
from audiorl.trainers.distributed import gathered_pairs
from audiorl.trainers.loading import default_output_dir
from audiorl.trainers.metrics import StepCounts, add_pair_rewards, add_pair_scores


@dataclass
class DPOConfig(PreferenceLossFields, SyncedReferenceFields, SpeechConfig):
    """Arguments of `DPOTrainer`, named as in TRL; settings of the losses are checked by `CombinedObjective`."""

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of AdamW."})
    ld_alpha: float | None = field(
        default=None,
        metadata={
            "help": "LD-DPO: weight, 0 to 1, of the tokens that one transcript has more than the other. Unset: 1."
        },
    )
    precompute_ref_log_probs: bool = field(
        default=False,
        metadata={
            "help": "Score all pairs with the frozen policy once before training, so that no second model stays in "
            "memory."
        },
    )
    precompute_ref_batch_size: int | None = field(
        default=None, metadata={"help": "Clips in a batch of that pass; unset: the training batch size."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.objective()
        self.check_synced_reference()
        sequence_reduction(self.ld_alpha)
        if self.sync_ref_model and self.precompute_ref_log_probs:
            raise ValueError(
                "sync_ref_model changes the reference during training, precompute_ref_log_probs fixes it. Choose one."
            )

    def check_family(self, family: SpeechFamily) -> None:
        super().check_family(family)
        if self.ld_alpha is not None and not family.token_level:
            raise ValueError(
                f"ld_alpha={self.ld_alpha} weighs the tokens by which one transcript is longer, but "
                f"{type(family).__name__} scores a transcript as a whole. Leave ld_alpha out."
            )


class DPOTrainer(SpeechTrainer):
    """Tune a speech model on pairs of transcripts; rows need `audio`, `chosen`, `rejected`.

    Args:
        model: id or path of a checkpoint, or a model.
        ref_model: the frozen policy; default the model as it is handed in, or, with an adapter, the model without it.
        args: `DPOConfig`; default one that writes to `<model name>-DPO`.

    The other arguments are those of `SpeechTrainer`.
    """

    text_columns = ("chosen", "rejected")
    distinct_texts = True

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        ref_model: str | os.PathLike | nn.Module | None = None,
        args: DPOConfig | None = None,
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
        if args is None:
            args = DPOConfig(output_dir=default_output_dir(model, "DPO"))
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
        self.sum_tokens = sequence_reduction(args.ld_alpha)
        if self.objective.uses_reference:
            self.set_reference(ref_model, new_adapter=peft_config is not None, sum_tokens=self.sum_tokens)

    # ---- the loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor | tuple[Tensor, GroupScores]:
        batch, training = GroupBatch(inputs), model.training
        scores = self.family.score_groups(model, batch)
        pairs = pair_scores(
            scores.logps,
            scores.keep,
            self._ref_logps(model, batch, scores),
            sum_tokens=self.sum_tokens,
            lengths=batch.keep.sum(-1),  # the transcripts' own, also where a family scores them as a whole
        ).select(batch.valid)
        counts = self.counts_of(batch, training)
        if self.objective.batch_wide and training and self.accelerator.num_processes > 1:
            loss = self._batch_wide_loss(pairs, counts)
        else:
            terms = self.objective(pairs)
            loss = self.scale_for_step(terms.total(counts.clips, counts.tokens), training)
            self._log_terms(terms, "train" if training else "eval")
        if training:
            self.check_finite(loss, batch)
        self._log_pairs(pairs, scores, "train" if training else "eval")
        return (loss, scores) if return_outputs else loss

    def _ref_logps(self, model: nn.Module, batch: GroupBatch, scores: GroupScores) -> Tensor:
        if self.objective.uses_reference:
            return self.ref_logps(model, batch, scores)
        return torch.zeros(scores.logps.shape[:2], device=scores.logps.device)

    def _batch_wide_loss(self, pairs: PairScores, counts: StepCounts) -> Tensor:
        """A loss over the pairs of all processes; gradients reach this process's own.

        Every process computes the same number. DDP averages gradients, each of which is one process's share of the sum,
        so the gradient is scaled up by the number of processes and the value is not.
        """
        terms = self.objective(gathered_pairs(pairs, self.accelerator))
        self._log_terms(terms, "train")  # ratios of sums: that every process adds all pairs changes nothing
        loss = terms.total(counts.clips, counts.tokens)
        loss = loss * self.current_gradient_accumulation_steps
        return loss + (self.accelerator.num_processes - 1) * (loss - loss.detach())

    def _log_terms(self, terms: ObjectiveTerms, mode: str) -> None:
        """Each loss of a sum by itself, unweighted; a single loss is `loss` already."""
        for term in terms.terms if len(terms.terms) > 1 else ():
            count = terms.chosen_tokens.sum() if term.reduction == "tokens" else term.loss.new_tensor(len(term.loss))
            self.metrics.add_ratio(mode, f"loss/{term.name}", term.loss.sum(), count)

    def _log_pairs(self, pairs: PairScores, scores: GroupScores, mode: str) -> None:
        """TRL's metrics; means over pairs and tokens of all micro-batches and processes since the last log."""

        if self.objective.uses_reference:
            add_pair_rewards(self.metrics, mode, self.args.beta * pairs.log_ratios)
        add_pair_scores(self.metrics, mode, self.text_columns, pairs.logps, scores)
