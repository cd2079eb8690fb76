"""Rows in, and what is wrong with them.

Names are loaded on first use, so that listing corpora costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

if TYPE_CHECKING:
    from audiorl.datasets.checks import RowJudge, check_rows, drop_bad_rows, judge_row, missing_columns
    from audiorl.datasets.corpora import load_corpus
    from audiorl.datasets.corpus import Corpus, Part, find_corpus, list_corpora, register_corpus
    from audiorl.datasets.export import EXPORTED_COLUMNS, export_rows
    from audiorl.datasets.faults import BadRowsError, RowFault, SkippedRows
    from audiorl.datasets.rows import iterate_batches, speech_rows

# public name -> module
_HOMES = {
    "BadRowsError": "faults",
    "Corpus": "corpus",
    "EXPORTED_COLUMNS": "export",
    "Part": "corpus",
    "RowFault": "faults",
    "RowJudge": "checks",
    "SkippedRows": "faults",
    "check_rows": "checks",
    "drop_bad_rows": "checks",
    "export_rows": "export",
    "find_corpus": "corpus",
    "iterate_batches": "rows",
    "judge_row": "checks",
    "list_corpora": "corpus",
    "load_corpus": "corpora",
    "missing_columns": "checks",
    "register_corpus": "corpus",
    "speech_rows": "rows",
}

__all__ = [
    "EXPORTED_COLUMNS",
    "BadRowsError",
    "Corpus",
    "Part",
    "RowFault",
    "RowJudge",
    "SkippedRows",
    "check_rows",
    "drop_bad_rows",
    "export_rows",
    "find_corpus",
    "iterate_batches",
    "judge_row",
    "list_corpora",
    "load_corpus",
    "missing_columns",
    "register_corpus",
    "speech_rows",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
