"""Temperatures that move over a run, and rewards that are normalised one by one."""

import math

import pytest
import torch

from audiorl.losses.advantages import decoupled_advantages
from audiorl.trainers.raft import RAFTConfig
from tests.trainers import grpo_rows, raft_rows
from tests.trainers.pair_rows import logged


def spied(trainer, monkeypatch):
    """The temperatures of every call that samples or scores, as they come."""
    seen = {"sample_groups": [], "score_groups": []}
    for name, found in seen.items():
        original = getattr(trainer.family, name)

        def called(*args, original=original, found=found, **kwargs):
            found.append(kwargs.get("temperature", 1.0))
            return original(*args, **kwargs)

        monkeypatch.setattr(trainer.family, name, called)
    return seen


def test_the_temperature_moves_along_a_cosine_and_scores_have_that_of_their_rollouts(tmp_path, monkeypatch):
    found = grpo_rows.trainer(
        tmp_path,
        grpo_rows.rows(2),
        temperature=1.0,
        temperature_end=0.7,
        num_iterations=2,
        max_steps=10,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=1,
        beta=0.1,
    )
    seen = spied(found, monkeypatch)
    found.train()
    # five rounds of two updates: 0, 1/4, 1/2, 3/4 and the whole of the way
    expected = [0.7 + 0.3 * (1 + math.cos(math.pi * share)) / 2 for share in (0, 0.25, 0.5, 0.75, 1)]
    assert seen["sample_groups"] == pytest.approx(expected)
    assert expected[0] == 1.0 and expected[-1] == pytest.approx(0.7)
    # the frozen policy once, and the policy at each of two updates
    assert seen["score_groups"] == pytest.approx([t for t in expected for _ in range(3)])
    assert logged(found, "temperature") == pytest.approx(expected)


def test_raft_moves_it_by_cycles_and_learns_at_one(tmp_path, monkeypatch):
    found = raft_rows.trainer(
        tmp_path, grpo_rows.rows(2), temperature=1.2, temperature_end=0.8, temperature_schedule="linear", num_cycles=3
    )
    seen = spied(found, monkeypatch)
    found.train()
    assert sorted(set(seen["sample_groups"]), reverse=True) == pytest.approx([1.2, 1.0, 0.8])
    assert set(seen["score_groups"]) == {1.0}
    assert logged(found, "temperature") == pytest.approx([1.2, 1.0, 0.8])


def test_without_an_end_it_stays(tmp_path):
    args = grpo_rows.config(tmp_path, temperature=0.9)
    assert [args.temperature_at(step, 5) for step in (0, 2, 4)] == [0.9] * 3
    moving = grpo_rows.config(tmp_path, temperature_end=0.5, temperature_schedule="linear")
    assert [moving.temperature_at(step, 3) for step in (0, 1, 2, 7)] == [1.0, 0.75, 0.5, 0.5]
    assert moving.temperature_at(0, 1) == 1.0


def test_each_reward_is_normalised_by_itself_where_that_is_asked_for(tmp_path, monkeypatch):
    rewards = ["negative_cer", "length_ratio"]
    found = grpo_rows.trainer(
        tmp_path,
        trainer_reward_funcs=rewards,
        reward_weights=[1.0, 0.5],
        multi_objective_aggregation="normalize_then_sum",
        max_steps=1,
    )
    taken = []
    original = found.learn_from

    def learn_from(rollouts, step):
        learnt = original(rollouts, step)
        taken.append((step, [part.tensors["advantages"] for part in learnt]))
        return learnt

    monkeypatch.setattr(found, "learn_from", learn_from)
    found.train()
    (step, advantages), *_ = taken
    expected = decoupled_advantages(step.parts, [1.0, 0.5], ~step.rewards.isnan())
    assert sum(map(len, advantages)) == len(expected) and expected.abs().max() > 0.1
    torch.testing.assert_close(torch.cat(advantages).double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature_end": 0}, "temperature_end"),
        ({"temperature_end": 0.7, "temperature_schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"multi_objective_aggregation": "sum"}, "multi_objective_aggregation"),
        (
            {"multi_objective_aggregation": "normalize_then_sum", "scale_rewards": "batch"},
            "scale_rewards='batch' would not be read. Leave scale_rewards out",
        ),
    ],
)
def test_settings_are_checked_when_built(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        grpo_rows.config(tmp_path, **changes)
    if "temperature_end" in changes:
        with pytest.raises(ValueError, match=message):
            RAFTConfig(**{**raft_rows.settings(tmp_path), **changes})


def test_rewards_that_cap_a_total_have_none_to_cap(tmp_path):
    with pytest.raises(ValueError, match=r"\['language'\] cap the total.*Use 'sum_then_normalize'"):
        grpo_rows.trainer(
            tmp_path,
            trainer_reward_funcs=["one_minus_wer", "language"],
            multi_objective_aggregation="normalize_then_sum",
        )
