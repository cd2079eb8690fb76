"""The policy losses: what one optimizer step descends, one value for each token or hypothesis, never reduced.

They are computed from a `PolicyBatch` and divided by `PolicyCounts`.

With A the advantage of a hypothesis and

    ratio[b, k, t] = exp(logps - old_logps)[b, k, t]                         at level "token"
    ratio[b, k]    = exp(mean over kept t of (logps - old_logps)[b, k, t])   at level "sequence"

most of them are the clipped surrogate and differ in what its sum is divided by; `POLICY_LOSSES` names that for each.
On the first update after sampling every ratio is 1, nothing is clipped, and the gradient is that of
-A log pi: then the divisor is all that tells grpo, bnpo, dapo, dr_grpo and gspo apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from audiorl.batch import shapes_in_words
from audiorl.losses.reductions import PolicyReduction, distinct_mean, sequence_sum


class PolicyBatch(NamedTuple):
    """K sampled hypotheses for each of B clips; what lies outside `keep` may hold anything, NaN included.

    A family that scores a hypothesis as a whole has T = 1. A hypothesis whose `keep` is all False counts nowhere: a
    cut-off one that is masked, one that no reward scored, the placeholder of a dropped row.
    """

    logps: Tensor  # (B, K, T) nats under the policy, with graph
    old_logps: Tensor  # (B, K, T) under the policy that sampled; logps.detach() on the first inner update
    keep: Tensor  # (B, K, T) bool, True where a token counts
    advantages: Tensor  # (B, K), receive no gradient
    ref_logps: Tensor | None = None  # (B, K, T) under the frozen policy, receives no gradient; None when beta = 0
    entropy: Tensor | None = None  # (B, K, T) nats, for the entropy bonus, with graph; None without one
    copies: Tensor | None = None  # (B, K) long >= 1, `count_copies`; None unless the loss is mwer
    importance: Tensor | None = (
        None  # (B, K, T) `importance_weights` of samples that another engine drew; None for ones
    )

    def __repr__(self) -> str:
        return f"PolicyBatch({shapes_in_words(self._asdict().items())})"


class PolicyCounts(NamedTuple):
    """What the losses of one optimizer step are divided by: sums of `policy_counts` over micro-batches and
    processes."""

    clips: Tensor  # scalar: clips with at least one hypothesis that counts
    hypotheses: Tensor  # scalar: hypotheses that count
    tokens: Tensor  # scalar: kept tokens


class PolicyLoss(NamedTuple):
    """The scalar to call `backward` on, and what a log shows of it; all but `loss` is detached."""

    loss: Tensor  # scalar, already divided by the counts: parts add up to the whole step
    ratio: Tensor  # (B, K, T) pi / pi_old, the same for all tokens of a hypothesis at level "sequence"; 1 outside keep
    clipped_low: Tensor  # (B, K, T) bool: ratio below its lower bound where the advantage is negative
    clipped_high: Tensor  # (B, K, T) bool: ratio above its upper bound where the advantage is positive
    kl: Tensor | None  # (B, K, T) nats, k3 as it enters the loss; 0 outside keep; None when beta = 0


# mode -> (whether a hypothesis has one ratio, whether ratios beyond the bound count as the bound or not at all)
IMPORTANCE_MODES = {
    "token_truncate": (False, "truncate"),
    "token_mask": (False, "mask"),
    "sequence_truncate": (True, "truncate"),
    "sequence_mask": (True, "mask"),
}


def importance_weights(
    logps: Tensor, engine_logps: Tensor, keep: Tensor, *, mode: str = "sequence_mask", clip_max: float = 3.0
) -> Tensor:
    """Weights of samples that were drawn from the policy as another engine computes it.

        ratio[b, k, t] = exp((logps - engine_logps)[b, k, t])                token_*
        ratio[b, k]    = exp(sum over kept t of (logps - engine_logps))      sequence_*
        weight         = min(ratio, clip_max)                                     *_truncate
        weight         = ratio where ratio <= clip_max, else 0                    *_mask

    Args:
        logps: (B, K, T) nats under the policy that the samples are learnt by.
        engine_logps: (B, K, T) as the engine computed them when it drew.
        keep: (B, K, T) bool.
        mode: a key of `IMPORTANCE_MODES`.
        clip_max: > 0.

    Returns:
        (B, K, T), 1 outside `keep`; receives no gradient.

    Source: truncated importance sampling, Yao et al. 2025 ("Your efficient RL framework secretly brings you off-policy
    RL training"); masked, Ling Team 2025 (IcePop), arXiv:2510.18855. Modes and default as in TRL 1.16.
    """
    whole, beyond = IMPORTANCE_MODES[mode]
    difference = torch.where(keep, logps.detach().double() - engine_logps.double(), 0.0)
    ratio = (difference.sum(-1, keepdim=True) if whole else difference).exp()
    weight = ratio.clamp(max=clip_max) if beyond == "truncate" else torch.where(ratio <= clip_max, ratio, 0.0)
    return torch.where(keep, weight, 1.0).to(logps.dtype)


def policy_counts(keep: Tensor) -> PolicyCounts:
    """Counts of one micro-batch.

    Args:
        keep: (B, K, T) bool.

    Returns:
        Three scalars; add those of all micro-batches and processes field by field.
    """
    counted = keep.any(-1)
    return PolicyCounts(counted.any(-1).sum(), counted.sum(), keep.sum())


def count_copies(tokens: Tensor, keep: Tensor) -> Tensor:
    """How often each hypothesis stands in the list of its clip, itself included.

        copies[b, k] = number of j whose kept tokens are those of k, at the same positions

    Args:
        tokens: (B, K, T + 1) long, as in `GroupBatch`.
        keep: (B, K, T) bool over `tokens[..., 1:]`, of the tokens themselves: for a family with T = 1 the `keep` of
            the `GroupBatch`, not that of its scores. All False for a hypothesis that does not count.

    Returns:
        (B, K) long >= 1.
    """
    shown = torch.where(keep, tokens[..., 1:], -1)
    return (shown[:, :, None] == shown[:, None]).all(-1).sum(-1)


# A ratio above e^40 = 2.4e17 counts as e^40, so that its square still fits float32. See `bounded_exp`.
MAX_LOG_RATIO = 40.0


class PolicyTerms(NamedTuple):
    """What a loss function reads, cleared of padding."""

    logps: Tensor  # (B, K, T) nats, with graph; 0 outside keep
    ratio: Tensor  # (B, K, T) or (B, K, 1), with graph; 1 outside keep
    advantages: Tensor  # (B, K, 1), detached; 0 for a hypothesis that does not count
    keep: Tensor  # (B, K, T) bool
    copies: Tensor | None  # (B, K)


class Surrogate(NamedTuple):
    """What a loss function returns; shapes broadcast to (B, K, T), one value for each token or each hypothesis."""

    loss: Tensor  # (B, K, T), or (B, K, 1) of a hypothesis
    clipped_low: Tensor  # bool, the same shape
    clipped_high: Tensor  # bool, the same shape


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x), and e^40 where x > 40, there with the slope e^40: never infinite, never without a gradient."""
    return torch.exp(x - (x.detach() - MAX_LOG_RATIO).clamp(min=0))


def k3_divergence(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Estimate of KL(policy || frozen policy) for each token from the sampled token alone.

        d[b, k, t]   = (ref_logps - logps)[b, k, t]
        out[b, k, t] = exp(d) - d - 1

    It is unbiased under the policy that sampled, >= 0, and its variance is small where the two agree. Its slope is
    exp(d) - 1: with T = 1, where d is a sum over a whole hypothesis, that grows out of hand after a few nats.

    Args:
        logps: (B, K, T) nats, with graph.
        ref_logps: (B, K, T) nats; receives no gradient.

    Returns:
        (B, K, T) >= 0, nats.

    Source: Schulman 2020, "Approximating KL divergence"; Shao et al. 2024 (GRPO), arXiv:2402.03300, eq. 4.
    """
    difference = ref_logps.detach() - logps
    return bounded_exp(difference) - difference - 1


def clipped_loss(terms: PolicyTerms, *, epsilon: float, epsilon_high: float, delta: float | None = None) -> Surrogate:
    """The clipped surrogate: a ratio that has moved far enough pushes no further.

        r         = min(ratio, delta) where delta is set, otherwise ratio
        loss[..t] = -min(r A, clip(ratio, 1 - epsilon, 1 + epsilon_high) A)

    Five names of `POLICY_LOSSES` are this function. They differ in what the sum is divided by:

        grpo     sum over hypotheses of (sum over t of loss / number of its tokens) / hypotheses of the step
        bnpo     sum over all tokens of loss / tokens of the step
        dapo     the same
        dr_grpo  sum over all tokens of loss / (hypotheses of the step * max_completion_length)
        gspo     sum over hypotheses of loss / hypotheses of the step, with one ratio for each hypothesis,
                 (pi(hypothesis) / pi_old(hypothesis)) ^ (1 / number of its tokens)

    A token of a short hypothesis weighs more than one of a long hypothesis in grpo; in bnpo and dapo every token weighs
    the same, and a long hypothesis more; dr_grpo prefers no length. gspo is grpo at
    `importance_sampling_level="sequence"`, TRL's way of asking for it. `delta` bounds what a token of negative
    advantage can cost, where the minimum alone has no bound.

    Deviations from TRL: its bnpo divides by the tokens of a micro-batch and takes the mean over micro-batches, so that
    the result depends on how a step is cut up; with the counts of the whole step bnpo is the same number as dapo, and
    both names are kept because both are TRL's. Where several optimizer steps share one round of sampling, TRL's dapo
    divides each by the mean number of tokens of a step, here by the tokens that the step has.

    Args:
        terms: of B clips with K hypotheses.
        epsilon: > 0; how far the ratio may fall before a negative advantage pushes no more; 1 or more: no bound. dapo's
            paper takes 0.2 and 0.28; gspo's 3e-4 and 4e-4, since its ratios lie close to 1, and with 0.2 hardly
            anything is ever clipped.
        epsilon_high: > 0; how far it may rise before a positive advantage pushes no more.
        delta: > 1 + epsilon_high, or None.

    Returns:
        `Surrogate`, one value for each token, or for each hypothesis at level "sequence".

    Source: Shao et al. 2024 (GRPO), arXiv:2402.03300, eq. 3; `epsilon_high`, and dapo's sum over tokens, from Yu et al.
    2025 (DAPO), arXiv:2503.14476, its "clip-higher" and its token-level loss; dr_grpo from Liu et al. 2025 (Dr. GRPO),
    arXiv:2503.20783, section 3.2, which goes with advantages "none"; gspo from Zheng et al. 2025 (GSPO),
    arXiv:2507.18071, eq. 5, 7; bnpo is the token mean that TRL used before dapo; `delta` from Prime Intellect 2025
    (INTELLECT-2), arXiv:2505.07291, its two-sided clipping, with 4.
    """
    low, high = 1 - epsilon, 1 + epsilon_high
    ratio, advantages = terms.ratio, terms.advantages
    bounded = ratio if delta is None else ratio.clamp(max=delta)
    loss = -torch.minimum(bounded * advantages, ratio.clamp(low, high) * advantages)
    return Surrogate(loss, (ratio < low) & (advantages < 0), (ratio > high) & (advantages > 0))


# the names under which it has been public
grpo_loss = bnpo_loss = dapo_loss = dr_grpo_loss = gspo_loss = clipped_loss


def cispo_loss(terms: PolicyTerms, *, epsilon_high: float) -> Surrogate:
    """Policy gradient with a capped, constant weight: no token ever loses its gradient to clipping.

        loss[..t] = -stop_gradient(min(ratio, epsilon_high)) A logps[..t]
        total     = sum over all tokens of loss / tokens of the step

    `epsilon_high` is the cap itself, not a distance from 1, as in TRL. `clipped_high` marks capped ratios of positive
    advantage only, which is what TRL logs; those of negative advantage are capped too.

    Args:
        terms: of B clips with K hypotheses.
        epsilon_high: >= 1; ScaleRL takes 5.

    Returns:
        `Surrogate`, one value for each token. The values say little: the gradient is what counts.

    Source: MiniMax 2025 (MiniMax-M1), arXiv:2506.13585, its CISPO objective without a lower bound; Khatri et al.
    2025 (ScaleRL), arXiv:2510.13786.
    """
    weight = terms.ratio.detach().clamp(max=epsilon_high)
    clipped_high = (terms.ratio > epsilon_high) & (terms.advantages > 0)
    return Surrogate(-weight * terms.advantages * terms.logps, torch.zeros_like(clipped_high), clipped_high)


def mwer_loss(terms: PolicyTerms) -> Surrogate:
    """Expected risk over the list of sampled hypotheses, their probabilities renormalised over the list.

        s[b, k]    = sum over kept t of logps[b, k, t]
        p[b, k]    = exp(s[b, k]) / copies[b, k], divided by its sum over the list of clip b
        risk[b, k] = -A[b, k];  mean risk[b] = its mean over the distinct hypotheses of the list
        loss[b, k] = p[b, k] (risk[b, k] - mean risk[b])
        total      = sum over hypotheses of loss / clips of the step

    With the reward -WER and advantages "none" the risk is the WER less its mean, as in the paper; with "group" the
    clips of a batch are rescaled besides. A constant added to the rewards of a clip changes neither value nor
    gradient.

    A sampled list repeats its likely hypotheses. The probability p already says how likely each is, so a repetition
    must not count again: `copies` spreads the mass of a hypothesis over its repetitions, and value and gradient are
    those of the list without them. A list of one distinct hypothesis has gradient 0.

    Deviation from the paper: its n-best list comes from beam search, ours is sampled. Ratios play no part, nothing is
    clipped: with several updates for each round of sampling nothing but `beta` holds the policy back.

    Args:
        terms: of B clips with K hypotheses; `copies` given.

    Returns:
        `Surrogate`, one value for each hypothesis.

    Source: Prabhavalkar et al. 2018, arXiv:1712.01818, its loss over N-best lists, from which the mean number of errors
    of the list is subtracted.
    """
    assert terms.copies is not None
    counted = terms.keep.any(-1)
    log_mass = sequence_sum(terms.logps, terms.keep) - terms.copies.log()
    # A finite stand-in for -inf: a clip without hypotheses has a softmax too, and no NaN.
    p = torch.softmax(log_mass.masked_fill(~counted, torch.finfo(log_mass.dtype).min), dim=-1)
    risk = -terms.advantages[..., 0]
    loss = (p * (risk - distinct_mean(risk, terms.copies, counted)))[..., None]
    never = torch.zeros_like(loss, dtype=torch.bool)
    return Surrogate(loss, never, never)


class PolicyMethod(NamedTuple):
    """A policy loss and what a trainer has to know about it."""

    function: Callable[..., Surrogate]  # (PolicyTerms, *, settings) -> one value for each token or hypothesis
    reduction: PolicyReduction  # what the sum of its values is divided by
    kl_reduction: PolicyReduction | None = None  # the same for the KL, where it differs
    level: str | None = None  # the only importance_sampling_level it has; None: the user's
    needs_tokens: bool = False  # it is not itself where a hypothesis is scored as a whole, T = 1
    needs_copies: bool = False  # it reads `PolicyBatch.copies`
    uses_ratio: bool = True  # it weighs by pi / pi_old; otherwise it is meant for num_iterations = 1
    # what the tables of the docs say of it, and where it is from; where empty, its function's docstring says both
    summary: str = ""
    source: str = ""

    @property
    def settings(self) -> frozenset[str]:
        """Names of the settings that the function reads: its keyword-only arguments."""
        parameters = inspect.signature(self.function).parameters.values()
        return frozenset(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


POLICY_LOSSES: dict[str, PolicyMethod] = {
    "grpo": PolicyMethod(
        clipped_loss,
        "hypotheses",
        summary="The clipped surrogate; mean over the tokens of a hypothesis, then over hypotheses.",
        source="Shao et al. 2024 (GRPO), arXiv:2402.03300, eq. 3.",
    ),
    "bnpo": PolicyMethod(
        clipped_loss,
        "tokens",
        summary="The clipped surrogate; mean over all tokens of the optimizer step, the same number as dapo.",
        source='TRL\'s `loss_type="bnpo"`, the token mean that it used before dapo.',
    ),
    "dr_grpo": PolicyMethod(
        clipped_loss,
        "budget",
        needs_tokens=True,
        summary="The clipped surrogate; divided by a constant, so that no length is preferred.",
        source="Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783, section 3.2.",
    ),
    "dapo": PolicyMethod(
        clipped_loss,
        "tokens",
        summary="The clipped surrogate; mean over all tokens of the optimizer step: every token weighs the same.",
        source="Yu et al. 2025 (DAPO), arXiv:2503.14476, its token-level loss.",
    ),
    "cispo": PolicyMethod(cispo_loss, "tokens"),
    "gspo": PolicyMethod(
        clipped_loss,
        "hypotheses",
        level="sequence",
        needs_tokens=True,
        summary="The clipped surrogate with one ratio for a hypothesis: rewards are of hypotheses, so are weights.",
        source="Zheng et al. 2025 (GSPO), arXiv:2507.18071, eq. 5, 7.",
    ),
    "mwer": PolicyMethod(mwer_loss, "clips", "hypotheses", needs_copies=True, uses_ratio=False),
}
