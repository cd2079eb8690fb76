"""Preference pairs from transcribed audio: from the model's own hypotheses, or without a model.

Names are loaded on first use, so a program's flags (`MiningConfig`) do not need torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

# public name -> module
_HOMES = {
    "CORRUPTIONS": "corruptions",
    "STRATEGIES": "settings",
    "MinedPairs": "mining",
    "MiningConfig": "settings",
    "MiningFolder": "folder",
    "MiningSummary": "records",
    "SyntheticNegative": "corruptions",
    "is_hard_case": "settings",
    "mine_into": "mining",
    "mine_pairs": "mining",
    "paired_rows": "unpaired",
    "synthetic_negatives": "corruptions",
    "unpaired_rows": "unpaired",
}

if TYPE_CHECKING:
    from audiorl.pairs.corruptions import CORRUPTIONS as CORRUPTIONS
    from audiorl.pairs.corruptions import SyntheticNegative as SyntheticNegative
    from audiorl.pairs.corruptions import synthetic_negatives as synthetic_negatives
    from audiorl.pairs.folder import MiningFolder as MiningFolder
    from audiorl.pairs.mining import MinedPairs as MinedPairs
    from audiorl.pairs.mining import mine_into as mine_into
    from audiorl.pairs.mining import mine_pairs as mine_pairs
    from audiorl.pairs.records import MiningSummary as MiningSummary
    from audiorl.pairs.settings import STRATEGIES as STRATEGIES
    from audiorl.pairs.settings import MiningConfig as MiningConfig
    from audiorl.pairs.settings import is_hard_case as is_hard_case
    from audiorl.pairs.unpaired import paired_rows as paired_rows
    from audiorl.pairs.unpaired import unpaired_rows as unpaired_rows
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _HOMES)
