"""The policy losses by name, and the objective made of one of them: checked once when a trainer is built.

1. `PolicyObjective(loss_type, epsilon=..., beta=..., ...)` looks the name up in `POLICY_LOSSES`, checks every setting
   and binds it.
2. Called with a `PolicyBatch`, it clears the padding and takes ratios at the level asked for.
3. The loss function gives one value for each token or hypothesis; `reductions.py` divides their sum by the counts of
   the whole optimizer step.
4. beta times the KL is reduced the same way (mwer: as in grpo), the entropy bonus is a mean over tokens.

Deviations from TRL 1.16:
1. Counts are those of the whole optimizer step over micro-batches and processes, for every loss; in TRL only dapo and
   cispo have them, and grpo, bnpo, dr_grpo and the entropy bonus are means of means.
2. A hypothesis that is masked counts nowhere. In TRL, grpo and dr_grpo still divide by it.
3. `cispo` wants its `epsilon_high` said: TRL would take epsilon = 0.2 for it, a cap that scales all gradients by 0.2.
4. `delta` has to lie above 1 + epsilon_high, where TRL recommends it; below, it would undo the upper clip.
5. Ratios and k3 end at e^40 instead of infinity.
6. `gspo` and `mwer` are names of their own; TRL spells the first grpo with importance_sampling_level="sequence" and has
   nothing like the second. TRL's sapo, luspo and vespo are not offered.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from audiorl.losses.policy_batch import PolicyBatch, PolicyCounts, PolicyLoss, count_copies, policy_counts
from audiorl.losses.policy_checks import check_batch, check_length, checked_clipping, checked_level, checked_switch
from audiorl.losses.policy_losses import POLICY_LOSSES, PolicyMethod, PolicyTerms, bounded_exp, k3_divergence
from audiorl.losses.reductions import HALF_PRECISION, counted_mean, policy_reduction, sequence_mean, sequence_sum
from audiorl.losses.settings import check_settings, known_name, number_not_below

__all__ = [
    "POLICY_LOSSES",
    "PolicyBatch",
    "PolicyCounts",
    "PolicyLoss",
    "PolicyMethod",
    "PolicyObjective",
    "count_copies",
    "policy_counts",
]


class PolicyObjective:
    """A policy loss with its settings; all of them are checked here, none at a training step.

        total = loss + beta * KL - entropy_coef * entropy,  each a sum divided by counts of the optimizer step

    Args:
        loss_type: a key of `POLICY_LOSSES`.
        epsilon: > 0, how far a ratio may fall; from 1 on without bound. Read by all but cispo and mwer.
        epsilon_high: > 0, how far a ratio may rise; default epsilon. cispo: the cap itself, >= 1, has to be given.
        delta: dual clip, > 1 + epsilon_high; None for none.
        beta: >= 0, weight of the KL to the frozen policy; 0 needs none. With T = 1 the KL is that of whole hypotheses,
            and k3 is steep there: leave it at 0, or far below what tokens take.
        use_bias_correction_kl: multiply k3 by the ratio, which makes its gradient that of the KL (Shao et al. 2025,
            DeepSeek-V3.2, arXiv:2512.02556).
        importance_sampling_level: "token", or "sequence" for one ratio for each hypothesis, length-normalised. gspo
            is always at "sequence". bnpo, dapo, dr_grpo and cispo at "sequence" weigh a hypothesis by its length.
        max_completion_length: longest hypothesis in tokens; read by dr_grpo, which has to have it.
        entropy_coef: >= 0, weight of the mean entropy of the tokens.

    Attributes:
        loss_type: the name.
        needs_tokens: True if the objective is not itself for a family that scores hypotheses as a whole (T = 1).
        uses_reference: True if `ref_logps` are read.
        uses_entropy: True if `entropy` is read, with graph.
        needs_copies: True if `copies` are read.
        uses_ratio: False if several updates for one round of sampling are not corrected for.

    Raises:
        LossSettingError: an unknown name, a value out of its range, or a setting that the loss does not read.

    Source: the sum as in Shao et al. 2024 (GRPO), arXiv:2402.03300, eq. 3.
    """

    def __init__(
        self,
        loss_type: str = "dapo",
        *,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        delta: float | None = None,
        beta: float = 0.0,
        use_bias_correction_kl: bool = True,
        importance_sampling_level: str = "token",
        max_completion_length: int | None = None,
        entropy_coef: float = 0.0,
    ):
        self.loss_type = known_name("loss_type", loss_type, POLICY_LOSSES)
        method = POLICY_LOSSES[loss_type]
        self.beta = number_not_below("beta", beta, 0)
        self.entropy_coef = number_not_below("entropy_coef", entropy_coef, 0)
        self.use_bias_correction_kl = checked_switch("use_bias_correction_kl", use_bias_correction_kl)
        self.level = checked_level(importance_sampling_level, loss_type, self.beta > 0 and use_bias_correction_kl)
        check_length(max_completion_length, loss_type)
        settings = checked_clipping(loss_type, epsilon, epsilon_high, delta)
        check_settings("loss_type", loss_type, method.function, settings.keys())
        self._function = partial(
            method.function, **{name: settings[name] for name in method.settings & settings.keys()}
        )
        self._reduce = policy_reduction(method.reduction, max_completion_length)
        self._reduce_kl = policy_reduction(method.kl_reduction or method.reduction, max_completion_length)
        self.needs_tokens = method.needs_tokens or self.level == "sequence"
        self.uses_reference = self.beta > 0
        self.uses_entropy = self.entropy_coef > 0
        self.needs_copies = method.needs_copies
        self.uses_ratio = method.uses_ratio
        reads = {"ref_logps": self.uses_reference, "entropy": self.uses_entropy, "copies": self.needs_copies}
        self._reads = [name for name, needed in reads.items() if needed]

    def __call__(self, batch: PolicyBatch, counts: PolicyCounts) -> PolicyLoss:
        """The loss of one micro-batch.

        Args:
            batch: B clips with K hypotheses each.
            counts: of the whole optimizer step; of this batch, `policy_counts(batch.keep)`.

        Raises:
            ValueError: the batch lacks a tensor that the objective reads, or its shapes do not belong together.
        """
        check_batch(batch, self._reads)
        terms = self._terms(batch)
        surrogate = self._function(terms)
        loss = self._reduce(surrogate.loss, terms.keep, counts)
        kl = None
        if batch.ref_logps is not None and self.uses_reference:
            kl = self._kl(terms, batch.ref_logps)
            loss = loss + self.beta * self._reduce_kl(kl, terms.keep, counts)
        if batch.entropy is not None and self.uses_entropy:
            loss = loss - self.entropy_coef * counted_mean(sequence_sum(batch.entropy, terms.keep), counts.tokens)
        return PolicyLoss(
            loss,
            terms.ratio.detach().expand_as(terms.keep),
            surrogate.clipped_low & terms.keep,
            surrogate.clipped_high & terms.keep,
            None if kl is None else kl.detach(),
        )

    def _terms(self, batch: PolicyBatch) -> PolicyTerms:
        keep = batch.keep
        logps = _cleared(batch.logps, keep)
        log_ratio = logps - _cleared(batch.old_logps.detach(), keep)
        if self.level == "sequence":
            log_ratio = sequence_mean(log_ratio, keep)[..., None]
        advantages = _cleared(batch.advantages.detach(), keep.any(-1)).to(logps.dtype)
        return PolicyTerms(logps, bounded_exp(log_ratio), advantages[..., None], keep, batch.copies)

    def _kl(self, terms: PolicyTerms, ref_logps: Tensor) -> Tensor:
        kl = k3_divergence(terms.logps, _cleared(ref_logps, terms.keep))
        return kl * terms.ratio if self.use_bias_correction_kl else kl


def _cleared(values: Tensor, keep: Tensor) -> Tensor:
    """Zero outside `keep`, and no half precision: a ratio near 1 has two digits left in bfloat16."""
    values = values.float() if values.dtype in HALF_PRECISION else values
    return torch.where(keep, values, 0.0)
