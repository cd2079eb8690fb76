"""The numbers of a set of clips, as they stand in an evaluation document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from audiorl.text.keywords import KeywordCounts


@dataclass(frozen=True)
class Silence:
    """What was said where nothing was spoken."""

    clips: int
    with_output: int  # clips for which there is a word
    words: int  # altogether, in the unit of the error rate


@dataclass(frozen=True)
class Keywords:
    """Keyword occurrences summed over the clips, and the rates made of the sums, see `audiorl.text.keywords`."""

    hits: int
    true: int
    said: int
    precision: float
    recall: float
    f1: float  # 2 precision recall / (precision + recall), 0 where both are 0

    @classmethod
    def of(cls, counts: Sequence[KeywordCounts]) -> Keywords:
        """Of the counts of at least one clip."""
        total = KeywordCounts(*map(sum, zip(*counts, strict=True)))
        precision, recall = total.precision, total.recall
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        return cls(*total, precision, recall, f1)


@dataclass(frozen=True)
class Summary:
    """Sums and rates; `audiorl.evaluation.document` says what each of them is."""

    clips: int
    seconds: float
    unit: str
    wer: float
    interval: tuple[float, float] | None
    substitutions: int
    deletions: int
    insertions: int
    hits: int
    words: int
    cer: float | None
    empty: int
    empty_share: float
    looping: int
    looping_share: float
    silence: Silence | None
    keywords: Keywords | None
    decoding_seconds: float | None
    rtfx: float | None
    rtfx_includes: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
