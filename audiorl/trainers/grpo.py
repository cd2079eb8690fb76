"""Group relative policy optimisation on speech (Shao et al. 2024, arXiv:2402.03300), every clip encoded once.

1. K hypotheses of each clip are sampled from the policy and rewarded (`rollout_trainer.py`).
2. A hypothesis's advantage is its reward less the mean of its group, scaled as `scale_rewards` says
   (`audiorl.losses.advantages`).
3. The policy scores all K from one encoder pass; `PolicyObjective` turns ratios and advantages into the loss and adds
   the KL to the frozen policy and an entropy bonus (`audiorl.losses.policy`).

Deviations from the paper:
1. `loss_type` is dapo unless asked otherwise, and beta is 0, as in TRL: no frozen policy is held.
2. Losses are divided by the counts of the whole optimizer step; those of the objective are listed in
   `audiorl.losses.policy`.
3. A hypothesis is left out, of the divisors too, if every reward abstained, or if the length limit cut it and
   `mask_truncated_completions` is on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn
from transformers import TrainerCallback

from audiorl.batch import GroupBatch, GroupSamples, GroupScores
from audiorl.losses import (
    ADVANTAGES,
    PolicyBatch,
    PolicyCounts,
    PolicyLoss,
    PolicyObjective,
    count_copies,
    loss_name,
    policy_counts,
)
from audiorl.losses.advantages import NORMALIZE_THEN_SUM, SUM_THEN_NORMALIZE, decoupled_advantages
from audiorl.losses.policy_losses import IMPORTANCE_MODES, importance_weights
from audiorl.losses.settings import known_name, positive_number, read_loss_settings
from audiorl.models import SpeechFamily
from audiorl.rewards import RewardSet
from audiorl.rewards.reward_set import is_overriding
from audiorl.trainers.base import Collate, ComputeMetrics, Optimizers
from audiorl.trainers.config import LOSS_SETTINGS_HELP
from audiorl.trainers.loading import default_output_dir
from audiorl.trainers.rollout_metrics import StepRollouts
from audiorl.trainers.rollout_trainer import RolloutConfig, RolloutTrainer
from audiorl.trainers.rollouts import Learnt, Rollout


@dataclass
class GRPOConfig(RolloutConfig):
    """Arguments of `GRPOTrainer`, named as in TRL; settings of the losses are checked by `PolicyObjective`."""

    loss_type: str = field(
        default="dapo",
        metadata={
            "help": "One of audiorl.losses.POLICY_LOSSES (dapo, grpo, dr_grpo, gspo, mwer, ...), or a loss of your own "
            "by its dotted path, my_module.my_loss; in Python also the function itself."
        },
    )
    loss_settings: list[str] | None | dict[str, Any] | str = field(  # noqa: RUF036
        default=None, metadata={"help": LOSS_SETTINGS_HELP}
    )
    scale_rewards: str = field(
        default="group",
        metadata={
            "help": "What a reward minus its group's mean is divided by: the standard deviation of the group "
            "('group') or of "
            "the step ('batch'), or nothing ('none'). 'rloo' subtracts the mean of the other hypotheses and divides "
            "by nothing."
        },
    )
    multi_objective_aggregation: str = field(
        default=SUM_THEN_NORMALIZE,
        metadata={
            "help": "How several rewards become one advantage: 'sum_then_normalize', or 'normalize_then_sum': each is "
            "normalised in its group first, so that none drowns the others (GDPO). With the latter scale_rewards is "
            "not read.",
            "choices": [SUM_THEN_NORMALIZE, NORMALIZE_THEN_SUM],
        },
    )
    beta: float = field(
        default=0.0,
        metadata={"help": "Weight >= 0 of the KL to the frozen policy. With 0 no frozen policy is kept in memory."},
    )
    use_bias_correction_kl: bool = field(
        default=True,
        metadata={"help": "Multiply the KL estimate by the ratio, so that its gradient is that of the KL."},
    )
    epsilon: float = field(default=0.2, metadata={"help": "How far a ratio may fall below 1, 0 to 1."})
    epsilon_high: float | None = field(
        default=None, metadata={"help": "How far a ratio may rise above 1; unset: epsilon. For cispo the cap itself."}
    )
    delta: float | None = field(
        default=None, metadata={"help": "Dual clip: a cap on ratios with a negative advantage, above 1 + epsilon_high."}
    )
    importance_sampling_level: str = field(
        default="token",
        metadata={"help": "'token' for one ratio for each token, 'sequence' for one for each hypothesis."},
    )
    mask_truncated_completions: bool = field(
        default=False, metadata={"help": "Do not learn from hypotheses that reached the length limit."}
    )
    entropy_coef: float = field(default=0.0, metadata={"help": "Weight >= 0 of the mean entropy of the tokens."})
    vllm_importance_sampling_correction: bool = field(
        default=True,
        metadata={
            "help": "With rollout_engine vllm: weigh the loss of a sample by the ratio of its probability under the "
            "policy and in vLLM."
        },
    )
    vllm_importance_sampling_mode: str = field(
        default="sequence_mask",
        metadata={
            "help": "One ratio for each token or for the whole hypothesis; a ratio above the cap counts as the cap "
            "(truncate) or its sample not at all (mask).",
            "choices": list(IMPORTANCE_MODES),
        },
    )
    vllm_importance_sampling_clip_max: float = field(
        default=3.0, metadata={"help": "Largest importance ratio, above 0; see vllm_importance_sampling_mode."}
    )

    def __post_init__(self):
        super().__post_init__()
        known_name("vllm_importance_sampling_mode", self.vllm_importance_sampling_mode, IMPORTANCE_MODES)
        positive_number("vllm_importance_sampling_clip_max", self.vllm_importance_sampling_clip_max)
        if self.rollout_engine == "vllm" and self.loss_type == "mwer" and self.vllm_importance_sampling_correction:
            raise ValueError(
                "mwer weighs the K hypotheses of a clip by their probabilities, which leaves no place for importance "
                "ratios. Set vllm_importance_sampling_correction=False, or use rollout_engine='native'."
            )
        if isinstance(self.scale_rewards, bool):
            self.scale_rewards = "group" if self.scale_rewards else "none"
        known_name("scale_rewards", self.scale_rewards, ADVANTAGES)
        orders = (SUM_THEN_NORMALIZE, NORMALIZE_THEN_SUM)
        known_name("multi_objective_aggregation", self.multi_objective_aggregation, orders)
        if self.decoupled and self.scale_rewards != "group":
            raise ValueError(
                f"multi_objective_aggregation={NORMALIZE_THEN_SUM!r} normalises in the group and over the step, so "
                f"scale_rewards={self.scale_rewards!r} would not be read. Leave scale_rewards out."
            )
        self.loss_settings = read_loss_settings(self.loss_settings) or None
        self.objective()

    @property
    def decoupled(self) -> bool:
        """Whether each reward is normalised before they are summed."""
        return self.multi_objective_aggregation == NORMALIZE_THEN_SUM

    def check_rewards(self, rewards: RewardSet) -> None:
        """Refuse rewards that cannot be put together as asked.

        Raises:
            ValueError: one that caps the total, where there is no total.
        """
        capping = [name for name, one in zip(rewards.names, rewards.rewards, strict=True) if is_overriding(one)]
        if self.decoupled and capping:
            raise ValueError(
                f"The rewards {capping} cap the total of a hypothesis, and {NORMALIZE_THEN_SUM!r} normalises each "
                f"reward by itself, so that there is no total to cap. Use {SUM_THEN_NORMALIZE!r}, or leave them out."
            )

    def check_family(self, family: SpeechFamily) -> None:
        super().check_family(family)
        objective = self.objective()
        if self.mask_truncated_completions and not family.token_level:
            raise ValueError(
                "mask_truncated_completions learns nothing from hypotheses that the length limit cut, but "
                f"{type(family).__name__} samples a hypothesis as a whole and cuts none. Leave it out."
            )
        if family.token_level or not (objective.needs_tokens or objective.uses_entropy):
            return
        loss = f"loss_type={loss_name(self.loss_type)!r} at level {objective.level!r}"
        raise ValueError(
            f"{'entropy_coef' if objective.uses_entropy else loss} is made of tokens, but {type(family).__name__} "
            "scores a hypothesis as a whole. Use loss_type='grpo' or 'mwer' at level 'token', with entropy_coef=0."
        )

    def objective(self) -> PolicyObjective:
        """The objective these arguments describe.

        Raises:
            ValueError: an unknown loss, or a value out of its range.
        """
        return PolicyObjective(
            self.loss_type,
            epsilon=self.epsilon,
            epsilon_high=self.epsilon_high,
            delta=self.delta,
            beta=self.beta,
            use_bias_correction_kl=self.use_bias_correction_kl,
            importance_sampling_level=self.importance_sampling_level,
            max_completion_length=self.max_completion_length,
            entropy_coef=self.entropy_coef,
            loss_settings=self.loss_settings,  # type: ignore[arg-type]
        )


class GRPOTrainer(RolloutTrainer):
    """Tune a speech model with rewards; rows need `audio` and what the rewards read.

    Args:
        model: id or path of a checkpoint, or a model.
        reward_funcs: one reward or several: names, dotted paths, callables with TRL's signature.
        args: `GRPOConfig`; default one that writes to `<model name>-GRPO`.
        ref_model: the frozen policy where beta > 0; default the model as it is handed in, or, with an adapter, the
            model without it.

    The other arguments are those of `SpeechTrainer`.
    """

    args: GRPOConfig

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        reward_funcs: Any,
        args: GRPOConfig | None = None,
        ref_model: str | os.PathLike | nn.Module | None = None,
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
        args = args or GRPOConfig(output_dir=default_output_dir(model, "GRPO"))
        self.objective = args.objective()
        self.advantages = ADVANTAGES[args.scale_rewards]
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
        args.check_rewards(self.rewards)

    def learn_from(self, rollouts: Sequence[Rollout], step: StepRollouts) -> list[Learnt]:
        """All K hypotheses with their advantages. Those that do not count lose their `keep`."""
        valid = ~step.rewards.isnan()
        if self.args.decoupled:
            everywhere = decoupled_advantages(step.parts, self.rewards.weights, valid)
        else:
            everywhere = self.advantages(step.rewards, valid)
        own = everywhere[step.own].float()
        parts = own.split([len(rollout.texts) for rollout in rollouts])
        return [self._learnt(rollout, part) for rollout, part in zip(rollouts, parts, strict=True)]

    def _learnt(self, rollout: Rollout, advantages: Tensor) -> Learnt:
        samples = rollout.samples
        device = samples.tokens.device
        counted = ~rollout.rewards.isnan().to(device)
        if self.args.mask_truncated_completions:
            counted &= samples.finished
        keep = samples.keep & counted[..., None]
        tensors = {
            "tokens": samples.tokens,
            "keep": keep,
            "advantages": advantages.to(device),
            "old_logps": samples.logps,
        }
        if samples.engine_logps is not None and self.args.vllm_importance_sampling_correction:
            tensors["importance"] = importance_weights(
                samples.logps,
                samples.engine_logps,
                samples.keep,
                mode=self.args.vllm_importance_sampling_mode,
                clip_max=self.args.vllm_importance_sampling_clip_max,
            )
        if self.objective.needs_copies:
            tensors["copies"] = count_copies(samples.tokens, keep)
        return Learnt(tensors, torch.stack(policy_counts(self._scored_keep(samples, keep))))

    def _scored_keep(self, samples: GroupSamples, keep: Tensor) -> Tensor:
        """`keep` in the shape of the family's scores: (B, K, 1) if a hypothesis is scored as a whole."""
        if samples.logps.shape == keep.shape:
            return keep
        return keep.any(-1, keepdim=True)

    def rollout_loss(self, batch: GroupBatch, scores: GroupScores, counts: Tensor) -> Tensor:
        policy = PolicyBatch(
            scores.logps,
            batch.tensors.get("old_logps", scores.logps.detach()),
            scores.keep,
            batch.tensors["advantages"],
            batch.tensors.get("ref_logps"),
            scores.entropy if self.objective.uses_entropy else None,
            batch.tensors.get("copies"),
            batch.tensors.get("importance"),
        )
        out = self.objective(policy, PolicyCounts(*counts))
        self._log_policy(out, scores.keep)
        return out.loss

    def _log_policy(self, out: PolicyLoss, keep: Tensor) -> None:
        """TRL's metrics; means over the tokens of all micro-batches and processes since the last log."""
        clipped = {"low_mean": out.clipped_low, "high_mean": out.clipped_high}
        for name, values in {**clipped, "region_mean": out.clipped_low | out.clipped_high}.items():
            self.metrics.add("train", f"clip_ratio/{name}", values, keep)
        if out.kl is not None:
            self.metrics.add("train", "kl", out.kl, keep)
