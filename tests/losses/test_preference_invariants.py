"""What has to hold for every preference loss, whatever its formula."""

from __future__ import annotations

import pytest
import torch

from audiorl.losses import PREFERENCE_LOSSES, CombinedObjective, PairScores, pair_scores, sequence_reduction
from tests.losses.pair_examples import (
    LOSS_SETTING_IDS,
    LOSS_SETTINGS,
    loss_per_pair,
    random_pairs,
)

every_loss_setting = pytest.mark.parametrize(("name", "settings"), LOSS_SETTINGS, ids=LOSS_SETTING_IDS)


def test_swapping_chosen_and_rejected_turns_the_margin_round():
    pairs = random_pairs()
    swapped = PairScores(pairs.logps.flip(1), pairs.ref_logps.flip(1), pairs.lengths.flip(1))
    torch.testing.assert_close(swapped.margin, -pairs.margin)
    losses, swapped_losses = (loss_per_pair("sigmoid", p, {"beta": 0.3}) for p in (pairs, swapped))
    # -log sigmoid(-x) + log sigmoid(x) = x
    torch.testing.assert_close(swapped_losses - losses, 0.3 * pairs.margin)


def slopes_where_the_policies_agree(name: str) -> list[float]:
    """Gradient on (chosen, rejected) of a pair at the start of training, beta 0.1."""
    logps = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    pairs = PairScores(logps, torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[5, 5]]))
    loss = loss_per_pair(name, pairs, {"label_smoothing": 1e-3} if name == "exo_pair" else {})
    return torch.autograd.grad(loss.sum(), logps)[0].tolist()[0]


@pytest.mark.parametrize("name", sorted(PREFERENCE_LOSSES.keys() - {"discopop"}))
def test_the_first_step_widens_the_margin(name):
    chosen, rejected = slopes_where_the_policies_agree(name)
    assert chosen < rejected


def test_the_first_step_of_apo_down_lowers_rejected_and_holds_chosen():
    """sigmoid'(0) = 1/4, so chosen gets beta/4 - beta/4 from the two terms, rejected beta/4."""
    assert slopes_where_the_policies_agree("apo_down") == pytest.approx([0.0, 0.1 / 4])


def test_the_first_step_of_discopop_narrows_the_margin_as_its_formula_says():
    """At x = 0: m = 1/2, m' = 1 / (4 tau) = 5, logistic log 2, slope -1/2, exponential 1, slope -1:

    slope = -1/2 * 1/2 - 1/2 * 1 + 5 (1 - log 2) = 0.7842641, times beta 0.1
    """
    assert slopes_where_the_policies_agree("discopop") == pytest.approx([0.07842641, -0.07842641])


@pytest.mark.parametrize(("name", "settings"), [case for case in LOSS_SETTINGS if case[0] != "sft"])
def test_a_constant_on_both_policies_changes_nothing(name, settings):
    pairs = random_pairs()
    constants = torch.tensor([[3.0, -2.0]] * 6, dtype=torch.float64)
    shifted = pairs._replace(logps=pairs.logps + constants, ref_logps=pairs.ref_logps + constants)
    torch.testing.assert_close(loss_per_pair(name, shifted, settings).sum(), loss_per_pair(name, pairs, settings).sum())


@every_loss_setting
def test_permuted_pairs_permute_their_losses(name, settings):
    pairs = random_pairs()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        loss_per_pair(name, pairs.select(order), settings), loss_per_pair(name, pairs, settings)[order]
    )


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_transport_losses_do_not_care_who_is_paired_with_whom(name):
    pairs = random_pairs()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    if name == "aot":
        mixed = pairs._replace(ref_logps=pairs.ref_logps[order])
    else:
        mixed = pairs._replace(
            logps=torch.stack([pairs.logps[:, 0], pairs.logps[order, 1]], dim=1),
            ref_logps=torch.stack([pairs.ref_logps[:, 0], pairs.ref_logps[order, 1]], dim=1),
        )
    torch.testing.assert_close(loss_per_pair(name, mixed, {}).sum(), loss_per_pair(name, pairs, {}).sum())
    assert not torch.allclose(loss_per_pair("sigmoid", mixed, {}).sum(), loss_per_pair("sigmoid", pairs, {}).sum())


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_transport_losses_sum_equally_for_tied_pairs_in_any_order(name):
    pairs = random_pairs(num_pairs=3)
    tied = pairs.select(torch.tensor([0, 0, 1, 1, 2, 0]))
    turned = pairs.select(torch.tensor([0, 1, 0, 2, 0, 1]))
    torch.testing.assert_close(loss_per_pair(name, tied, {}).sum(), loss_per_pair(name, turned, {}).sum())


@every_loss_setting
def test_a_batch_of_pairs_equals_its_pairs_one_by_one_unless_batch_wide(name, settings):
    pairs = random_pairs()
    together = loss_per_pair(name, pairs, settings)
    alone = torch.cat([loss_per_pair(name, pairs.select(torch.tensor([b])), settings) for b in range(6)])
    assert torch.allclose(together, alone) != PREFERENCE_LOSSES[name].batch_wide


@every_loss_setting
def test_the_frozen_policy_receives_no_gradient(name, settings):
    pairs = random_pairs()
    ref_logps = pairs.ref_logps.clone().requires_grad_()
    loss_per_pair(name, pairs._replace(ref_logps=ref_logps), settings).sum().backward()
    assert ref_logps.grad is None
    assert pairs.logps.grad is not None


@pytest.mark.parametrize("name", sorted(PREFERENCE_LOSSES))
def test_declared_use_of_the_frozen_policy_is_the_actual_one(name):
    pairs = random_pairs()
    settings = {"label_smoothing": 1e-3} if name == "exo_pair" else {}
    moved = pairs._replace(ref_logps=pairs.ref_logps + torch.randn(6, 2, dtype=torch.float64))
    unchanged = torch.equal(loss_per_pair(name, pairs, settings), loss_per_pair(name, moved, settings))
    assert unchanged != CombinedObjective(name, **settings).uses_reference


@pytest.mark.parametrize("ld_alpha", [None, 0.3])
@pytest.mark.parametrize("name", sorted(PREFERENCE_LOSSES))
def test_nan_in_padding_leaks_into_no_value_and_no_gradient(name, ld_alpha):
    generator = torch.Generator().manual_seed(0)
    keep = torch.arange(7) < torch.tensor([[5, 3], [7, 7], [1, 6]])[..., None]
    clean = -torch.rand(3, 2, 7, generator=generator)
    ref_token_logps = -torch.rand(3, 2, 7, generator=generator)
    sum_tokens = sequence_reduction(ld_alpha)
    settings = {"label_smoothing": 1e-3} if name == "exo_pair" else {}
    results = []
    for padding in (0.0, float("nan")):
        token_logps = torch.where(keep, clean, padding).requires_grad_()
        ref_logps = sum_tokens(torch.where(keep, ref_token_logps, padding), keep)
        pairs = pair_scores(token_logps, keep, ref_logps, sum_tokens=sum_tokens)
        total = CombinedObjective(name, **settings)(pairs).total()
        total.backward()
        results.append((total.detach(), token_logps.grad))
    torch.testing.assert_close(results[0], results[1])
    assert results[1][1][~keep].abs().sum() == 0
    assert results[1][1][keep].abs().sum() > 0


@pytest.mark.parametrize("name", sorted(PREFERENCE_LOSSES))
def test_a_batch_without_pairs_gives_zero_and_zero_gradients(name):
    logps = torch.randn(3, 2, requires_grad=True)
    pairs = PairScores(logps, torch.zeros(3, 2), torch.ones(3, 2).long())
    settings = {"label_smoothing": 1e-3} if name == "exo_pair" else {}
    total = CombinedObjective(name, **settings)(pairs.select(torch.zeros(3, dtype=torch.bool))).total()
    total.backward()
    assert total.item() == 0
    assert logps.grad.tolist() == [[0.0, 0.0]] * 3
