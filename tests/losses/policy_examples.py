"""Batches of sampled hypotheses and the settings under which every policy loss is examined."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from audiorl.losses import POLICY_LOSSES, PolicyBatch, PolicyLoss, PolicyObjective, policy_counts
from tests.oracles_policy import PolicyOracle

NAN = float("nan")
LONGEST = 7
# What a loss has to be given to be built at all.
NEEDED: dict[str, dict[str, Any]] = {"dr_grpo": {"max_completion_length": LONGEST}, "cispo": {"epsilon_high": 1.3}}
CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo")
LEVELLED = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")
POLICY_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in POLICY_LOSSES),
    *((name, {"epsilon": 0.05, "epsilon_high": 0.3}) for name in CLIPPED),
    *((name, {"epsilon": 0.1, "delta": 1.25}) for name in CLIPPED),
    *((name, {"beta": 0.3}) for name in POLICY_LOSSES),
    *((name, {"beta": 0.3, "use_bias_correction_kl": False}) for name in POLICY_LOSSES),
    *((name, {"importance_sampling_level": "sequence", "epsilon": 0.1}) for name in LEVELLED),
    *((name, {"importance_sampling_level": "sequence", "beta": 0.3}) for name in POLICY_LOSSES),
    *((name, {"entropy_coef": 0.2}) for name in POLICY_LOSSES),
]
POLICY_SETTING_IDS = [
    "-".join([name, *(f"{k}={v}" for k, v in settings.items())]) for name, settings in POLICY_SETTINGS
]


def all_settings(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return NEEDED.get(name, {}) | settings


def objective_of(name: str, **settings: Any) -> PolicyObjective:
    return PolicyObjective(name, **all_settings(name, settings))


def random_batch(
    seed: int = 0, clips: int = 3, hypotheses: int = 4, length: int = 6, spread: float = 0.3, padding: float = NAN
) -> PolicyBatch:
    """Float64 batch with ragged ends and a hole; log-ratios have a standard deviation of `spread` nats.

    Hypothesis 1 of clip 0 counts nowhere, nor does clip 2; what does not count holds `padding`.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, hypotheses, length)
    lengths = torch.randint(1, length + 1, (clips, hypotheses, 1), generator=generator)
    keep = torch.arange(length) < lengths
    keep[-1, -1], keep[0, 1] = True, False
    keep[1, 2] = torch.tensor([True, False] * length)[:length]
    if clips > 2:
        keep[2] = False

    def tokens(scale: float, base: Tensor | float) -> Tensor:
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return torch.where(keep, base + scale * noise, padding)

    old = tokens(0.3, -0.5)
    advantages = torch.randn(shape[:2], generator=generator, dtype=torch.float64)
    return PolicyBatch(
        logps=tokens(spread, old).requires_grad_(),
        old_logps=old,
        keep=keep,
        advantages=torch.where(keep.any(-1), advantages, padding),
        ref_logps=tokens(spread, old),
        entropy=tokens(0.1, 1.0).requires_grad_(),
        copies=torch.ones(shape[:2], dtype=torch.long),
    )


def loss_of(name: str, batch: PolicyBatch, settings: dict[str, Any] | None = None) -> PolicyLoss:
    """One loss of a batch that is a whole optimizer step."""
    return objective_of(name, **(settings or {}))(batch, policy_counts(batch.keep))


def gradients_of(name: str, batch: PolicyBatch, settings: dict[str, Any] | None = None) -> tuple[Tensor, Tensor]:
    """The scalar and its gradient on `logps`."""
    loss = loss_of(name, batch, settings).loss
    (gradient,) = torch.autograd.grad(loss, batch.logps)
    return loss.detach(), gradient


def oracle_of(name: str, batch: PolicyBatch, settings: dict[str, Any], **more: Any) -> PolicyOracle:
    ref_logps = None if batch.ref_logps is None else batch.ref_logps.tolist()
    entropy = None if batch.entropy is None else batch.entropy.tolist()
    return PolicyOracle(
        batch.old_logps.tolist(),
        batch.keep.tolist(),
        batch.advantages.tolist(),
        ref_logps=ref_logps,
        entropy=entropy,
        **all_settings(name, settings),
        **more,
    )


def chosen(batch: PolicyBatch, clips: Tensor | slice, hypotheses: Tensor | slice = slice(None)) -> PolicyBatch:
    """Some clips and hypotheses of a batch, in the order named."""
    return PolicyBatch(*(None if x is None else x[clips][:, hypotheses] for x in batch))
