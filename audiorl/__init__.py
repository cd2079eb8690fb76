"""audiorl tunes speech models with preferences and rewards.

Names are loaded on first use: `import audiorl` and `from audiorl.losses import ...` do not load transformers' Trainer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from audiorl._version import __version__

if TYPE_CHECKING:
    from audiorl.audio import load_audio
    from audiorl.batch import GroupBatch, GroupSamples, GroupScores
    from audiorl.collator import SpeechCollator
    from audiorl.datasets import BadRowsError, speech_rows
    from audiorl.evaluation import evaluate_model, paired_bootstrap, transcribe
    from audiorl.models import SpeechFamily, register_family, speech_family
    from audiorl.pairs import mine_pairs
    from audiorl.trainers.base import SpeechTrainer
    from audiorl.trainers.config import SpeechConfig
    from audiorl.trainers.dpo import DPOConfig, DPOTrainer

# public name -> module
_HOMES = {
    "BadRowsError": "audiorl.datasets",
    "DPOConfig": "audiorl.trainers.dpo",
    "DPOTrainer": "audiorl.trainers.dpo",
    "GroupBatch": "audiorl.batch",
    "GroupSamples": "audiorl.batch",
    "GroupScores": "audiorl.batch",
    "SpeechCollator": "audiorl.collator",
    "SpeechConfig": "audiorl.trainers.config",
    "SpeechFamily": "audiorl.models",
    "SpeechTrainer": "audiorl.trainers.base",
    "evaluate_model": "audiorl.evaluation",
    "load_audio": "audiorl.audio",
    "mine_pairs": "audiorl.pairs",
    "paired_bootstrap": "audiorl.evaluation",
    "register_family": "audiorl.models",
    "speech_family": "audiorl.models",
    "speech_rows": "audiorl.datasets",
    "transcribe": "audiorl.evaluation",
}

__all__ = [
    "BadRowsError",
    "DPOConfig",
    "DPOTrainer",
    "GroupBatch",
    "GroupSamples",
    "GroupScores",
    "SpeechCollator",
    "SpeechConfig",
    "SpeechFamily",
    "SpeechTrainer",
    "__version__",
    "evaluate_model",
    "load_audio",
    "mine_pairs",
    "paired_bootstrap",
    "register_family",
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
