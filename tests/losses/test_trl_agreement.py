"""Agreement with TRL: its own `DPOTrainer._compute_loss` and ours on the same token log-probabilities.

TRL's method runs unchanged; only the model is a stand-in that returns prescribed log-probabilities, and the
trainer a bag of the attributes that the method reads.
"""

from __future__ import annotations

import re
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from audiorl.losses import (
    F_DIVERGENCES,
    LOSS_PRESETS,
    PREFERENCE_LOSSES,
    CombinedObjective,
    ObjectiveTerms,
    pair_scores,
    sequence_reduction,
)
from tests.losses.pair_examples import LOSS_SETTING_IDS, LOSS_SETTINGS

trl_dpo = pytest.importorskip("trl.trainer.dpo_trainer")
trl_config = pytest.importorskip("trl.trainer.dpo_config")

PROMPT_TOKENS = 2
LENGTHS = torch.tensor([[9, 4], [3, 9], [6, 6], [1, 7], [8, 2]])


class PrescribedModel(nn.Module):
    """Answers every call with the same token log-probabilities (2B, L - 1), rows chosen first."""

    is_gradient_checkpointing = False

    def __init__(self, token_logps: Tensor):
        super().__init__()
        self.token_logps = token_logps

    def forward(self, **_: Any) -> SimpleNamespace:
        zeros = torch.zeros_like(self.token_logps)
        return SimpleNamespace(log_probs=self.token_logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def tokens_and_mask(spread: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """`token_logps`, `ref_token_logps` and `keep`, (5, 2, T), a masked prompt in front and ragged ends."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.arange(PROMPT_TOKENS + int(LENGTHS.max()) + 1)
    keep = (position >= PROMPT_TOKENS - 1) & (position < PROMPT_TOKENS - 1 + LENGTHS[..., None])
    ref_token_logps = -3 * torch.rand(keep.shape, generator=generator)
    token_logps = ref_token_logps + spread * torch.randn(keep.shape, generator=generator)
    return token_logps, ref_token_logps, keep


def chosen_first(pairs: Tensor) -> Tensor:
    """(B, 2, T) -> (2B, T), TRL's layout."""
    return torch.cat([pairs[:, 0], pairs[:, 1]])


def trl_loss(
    token_logps: Tensor, ref_token_logps: Tensor, keep: Tensor, config: dict[str, Any]
) -> tuple[Tensor, dict[str, list[float]]]:
    flat_keep = chosen_first(keep)
    outside_is_zero = [torch.where(flat_keep, chosen_first(x), 0.0) for x in (token_logps, ref_token_logps)]
    policy, frozen = (PrescribedModel(x) for x in outside_is_zero)
    completion_mask = torch.cat([torch.zeros(len(flat_keep), 1), flat_keep], dim=1).long()
    inputs = {
        "input_ids": torch.ones_like(completion_mask),
        "attention_mask": torch.ones_like(completion_mask),
        "completion_mask": completion_mask,
    }
    trainer = SimpleNamespace(
        model=policy,
        ref_model=frozen,
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=config["discopop_tau"]),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **{name: value for name, value in config.items() if name != "discopop_tau"},
    )
    loss = trl_dpo.DPOTrainer._compute_loss(trainer, policy, inputs, False)
    return loss, trainer._metrics["train"]


def both(
    loss_types: list[str],
    loss_weights: list[float] | None = None,
    ld_alpha: float | None = None,
    spread: float = 0.5,
    **settings: Any,
) -> tuple[tuple[Tensor, Tensor, dict[str, list[float]]], tuple[Tensor, Tensor, ObjectiveTerms]]:
    """(loss, gradient, metrics) of TRL and (loss, gradient, terms) of ours."""
    token_logps, ref_token_logps, keep = tokens_and_mask(spread)
    config = {
        "loss_types": loss_types,
        "loss_weights": loss_weights or [1.0] * len(loss_types),
        "ld_alpha": ld_alpha,
        "beta": 0.1,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "discopop_tau": 0.05,
    } | settings
    token_logps.requires_grad_()
    theirs, metrics = trl_loss(token_logps, ref_token_logps, keep, config)
    (their_gradient,) = torch.autograd.grad(theirs, token_logps)

    sum_tokens = sequence_reduction(ld_alpha)
    ref_logps = sum_tokens(torch.where(keep, ref_token_logps, float("nan")), keep)
    pairs = pair_scores(token_logps, keep, ref_logps, sum_tokens=sum_tokens)
    terms = CombinedObjective(loss_types, loss_weights, **settings)(pairs)
    ours = terms.total()
    (our_gradient,) = torch.autograd.grad(ours, token_logps)
    assert their_gradient.abs().max() > 0
    return (theirs, their_gradient, metrics), (ours, our_gradient, terms)


def assert_agreement(*arguments: Any, **settings: Any) -> None:
    theirs, ours = both(*arguments, **settings)
    torch.testing.assert_close(ours[:2], theirs[:2], rtol=3e-5, atol=3e-6)


@pytest.mark.parametrize(("name", "settings"), LOSS_SETTINGS, ids=LOSS_SETTING_IDS)
def test_every_loss_and_divergence_agrees_with_trl_in_value_and_gradient(name, settings):
    assert_agreement([name], **settings)


@pytest.mark.parametrize("ld_alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", sorted(PREFERENCE_LOSSES))
def test_ld_alpha_agrees_with_trl(name, ld_alpha):
    assert_agreement([name], ld_alpha=ld_alpha, label_smoothing=1e-3 if name == "exo_pair" else 0.0)


@pytest.mark.parametrize("ld_alpha", [None, 0.4])
def test_mpo_agrees_with_trl(ld_alpha):
    assert_agreement(*LOSS_PRESETS["mpo"], ld_alpha=ld_alpha)


def test_several_losses_without_weights_agree_with_trl():
    assert_agreement(["ipo", "apo_zero", "sft", "aot"], label_smoothing=0.1)


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "robust", "exo_pair", "sigmoid_norm"])
def test_clamped_alpha_divergence_agrees_with_trl_at_log_ratios_of_hundreds(name):
    assert_agreement(
        [name],
        spread=100.0,
        label_smoothing=0.1 if name in ("robust", "exo_pair") else 0.0,
        f_divergence_type="alpha_divergence",
        f_alpha_divergence_coef=0.5,
    )


def test_margins_agree_with_the_rewards_that_trl_logs():
    (_, _, metrics), (_, _, terms) = both(["sigmoid"], beta=0.3)
    assert 0.3 * terms.margin.mean().item() == pytest.approx(metrics["rewards/margins"][0], rel=1e-5)
    assert (terms.margin > 0).float().mean().item() == pytest.approx(metrics["rewards/accuracies"][0])


def quoted_names(field: str) -> set[str]:
    return set(re.findall(r"`'(\w+)'`", trl_config.DPOConfig.__dataclass_fields__[field].metadata["help"]))


def test_the_names_of_the_losses_are_those_of_trl():
    assert set(PREFERENCE_LOSSES) == quoted_names("loss_type")


def test_the_losses_that_take_a_divergence_are_those_of_trl():
    allowing = {name for name, loss in PREFERENCE_LOSSES.items() if loss.allows_f_divergence}
    assert allowing == quoted_names("f_divergence_type")


def test_the_names_of_the_divergences_are_those_of_trl():
    help_text = trl_config.DPOConfig.__dataclass_fields__["f_divergence_type"].metadata["help"]
    assert set(F_DIVERGENCES) == set(re.findall(r"`(\w+)`", help_text))


@pytest.mark.parametrize(
    "name", ["beta", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "discopop_tau"]
)
def test_defaults_are_those_of_trl(name):
    theirs = trl_config.DPOConfig.__dataclass_fields__[name].default
    assert CombinedObjective.__init__.__kwdefaults__[name] == theirs
