"""Preference pairs from transcribed audio: by the model's own hypotheses, or without a model.

Names are loaded on first use, so that a program's flags (`MiningConfig`) do not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

if TYPE_CHECKING:
    from audiorl.pairs.corruptions import CORRUPTIONS, SyntheticNegative, synthetic_negatives
    from audiorl.pairs.folder import MiningFolder
    from audiorl.pairs.mining import MinedPairs, mine_into, mine_pairs
    from audiorl.pairs.records import MiningSummary
    from audiorl.pairs.settings import MiningConfig
    from audiorl.pairs.strategies import STRATEGIES, is_hard_case

# public name -> module
_HOMES = {
    "CORRUPTIONS": "corruptions",
    "STRATEGIES": "strategies",
    "MinedPairs": "mining",
    "MiningConfig": "settings",
    "MiningFolder": "folder",
    "MiningSummary": "records",
    "SyntheticNegative": "corruptions",
    "is_hard_case": "strategies",
    "mine_into": "mining",
    "mine_pairs": "mining",
    "synthetic_negatives": "corruptions",
}

__all__ = [
    "CORRUPTIONS",
    "STRATEGIES",
    "MinedPairs",
    "MiningConfig",
    "MiningFolder",
    "MiningSummary",
    "SyntheticNegative",
    "is_hard_case",
    "mine_into",
    "mine_pairs",
    "synthetic_negatives",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
