"""Rewards: how good a hypothesis is, as a number; TRL's contract, and the rewards that are shipped."""

from audiorl.rewards.error_rate import ExactMatch, NegativeCER, NegativeEdits, NegativeWER, OneMinusWER
from audiorl.rewards.errors import RewardError
from audiorl.rewards.registry import REWARDS, load_reward, reward_names
from audiorl.rewards.reward_set import RewardSet, RewardTable

__all__ = [
    "REWARDS",
    "ExactMatch",
    "NegativeCER",
    "NegativeEdits",
    "NegativeWER",
    "OneMinusWER",
    "RewardError",
    "RewardSet",
    "RewardTable",
    "load_reward",
    "reward_names",
]
