"""Advantages against float64 loops, against TRL's own, and what has to hold for each."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from audiorl.losses import ADVANTAGES, mean_advantages, rloo_advantages, zero_variance
from audiorl.losses.advantages import decoupled_advantages
from tests import oracles_policy

NAN = float("nan")
every_kind = pytest.mark.parametrize("kind", sorted(ADVANTAGES))
ORACLE_NAMES = {"mean": "none"}


def random_rewards(seed: int = 0, clips: int = 6, hypotheses: int = 5) -> tuple[Tensor, Tensor]:
    """Float64 rewards with NaN where not valid: clip 0 has one valid, clip 1 none, clip 2 equal ones."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(clips, hypotheses, dtype=torch.float64, generator=generator)
    valid = torch.rand(clips, hypotheses, generator=generator) < 0.7
    valid[0] = torch.arange(hypotheses) == 2
    valid[1], valid[2], valid[3] = False, True, True
    rewards[2] = 0.1
    return torch.where(valid, rewards, NAN), valid


@every_kind
def test_advantages_equal_the_float64_loop(kind):
    for seed in range(5):
        rewards, valid = random_rewards(seed)
        expected = oracles_policy.advantages(ORACLE_NAMES.get(kind, kind), rewards.tolist(), valid.tolist())
        actual = ADVANTAGES[kind](rewards, valid)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_advantages_equal_numbers_worked_by_hand():
    """Rewards 1, 2, 6: mean 3, deviations -2, -1, 3, variance (4 + 1 + 9) / 2 = 7.

    rloo: 1 - (2 + 6) / 2 = -3, 2 - (1 + 6) / 2 = -1.5, 6 - (1 + 2) / 2 = 4.5
    The second clip has rewards 0, 2 and one that abstained: mean 1. All five valid rewards have mean 2.2 and variance
    ((1.44 + 0.04 + 14.44) + (4.84 + 0.04)) / 4 = 5.2.
    """
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 2.0, NAN]])
    valid = ~rewards.isnan()
    expected = {
        "none": [[-2, -1, 3], [-1, 1, 0]],
        "group": [[-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5], [-1 / 2**0.5, 1 / 2**0.5, 0]],
        "rloo": [[-3, -1.5, 4.5], [-2, 2, 0]],
        "batch": [[-2 / 5.2**0.5, -1 / 5.2**0.5, 3 / 5.2**0.5], [-1 / 5.2**0.5, 1 / 5.2**0.5, 0]],
    }
    for kind, rows in expected.items():
        for row, expected_row in zip(ADVANTAGES[kind](rewards, valid).tolist(), rows, strict=True):
            assert row == pytest.approx(expected_row, rel=2e-4)


@every_kind
def test_a_constant_added_to_the_rewards_changes_nothing(kind):
    rewards, valid = random_rewards()
    before = ADVANTAGES[kind](rewards, valid)
    torch.testing.assert_close(ADVANTAGES[kind](rewards + 3.0, valid), before)
    if kind != "batch":
        by_clip = torch.arange(6.0)[:, None] * 10
        torch.testing.assert_close(ADVANTAGES[kind](rewards + by_clip, valid), before)


@every_kind
def test_permuted_hypotheses_permute_their_advantages(kind):
    rewards, valid = random_rewards()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        ADVANTAGES[kind](rewards[:, order], valid[:, order]), ADVANTAGES[kind](rewards, valid)[:, order]
    )


@every_kind
def test_abstained_hypotheses_are_left_out_as_if_they_had_not_been_sampled(kind):
    rewards, _ = random_rewards()
    valid = torch.ones(6, 5, dtype=torch.bool)
    valid[:, 3] = False
    rewards = torch.where(rewards.isnan(), 0.5, rewards)
    rest = [0, 1, 2, 4]
    without = ADVANTAGES[kind](rewards[:, rest], torch.ones(6, 4, dtype=torch.bool))
    for garbage in (NAN, 1e6, -torch.inf):
        rewards[:, 3] = garbage
        actual = ADVANTAGES[kind](rewards, valid)
        torch.testing.assert_close(actual[:, rest], without)
        assert actual[:, 3].tolist() == [0.0] * 6


@every_kind
def test_groups_that_teach_nothing_have_advantages_of_exactly_zero(kind):
    """0.1 has no exact mean in float32: the difference to it would be 7e-9, and 7e-5 after the division."""
    rewards = torch.full((3, 7), 0.1)
    rewards[1] = torch.arange(7.0)
    valid = torch.ones(3, 7, dtype=torch.bool)
    valid[2, 1:] = False
    actual = ADVANTAGES[kind](rewards, valid)
    assert actual[0].tolist() == actual[2].tolist() == [0.0] * 7
    assert actual[1].abs().sum() > 1


@every_kind
def test_the_advantages_of_a_clip_sum_to_zero(kind):
    rewards, valid = random_rewards()
    assert ADVANTAGES[kind](rewards, valid).sum(-1).tolist() == pytest.approx([0.0] * 6, abs=1e-9)


@every_kind
def test_better_rewards_have_greater_advantages(kind):
    advantages = ADVANTAGES[kind](torch.tensor([[0.1, 0.9, 0.5]]), torch.ones(1, 3, dtype=torch.bool))[0]
    assert advantages[1] > advantages[2] > advantages[0]


@every_kind
def test_a_clip_is_alone_unless_the_batch_is_meant(kind):
    rewards, valid = random_rewards()
    together = ADVANTAGES[kind](rewards, valid)
    alone = torch.cat([ADVANTAGES[kind](rewards[b : b + 1], valid[b : b + 1]) for b in range(6)])
    assert torch.allclose(together, alone) == (kind != "batch")


def test_rloo_is_the_mean_difference_enlarged():
    rewards, valid = random_rewards()
    n = valid.sum(-1, keepdim=True).double()
    expected = mean_advantages(rewards, valid) * n / (n - 1).clamp(min=1)
    torch.testing.assert_close(rloo_advantages(rewards, valid), expected)


@every_kind
def test_half_precision_rewards_are_compared_in_float32(kind):
    rewards = torch.tensor([[0.5, 0.75, 1.0]], dtype=torch.bfloat16)
    valid = torch.ones(1, 3, dtype=torch.bool)
    actual = ADVANTAGES[kind](rewards, valid)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, ADVANTAGES[kind](rewards.float(), valid))


def test_zero_variance_marks_groups_that_teach_nothing():
    rewards = torch.tensor(
        [[1.0, 1.0, 1.0], [1.0, 1.0, 2.0], [1.0, NAN, 1.0], [NAN, 3.0, NAN], [NAN] * 3, [0.0, 1.0, NAN]]
    )
    assert zero_variance(rewards, ~rewards.isnan()).tolist() == [True, False, True, True, True, False]
    assert zero_variance(rewards[:2]).tolist() == [True, False]


# ---- TRL ----


def trl_advantages(
    rewards: Tensor, scale_rewards: str, aggregation: str = "sum_then_normalize", weights: tuple[float, ...] = (1.0,)
) -> tuple[Tensor, float]:
    """TRL's advantages (B, K) of (B, K) or (B, K, R) rewards, and its share of groups without variance; its method runs
    on a bag of attributes."""
    trl_grpo = pytest.importorskip("trl.trainer.grpo_trainer")
    rewards = rewards if rewards.ndim == 3 else rewards[..., None]
    clips, hypotheses, parts = rewards.shape
    names = [f"reward {i}" for i in range(parts)]
    count = clips * hypotheses
    generated = ([[1]] * count, [[1]] * count, None, ["a"] * count, None, {}, None, None)
    one = SimpleNamespace(device=torch.device("cpu"), process_index=0, gather=lambda x: x)
    trainer = SimpleNamespace(
        accelerator=one,
        model=SimpleNamespace(training=True, is_gradient_checkpointing=False),
        args=SimpleNamespace(
            per_device_train_batch_size=count,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing_kwargs=None,
        ),
        environment_factories=None,
        environments=None,
        tools=None,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        num_iterations=1,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        beta=0.0,
        num_generations=hypotheses,
        multi_objective_aggregation=aggregation,
        reward_funcs=names,
        reward_weights=torch.tensor(weights),
        scale_rewards=scale_rewards,
        reward_func_names=names,
        log_multimodal=False,
        _metrics={"train": defaultdict(list)},
        _logs={"prompt": [], "completion": [], "rewards": {name: [] for name in names}, "advantages": [], "extra": {}},
        _pending_extra_logs={},
        _pending_metrics={},
        _generate=lambda prompts: generated,
        _calculate_rewards=lambda *_: rewards.reshape(count, parts).clone(),
    )
    inputs = [{"prompt": "p"}] * count
    output = trl_grpo.GRPOTrainer._generate_and_score_completions(trainer, inputs)
    share = trainer._metrics["train"]["frac_reward_zero_std"][0]
    return output["advantages"].reshape(clips, hypotheses), share


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_the_values_of_scale_rewards_agree_with_trl(scale_rewards):
    for seed in range(3):
        rewards, valid = random_rewards(seed)
        theirs, _ = trl_advantages(rewards, scale_rewards)
        torch.testing.assert_close(ADVANTAGES[scale_rewards](rewards, valid), theirs, rtol=1e-6, atol=1e-9)


def test_the_share_of_groups_without_variance_agrees_with_trl():
    rewards = torch.tensor([[0.5, 0.5, 0.5], [0.25, 0.5, 1.0], [0.25, 0.25, NAN], [1.0, 0.0, NAN]], dtype=torch.float64)
    _, share = trl_advantages(rewards, "group")
    assert zero_variance(rewards, ~rewards.isnan()).double().mean().item() == share == 0.5


# ---- each reward by itself ----


def several_rewards(seed: int) -> Tensor:
    """(5, 4, 3) float64: one reward abstains by clip, one by hypothesis; nobody scores the last hypothesis."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(5, 4, 3, dtype=torch.float64, generator=generator) * torch.tensor([1.0, 30.0, 0.1])
    parts[1, :, 0], parts[2, 1, 1], parts[3, :, 2], parts[4, 3] = NAN, NAN, 0.25, NAN
    return parts


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.5, -2.0)])
def test_decoupled_advantages_are_those_of_trl_and_of_the_float64_loop(weights):
    for seed in range(3):
        parts = several_rewards(seed)
        valid = ~parts.isnan().all(-1)
        ours = decoupled_advantages(parts, weights, valid)
        theirs, _ = trl_advantages(parts, "group", "normalize_then_sum", weights)
        torch.testing.assert_close(ours, theirs.double(), rtol=1e-6, atol=1e-7)
        expected = oracles_policy.decoupled_advantages(parts.tolist(), weights)
        torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_a_reward_with_a_wide_spread_hides_no_other():
    """Four hypotheses, right or wrong in two ways; in the sum the second way decides alone."""
    parts = torch.tensor([[[1.0, 100.0], [0.0, 100.0], [1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    valid = torch.ones(1, 4, dtype=torch.bool)
    apart = decoupled_advantages(parts, (1.0, 1.0), valid)[0]
    assert apart[0] > 0 > apart[3] and apart[1:3].tolist() == pytest.approx([0, 0], abs=1e-3)
    summed = ADVANTAGES["group"](parts.sum(-1), valid)[0]
    assert summed[1] > 0.8 > -0.8 > summed[2]
    # one that is only logged has no say
    logged = decoupled_advantages(parts, (1.0, 0.0), valid)[0]
    assert logged[0] == logged[2] and logged[0] > 0
