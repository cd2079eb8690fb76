"""Texts, for rewards and evaluation: normalizers, error counts, keywords, hot words, pairs of texts.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

# public name -> module
_HOMES = {
    "Alignment": "alignment",
    "ErrorCounts": "error_rates",
    "Errors": "error_rates",
    "KeywordCounts": "keywords",
    "NORMALIZERS": "normalizers",
    "Normalizer": "normalizers",
    "TextPair": "error_rates",
    "align_texts": "alignment",
    "completion_text": "error_rates",
    "count_errors": "error_rates",
    "count_keywords": "keywords",
    "normalizer": "normalizers",
    "read_hotwords": "keywords",
    "read_keywords": "keywords",
    "show_alignment": "alignment",
    "split_units": "error_rates",
    "tagged_transcript": "error_rates",
    "text_pairs": "error_rates",
}

if TYPE_CHECKING:
    from audiorl.text.alignment import Alignment as Alignment
    from audiorl.text.alignment import align_texts as align_texts
    from audiorl.text.alignment import show_alignment as show_alignment
    from audiorl.text.error_rates import ErrorCounts as ErrorCounts
    from audiorl.text.error_rates import Errors as Errors
    from audiorl.text.error_rates import TextPair as TextPair
    from audiorl.text.error_rates import completion_text as completion_text
    from audiorl.text.error_rates import count_errors as count_errors
    from audiorl.text.error_rates import split_units as split_units
    from audiorl.text.error_rates import tagged_transcript as tagged_transcript
    from audiorl.text.error_rates import text_pairs as text_pairs
    from audiorl.text.keywords import KeywordCounts as KeywordCounts
    from audiorl.text.keywords import count_keywords as count_keywords
    from audiorl.text.keywords import read_hotwords as read_hotwords
    from audiorl.text.keywords import read_keywords as read_keywords
    from audiorl.text.normalizers import NORMALIZERS as NORMALIZERS
    from audiorl.text.normalizers import Normalizer as Normalizer
    from audiorl.text.normalizers import normalizer as normalizer
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _HOMES)
