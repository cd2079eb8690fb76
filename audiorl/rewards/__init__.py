"""Rewards: how good a hypothesis is, as a number; TRL's contract, and the rewards that are shipped."""

from audiorl.rewards.base import RewardError
from audiorl.rewards.consensus import Agreement, Confidence, Consensus
from audiorl.rewards.error_rate import (
    ExactMatch,
    ExpCER,
    LengthHallucination,
    LengthRatio,
    NegativeCER,
    NegativeEdits,
    NegativeWER,
    OneMinusWER,
    SoftOverlong,
)
from audiorl.rewards.funasr import FunASR
from audiorl.rewards.hallucination import STOCK_PHRASES, Hallucination, NoStockPhrases
from audiorl.rewards.judge import Judge
from audiorl.rewards.keywords import (
    ContextKeywords,
    EntityScore,
    KeywordPrecision,
    KeywordRecall,
    KeywordScore,
    OneMinusKeywordWER,
)
from audiorl.rewards.labels import AnswerMatch, LabelMatch, LabelSetMatch
from audiorl.rewards.language import RightScript
from audiorl.rewards.registry import REWARDS, load_reward, reward_names
from audiorl.rewards.reward_set import RewardSet, RewardTable
from audiorl.rewards.speech_quality import SignalQuality, SpeechQuality, SpeechScore

__all__ = [
    "REWARDS",
    "STOCK_PHRASES",
    "Agreement",
    "AnswerMatch",
    "Confidence",
    "Consensus",
    "ContextKeywords",
    "EntityScore",
    "ExactMatch",
    "ExpCER",
    "FunASR",
    "Hallucination",
    "Judge",
    "KeywordPrecision",
    "KeywordRecall",
    "KeywordScore",
    "LabelMatch",
    "LabelSetMatch",
    "LengthHallucination",
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
    "SignalQuality",
    "SoftOverlong",
    "SpeechQuality",
    "SpeechScore",
    "load_reward",
    "reward_names",
]
