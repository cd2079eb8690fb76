"""Rewards: how good a hypothesis is, as a number; TRL's contract, and the rewards that are shipped."""

from audiorl.rewards.error_rate import ExactMatch, NegativeCER, NegativeEdits, NegativeWER, OneMinusWER
from audiorl.rewards.errors import RewardError
from audiorl.rewards.funasr import FunASR
from audiorl.rewards.hallucination import Hallucination
from audiorl.rewards.keywords import KeywordPrecision, KeywordRecall, KeywordScore, OneMinusKeywordWER
from audiorl.rewards.labels import LabelMatch
from audiorl.rewards.language import RightScript
from audiorl.rewards.length import LengthRatio, SoftOverlong
from audiorl.rewards.registry import REWARDS, load_reward, reward_names
from audiorl.rewards.reward_set import RewardSet, RewardTable
from audiorl.rewards.stock_phrases import STOCK_PHRASES, NoStockPhrases

__all__ = [
    "REWARDS",
    "STOCK_PHRASES",
    "ExactMatch",
    "FunASR",
    "Hallucination",
    "KeywordPrecision",
    "KeywordRecall",
    "KeywordScore",
    "LabelMatch",
    "LengthRatio",
    "NegativeCER",
    "NegativeEdits",
    "NegativeWER",
    "NoStockPhrases",
    "OneMinusKeywordWER",
    "OneMinusWER",
    "RewardError",
    "RewardSet",
    "RewardTable",
    "RightScript",
    "SoftOverlong",
    "load_reward",
    "reward_names",
]
