"""The randomness of rollouts: one row's numbers depend on seed, step and row alone."""

from __future__ import annotations

import numpy as np
import torch

from audiorl.models.sampling import rollout_noise

SHAPE = {"num_generations": 3, "max_tokens": 5}


def test_a_row_gets_the_same_numbers_in_any_batch_and_at_any_limit():
    together = rollout_noise([4, 9, 2], seed=1, step=7, **SHAPE)
    alone = rollout_noise([9], seed=1, step=7, **SHAPE)
    longer = rollout_noise([9], seed=1, step=7, num_generations=3, max_tokens=8)
    assert together.shape == (3, 3, 5)
    assert torch.equal(together[1], alone[0])
    assert torch.equal(longer[..., :5], alone)


def test_seed_step_and_row_each_change_the_numbers():
    drawn = [
        rollout_noise([row], seed=seed, step=step, **SHAPE)
        for seed, step, row in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    for i, first in enumerate(drawn):
        for second in drawn[i + 1 :]:
            assert not torch.equal(first, second)


def test_global_generators_are_neither_read_nor_moved():
    torch.manual_seed(0)
    np.random.seed(0)
    first = rollout_noise([0], seed=3, step=0, **SHAPE)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(rollout_noise([0], seed=3, step=0, **SHAPE), first)
    torch.manual_seed(0)
    np.random.seed(0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


def test_numbers_are_uniform():
    drawn = rollout_noise(range(200), seed=0, step=0, num_generations=4, max_tokens=50)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean().item() - 0.5) < 0.01
    assert abs(drawn.var().item() - 1 / 12) < 0.005


def test_placeholders_get_numbers_too():
    assert rollout_noise([-1], seed=0, step=0, **SHAPE).shape == (1, 3, 5)
