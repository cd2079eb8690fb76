"""Batches that carry their rows: rewards read columns, and the loader brings tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from audiorl.batch import BatchRows, GroupBatch
from audiorl.collator import SpeechCollator
from audiorl.datasets import RowFault
from audiorl.models import SpeechFamily


class RolloutCollator(SpeechCollator):
    """`SpeechCollator` whose batches also carry their rows, for rewards that read columns.

    Args:
        max_tokens: where rollouts stop; a row with a longer transcript is a bad row.

    The other arguments are those of `SpeechCollator`.
    """

    def __init__(self, family: SpeechFamily, *, max_tokens: int, **kwargs: Any):
        super().__init__(family, **{"text_columns": ("text",), **kwargs})
        self.max_tokens = max_tokens

    def _judge(self, row: Mapping[str, Any]) -> list[RowFault]:
        faults = super()._judge(row)
        too_long = None if faults else length_fault(self.family, row, self.max_tokens)
        return faults if too_long is None else [too_long]

    def _batch(self, usable: list[tuple[Mapping[str, Any], np.ndarray]]) -> GroupBatch:
        return super()._batch(usable).replace(rows=BatchRows([row for row, _ in usable]))

    def _placeholder(self) -> GroupBatch:
        return super()._placeholder().replace(rows=BatchRows([{}]))


def length_fault(family: SpeechFamily, row: Mapping[str, Any], max_tokens: int) -> RowFault | None:
    """The fault of a row whose transcript no rollout can reach; none where no number of tokens limits a rollout."""
    if not family.token_level:
        return None
    tokens = family.tokenize_row(row["text"], row)
    length = len(tokens.ids) - tokens.first_kept
    if length <= max_tokens:
        return None
    problem = f"text has {length} tokens, rollouts stop after {max_tokens}"
    return RowFault(row["where"], row["row_id"], problem, "Raise max_completion_length, or cut the clip.")


def require_rows(collator: Any) -> None:
    """Refuse a collator whose batches do not carry their rows."""
    if not isinstance(collator, RolloutCollator):
        raise ValueError(
            f"Rewards read the columns of the rows, which RolloutCollator hands over; data_collator is a "
            f"{type(collator).__name__}. Leave it out, or derive it from RolloutCollator."
        )
