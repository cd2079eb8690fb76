"""What has to hold for every policy loss, whatever its formula."""

from __future__ import annotations

import pytest
import torch

from audiorl.losses import ADVANTAGES, POLICY_LOSSES, PolicyBatch, PolicyCounts, policy_counts
from tests.losses.policy_examples import (
    POLICY_SETTING_IDS,
    POLICY_SETTINGS,
    chosen,
    gradients_of,
    loss_of,
    objective_of,
    random_batch,
)

every_setting = pytest.mark.parametrize(("name", "settings"), POLICY_SETTINGS, ids=POLICY_SETTING_IDS)
every_loss = pytest.mark.parametrize("name", sorted(POLICY_LOSSES))
TOKENLESS = sorted(name for name, method in POLICY_LOSSES.items() if not method.needs_tokens)


def detached(batch: PolicyBatch) -> PolicyBatch:
    """The same numbers as leaves of their own."""
    leaves = PolicyBatch(*(None if x is None else x.detach().clone() for x in batch))
    leaves.logps.requires_grad_()
    leaves.entropy.requires_grad_()
    return leaves


@every_setting
def test_permuted_hypotheses_change_nothing(name, settings):
    batch, order = random_batch(), torch.tensor([2, 0, 3, 1])
    loss, gradient = gradients_of(name, batch, settings)
    mixed = detached(chosen(batch, slice(None), order))
    mixed_loss, mixed_gradient = gradients_of(name, mixed, settings)
    torch.testing.assert_close(mixed_loss, loss)
    torch.testing.assert_close(mixed_gradient, gradient[:, order])


@every_setting
def test_permuted_clips_change_nothing(name, settings):
    batch, order = random_batch(), torch.tensor([2, 0, 1])
    loss, gradient = gradients_of(name, batch, settings)
    mixed_loss, mixed_gradient = gradients_of(name, detached(chosen(batch, order)), settings)
    torch.testing.assert_close(mixed_loss, loss)
    torch.testing.assert_close(mixed_gradient, gradient[order])


@every_setting
def test_micro_batches_add_up_to_the_whole_step(name, settings):
    batch = random_batch(clips=4)
    whole, gradient = gradients_of(name, batch, settings)
    parts = [detached(chosen(batch, part)) for part in (slice(0, 1), slice(1, 3), slice(3, 4))]
    counts = PolicyCounts(*(sum(fields) for fields in zip(*(policy_counts(p.keep) for p in parts), strict=True)))
    losses = [objective_of(name, **settings)(part, counts).loss for part in parts]
    torch.testing.assert_close(sum(losses), whole)
    gradients = [torch.autograd.grad(loss, part.logps)[0] for loss, part in zip(losses, parts, strict=True)]
    torch.testing.assert_close(torch.cat(gradients), gradient)


@pytest.mark.parametrize("advantages", sorted(ADVANTAGES))
@every_loss
def test_a_constant_added_to_the_rewards_of_a_clip_changes_nothing(name, advantages):
    batch, valid = random_batch(), torch.ones(3, 4, dtype=torch.bool)
    rewards = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    results = []
    for constant in (torch.zeros(3, 1), torch.tensor([[5.0], [-3.0], [100.0]])):
        a = ADVANTAGES[advantages](rewards + constant, valid)
        results.append(gradients_of(name, batch._replace(advantages=a)))
    if advantages == "batch":  # clips shifted apart widen the batch: only one constant for all leaves its spread alone
        a = ADVANTAGES[advantages](rewards + 5.0, valid)
        results[1] = gradients_of(name, batch._replace(advantages=a))
    torch.testing.assert_close(results[0], results[1])


def test_mwer_takes_raw_rewards_because_it_subtracts_their_mean_itself():
    batch = random_batch(padding=0.0)
    shifted = batch._replace(advantages=batch.advantages + torch.tensor([[5.0], [-3.0], [100.0]]))
    torch.testing.assert_close(gradients_of("mwer", shifted), gradients_of("mwer", batch))


@every_setting
def test_nan_in_padding_leaks_into_no_value_and_no_gradient(name, settings):
    with_zeros, with_nans = random_batch(padding=0.0), random_batch(padding=float("nan"))
    assert with_nans.logps.isnan().any() and with_nans.advantages.isnan().any()
    results = [gradients_of(name, batch, settings) for batch in (with_zeros, with_nans)]
    torch.testing.assert_close(results[0], results[1])
    gradient = results[1][1]
    assert gradient[~with_nans.keep].abs().sum() == 0
    assert gradient[with_nans.keep].abs().sum() > 0
    shown = [x for x in loss_of(name, with_nans, settings)[1:] if x is not None]
    assert all(x.isfinite().all() for x in shown)


@every_setting
def test_a_nan_that_counts_is_not_hidden(name, settings):
    batch = detached(random_batch())
    b, k, t = batch.keep.nonzero()[0].tolist()
    with torch.no_grad():
        batch.logps[b, k, t] = float("nan")
    assert loss_of(name, batch, settings).loss.isnan()


@every_setting
def test_hypotheses_that_keep_nothing_count_nowhere(name, settings):
    """The batch without them, which is also the batch that was never asked for them, gives the same number."""
    batch = random_batch(clips=2)
    keep = batch.keep.clone()
    keep[:, 1] = False
    loss, gradient = gradients_of(name, batch._replace(keep=keep), settings)
    without = detached(chosen(batch, slice(None), torch.tensor([0, 2, 3])))
    smaller_loss, smaller_gradient = gradients_of(name, without, settings)
    torch.testing.assert_close(loss, smaller_loss)
    torch.testing.assert_close(gradient[:, [0, 2, 3]], smaller_gradient)
    assert gradient[:, 1].abs().sum() == 0


@every_setting
def test_a_batch_where_nothing_counts_gives_zero_and_zero_gradients(name, settings):
    batch = random_batch()
    nothing = batch._replace(keep=torch.zeros_like(batch.keep))
    loss, gradient = gradients_of(name, nothing, settings)
    assert loss.item() == 0
    assert gradient.abs().sum() == 0


@every_setting
def test_only_the_policy_receives_a_gradient(name, settings):
    batch = random_batch()
    constant = {x: getattr(batch, x).clone().requires_grad_() for x in ("old_logps", "ref_logps", "advantages")}
    loss_of(name, batch._replace(**constant), settings).loss.backward()
    assert batch.logps.grad.abs().sum() > 0
    assert all(x.grad is None for x in constant.values())


@every_setting
def test_declared_use_of_a_tensor_is_the_actual_one(name, settings):
    batch, objective = random_batch(), objective_of(name, **settings)
    changed = {
        "uses_reference": {"ref_logps": batch.ref_logps + 0.5},
        "uses_entropy": {"entropy": batch.entropy + 0.5},
        "needs_copies": {"copies": torch.tensor([[2, 1, 2, 1], [1, 1, 2, 2], [1, 1, 1, 1]])},
    }
    before = loss_of(name, batch, settings).loss
    for attribute, tensors in changed.items():
        after = loss_of(name, batch._replace(**tensors), settings).loss
        assert torch.equal(before, after) != getattr(objective, attribute), attribute


@every_loss
def test_declared_use_of_the_ratio_is_the_actual_one(name):
    batch = random_batch()
    moved = batch._replace(old_logps=batch.old_logps + 0.1)
    same = torch.equal(gradients_of(name, batch)[1], gradients_of(name, moved)[1])
    assert same != objective_of(name).uses_ratio


@pytest.mark.parametrize("settings", [{}, {"beta": 0.3}], ids=["plain", "beta"])
@pytest.mark.parametrize("name", TOKENLESS)
def test_a_hypothesis_scored_as_a_whole_is_one_token(name, settings):
    """T = 1: every loss that allows it gives a finite number, whose one term is that of the whole hypothesis."""
    batch = random_batch(length=1)
    loss, gradient = gradients_of(name, batch, settings)
    assert loss.isfinite() and gradient[batch.keep].ne(0).any()
    assert not objective_of(name, **settings).needs_tokens


def test_mwer_of_whole_hypotheses_equals_mwer_of_their_tokens():
    batch = random_batch()
    summed = [torch.where(batch.keep, x, 0.0).sum(-1, keepdim=True) for x in (batch.logps, batch.old_logps)]
    whole = batch._replace(logps=summed[0], old_logps=summed[1], keep=batch.keep.any(-1, keepdim=True))
    torch.testing.assert_close(loss_of("mwer", whole).loss, loss_of("mwer", batch).loss)


def test_losses_that_divide_by_a_number_of_tokens_say_that_they_need_them():
    assert set(POLICY_LOSSES) - set(TOKENLESS) == {"dr_grpo", "gspo"}
    assert objective_of("grpo", importance_sampling_level="sequence").needs_tokens
