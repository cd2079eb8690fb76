"""The rules of RAFT's cycles: against numbers worked by hand and an oracle of loops."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice

import pytest
import torch

from audiorl.trainers.raft_cycle import KeptRows, KeptSamples, clips_of_cycle, cycle_factor, select_hypotheses
from tests.oracles_raft import kept_places

NAN = float("nan")
# Three clips of four hypotheses.
REWARDS = [[0.9, 0.2, 0.9, 0.5], [0.1, 0.4, 0.3, 0.0], [0.8, 0.7, NAN, 0.6]]


def kept(rewards: list[list[float]] = REWARDS, **rules: float | int) -> list[tuple[int, int]]:
    values = torch.tensor(rewards, dtype=torch.float64)
    return [(b, k) for b, k in select_hypotheses(values, ~values.isnan(), **rules).nonzero().tolist()]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        # the best of each clip; of two equal ones the first
        ({}, [(0, 0), (1, 1), (2, 0)]),
        ({"max_kept_per_clip": 2}, [(0, 0), (0, 2), (1, 1), (1, 2), (2, 0), (2, 1)]),
        # the third clip has three that may be kept
        ({"max_kept_per_clip": 4, "reward_threshold": 0.65}, [(0, 0), (0, 2), (2, 0), (2, 1)]),
        # a reward on the threshold is kept
        ({"reward_threshold": 0.8}, [(0, 0), (2, 0)]),
        # ceil(0.5 * 3) = 2 of the three best ones: 0.9 and 0.8
        ({"keep_top_percent": 0.5}, [(0, 0), (2, 0)]),
        # ceil(0.34 * 6) = 3 of 0.9 0.9 0.4 0.3 0.8 0.7, of which two reach the threshold
        (
            {"max_kept_per_clip": 2, "keep_top_percent": 0.34, "reward_threshold": 0.85},
            [(0, 0), (0, 2)],
        ),
        # the threshold does not refill what the share took away
        ({"keep_top_percent": 0.1, "reward_threshold": 0.0}, [(0, 0)]),
        ({"reward_threshold": 0.95}, []),
    ],
)
def test_rules_worked_by_hand(rules, expected):
    assert kept(**rules) == expected


def test_a_share_is_not_rounded_up_by_floating_point():
    """0.1 * 30 is 3.0000000000000004."""
    assert len(kept([[float(i)] for i in range(30)], keep_top_percent=0.1)) == 3


@pytest.mark.parametrize("seed", range(6))
def test_selection_equals_the_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randint(0, 6, (9, 5), generator=generator).double() / 5  # many ties
    eligible = torch.rand(9, 5, generator=generator) < 0.7
    eligible[4] = False
    rewards[~eligible & (torch.rand(9, 5, generator=generator) < 0.5)] = NAN
    for most in (1, 2, 5):
        for share in (Fraction(1, 4), Fraction(1, 2), Fraction(1)):
            for threshold in (None, 0.4, 1.5):
                chosen = select_hypotheses(
                    rewards,
                    eligible,
                    max_kept_per_clip=most,
                    keep_top_percent=float(share),
                    reward_threshold=threshold,
                )
                expected = kept_places(rewards.tolist(), eligible.tolist(), most=most, share=share, threshold=threshold)
                assert {(b, k) for b, k in chosen.nonzero().tolist()} == expected


def test_a_cycle_of_all_rows_has_each_once_in_an_order_of_its_own():
    orders = [clips_of_cycle(8, 8, cycle, seed=3) for cycle in range(3)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert orders[0] != orders[1] != orders[2] and orders[0] == clips_of_cycle(8, 8, 0, seed=3)
    assert orders[0] != clips_of_cycle(8, 8, 0, seed=4)


def test_cycles_of_some_rows_walk_through_all_before_they_shuffle_anew():
    """Three of eight: two cycles are disjoint, then two rows are left over and the third cycle begins anew."""
    first, second, third = (clips_of_cycle(8, 3, cycle, seed=1) for cycle in range(3))
    assert len({*first, *second}) == 6 and len(set(third)) == 3
    assert third != first and first + second == clips_of_cycle(8, 6, 0, seed=1)


def test_the_learning_rate_decays_by_cycles_down_to_its_floor_after_the_warmup():
    factors = [cycle_factor(step, steps_per_cycle=3, warmup_steps=2, decay=0.5, floor=0.3) for step in range(10)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3])
    assert cycle_factor(0, steps_per_cycle=3, warmup_steps=0, decay=0.5, floor=0.0) == 1


def test_kept_rows_are_gone_over_until_the_cycle_is_full():
    shuffled = KeptRows(8, lambda: (0, [5, 1, 7]), seed=2)
    order = list(shuffled)
    assert len(shuffled) == len(order) == 8 and order == list(shuffled)
    assert sorted(order[:3]) == sorted(order[3:6]) == [1, 5, 7] and {*order[6:]} <= {1, 5, 7}
    passes = list(islice(KeptRows(300, lambda: (0, list(range(10))), seed=2), 20))
    assert passes[:10] != passes[10:]
    assert list(KeptRows(20, lambda: (1, list(range(10))), seed=2))[:10] != passes[:10]
    assert list(KeptRows(5, lambda: (0, [5, 1, 7]), seed=None)) == [1, 5, 7, 1, 5]


def test_groups_hold_what_was_kept_of_each_clip_and_count_nothing_else():
    two = (torch.tensor([[9, 1, 2, 3], [9, 4, 3, 3]]).int(), torch.tensor([[True] * 3, [True, True, False]]))
    one = (torch.tensor([[9, 5]]).int(), torch.tensor([[True]]))
    groups = KeptSamples(0, [4, 6], {4: two, 6: one}).groups(torch.tensor([6, 2, 4]), pad=3)
    assert groups["tokens"].dtype == torch.long
    assert groups["tokens"].tolist() == [
        [[9, 5, 3, 3], [3, 3, 3, 3]],
        [[3, 3, 3, 3], [3, 3, 3, 3]],
        [[9, 1, 2, 3], [9, 4, 3, 3]],
    ]
    assert groups["keep"].int().tolist() == [
        [[1, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
        [[1, 1, 1], [1, 1, 0]],
    ]
    nothing = KeptSamples(0, [4], {}).groups(torch.tensor([4]), pad=3)
    assert nothing["keep"].shape == (1, 1, 1) and not nothing["keep"].any()
