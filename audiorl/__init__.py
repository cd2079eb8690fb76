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
    from audiorl.augment import Augmentation, load_augmentation
    from audiorl.batch import GroupBatch, GroupSamples, GroupScores
    from audiorl.collator import SpeechCollator
    from audiorl.datasets import BadRowsError, speech_rows
    from audiorl.evaluation import evaluate_model, paired_bootstrap, transcribe
    from audiorl.losses import ADVANTAGES, POLICY_LOSSES, PREFERENCE_LOSSES
    from audiorl.models import SpeechFamily, register_family, shorten_window, speech_family
    from audiorl.pairs import mine_pairs
    from audiorl.rewards import REWARDS, RewardError, RewardSet, RewardTable, load_reward
    from audiorl.trainers.base import SpeechTrainer
    from audiorl.trainers.config import SpeechConfig
    from audiorl.trainers.dpo import DPOConfig, DPOTrainer
    from audiorl.trainers.grpo import GRPOConfig, GRPOTrainer
    from audiorl.trainers.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
    from audiorl.trainers.orpo import ORPOConfig, ORPOTrainer

# public name -> module
_HOMES = {
    "ADVANTAGES": "audiorl.losses",
    "Augmentation": "audiorl.augment",
    "BadRowsError": "audiorl.datasets",
    "DPOConfig": "audiorl.trainers.dpo",
    "DPOTrainer": "audiorl.trainers.dpo",
    "GRPOConfig": "audiorl.trainers.grpo",
    "GRPOTrainer": "audiorl.trainers.grpo",
    "GroupBatch": "audiorl.batch",
    "GroupSamples": "audiorl.batch",
    "GroupScores": "audiorl.batch",
    "ORPOConfig": "audiorl.trainers.orpo",
    "ORPOTrainer": "audiorl.trainers.orpo",
    "OnlineDPOConfig": "audiorl.trainers.online_dpo",
    "OnlineDPOTrainer": "audiorl.trainers.online_dpo",
    "POLICY_LOSSES": "audiorl.losses",
    "PREFERENCE_LOSSES": "audiorl.losses",
    "REWARDS": "audiorl.rewards",
    "RewardError": "audiorl.rewards",
    "RewardSet": "audiorl.rewards",
    "RewardTable": "audiorl.rewards",
    "SpeechCollator": "audiorl.collator",
    "SpeechConfig": "audiorl.trainers.config",
    "SpeechFamily": "audiorl.models",
    "SpeechModelConfig": "audiorl.adapters",
    "SpeechTrainer": "audiorl.trainers.base",
    "evaluate_model": "audiorl.evaluation",
    "load_audio": "audiorl.audio",
    "load_augmentation": "audiorl.augment",
    "load_reward": "audiorl.rewards",
    "mine_pairs": "audiorl.pairs",
    "paired_bootstrap": "audiorl.evaluation",
    "register_family": "audiorl.models",
    "shorten_window": "audiorl.models",
    "speech_family": "audiorl.models",
    "speech_rows": "audiorl.datasets",
    "transcribe": "audiorl.evaluation",
}

__all__ = [
    "ADVANTAGES",
    "POLICY_LOSSES",
    "PREFERENCE_LOSSES",
    "REWARDS",
    "Augmentation",
    "BadRowsError",
    "DPOConfig",
    "DPOTrainer",
    "GRPOConfig",
    "GRPOTrainer",
    "GroupBatch",
    "GroupSamples",
    "GroupScores",
    "ORPOConfig",
    "ORPOTrainer",
    "OnlineDPOConfig",
    "OnlineDPOTrainer",
    "RewardError",
    "RewardSet",
    "RewardTable",
    "SpeechCollator",
    "SpeechConfig",
    "SpeechFamily",
    "SpeechModelConfig",
    "SpeechTrainer",
    "__version__",
    "evaluate_model",
    "load_audio",
    "load_augmentation",
    "load_reward",
    "mine_pairs",
    "paired_bootstrap",
    "register_family",
    "shorten_window",
    "speech_family",
    "speech_rows",
    "transcribe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'audiorl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
