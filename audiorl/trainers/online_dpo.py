"""Online DPO on speech (Guo et al. 2024, arXiv:2402.04792): the best of K sampled hypotheses against the worst.

1. K hypotheses of each clip are sampled from the policy and rewarded (`online.py`).
2. The one with the highest reward is chosen, the one with the lowest rejected; a clip whose rewards are all equal gives
   no pair and counts nowhere.
3. Policy and frozen policy score the two; the objective is DPO's (`audiorl.losses.preference`).

It is a trainer of its own and no `loss_type` of `GRPOTrainer`: it shares the rollouts with it, and none of the settings
of the loss.

Deviations from the paper:
1. Best and worst of K instead of two samples that a language model compares.
2. Losses other than DPO's, alone or summed, as `DPOTrainer` offers them; not aot and aot_unpaired, whose value belongs
   to a whole batch, while rewards decide how many pairs there are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from audiorl.batch import GroupBatch, GroupScores
from audiorl.losses import CombinedObjective, LossSettingError, pair_scores, sequence_sum
from audiorl.trainers.loading import default_output_dir
from audiorl.trainers.online import RolloutTrainer
from audiorl.trainers.rollout_config import RolloutConfig
from audiorl.trainers.rollout_metrics import StepRollouts
from audiorl.trainers.rollouts import Rollout
from audiorl.trainers.step_data import Learnt


@dataclass
class OnlineDPOConfig(RolloutConfig):
    """Arguments of `OnlineDPOTrainer`, named as in TRL; settings of the losses are checked by `CombinedObjective`."""

    loss_type: list[str] = field(
        default_factory=lambda: ["sigmoid"],
        metadata={"help": "One or several of audiorl.losses.PREFERENCE_LOSSES that look at one pair at a time."},
    )
    loss_weights: list[float] | None = field(
        default=None, metadata={"help": "A weight >= 0 for each loss; 1 each where left out."}
    )
    beta: float = field(default=0.1, metadata={"help": "Above 0: the cost of leaving the frozen policy; tau of IPO."})

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.loss_type, str):
            self.loss_type = [self.loss_type]
        self.objective()

    def objective(self) -> CombinedObjective:
        """The objective these arguments describe.

        Raises:
            ValueError: an unknown loss, a value out of its range, or a loss over a whole batch.
        """
        objective = CombinedObjective(self.loss_type, self.loss_weights, beta=self.beta)
        if objective.batch_wide:
            raise LossSettingError(
                f"loss_type={self.loss_type} has a value of the whole batch, and a rollout decides how many pairs that "
                "is. Use sigmoid, ipo, hinge or another loss of one pair, or DPOTrainer on mined pairs."
            )
        return objective


class OnlineDPOTrainer(RolloutTrainer):
    """Tune a speech model on its own best and worst hypotheses; rows need `audio`, `text` and what the rewards read.

    Args:
        model: id or path of a checkpoint, or a model.
        reward_funcs: one reward or several: names, dotted paths, callables with TRL's signature.
        args: `OnlineDPOConfig`; default one that writes to `<model name>-OnlineDPO`.
        ref_model: the frozen policy; default the model as it is handed in, or, with an adapter, the model without it.

    The other arguments are those of `SpeechTrainer`.
    """

    args: OnlineDPOConfig

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        reward_funcs: Any,
        args: OnlineDPOConfig | None = None,
        ref_model: str | os.PathLike | nn.Module | None = None,
        **kwargs: Any,
    ):
        args = args or OnlineDPOConfig(output_dir=default_output_dir(model, "OnlineDPO"))
        self.objective = args.objective()
        super().__init__(model, reward_funcs, args, ref_model, uses_reference=self.objective.uses_reference, **kwargs)

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
