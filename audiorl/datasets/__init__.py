"""Rows in, and what is wrong with them."""

from audiorl.datasets.checks import check_rows, drop_bad_rows, judge_row, missing_columns
from audiorl.datasets.faults import BadRowsError, RowFault, SkippedRows
from audiorl.datasets.rows import iterate_batches, speech_rows

__all__ = [
    "BadRowsError",
    "RowFault",
    "SkippedRows",
    "check_rows",
    "drop_bad_rows",
    "iterate_batches",
    "judge_row",
    "missing_columns",
    "speech_rows",
]
