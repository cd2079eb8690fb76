"""Every policy loss against numbers worked by hand and against float64 loops written from the papers."""

from __future__ import annotations

import math

import pytest
import torch

from audiorl.losses import (
    PolicyBatch,
    PolicyCounts,
    count_copies,
    k3_divergence,
    policy_counts,
    supervised_loss,
)
from audiorl.losses.policy_losses import IMPORTANCE_MODES, importance_weights
from tests.losses.policy_examples import (
    POLICY_SETTING_IDS,
    POLICY_SETTINGS,
    gradients_of,
    loss_of,
    objective_of,
    oracle_of,
    random_batch,
)
from tests.oracles_policy import PolicyOracle, importance, k3, token_differences

every_setting = pytest.mark.parametrize(("name", "settings"), POLICY_SETTINGS, ids=POLICY_SETTING_IDS)


def two_hypotheses(copies: list[int] | None = None) -> PolicyBatch:
    """One clip, two hypotheses of two tokens and of one, ratios (1.5, 0.5) and 0.7, advantages 1 and -1."""
    ratios = torch.tensor([[[1.5, 0.5], [0.7, 1.0]]], dtype=torch.float64)
    return PolicyBatch(
        logps=(ratios.log() - 1).requires_grad_(),
        old_logps=torch.full_like(ratios, -1.0),
        keep=torch.tensor([[[True, True], [True, False]]]),
        advantages=torch.tensor([[1.0, -1.0]], dtype=torch.float64),
        copies=None if copies is None else torch.tensor([copies]),
    )


def test_the_clipped_losses_equal_numbers_worked_by_hand():
    """epsilon 0.2: clipped to (0.8, 1.2).

    token losses: 1.5, A = 1:  -min(1.5, 1.2)   = -1.2, clipped, no gradient
                  0.5, A = 1:  -min(0.5, 0.8)   = -0.5, gradient -ratio A = -0.5
                  0.7, A = -1: -min(-0.7, -0.8) =  0.8, clipped, no gradient
    grpo:    ((-1.2 - 0.5) / 2 + 0.8) / 2 = -0.025,  gradient -0.5 / 2 / 2 = -0.125
    dapo:    (-1.2 - 0.5 + 0.8) / 3       = -0.3,    gradient -0.5 / 3
    dr_grpo: (-1.2 - 0.5 + 0.8) / (2 * 7) = -0.9 / 14
    """
    batch = two_hypotheses()
    loss, gradient = gradients_of("grpo", batch)
    assert loss.item() == pytest.approx(-0.025)
    assert gradient.flatten().tolist() == pytest.approx([0.0, -0.125, 0.0, 0.0])
    loss, gradient = gradients_of("dapo", batch)
    assert loss.item() == pytest.approx(-0.3)
    assert gradient.flatten().tolist() == pytest.approx([0.0, -0.5 / 3, 0.0, 0.0])
    assert loss_of("dr_grpo", batch).loss.item() == pytest.approx(-0.9 / 14)
    out = loss_of("dapo", batch)
    assert out.clipped_high.flatten().tolist() == [True, False, False, False]
    assert out.clipped_low.flatten().tolist() == [False, False, True, False]
    assert out.ratio.flatten().tolist() == pytest.approx([1.5, 0.5, 0.7, 1.0])
    assert out.kl is None


def test_gspo_equals_numbers_worked_by_hand():
    """ratios sqrt(1.5 * 0.5) = 0.8660254 and 0.7; losses -0.8660254 and max(0.7, 0.8) = 0.8, mean -0.0330127.

    Gradient on each token of the first: -0.8660254 / 2 tokens / 2 hypotheses = -0.2165064.
    """
    loss, gradient = gradients_of("gspo", two_hypotheses())
    assert loss.item() == pytest.approx(-0.0330127, abs=1e-7)
    assert gradient.flatten().tolist() == pytest.approx([-0.2165064, -0.2165064, 0.0, 0.0], abs=1e-7)


def test_cispo_equals_numbers_worked_by_hand():
    """Cap 1.3: weights 1.3, 0.5, 0.7 times A; gradient -weight A / 3 tokens = -0.4333333, -0.1666667, 0.2333333.

    Value: -(1.3 (log 1.5 - 1) + 0.5 (log 0.5 - 1) - 0.7 (log 0.7 - 1)) / 3 = 0.2233378
    """
    loss, gradient = gradients_of("cispo", two_hypotheses(), {"epsilon_high": 1.3})
    expected = -(1.3 * (math.log(1.5) - 1) + 0.5 * (math.log(0.5) - 1) - 0.7 * (math.log(0.7) - 1)) / 3
    assert loss.item() == pytest.approx(expected)
    assert gradient.flatten().tolist() == pytest.approx([-1.3 / 3, -0.5 / 3, 0.7 / 3, 0.0])


def test_mwer_equals_numbers_worked_by_hand():
    """WER 0 and 0.5 with probabilities 0.3 and 0.1: renormalised 0.75 and 0.25, mean risk 0.25.

    loss          = 0.75 (0 - 0.25) + 0.25 (0.5 - 0.25) = -0.125
    expected risk = 0.125;  gradient on the first p (risk - expected risk) = 0.75 (0 - 0.125) = -0.09375
    """
    logps = torch.tensor([[[0.3], [0.1]]], dtype=torch.float64).log().requires_grad_()
    batch = PolicyBatch(
        logps,
        logps.detach(),
        torch.ones(1, 2, 1, dtype=torch.bool),
        torch.tensor([[-0.0, -0.5]], dtype=torch.float64),
        copies=torch.ones(1, 2).long(),
    )
    loss, gradient = gradients_of("mwer", batch)
    assert loss.item() == pytest.approx(-0.125)
    assert gradient.flatten().tolist() == pytest.approx([-0.09375, 0.09375])


def test_k3_equals_numbers_worked_by_hand():
    """pi_ref / pi = 2: 2 - 1 - log 2 = 0.3068528, slope -(2 - 1); equal policies: 0, slope 0."""
    logps = torch.tensor([-math.log(2), -1.0], dtype=torch.float64, requires_grad=True)
    out = k3_divergence(logps, torch.tensor([0.0, -1.0], dtype=torch.float64))
    out.sum().backward()
    assert out.tolist() == pytest.approx([0.3068528, 0.0], abs=1e-7)
    assert logps.grad.tolist() == pytest.approx([-1.0, 0.0])


@every_setting
def test_values_equal_the_float64_loop(name, settings):
    for seed in (0, 1):
        batch = random_batch(seed)
        expected = oracle_of(name, batch, settings).total(name, batch.logps.tolist())
        assert loss_of(name, batch, settings).loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@every_setting
def test_gradients_equal_finite_differences_of_the_loop(name, settings):
    batch = random_batch(2, length=4)
    oracle, at = oracle_of(name, batch, settings), batch.logps.tolist()
    expected = token_differences(lambda logps: oracle.total(name, logps, at=at), at, batch.keep.tolist())
    _, gradient = gradients_of(name, batch, settings)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_mwer_gradient_equals_finite_differences_at_any_distance(spread):
    batch = random_batch(3, clips=2, spread=spread)
    oracle = oracle_of("mwer", batch, {})
    expected = token_differences(oracle.mwer, batch.logps.tolist(), batch.keep.tolist())
    torch.testing.assert_close(
        gradients_of("mwer", batch)[1], torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-8
    )


def test_entropy_receives_the_bonus_as_a_mean_over_tokens():
    batch = random_batch()
    (gradient,) = torch.autograd.grad(loss_of("grpo", batch, {"entropy_coef": 0.2}).loss, batch.entropy)
    tokens = batch.keep.sum().item()
    assert gradient[batch.keep].tolist() == pytest.approx([-0.2 / tokens] * tokens)
    assert gradient[~batch.keep].abs().sum() == 0


@every_setting
def test_what_a_log_shows_equals_the_loop(name, settings):
    batch = random_batch(4)
    objective, oracle = objective_of(name, **settings), oracle_of(name, batch, settings)
    out, at = objective(batch, policy_counts(batch.keep)), batch.logps.tolist()
    for b, k in oracle.listed():
        for t in oracle.kept(b, k):
            ratio, advantage = oracle.ratio(at, b, k, t, objective.level), oracle.advantages[b][k]
            low = name not in ("cispo", "mwer") and ratio < 1 - oracle.low and advantage < 0
            high = name != "mwer" and ratio > oracle.high + (name != "cispo") and advantage > 0
            assert out.ratio[b, k, t].item() == pytest.approx(ratio)
            assert (out.clipped_low[b, k, t].item(), out.clipped_high[b, k, t].item()) == (low, high)
            if out.kl is not None:
                assert out.kl[b, k, t].item() == pytest.approx(oracle.token_kl(at, b, k, t, objective.level))
    assert (out.kl is None) == (not objective.uses_reference)
    for shown, rest in ((out.ratio, 1.0), (out.clipped_low, 0), (out.clipped_high, 0), (out.kl, 0.0)):
        assert shown is None or (shown.shape == batch.keep.shape and not shown.requires_grad)
        # At level "sequence" a hypothesis shows its one ratio at every position, padding included.
        assert shown is None or objective.level == "sequence" or (shown[~batch.keep] == rest).all()


def test_both_sides_are_clipped_in_the_batches_of_these_tests():
    out = loss_of("grpo", random_batch(4))
    assert out.clipped_low.any() and out.clipped_high.any()


# ---- repetitions in the list of mwer ----


def repeated(batch: PolicyBatch, order: list[int]) -> tuple[PolicyBatch, list[int]]:
    """The hypotheses of a batch at `order`, some of them several times, with their copies counted."""
    repeated = PolicyBatch(*(None if x is None else x.detach()[:, order] for x in batch))
    tokens = torch.arange(len(order)).new_tensor(order)[None, :, None].expand(*repeated.keep.shape[:2], 1)
    ids = tokens.expand(-1, -1, repeated.keep.shape[-1] + 1)
    repeated = repeated._replace(logps=repeated.logps.requires_grad_(), copies=count_copies(ids, repeated.keep))
    return repeated, order


def test_mwer_of_a_list_with_repetitions_is_that_of_the_list_without():
    batch = random_batch(5)
    many, order = repeated(batch, [2, 0, 1, 2, 3, 2, 0, 1])
    loss, gradient = gradients_of("mwer", batch)
    many_loss, many_gradient = gradients_of("mwer", many)
    torch.testing.assert_close(many_loss, loss)
    for k in range(4):
        copies = [j for j, source in enumerate(order) if source == k]
        torch.testing.assert_close(many_gradient[:, copies].sum(1), gradient[:, k])
        assert all(torch.equal(many_gradient[:, j], many_gradient[:, copies[0]]) for j in copies)


def test_mwer_of_a_list_with_repetitions_equals_the_loop_that_crosses_them_out():
    many, order = repeated(random_batch(6), [2, 0, 2, 3, 2, 0])
    oracle: PolicyOracle = oracle_of("mwer", many, {}, identity=[order] * 3)
    assert gradients_of("mwer", many)[0].item() == pytest.approx(oracle.mwer(many.logps.tolist()))


def test_mwer_that_counts_repetitions_would_differ():
    many, _ = repeated(random_batch(6), [2, 0, 2, 3, 2, 0])
    as_if_distinct = many._replace(copies=torch.ones_like(many.copies))
    assert not torch.isclose(loss_of("mwer", as_if_distinct).loss, loss_of("mwer", many).loss, rtol=1e-3)


def test_mwer_of_one_distinct_hypothesis_teaches_nothing():
    many, _ = repeated(random_batch(6), [2, 2, 2])
    loss, gradient = gradients_of("mwer", many)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert gradient.abs().max().item() == pytest.approx(0.0, abs=1e-12)


def test_copies_are_counted_by_kept_tokens_of_hypotheses_that_count():
    """a b | a b | a b, masked | a c | a, ended (the rest is padding) | a, ended (padded with another id)."""
    tokens = torch.tensor([[[9, 1, 2], [9, 1, 2], [9, 1, 2], [9, 1, 3], [9, 1, 0], [9, 1, 7]]])
    keep = torch.tensor([[[True, True], [True, True], [False, False], [True, True], [True, False], [True, False]]])
    assert count_copies(tokens, keep).tolist() == [[2, 2, 1, 1, 2, 2]]


def test_copies_are_counted_within_a_clip_and_never_across_clips():
    tokens, keep = torch.ones(2, 3, 3).long(), torch.ones(2, 3, 2, dtype=torch.bool)
    tokens[1, 0] = 5
    assert count_copies(tokens, keep).tolist() == [[3, 3, 3], [1, 2, 2]]


# ---- counts and the supervised term ----


def test_counts_are_those_of_what_counts():
    keep = torch.tensor([[[True, True], [False, False]], [[False, True], [True, True]], [[False, False]] * 2])
    assert [count.item() for count in policy_counts(keep)] == [2, 3, 5]
    assert PolicyCounts._fields == ("clips", "hypotheses", "tokens")


def test_the_supervised_term_is_a_token_mean_worked_by_hand():
    """(1 + 2 + 4) nats over 3 tokens, or over the 14 of the whole step."""
    logps = torch.tensor([[[-1.0, -2.0]], [[-4.0, float("nan")]]], requires_grad=True)
    keep = torch.tensor([[[True, True]], [[True, False]]])
    assert supervised_loss(logps, keep, keep.sum()).item() == pytest.approx(7 / 3)
    loss = supervised_loss(logps, keep, 14)
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert logps.grad.flatten().tolist() == pytest.approx([-1 / 14] * 3 + [0.0])


def test_the_oracle_has_the_k3_of_the_paper():
    assert k3(-1.0, -1.0) == 0 and k3(-2.0, -1.0) == pytest.approx(math.e - 2)


# ---- samples that another engine drew ----


@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
def test_importance_weights_equal_the_loop(mode):
    batch = random_batch(spread=0.8)
    keep = batch.keep.tolist()
    found = importance_weights(batch.logps, batch.old_logps, batch.keep, mode=mode, clip_max=1.5)
    expected = importance(batch.logps.tolist(), batch.old_logps.tolist(), keep, mode, 1.5)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64)) and not found.requires_grad
    assert (found[batch.keep] != 1).any() and (found[batch.keep] == (1.5 if "truncate" in mode else 0)).any()


def test_importance_weighs_each_tokens_loss_and_not_the_kl():
    """By hand, for dapo: (-1.2 x 2 - 0.5 x 3 + 0.8 x 0.5) / 3; the KL is added behind."""
    batch = two_hypotheses()
    weights = torch.tensor([[[2.0, 3.0], [0.5, 9.0]]], dtype=torch.float64)
    loss, gradient = gradients_of("dapo", batch._replace(importance=weights))
    assert loss.item() == pytest.approx((-1.2 * 2 - 0.5 * 3 + 0.8 * 0.5) / 3)
    assert gradient.flatten().tolist() == pytest.approx([0.0, -0.5 * 3 / 3, 0.0, 0.0])
    pulled = batch._replace(ref_logps=torch.full_like(weights, -1.2))
    kl = loss_of("dapo", pulled, {"beta": 0.3}).loss - loss_of("dapo", pulled._replace(ref_logps=None)).loss
    weighed = pulled._replace(importance=weights)
    assert (loss_of("dapo", weighed, {"beta": 0.3}).loss - loss).item() == pytest.approx(kl.item())
