"""Keywords: names and terms that matter more than other words.

A keyword is one or several words. It is normalised and split like the texts and matches whole units: "art" is not in
"start", except in scripts without spaces, where units are characters. With t(k) and h(k) the times that keyword k
occurs in transcript and hypothesis

    hits = sum over k of min(t(k), h(k)),  true = sum of t(k),  said = sum of h(k)
    precision = hits / said,  recall = hits / true

Counts are clipped, so that a keyword said more often than spoken lowers precision. Where nothing is said (or true)
precision (or recall) is 1: a keyword left out where there was none is right.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from audiorl.evaluation.error_rates import split_units
from audiorl.normalisers import Normaliser
from audiorl.rewards.errors import RewardError
from audiorl.rewards.texts import TextPair, TextReward

# first unit -> keywords that begin with it, as tuples of units
KeywordIndex = Mapping[str, Sequence[tuple[str, ...]]]


class KeywordCounts(NamedTuple):
    """How often keywords occur."""

    hits: int  # in both, clipped
    true: int  # in the transcript
    said: int  # in the hypothesis

    @property
    def precision(self) -> float:
        return self.hits / self.said if self.said else 1.0

    @property
    def recall(self) -> float:
        return self.hits / self.true if self.true else 1.0


def read_keywords(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Keywords from a UTF-8 text file, one a line; blank lines are left out.

    Raises:
        RewardError: no such file, or no keyword in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RewardError(
            f"Keywords cannot be read from {os.fspath(path)!r}: {error}. Give a UTF-8 text file, one keyword a line, "
            "or a list."
        ) from error
    return _checked([line.strip() for line in lines if line.strip()], f"the file {os.fspath(path)}")


def keyword_index(keywords: Sequence[str], function: Normaliser, unit: str) -> KeywordIndex:
    """Normalised keywords by their first unit; those of which nothing is left do not occur."""
    index: dict[str, list[tuple[str, ...]]] = {}
    for units in dict.fromkeys(tuple(split_units(function(keyword), unit)) for keyword in keywords):
        if units:
            index.setdefault(units[0], []).append(units)
    return index


def keyword_places(units: Sequence[str], index: KeywordIndex) -> list[tuple[int, tuple[str, ...]]]:
    """Every place where a keyword begins; one keyword may lie within another, and each counts."""
    return [
        (place, keyword)
        for place, unit in enumerate(units)
        if unit in index
        for keyword in index[unit]
        if len(keyword) == 1 or tuple(units[place : place + len(keyword)]) == keyword
    ]


def count_keywords(pair: TextPair, index: KeywordIndex) -> KeywordCounts:
    """Hits, true and said occurrences in one pair."""
    true = [keyword for _, keyword in keyword_places(pair.transcript, index)]
    said = [keyword for _, keyword in keyword_places(pair.hypothesis, index)]
    hits = sum(min(true.count(keyword), said.count(keyword)) for keyword in set(true))
    return KeywordCounts(hits, len(true), len(said))


@dataclass(frozen=True, kw_only=True)
class KeywordReward(TextReward):
    """A reward that looks at keywords.

    Args:
        keywords: a list for all rows, or the path of a text file with one keyword a line, read when built; None takes
            each row's own list from its column `keywords`.
        normalise, unit, name: see `TextReward`; keywords are normalised like the texts.

    A row without keywords (None or an empty list) or without a transcript gives None, whatever the hypothesis.

    Raises:
        RewardError: when built, an unreadable or empty list; when called, a row whose keywords are no list of texts.
    """

    keywords: str | os.PathLike[str] | Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.keywords, str | os.PathLike):
            object.__setattr__(self, "keywords", read_keywords(self.keywords))
        elif self.keywords is not None:
            object.__setattr__(self, "keywords", _checked(self.keywords, "the list"))

    @property
    def needed_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("text", "keywords") if self.keywords is None else ("text",)

    def __call__(self, completions: Sequence[Any], text: Sequence[str | None], **columns: Any) -> list[float | None]:
        """One value for each completion; None where the row has no transcript or no keywords."""
        if self.keywords is None and "keywords" not in columns:
            raise RewardError(
                f"{self.__name__} has no keywords: it was built without a list, and the rows have no column 'keywords'."
                " Pass keywords=, a list or a file, or add the column."
            )
        rows = self.keywords_of_rows(len(completions), columns.get("keywords"))
        find = KeywordFinder(self.normaliser)
        return [
            None if pair is None or not keywords else self.score(pair, find(keywords, pair.unit))
            for pair, keywords in zip(self.pairs(completions, text), rows, strict=True)
        ]

    def keywords_of_rows(self, rows: int, column: Sequence[Any] | None) -> Sequence[Any]:
        """The keywords of each row: the reward's own list, else the column's, else None."""
        if self.keywords is not None:
            return [self.keywords] * rows
        return [None] * rows if column is None else column

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


class KeywordFinder:
    """Indices of the keyword lists of one batch: the same list of K hypotheses is normalised once."""

    def __init__(self, function: Normaliser):
        self._function = function
        self._known: dict[tuple[tuple[str, ...], str], KeywordIndex] = {}

    def __call__(self, keywords: Sequence[str], unit: str) -> KeywordIndex:
        if isinstance(keywords, str) or not isinstance(keywords, Sequence):
            _checked(keywords, "a row")
        key = (tuple(keywords), unit)
        if key not in self._known:
            self._known[key] = keyword_index(_checked(keywords, "a row"), self._function, unit)
        return self._known[key]


def _checked(keywords: Any, source: str) -> tuple[str, ...]:
    """The keywords of a list.

    Raises:
        RewardError: it is no list of texts, or an empty one.
    """
    listed = not isinstance(keywords, str) and isinstance(keywords, Sequence)
    if not listed or not keywords or not all(isinstance(keyword, str) for keyword in keywords):
        raise RewardError(
            f"Keywords are a list of texts with at least one in it; {source} has {keywords!r:.80}. "
            "Write ['Nguyen', 'New York'], one text for each keyword."
        )
    return tuple(keywords)
