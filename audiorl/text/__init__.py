"""Words about words, read by rewards and evaluation alike: normalizers, errors, keywords, hot words, pairs of texts.

Names are loaded on first use: reading a row's hot words loads no aligner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

if TYPE_CHECKING:
    from audiorl.text.error_rates import ErrorCounts, Errors, count_errors, split_units, tagged_transcript
    from audiorl.text.hotwords import read_hotwords
    from audiorl.text.keywords import KeywordCounts, count_keywords, read_keywords
    from audiorl.text.normalizers import NORMALIZERS, Normalizer, normalizer
    from audiorl.text.pairs import TextPair, completion_text, text_pairs

# public name -> module
_HOMES = {
    "ErrorCounts": "error_rates",
    "Errors": "error_rates",
    "KeywordCounts": "keywords",
    "NORMALIZERS": "normalizers",
    "Normalizer": "normalizers",
    "TextPair": "pairs",
    "completion_text": "pairs",
    "count_errors": "error_rates",
    "count_keywords": "keywords",
    "normalizer": "normalizers",
    "read_hotwords": "hotwords",
    "read_keywords": "keywords",
    "split_units": "error_rates",
    "tagged_transcript": "error_rates",
    "text_pairs": "pairs",
}

__all__ = [
    "NORMALIZERS",
    "ErrorCounts",
    "Errors",
    "KeywordCounts",
    "Normalizer",
    "TextPair",
    "completion_text",
    "count_errors",
    "count_keywords",
    "normalizer",
    "read_hotwords",
    "read_keywords",
    "split_units",
    "tagged_transcript",
    "text_pairs",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
