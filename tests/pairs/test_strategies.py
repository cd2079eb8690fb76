"""Strategies on five texts whose rewards are worked out by hand."""

from __future__ import annotations

import math

import pytest

from audiorl.pairs import STRATEGIES
from audiorl.pairs.settings import ScoredTexts

#          transcript, then hypotheses 1 ... 4
REWARDS = (0.0, -0.5, -0.25, -1.0, -0.25)
SCORES = (math.nan, -2.0, -4.0, -1.0, -9.0)


def texts(least: float = 0.0, usable=(1, 2, 3, 4), rewards=REWARDS) -> ScoredTexts:
    def allowed(chosen: int, rejected: int) -> bool:
        margin = rewards[chosen] - rewards[rejected]
        return margin > 0 and margin >= least

    return ScoredTexts(rewards, SCORES, usable, allowed)


@pytest.mark.parametrize(
    ("strategy", "pairs"),
    [
        ("transcript_vs_worst", [(0, 3)]),
        ("transcript_vs_each", [(0, 3), (0, 1), (0, 2), (0, 4)]),
        # 2 and 4 are equally good: the first counts
        ("best_vs_worst", [(2, 3)]),
        # margins 0.75, 0.75, 0.5, 0.25, 0.25
        ("above_margin", [(2, 3), (4, 3), (1, 3), (2, 1), (4, 1)]),
        # the model holds 1 and 3 likelier than 2, the best
        ("nbest", [(2, 3), (2, 1)]),
    ],
)
def test_pairs_of_each_strategy(strategy, pairs):
    assert STRATEGIES[strategy](texts()) == pairs


@pytest.mark.parametrize(
    ("strategy", "pairs"),
    [
        ("transcript_vs_worst", [(0, 3)]),
        ("transcript_vs_each", [(0, 3), (0, 1)]),
        ("best_vs_worst", [(2, 3)]),
        ("above_margin", [(2, 3), (4, 3), (1, 3)]),
        ("nbest", [(2, 3)]),
    ],
)
def test_pairs_at_a_margin_of_a_half(strategy, pairs):
    assert STRATEGIES[strategy](texts(least=0.5)) == pairs


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_texts_that_are_not_usable_are_in_no_pair(strategy):
    assert all({1, 4} >= {chosen, rejected} - {0} for chosen, rejected in STRATEGIES[strategy](texts(usable=(1, 4))))
    assert STRATEGIES[strategy](texts(usable=())) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_rewards_and_rewards_that_are_missing_give_no_pair(strategy):
    assert STRATEGIES[strategy](texts(rewards=(0.5,) * 5)) == []
    assert STRATEGIES[strategy](texts(rewards=(math.nan,) * 5)) == []


def test_an_nbest_list_that_is_ranked_right_gives_no_pair():
    ranked = ScoredTexts((0.0, -0.1, -0.2, -0.3), (math.nan, -1.0, -2.0, -3.0), (1, 2, 3), lambda a, b: a < b)
    assert STRATEGIES["nbest"](ranked) == []
    assert STRATEGIES["best_vs_worst"](ranked) == [(1, 3)]
