"""Online DPO on speech (Guo et al. 2024, arXiv:2402.04792): the best of K sampled hypotheses against the worst.

1. K hypotheses of each clip are sampled from the policy and rewarded (`rollout_trainer.py`).
2. The one with the highest reward is chosen, the one with the lowest rejected; a clip whose rewards are all equal gives
   no pair and counts nowhere.
3. Policy and frozen policy score the two; the objective is DPO's (`audiorl.losses.preference`).

It is a separate trainer, not a `loss_type` of `GRPOTrainer`: the two share rollouts, but no setting of the loss.

Deviations from the paper:
1. Rewards choose the best and the worst of K samples; in the paper a language model compares two.
2. Other losses are offered too, alone or summed, as in `DPOTrainer`; not aot and aot_unpaired, which rank the pairs of
   a whole batch: here rewards decide how many pairs there are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn
from transformers import TrainerCallback

from audiorl.batch import GroupBatch, GroupScores
from audiorl.losses import CombinedObjective, LossSettingError, pair_scores, sequence_sum
from audiorl.trainers.base import Collate, ComputeMetrics, Optimizers
from audiorl.trainers.config import PreferenceLossFields
from audiorl.trainers.loading import default_output_dir
from audiorl.trainers.rollout_metrics import StepRollouts
from audiorl.trainers.rollout_trainer import RolloutConfig, RolloutTrainer
from audiorl.trainers.rollouts import Learnt, Rollout


@dataclass
class OnlineDPOConfig(PreferenceLossFields, RolloutConfig):
    """Arguments of `OnlineDPOTrainer`, named as in TRL; settings of the losses are checked by `CombinedObjective`."""

    def __post_init__(self):
        super().__post_init__()
        self.objective()

    def objective(self) -> CombinedObjective:
        """The objective these arguments describe.

        Raises:
            ValueError: an unknown loss, a value out of its range, or a loss over a whole batch.
        """
        objective = super().objective()
        if objective.batch_wide:
            raise LossSettingError(
                f"loss_type={self.loss_type} gives one value for the whole batch, and the number of pairs in it "
                "depends on the rollout. Use sigmoid, ipo, hinge or another loss of one pair, or DPOTrainer on mined "
                "pairs."
            )
        return objective


class OnlineDPOTrainer(RolloutTrainer):
    """Tune a speech model on its own best and worst hypotheses; rows need `audio` and what the rewards read.

    Args:
        model: id or path of a checkpoint, or a model.
        ref_model: the frozen policy; default the model as it is handed in, or, with an adapter, the model without it.
        reward_funcs: one reward or several: names, dotted paths, callables with TRL's signature.
        args: `OnlineDPOConfig`; default one that writes to `<model name>-OnlineDPO`.

    The other arguments are those of `SpeechTrainer`.
    """

    args: OnlineDPOConfig

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        ref_model: str | os.PathLike | nn.Module | None = None,
        reward_funcs: Any = None,
        args: OnlineDPOConfig | None = None,
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
        if reward_funcs is None or isinstance(reward_funcs, OnlineDPOConfig):
            raise ValueError(
                "OnlineDPOTrainer needs rewards, and takes ref_model before them, as in TRL: (model, ref_model, "
                "reward_funcs, args). Pass them by name, reward_funcs='one_minus_wer'."
            )
        args = args or OnlineDPOConfig(output_dir=default_output_dir(model, "OnlineDPO"))
        self.objective = args.objective()
        super().__init__(
            model,
            reward_funcs,
            args,
            ref_model,
            uses_reference=self.objective.uses_reference,
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

    def learn_from(self, rollouts: Sequence[Rollout], step: StepRollouts) -> list[Learnt]:
        return [best_and_worst(rollout) for rollout in rollouts]

    def rollout_loss(self, batch: GroupBatch, scores: GroupScores, counts: Tensor) -> Tensor:
        ref_logps = batch.tensors.get("ref_logps", torch.zeros_like(scores.logps))
        # lengths of the hypotheses themselves, also where a family scores them as a whole
        lengths = batch.keep[:, :2].sum(-1)
        pairs = pair_scores(scores.logps, scores.keep, sequence_sum(ref_logps, scores.keep), lengths=lengths)
        pairs = pairs.select(batch.tensors["paired"])
        terms = self.objective(pairs)
        rewards = self.args.beta * pairs.log_ratios
        if self.objective.uses_reference:
            self.metrics.add("train", "rewards/chosen", rewards[:, 0])
            self.metrics.add("train", "rewards/rejected", rewards[:, 1])
            self.metrics.add("train", "rewards/margins", rewards[:, 0] - rewards[:, 1])
            self.metrics.add("train", "rewards/accuracies", rewards[:, 0] > rewards[:, 1])
        return terms.total(counts[0], counts[1])


def best_and_worst(rollout: Rollout) -> Learnt:
    """The pair of each clip: tokens and keep (B, 2, ...), `paired` (B,); counts are pairs and tokens of the best."""
    samples = rollout.samples
    device = samples.tokens.device
    best = rollout.rewards.nan_to_num(nan=-torch.inf).argmax(-1)
    worst = rollout.rewards.nan_to_num(nan=torch.inf).argmin(-1)
    chosen = torch.stack([best, worst], -1).to(device)  # (B, 2)
    paired = rollout.varies.to(device)

    def pick(values: Tensor) -> Tensor:
        return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))

    keep = pick(samples.keep) & paired[:, None, None]
    return Learnt(
        {"tokens": pick(samples.tokens), "keep": keep, "paired": paired},
        torch.stack([paired.sum(), keep[:, 0].sum()]),
    )
