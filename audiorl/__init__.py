"""audiorl tunes speech models with preferences and rewards.

Names are loaded on first use: `import audiorl` and `from audiorl.losses import ...` do not load transformers' Trainer.
Here is what a script needs; the rest stands in its room: `audiorl.rewards`, `audiorl.evaluation`, `audiorl.models`, ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl._version import __version__ as __version__
from audiorl.lazy import answer_former_names, lazy_names

# public name -> module
_HOMES = {
    "DPOConfig": "audiorl.trainers.dpo",
    "DPOTrainer": "audiorl.trainers.dpo",
    "DataSource": "audiorl.model_card",
    "DistillationConfig": "audiorl.trainers.distillation",
    "DistillationTrainer": "audiorl.trainers.distillation",
    "GRPOConfig": "audiorl.trainers.grpo",
    "GRPOTrainer": "audiorl.trainers.grpo",
    "KTOConfig": "audiorl.trainers.kto",
    "KTOTrainer": "audiorl.trainers.kto",
    "ORPOConfig": "audiorl.trainers.orpo",
    "ORPOTrainer": "audiorl.trainers.orpo",
    "OnlineDPOConfig": "audiorl.trainers.online_dpo",
    "OnlineDPOTrainer": "audiorl.trainers.online_dpo",
    "RAFTConfig": "audiorl.trainers.raft",
    "RAFTTrainer": "audiorl.trainers.raft",
    "RewardSet": "audiorl.rewards",
    "SFTConfig": "audiorl.trainers.sft",
    "SFTTrainer": "audiorl.trainers.sft",
    "SpeechConfig": "audiorl.trainers.config",
    "SpeechModelConfig": "audiorl.adapters",
    "SpeechTrainer": "audiorl.trainers.base",
    "evaluate_model": "audiorl.evaluation",
    "load_audio": "audiorl.audio",
    "load_corpus": "audiorl.datasets",
    "load_reward": "audiorl.rewards",
    "mine_pairs": "audiorl.pairs",
    "paired_bootstrap": "audiorl.evaluation",
    "show_alignment": "audiorl.text",
    "speech_family": "audiorl.models",
    "speech_rows": "audiorl.datasets",
    "transcribe": "audiorl.evaluation",
    "write_report": "audiorl.report",
}
# What stood here before and stands in its room alone now; it can still be imported from here
_FORMER = {
    "ADVANTAGES": "audiorl.losses",
    "AnswerMatch": "audiorl.rewards",
    "Augmentation": "audiorl.augment",
    "BadRowsError": "audiorl.datasets",
    "ClipProcessor": "audiorl.audio.features",
    "Corpus": "audiorl.datasets",
    "EXPORTED_COLUMNS": "audiorl.datasets",
    "EvaluationSettings": "audiorl.evaluation",
    "GroupBatch": "audiorl.batch",
    "GroupSamples": "audiorl.batch",
    "GroupScores": "audiorl.batch",
    "LabelSetMatch": "audiorl.rewards",
    "MiningConfig": "audiorl.pairs",
    "MiningFolder": "audiorl.pairs",
    "POLICY_LOSSES": "audiorl.losses",
    "PREFERENCE_LOSSES": "audiorl.losses",
    "PushError": "audiorl.trainers.hub",
    "REWARDS": "audiorl.rewards",
    "RewardError": "audiorl.rewards",
    "RewardTable": "audiorl.rewards",
    "SignalQuality": "audiorl.rewards",
    "SpeechCollator": "audiorl.collator",
    "SpeechFamily": "audiorl.models",
    "SpeechQuality": "audiorl.rewards",
    "SpeechScore": "audiorl.rewards",
    "export_rows": "audiorl.datasets",
    "family_class": "audiorl.models",
    "find_corpus": "audiorl.datasets",
    "list_corpora": "audiorl.datasets",
    "load_augmentation": "audiorl.augment",
    "merge_speech_adapter": "audiorl.models.granite_speech",
    "mine_into": "audiorl.pairs",
    "model_class": "audiorl.models",
    "read_document": "audiorl.evaluation",
    "register_corpus": "audiorl.datasets",
    "register_family": "audiorl.models",
    "shorten_window": "audiorl.models",
    "synthetic_negatives": "audiorl.pairs",
}

if TYPE_CHECKING:
    from audiorl.adapters import SpeechModelConfig as SpeechModelConfig
    from audiorl.audio import load_audio as load_audio
    from audiorl.audio.features import ClipProcessor as ClipProcessor
    from audiorl.augment import Augmentation as Augmentation
    from audiorl.augment import load_augmentation as load_augmentation
    from audiorl.batch import GroupBatch as GroupBatch
    from audiorl.batch import GroupSamples as GroupSamples
    from audiorl.batch import GroupScores as GroupScores
    from audiorl.collator import SpeechCollator as SpeechCollator
    from audiorl.datasets import EXPORTED_COLUMNS as EXPORTED_COLUMNS
    from audiorl.datasets import BadRowsError as BadRowsError
    from audiorl.datasets import Corpus as Corpus
    from audiorl.datasets import export_rows as export_rows
    from audiorl.datasets import find_corpus as find_corpus
    from audiorl.datasets import list_corpora as list_corpora
    from audiorl.datasets import load_corpus as load_corpus
    from audiorl.datasets import register_corpus as register_corpus
    from audiorl.datasets import speech_rows as speech_rows
    from audiorl.evaluation import EvaluationSettings as EvaluationSettings
    from audiorl.evaluation import evaluate_model as evaluate_model
    from audiorl.evaluation import paired_bootstrap as paired_bootstrap
    from audiorl.evaluation import read_document as read_document
    from audiorl.evaluation import transcribe as transcribe
    from audiorl.losses import ADVANTAGES as ADVANTAGES
    from audiorl.losses import POLICY_LOSSES as POLICY_LOSSES
    from audiorl.losses import PREFERENCE_LOSSES as PREFERENCE_LOSSES
    from audiorl.model_card import DataSource as DataSource
    from audiorl.models import SpeechFamily as SpeechFamily
    from audiorl.models import family_class as family_class
    from audiorl.models import model_class as model_class
    from audiorl.models import register_family as register_family
    from audiorl.models import shorten_window as shorten_window
    from audiorl.models import speech_family as speech_family
    from audiorl.models.granite_speech import merge_speech_adapter as merge_speech_adapter
    from audiorl.pairs import MiningConfig as MiningConfig
    from audiorl.pairs import MiningFolder as MiningFolder
    from audiorl.pairs import mine_into as mine_into
    from audiorl.pairs import mine_pairs as mine_pairs
    from audiorl.pairs import synthetic_negatives as synthetic_negatives
    from audiorl.report import write_report as write_report
    from audiorl.rewards import REWARDS as REWARDS
    from audiorl.rewards import AnswerMatch as AnswerMatch
    from audiorl.rewards import LabelSetMatch as LabelSetMatch
    from audiorl.rewards import RewardError as RewardError
    from audiorl.rewards import RewardSet as RewardSet
    from audiorl.rewards import RewardTable as RewardTable
    from audiorl.rewards import SignalQuality as SignalQuality
    from audiorl.rewards import SpeechQuality as SpeechQuality
    from audiorl.rewards import SpeechScore as SpeechScore
    from audiorl.rewards import load_reward as load_reward
    from audiorl.text import show_alignment as show_alignment
    from audiorl.trainers.base import SpeechTrainer as SpeechTrainer
    from audiorl.trainers.config import SpeechConfig as SpeechConfig
    from audiorl.trainers.distillation import DistillationConfig as DistillationConfig
    from audiorl.trainers.distillation import DistillationTrainer as DistillationTrainer
    from audiorl.trainers.dpo import DPOConfig as DPOConfig
    from audiorl.trainers.dpo import DPOTrainer as DPOTrainer
    from audiorl.trainers.grpo import GRPOConfig as GRPOConfig
    from audiorl.trainers.grpo import GRPOTrainer as GRPOTrainer
    from audiorl.trainers.hub import PushError as PushError
    from audiorl.trainers.kto import KTOConfig as KTOConfig
    from audiorl.trainers.kto import KTOTrainer as KTOTrainer
    from audiorl.trainers.online_dpo import OnlineDPOConfig as OnlineDPOConfig
    from audiorl.trainers.online_dpo import OnlineDPOTrainer as OnlineDPOTrainer
    from audiorl.trainers.orpo import ORPOConfig as ORPOConfig
    from audiorl.trainers.orpo import ORPOTrainer as ORPOTrainer
    from audiorl.trainers.raft import RAFTConfig as RAFTConfig
    from audiorl.trainers.raft import RAFTTrainer as RAFTTrainer
    from audiorl.trainers.sft import SFTConfig as SFTConfig
    from audiorl.trainers.sft import SFTTrainer as SFTTrainer
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, {"__version__": "_version", **_HOMES}, _FORMER)

answer_former_names()
