"""Reading rows, checking them, and writing them again.

Names are loaded on first use, so that listing corpora costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

# public name -> module
_HOMES = {
    "BadRowsError": "faults",
    "Corpus": "corpus",
    "EXPORTED_COLUMNS": "export",
    "EpochPlan": "batching",
    "Part": "corpus",
    "RowFault": "faults",
    "RowJudge": "checks",
    "SecondsBudget": "batching",
    "SkippedRows": "faults",
    "check_rows": "verdicts",
    "drop_bad_rows": "checks",
    "export_rows": "export",
    "find_corpus": "corpus",
    "iterate_batches": "rows",
    "judge_row": "checks",
    "list_corpora": "corpus",
    "load_corpus": "corpora",
    "missing_columns": "checks",
    "register_corpus": "corpus",
    "speech_rows": "corpora",
}

if TYPE_CHECKING:
    from audiorl.datasets.batching import EpochPlan as EpochPlan
    from audiorl.datasets.batching import SecondsBudget as SecondsBudget
    from audiorl.datasets.checks import RowJudge as RowJudge
    from audiorl.datasets.checks import drop_bad_rows as drop_bad_rows
    from audiorl.datasets.checks import judge_row as judge_row
    from audiorl.datasets.checks import missing_columns as missing_columns
    from audiorl.datasets.corpora import load_corpus as load_corpus
    from audiorl.datasets.corpora import speech_rows as speech_rows
    from audiorl.datasets.corpus import Corpus as Corpus
    from audiorl.datasets.corpus import Part as Part
    from audiorl.datasets.corpus import find_corpus as find_corpus
    from audiorl.datasets.corpus import list_corpora as list_corpora
    from audiorl.datasets.corpus import register_corpus as register_corpus
    from audiorl.datasets.export import EXPORTED_COLUMNS as EXPORTED_COLUMNS
    from audiorl.datasets.export import export_rows as export_rows
    from audiorl.datasets.faults import BadRowsError as BadRowsError
    from audiorl.datasets.faults import RowFault as RowFault
    from audiorl.datasets.faults import SkippedRows as SkippedRows
    from audiorl.datasets.rows import iterate_batches as iterate_batches
    from audiorl.datasets.verdicts import check_rows as check_rows
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _HOMES)
