"""Rewards: how good a hypothesis is, as a number; TRL's contract, and the rewards that are shipped."""

from audiorl.rewards.answers import AnswerMatch
from audiorl.rewards.error_rate import ExactMatch, NegativeCER, NegativeEdits, NegativeWER, OneMinusWER
from audiorl.rewards.errors import RewardError
from audiorl.rewards.funasr import FunASR
from audiorl.rewards.hallucination import Hallucination
from audiorl.rewards.keywords import KeywordPrecision, KeywordRecall, KeywordScore, OneMinusKeywordWER
from audiorl.rewards.labels import LabelMatch, LabelSetMatch
from audiorl.rewards.language import RightScript
from audiorl.rewards.length import LengthRatio, SoftOverlong
from audiorl.rewards.registry import REWARDS, load_reward, reward_names
from audiorl.rewards.reward_set import RewardSet, RewardTable
from audiorl.rewards.signal_quality import SignalQuality
from audiorl.rewards.speech_quality import SpeechQuality, SpeechScore
from audiorl.rewards.stock_phrases import STOCK_PHRASES, NoStockPhrases

__all__ = [
    "REWARDS",
    "STOCK_PHRASES",
    "AnswerMatch",
    "ExactMatch",
    "FunASR",
    "Hallucination",
    "KeywordPrecision",
    "KeywordRecall",
    "KeywordScore",
    "LabelMatch",
    "LabelSetMatch",
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
