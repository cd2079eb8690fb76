"""The policy objective: one of `POLICY_LOSSES` with its settings, checked once when a trainer is built.

1. `PolicyObjective(loss_type, epsilon=..., beta=..., ...)` looks the name up in `POLICY_LOSSES` (a loss of your own is
   named by a dotted path or passed itself, see `settings.py`), checks every setting and binds it.
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

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from audiorl.losses.policy_losses import (
    POLICY_LOSSES,
    PolicyBatch,
    PolicyCounts,
    PolicyLoss,
    PolicyMethod,
    PolicyTerms,
    Surrogate,
    bounded_exp,
    count_copies,
    k3_divergence,
    policy_counts,
)
from audiorl.losses.reductions import HALF_PRECISION, counted_mean, policy_reduction, sequence_mean, sequence_sum
from audiorl.losses.settings import (
    LossSettingError,
    check_loss_settings,
    check_settings,
    find_loss,
    finite_number,
    is_own,
    known_name,
    loss_name,
    number_not_below,
    positive_number,
    read_loss_settings,
    try_loss,
)

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


IMPORTANCE_SAMPLING_LEVELS = ("token", "sequence")

# Why an objective reads a tensor that `PolicyBatch` may lack, and where it comes from.
REMEDIES = {
    "ref_logps": "beta > 0 pulls towards the frozen policy. Score the batch with it, or set beta=0.",
    "entropy": "entropy_coef > 0 rewards entropy. Pass the entropy of the scores, with its graph, or set "
    "entropy_coef=0.",
    "copies": "mwer counts a repeated hypothesis once. Pass count_copies(tokens, keep).",
}


class PolicyObjective:
    """A policy loss with its settings; all of them are checked here, none at a training step.

        total = loss + beta * KL - entropy_coef * entropy,  each a sum divided by counts of the optimizer step

    Args:
        loss_type: a key of `POLICY_LOSSES`. Or a loss of your own: the name of an entry point of "audiorl.losses", a
            dotted path, a function of `PolicyTerms` that returns a `Surrogate` (its sum is divided by all tokens of the
            step, as dapo's), or a `PolicyMethod`, which also says by what it is divided.
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
        loss_settings: further keyword-only arguments of a loss of your own, by name.

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
        loss_type: str | Callable[..., Surrogate] | PolicyMethod = "dapo",
        *,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        delta: float | None = None,
        beta: float = 0.0,
        use_bias_correction_kl: bool = True,
        importance_sampling_level: str = "token",
        max_completion_length: int | None = None,
        entropy_coef: float = 0.0,
        loss_settings: Mapping[str, Any] | None = None,
    ):
        method = policy_loss(loss_type)
        self.loss_type = loss_name(loss_type)
        self.beta = number_not_below("beta", beta, 0)
        self.entropy_coef = number_not_below("entropy_coef", entropy_coef, 0)
        self.use_bias_correction_kl = checked_switch("use_bias_correction_kl", use_bias_correction_kl)
        self.level = checked_level(
            importance_sampling_level, self.loss_type, method, self.beta > 0 and use_bias_correction_kl
        )
        check_length(max_completion_length, self.loss_type, method)
        settings: dict[str, Any] = dict(checked_clipping(self.loss_type, method, epsilon, epsilon_high, delta))
        further = read_loss_settings(loss_settings)
        check_loss_settings(further, {self.loss_type: method.function}, set(settings))
        settings |= further
        check_settings("loss_type", self.loss_type, method.function, settings.keys())
        self._function = partial(
            method.function, **{name: settings[name] for name in method.settings & settings.keys()}
        )
        if is_own(loss_type, POLICY_LOSSES):
            try_loss(self.loss_type, self._function, made_up_terms(), (2, 3, 4), (2, 3, 1))
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
        each = surrogate.loss if batch.importance is None else surrogate.loss * batch.importance.detach()
        loss = self._reduce(each, terms.keep, counts)
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


# ---- checks ----


def policy_loss(loss: str | Callable[..., Surrogate] | PolicyMethod) -> PolicyMethod:
    """A policy loss by its key, the name of an entry point, its dotted path, or from its function.

    Raises:
        LossSettingError: there is none, or it is no function.
    """
    return find_loss(loss, POLICY_LOSSES, lambda function: PolicyMethod(function, "tokens"))


def made_up_terms() -> PolicyTerms:
    """Terms of two clips with three hypotheses of up to four tokens, to try a loss on."""
    keep = torch.arange(4) < torch.tensor([[4, 3, 2], [1, 4, 3]])[..., None]
    logps = torch.where(keep, -1.5, 0.0).requires_grad_()
    ratio = torch.exp(logps - logps.detach())
    advantages = torch.tensor([[1.0, 0.0, -1.0], [0.5, -0.5, 0.0]])[..., None]
    return PolicyTerms(logps, ratio, advantages, keep, torch.ones(2, 3))


def checked_level(level: str, loss_type: str, method: PolicyMethod, kl_reads_it: bool) -> str:
    """The level at which ratios are taken: "token" or "sequence".

    Raises:
        LossSettingError: no such level, or nothing would read it.
    """
    known_name("importance_sampling_level", level, IMPORTANCE_SAMPLING_LEVELS)
    if level == "sequence" and not method.uses_ratio and not kl_reads_it:
        raise LossSettingError(
            f"importance_sampling_level='sequence' would change nothing: {loss_type} uses no ratio. Set it to 'token'."
        )
    return method.level or level


def checked_switch(name: str, value: object) -> bool:
    """`value`; raises `LossSettingError` unless it is True or False."""
    if not isinstance(value, bool):
        raise LossSettingError(f"{name} is True or False; got {value!r}. Set {name} to one of the two.")
    return value


def check_length(max_completion_length: int | None, loss_type: str, method: PolicyMethod) -> None:
    """Raises `LossSettingError` unless `max_completion_length` is a number of tokens, or None where it is not read."""
    if max_completion_length is not None:
        number_not_below("max_completion_length", max_completion_length, 1)
    elif method.reduction == "budget":
        raise LossSettingError(
            f"{loss_type} divides by max_completion_length; got None. Set it to the length in tokens at which sampling "
            "stops."
        )


def checked_clipping(
    loss_type: str, method: PolicyMethod, epsilon: float, epsilon_high: float | None, delta: float | None
) -> dict[str, float | None]:
    """The bounds of the ratio that the loss reads, by name.

    Raises:
        LossSettingError: one of them is out of its range, or set although the loss does not read it.
    """
    reads = method.settings
    low = positive_number("epsilon", epsilon)
    _refuse_unread(loss_type, reads, {"epsilon_high": epsilon_high, "delta": delta})
    if "epsilon" not in reads:
        return {"epsilon_high": _checked_cap(loss_type, epsilon_high)} if "epsilon_high" in reads else {}
    high = low if epsilon_high is None else positive_number("epsilon_high", epsilon_high)
    upper = None if delta is None else finite_number("delta", delta)
    if upper is not None and upper <= 1 + high:
        raise LossSettingError(
            f"delta bounds ratios beyond the clip, so delta > 1 + epsilon_high = {1 + high:g}; got {delta!r}. 4 is "
            "usual, None switches it off."
        )
    return {"epsilon": low, "epsilon_high": high, "delta": upper}


def _refuse_unread(loss_type: str, reads: Collection[str], settings: dict[str, float | None]) -> None:
    for name, value in settings.items():
        if value is not None and name not in reads:
            readers = [other for other, method in POLICY_LOSSES.items() if name in method.settings]
            raise LossSettingError(
                f"{name}={value!r} would change nothing: {loss_type} does not read it. Leave it out, or choose a loss "
                f"that does: {', '.join(readers)}."
            )


def _checked_cap(loss_type: str, epsilon_high: float | None) -> float:
    if epsilon_high is None:
        raise LossSettingError(
            f"{loss_type} caps the ratio at epsilon_high itself and reads no epsilon; got None. Set epsilon_high=5.0, "
            "as ScaleRL does."
        )
    return number_not_below("epsilon_high", epsilon_high, 1)


def check_batch(batch: PolicyBatch, reads: Collection[str]) -> None:
    """Whether a batch has what an objective reads, in shapes that belong together.

    Args:
        batch: what the objective is called with.
        reads: names of the optional tensors that it reads, of `REMEDIES`.

    Raises:
        ValueError: a tensor is missing, lacks its graph, or has another shape.
    """
    for name in reads:
        if getattr(batch, name) is None:
            raise ValueError(f"PolicyBatch.{name} is None, but the objective reads it: {REMEDIES[name]}")
    if "entropy" in reads and batch.entropy is not None and batch.logps.requires_grad > batch.entropy.requires_grad:
        raise ValueError(
            "PolicyBatch.entropy has no graph, so entropy_coef would change no weight. Score with a head whose "
            "entropy is differentiable, or set entropy_coef=0."
        )
    shape = batch.keep.shape
    wanted = {name: shape for name in ("logps", "old_logps", *reads)} | {"advantages": shape[:2]}
    wanted |= {"copies": shape[:2]} if "copies" in reads else {}
    wanted |= {} if batch.importance is None else {"importance": shape}
    wrong = {name: tuple(getattr(batch, name).shape) for name in wanted if getattr(batch, name).shape != wanted[name]}
    if wrong:
        raise ValueError(
            f"keep is {tuple(shape)}, so token tensors have that shape, advantages and copies {tuple(shape[:2])}; got "
            f"{wrong}. Lay all of them out as (B clips, K hypotheses, T tokens)."
        )
