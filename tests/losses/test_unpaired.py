"""Losses of single transcripts: float64 loops from the papers, TRL's own method, edges, settings."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from audiorl.losses import UNPAIRED_LOSSES, UnpairedObjective, UnpairedScores, balanced_weights, mismatched_kl
from audiorl.losses.reductions import pair_mean
from tests import oracles_unpaired as oracle
from tests.oracles import central_differences

DESIRABLE = torch.tensor([True, False, False, True, True])
SETTINGS = [{}, {"beta": 0.7, "desirable_weight": 1.3, "undesirable_weight": 0.4}, {"undesirable_weight": 0.0}]


def examples(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """(5,) log-probabilities of policy and frozen policy."""
    generator = torch.Generator().manual_seed(0)
    ref_logps = -20 * torch.rand(5, generator=generator, dtype=torch.float64)
    logps = ref_logps + 4 * torch.randn(5, generator=generator, dtype=torch.float64)
    return logps.to(dtype), ref_logps.to(dtype)


def by_loop(loss_type: str, logps: list[float], ref_logps: list[float], kl: float, settings: dict) -> list[float]:
    beta = settings.get("beta", 0.1)
    weights = settings.get("desirable_weight", 1.0), settings.get("undesirable_weight", 1.0)
    if loss_type == "kto":
        return oracle.kto(logps, ref_logps, DESIRABLE.tolist(), kl, beta, weights)
    return oracle.apo_zero(logps, ref_logps, DESIRABLE.tolist(), beta, weights)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("loss_type", UNPAIRED_LOSSES)
def test_values_and_gradients_equal_the_float64_loop(loss_type, settings):
    logps, ref_logps = examples()
    logps.requires_grad_()
    kl = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    losses = UnpairedObjective(loss_type, **settings)(UnpairedScores(logps, ref_logps, DESIRABLE), kl)
    expected = by_loop(loss_type, logps.tolist(), ref_logps.tolist(), 0.8, settings)
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)
    losses.sum().backward()

    def total(table: list[list[float]]) -> float:
        return sum(by_loop(loss_type, table[0], ref_logps.tolist(), 0.8, settings))

    (slope,) = central_differences(total, [logps.tolist()])
    assert logps.grad.tolist() == pytest.approx(slope, rel=1e-6, abs=1e-9)
    assert kl.grad is None, "the reference point receives no gradient"


@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_the_reference_point_is_the_mean_log_ratio_and_never_below_zero(shift):
    logps, ref_logps = examples()
    logps = logps + shift
    found = mismatched_kl((logps - ref_logps).sum(), 5)
    assert found.item() == pytest.approx(oracle.reference_point(logps.tolist(), ref_logps.tolist()), rel=1e-12)
    assert (found > 0) == (shift > 0)
    assert mismatched_kl(torch.zeros(()), 0).item() == oracle.reference_point([], []) == 0
    parts = mismatched_kl((logps - ref_logps)[:2].sum() + (logps - ref_logps)[2:].sum(), torch.tensor(5))
    torch.testing.assert_close(parts, found)


# ---- against TRL ----


class PrescribedModel(nn.Module):
    """Answers with token log-probabilities that sum to what is asked; TRL asks for the mismatched ones first."""

    is_gradient_checkpointing = False

    def __init__(self, mismatched: Tensor | None, logps: Tensor):
        super().__init__()
        self.answers = [answer for answer in (mismatched, logps) if answer is not None]

    def forward(self, **_: Any) -> SimpleNamespace:
        values = self.answers.pop(0)
        tokens = torch.stack([values / 2, values / 2], -1)
        return SimpleNamespace(log_probs=tokens, entropy=torch.zeros_like(tokens), mean_logits=torch.zeros_like(tokens))


def trl_loss(loss_type: str, policy: list[Tensor], frozen: list[Tensor], settings: dict[str, float]) -> Tensor:
    """`KTOTrainer._compute_loss` as it stands, on a bag of the attributes that it reads."""
    trl_kto = pytest.importorskip("trl.trainer.kto_trainer")
    uses_kl = UNPAIRED_LOSSES[loss_type].uses_kl
    ids = torch.ones(5, 3, dtype=torch.long)
    mask = torch.tensor([[0, 1, 1]] * 5)
    inputs = {"input_ids": ids, "attention_mask": ids, "completion_mask": mask, "label": DESIRABLE}
    inputs |= {"KL_input_ids": ids, "KL_attention_mask": ids, "KL_completion_mask": mask}
    model, ref_model = (PrescribedModel(x[1] if uses_kl else None, x[0]) for x in (policy, frozen))
    trainer = SimpleNamespace(
        model=model,
        ref_model=ref_model,
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        calculate_KL=uses_kl,
        precompute_ref_logps=False,
        aux_loss_enabled=False,
        loss_type=loss_type,
        beta=settings.get("beta", 0.1),
        desirable_weight=settings.get("desirable_weight", 1.0),
        undesirable_weight=settings.get("undesirable_weight", 1.0),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    trainer._compute_kl_logps = lambda *given: trl_kto.KTOTrainer._compute_kl_logps(trainer, *given)
    return trl_kto.KTOTrainer._compute_loss(trainer, model, inputs, False)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("loss_type", UNPAIRED_LOSSES)
@pytest.mark.parametrize("shift", [1.5, -1.5])
def test_value_and_gradient_agree_with_trl(loss_type, settings, shift):
    logps, ref_logps = examples(torch.float32)
    mismatched, ref_mismatched = logps.flip(0) + shift, ref_logps.flip(0)
    results = []
    for ours in (True, False):
        leaf = logps.clone().requires_grad_()
        if ours:
            kl = mismatched_kl((mismatched - ref_mismatched).sum(), 5)
            scores = UnpairedScores(leaf, ref_logps, DESIRABLE)
            loss = pair_mean(UnpairedObjective(loss_type, **settings)(scores, kl))
        else:
            loss = trl_loss(loss_type, [leaf, mismatched], [ref_logps, ref_mismatched], settings)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


# ---- edges and settings ----


@pytest.mark.parametrize("loss_type", UNPAIRED_LOSSES)
def test_one_row_one_kind_and_none(loss_type):
    objective, kl = UnpairedObjective(loss_type), torch.zeros(())
    alone = UnpairedScores(torch.tensor([-2.0]), torch.tensor([-2.0]), torch.tensor([True]))
    assert objective(alone, kl).tolist() == [0.5]
    none = objective(alone.select(torch.tensor([False])), kl)
    assert none.shape == (0,) and pair_mean(none).item() == 0
    far = UnpairedScores(torch.tensor([-1e4, 1e4]), torch.tensor([1e4, -1e4]), torch.tensor([True, False]))
    assert objective(far, kl).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"loss_type": "ktoo"}, "Did you mean 'kto'"),
        ({"beta": 0.0}, "beta has to be above 0"),
        ({"desirable_weight": -1.0}, "not both 0.*change the row's label"),
        ({"desirable_weight": 0.0, "undesirable_weight": 0.0}, "not both 0"),
        ({"undesirable_weight": math.nan}, "undesirable_weight has to be a finite number"),
    ],
)
def test_wrong_settings_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        UnpairedObjective(**changes)


def test_weights_are_balanced_within_the_range_of_the_paper():
    """30 desirable and 60 undesirable rows: desirable_weight from 2 to 2.67, with undesirable_weight 0.5 from 1."""
    assert balanced_weights(30, 60, 1.0, 1.0) == pytest.approx((2.0, 8 / 3))
    assert balanced_weights(30, 60, 2.0, 1.0) is None and balanced_weights(30, 60, 2.6, 1.0) is None
    assert balanced_weights(30, 60, 2.7, 1.0) is not None
    assert balanced_weights(30, 60, 1.0, 0.5) is None
    assert balanced_weights(0, 60, 1.0, 1.0) is balanced_weights(5, 0, 1.0, 1.0) is None
