"""Rewards of keywords, that is names and terms; `audiorl.text.keywords` says what is counted."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from audiorl.rewards.base import RewardError, TextReward
from audiorl.text import phonemes
from audiorl.text.error_rates import TextPair
from audiorl.text.keywords import (
    HOTWORDS_COLUMN,
    KeywordFinder,
    KeywordIndex,
    Spelling,
    as_letters,
    checked_keywords,
    count_keywords,
    entity_errors,
    keyword_places,
    read_hotwords,
    read_keywords,
)

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
        ValueError: when called, a row whose hot words are no words, see `audiorl.text.keywords.read_hotwords`.
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
        return [None if row is None else self.score(*row) for row in self.judged_rows(completions, text, columns)]

    def judged_rows(
        self, completions: Sequence[Any], text: Sequence[str | None], columns: Mapping[str, Sequence[Any]]
    ) -> list[tuple[TextPair, KeywordIndex] | None]:
        """Each hypothesis beside its transcript and the row's keywords; None where the reward abstains."""
        if self.keywords is None and self.column not in columns:
            raise RewardError(
                f"{self.__name__} has no keywords: it was built without a list, and the rows have no column "
                f"{self.column!r}. Pass keywords=, a list or a file, or column=, another column, or add the column."
            )
        find = RowKeywords(self.normaliser)
        return [
            None if pair is None or not keywords else (pair, find(keywords, pair.unit))
            for pair, keywords in zip(
                self.pairs(completions, text), self.keywords_of_rows(len(completions), columns), strict=True
            )
        ]

    def keywords_of_rows(self, rows: int, columns: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        """The keywords of each row: the reward's own list, else the column's, else None."""
        if self.keywords is not None:
            return [self.keywords] * rows
        own = columns.get(self.column, [None] * rows)
        return [read_hotwords(value) for value in own] if self.column == HOTWORDS_COLUMN else own

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


@dataclass(frozen=True, kw_only=True)
class ContextKeywords(KeywordReward):
    """Half a point for each keyword right, half a point off for each one missed or made up.

        reward = each * (hits - missed - made up)
        hits = sum over k of min(t(k), h(k)),  missed = true - hits,  made up = said - hits

    with t(k) and h(k) the times that keyword k is in transcript and hypothesis. It is a sum: clips with many keywords
    weigh more, which is what makes models listen for the words they are given, and not parrot them.

    Args:
        each: > 0, what one keyword is worth.

    Range: -each times (keywords spoken + said) to each times keywords spoken. No keyword spoken: 0 where none is said.
    Empty hypothesis: -each for each keyword spoken. It is blind to all other words.

    Source: NIM4-ASR, Xie et al. 2026, arXiv:2604.18105, has a context reward of +-0.5 a keyword; the passage could not
    be looked up, and counting as above is **our interpretation**.

    Raises:
        ValueError: each is not above 0 and finite.
    """

    each: float = 0.5

    default_name: ClassVar[str] = "context_keywords"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.each < float("inf"):
            raise ValueError(
                f"{self.__name__} adds `each` for every keyword, above 0 and finite; got each={self.each}. Use 0.5, "
                "or a reward weight for the whole."
            )

    def score(self, pair: TextPair, index: KeywordIndex) -> float:
        counts = count_keywords(pair, index)
        return self.each * (3 * counts.hits - counts.true - counts.said)


@dataclass(frozen=True, kw_only=True)
class EntityScore(KeywordReward):
    """How near the keywords that were spoken are to what is said, letter by letter.

        reward = max(0, 1 - (sum of rate(k) * len(k) + len of keywords said too often) / sum of len(k))

    with rate(k) the character error rate of a spoken keyword against the window of the hypothesis that is most like it
    (`audiorl.text.keywords.entity_errors`). Half a name right earns half, so that groups in which nobody has the whole
    name still learn; a keyword said oftener than it was spoken costs its length.

    Args:
        phonetic: compare how words sound instead of their letters, by espeak-ng's phonemes in the row's `language`
            (English where it names none); it needs `pip install "audiorl[demo]"`.

    Range: [0, 1]. No keyword spoken: 1 where none is said, else 0. Empty hypothesis: 0 where a keyword was spoken. It
    is blind to all other words, and to stuffed words that are nearly a keyword: put an error rate beside it.

    Source: the medical recipe of tinker-cookbook, whose metric it is; that stuffed keywords cost is ours.

    Raises:
        RewardError: phonetic, and espeak-ng is not installed (when a run is set up), or has no voice of a row's
            language.
    """

    phonetic: bool = False

    default_name: ClassVar[str] = "entities"

    def check_ready(self) -> None:
        """Refuse a run whose phonemes cannot be made, before anything is spent."""
        if self.phonetic:
            try:
                phonemes.espeak_paths()
            except ImportError as error:
                raise RewardError(f"{self.__name__}: {error}") from error

    def __call__(
        self,
        completions: Sequence[Any],
        text: Sequence[str | None],
        language: Sequence[str | None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One value for each completion; None where the row has no transcript or no keywords."""
        rows = self.judged_rows(completions, text, columns)
        if not self.phonetic:
            return [None if row is None else self.score(*row) for row in rows]
        self.check_ready()
        spoken = [None] * len(rows) if language is None else language
        words: dict[str | None, dict[str, None]] = {}
        for row, code in zip(rows, spoken, strict=True):
            if row is not None:
                pair, index = row
                listed = [unit for keywords in index.values() for keyword in keywords for unit in keyword]
                words.setdefault(code, {}).update(dict.fromkeys([*pair.transcript, *pair.hypothesis, *listed]))
        try:
            sounds = {code: phonemes.phonemes_of(list(found), code) for code, found in words.items()}
        except ValueError as error:
            raise RewardError(f"{self.__name__}: {error}") from error
        return [
            None if row is None else _entity_score(*row, partial(_as_phonemes, sounds[code]))
            for row, code in zip(rows, spoken, strict=True)
        ]

    def score(self, pair: TextPair, index: KeywordIndex) -> float:
        return _entity_score(pair, index, as_letters)


def _entity_score(pair: TextPair, index: KeywordIndex, spell: Spelling) -> float:
    found = entity_errors(pair, index, spell)
    if not found.characters:
        return float(found.excess == 0)
    return max(0.0, 1.0 - (found.errors + found.excess) / found.characters)


def _as_phonemes(sounds: Mapping[str, str], units: Sequence[str]) -> str:
    return "".join(sounds[unit] for unit in units)
