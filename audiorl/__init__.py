"""audiorl tunes speech models with preferences and rewards.

Names are loaded on first use: `import audiorl` and `from audiorl.losses import ...` do not load transformers' Trainer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from audiorl._version import __version__

if TYPE_CHECKING:
    from audiorl.adapters import SpeechModelConfig
    from audiorl.audio import load_audio
    from audiorl.audio.features import ClipProcessor
    from audiorl.augment import Augmentation, load_augmentation
    from audiorl.batch import GroupBatch, GroupSamples, GroupScores
    from audiorl.collator import SpeechCollator
    from audiorl.datasets import (
        EXPORTED_COLUMNS,
        BadRowsError,
        Corpus,
        export_rows,
        find_corpus,
        list_corpora,
        load_corpus,
        register_corpus,
        speech_rows,
    )
    from audiorl.evaluation import EvaluationSettings, evaluate_model, paired_bootstrap, read_document, transcribe
    from audiorl.losses import ADVANTAGES, POLICY_LOSSES, PREFERENCE_LOSSES
    from audiorl.model_card import DataSource
    from audiorl.models import SpeechFamily, family_class, model_class, register_family, shorten_window, speech_family
    from audiorl.models.granite_speech import merge_speech_adapter
    from audiorl.pairs import MiningConfig, MiningFolder, mine_into, mine_pairs, synthetic_negatives
    from audiorl.report import write_report
    from audiorl.rewards import (
        REWARDS,
        AnswerMatch,
        LabelSetMatch,
        RewardError,
        RewardSet,
        RewardTable,
        SignalQuality,
        SpeechQuality,
        SpeechScore,
        load_reward,
    )
    from audiorl.trainers.base import SpeechTrainer
    from audiorl.trainers.config import SpeechConfig
    from audiorl.trainers.dpo import DPOConfig, DPOTrainer
    from audiorl.trainers.grpo import GRPOConfig, GRPOTrainer
    from audiorl.trainers.hub import PushError
    from audiorl.trainers.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
    from audiorl.trainers.orpo import ORPOConfig, ORPOTrainer
    from audiorl.trainers.raft import RAFTConfig, RAFTTrainer
    from audiorl.trainers.sft import SFTConfig, SFTTrainer

# public name -> module
_HOMES = {
    "ADVANTAGES": "audiorl.losses",
    "AnswerMatch": "audiorl.rewards",
    "Augmentation": "audiorl.augment",
    "BadRowsError": "audiorl.datasets",
    "ClipProcessor": "audiorl.audio.features",
    "Corpus": "audiorl.datasets",
    "DPOConfig": "audiorl.trainers.dpo",
    "DPOTrainer": "audiorl.trainers.dpo",
    "DataSource": "audiorl.model_card",
    "EXPORTED_COLUMNS": "audiorl.datasets",
    "EvaluationSettings": "audiorl.evaluation",
    "GRPOConfig": "audiorl.trainers.grpo",
    "GRPOTrainer": "audiorl.trainers.grpo",
    "GroupBatch": "audiorl.batch",
    "GroupSamples": "audiorl.batch",
    "GroupScores": "audiorl.batch",
    "LabelSetMatch": "audiorl.rewards",
    "MiningConfig": "audiorl.pairs",
    "MiningFolder": "audiorl.pairs",
    "ORPOConfig": "audiorl.trainers.orpo",
    "ORPOTrainer": "audiorl.trainers.orpo",
    "OnlineDPOConfig": "audiorl.trainers.online_dpo",
    "OnlineDPOTrainer": "audiorl.trainers.online_dpo",
    "POLICY_LOSSES": "audiorl.losses",
    "PREFERENCE_LOSSES": "audiorl.losses",
    "PushError": "audiorl.trainers.hub",
    "RAFTConfig": "audiorl.trainers.raft",
    "RAFTTrainer": "audiorl.trainers.raft",
    "REWARDS": "audiorl.rewards",
    "RewardError": "audiorl.rewards",
    "RewardSet": "audiorl.rewards",
    "RewardTable": "audiorl.rewards",
    "SFTConfig": "audiorl.trainers.sft",
    "SFTTrainer": "audiorl.trainers.sft",
    "SignalQuality": "audiorl.rewards",
    "SpeechCollator": "audiorl.collator",
    "SpeechConfig": "audiorl.trainers.config",
    "SpeechFamily": "audiorl.models",
    "SpeechModelConfig": "audiorl.adapters",
    "SpeechQuality": "audiorl.rewards",
    "SpeechScore": "audiorl.rewards",
    "SpeechTrainer": "audiorl.trainers.base",
    "evaluate_model": "audiorl.evaluation",
    "export_rows": "audiorl.datasets",
    "family_class": "audiorl.models",
    "find_corpus": "audiorl.datasets",
    "list_corpora": "audiorl.datasets",
    "load_audio": "audiorl.audio",
    "load_augmentation": "audiorl.augment",
    "load_corpus": "audiorl.datasets",
    "load_reward": "audiorl.rewards",
    "merge_speech_adapter": "audiorl.models.granite_speech",
    "mine_into": "audiorl.pairs",
    "mine_pairs": "audiorl.pairs",
    "model_class": "audiorl.models",
    "paired_bootstrap": "audiorl.evaluation",
    "read_document": "audiorl.evaluation",
    "register_corpus": "audiorl.datasets",
    "register_family": "audiorl.models",
    "shorten_window": "audiorl.models",
    "speech_family": "audiorl.models",
    "speech_rows": "audiorl.datasets",
    "synthetic_negatives": "audiorl.pairs",
    "transcribe": "audiorl.evaluation",
    "write_report": "audiorl.report",
}

__all__ = [
    "ADVANTAGES",
    "EXPORTED_COLUMNS",
    "POLICY_LOSSES",
    "PREFERENCE_LOSSES",
    "REWARDS",
    "AnswerMatch",
    "Augmentation",
    "BadRowsError",
    "ClipProcessor",
    "Corpus",
    "DPOConfig",
    "DPOTrainer",
    "DataSource",
    "EvaluationSettings",
    "GRPOConfig",
    "GRPOTrainer",
    "GroupBatch",
    "GroupSamples",
    "GroupScores",
    "LabelSetMatch",
    "MiningConfig",
    "MiningFolder",
    "ORPOConfig",
    "ORPOTrainer",
    "OnlineDPOConfig",
    "OnlineDPOTrainer",
    "PushError",
    "RAFTConfig",
    "RAFTTrainer",
    "RewardError",
    "RewardSet",
    "RewardTable",
    "SFTConfig",
    "SFTTrainer",
    "SignalQuality",
    "SpeechCollator",
    "SpeechConfig",
    "SpeechFamily",
    "SpeechModelConfig",
    "SpeechQuality",
    "SpeechScore",
    "SpeechTrainer",
    "__version__",
    "evaluate_model",
    "export_rows",
    "family_class",
    "find_corpus",
    "list_corpora",
    "load_audio",
    "load_augmentation",
    "load_corpus",
    "load_reward",
    "merge_speech_adapter",
    "mine_into",
    "mine_pairs",
    "model_class",
    "paired_bootstrap",
    "read_document",
    "register_corpus",
    "register_family",
    "shorten_window",
    "speech_family",
    "speech_rows",
    "synthetic_negatives",
    "transcribe",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'audiorl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
