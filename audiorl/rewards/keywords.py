"""Rewards of keywords, that is names and terms; `audiorl.text.keywords` says what is counted."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from audiorl.rewards.base import RewardError, TextReward
from audiorl.text import hotwords
from audiorl.text.keywords import (
    KeywordFinder,
    KeywordIndex,
    checked_keywords,
    count_keywords,
    keyword_places,
    read_keywords,
)
from audiorl.text.pairs import TextPair

# the column that rewards read where no other is named
KEYWORDS = "keywords"


def _listed(keywords: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """A reward's own keywords, from a file or a list."""
    try:
        if isinstance(keywords, str | os.PathLike):
            return read_keywords(keywords)
        return checked_keywords(keywords, "the list")
    except ValueError as error:
        raise RewardError(str(error)) from error


class RowKeywords(KeywordFinder):
    """A `KeywordFinder` for rewards: a row's bad list is a `RewardError`."""

    def __call__(self, keywords: Sequence[str], unit: str) -> KeywordIndex:
        try:
            return super().__call__(keywords, unit)
        except ValueError as error:
            raise RewardError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class KeywordReward(TextReward):
    """A reward that looks at keywords.

    Args:
        keywords: a list for all rows, or the path of a text file with one keyword a line, read when built; None takes
            each row's own list from a column.
        column: that column's name. "hotwords" takes the words that models are told with the clip, as they may be
            written there: a list, or one string with commas.
        normalise, unit, name: see `TextReward`; keywords are normalised like the texts.

    A row without keywords (None or an empty list) or without a transcript gives None, whatever the hypothesis. No other
    column takes the place of one that is empty: hot words may be of what was not said, keywords of what no model is
    told.

    Raises:
        RewardError: when built, an unreadable or empty list, or a column beside a list; when called, a row whose
            keywords are no list of texts.
        ValueError: when called, a row whose hot words are no words, see `audiorl.text.hotwords.read_hotwords`.
    """

    keywords: str | os.PathLike[str] | Sequence[str] | None = None
    column: str = KEYWORDS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keywords is not None and self.column != KEYWORDS:
            raise RewardError(
                f"{self.__name__} takes keywords from one place, but got a list for all rows and column="
                f"{self.column!r}. Leave one of the two out."
            )
        if self.keywords is not None:
            object.__setattr__(self, "keywords", _listed(self.keywords))

    @property
    def needed_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("text", self.column) if self.keywords is None else ("text",)

    def __call__(self, completions: Sequence[Any], text: Sequence[str | None], **columns: Any) -> list[float | None]:
        """One value for each completion; None where the row has no transcript or no keywords."""
        if self.keywords is None and self.column not in columns:
            raise RewardError(
                f"{self.__name__} has no keywords: it was built without a list, and the rows have no column "
                f"{self.column!r}. Pass keywords=, a list or a file, or column=, another column, or add the column."
            )
        find = RowKeywords(self.normaliser)
        return [
            None if pair is None or not keywords else self.score(pair, find(keywords, pair.unit))
            for pair, keywords in zip(
                self.pairs(completions, text), self.keywords_of_rows(len(completions), columns), strict=True
            )
        ]

    def keywords_of_rows(self, rows: int, columns: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        """The keywords of each row: the reward's own list, else the column's, else None."""
        if self.keywords is not None:
            return [self.keywords] * rows
        own = columns.get(self.column, [None] * rows)
        return [hotwords.read_hotwords(value) for value in own] if self.column == hotwords.COLUMN else own

    @abstractmethod
    def score(self, pair: TextPair, index: KeywordIndex) -> float:
        """The reward of one hypothesis, given its row's keywords."""


@dataclass(frozen=True, kw_only=True)
class KeywordScore(KeywordReward):
    """F-beta of keyword precision and recall.

        reward = (1 + beta^2) precision recall / (beta^2 precision + recall), 0 where both are 0

    Args:
        beta: > 0; above 1 recall weighs more, below 1 precision.

    Range: [0, 1]. No keyword spoken: 1 where none is said, else 0. Empty hypothesis: 0 where a keyword was spoken.
    It is blind to all other words: the keywords alone score 1, so that it wants an error rate beside it.

    Source: van Rijsbergen 1979, Information Retrieval, chapter 7.

    Raises:
        ValueError: beta is not above 0 and finite.
    """

    beta: float = 1.0

    default_name: ClassVar[str] = "keywords"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < float("inf"):
            raise ValueError(
                f"{self.__name__} weighs recall beta times as much as precision, so beta is above 0; got {self.beta}. "
                "Use 1, or KeywordPrecision or KeywordRecall for one of them alone."
            )

    def score(self, pair: TextPair, index: KeywordIndex) -> float:
        counts = count_keywords(pair, index)
        weight = self.beta**2
        below = weight * counts.precision + counts.recall
        return (1 + weight) * counts.precision * counts.recall / below if below else 0.0


@dataclass(frozen=True, kw_only=True)
class KeywordPrecision(KeywordReward):
    """Share of the keywords said that were spoken.

        reward = hits / said, 1 where none is said

    Range: [0, 1]. Empty hypothesis: 1, so that alone it teaches to say no keyword.

    Source: as `KeywordScore`.
    """

    default_name: ClassVar[str] = "keyword_precision"

    def score(self, pair: TextPair, index: KeywordIndex) -> float:
        return count_keywords(pair, index).precision


@dataclass(frozen=True, kw_only=True)
class KeywordRecall(KeywordReward):
    """Share of the spoken keywords that are said. A trap on its own: stuffing keywords in costs nothing here.

        reward = hits / true, 1 where none was spoken

    Range: [0, 1]. Empty hypothesis: 0 where a keyword was spoken. Log it (weight 0) or put precision beside it.

    Source: as `KeywordScore`.
    """

    default_name: ClassVar[str] = "keyword_recall"

    def score(self, pair: TextPair, index: KeywordIndex) -> float:
        return count_keywords(pair, index).recall


@dataclass(frozen=True, kw_only=True)
class OneMinusKeywordWER(KeywordReward):
    """1 - WER in which an error on a keyword counts several times.

    With weight w(u) = `weight` for a unit inside a keyword and 1 for any other, over the shortest alignment

        cost   = sum of w over deleted and inserted units + sum of max(w(true), w(said)) over substituted ones
        reward = max(0, 1 - cost / max(sum of w over the transcript, 1))

    Args:
        weight: >= 1 and finite.

    Range: [0, 1]. Silence: 1 for an empty hypothesis, else 0. Empty hypothesis for speech: 0. Where several alignments
    are shortest, the cost is that of the one that jiwer's library takes.

    Source: ours; weighted word error rates go back to Nanjo and Kawahara 2005 (ICASSP), "A new ASR evaluation measure
    and minimum Bayes-risk decoding for open-domain speech understanding".

    Raises:
        ValueError: weight below 1 or not finite.
    """

    weight: float = 3.0

    default_name: ClassVar[str] = "one_minus_keyword_wer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.weight < float("inf"):
            raise ValueError(
                f"{self.__name__} counts an error on a keyword weight times, at least once; got weight={self.weight}. "
                "Use 3, or OneMinusWER for all words alike."
            )

    def score(self, pair: TextPair, index: KeywordIndex) -> float:
        true, said = self._weights(pair.transcript, index), self._weights(pair.hypothesis, index)
        cost = 0.0
        for tag, i, true_end, j, said_end in pair.opcodes():
            if tag == "replace":
                cost += sum(max(both) for both in zip(true[i:true_end], said[j:said_end], strict=True))
            elif tag != "equal":
                cost += sum(true[i:true_end]) + sum(said[j:said_end])
        return max(0.0, 1.0 - cost / max(sum(true), 1.0))

    def _weights(self, units: Sequence[str], index: KeywordIndex) -> list[float]:
        weights = [1.0] * len(units)
        for place, keyword in keyword_places(units, index):
            weights[place : place + len(keyword)] = [self.weight] * len(keyword)
        return weights
