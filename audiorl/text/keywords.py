"""Where keywords occur in a text, and how often: names and terms that matter more than other words.

A keyword is one or several words. It is normalised and split like the texts and matches whole units: "art" is not in
"start", except in scripts without spaces, where units are characters. With t(k) and h(k) the times that keyword k
occurs in transcript and hypothesis

    hits = sum over k of min(t(k), h(k)),  true = sum of t(k),  said = sum of h(k)
    precision = hits / said,  recall = hits / true

Counts are clipped, so that a keyword said more often than spoken lowers precision. Where nothing is said (or true)
precision (or recall) is 1: a keyword left out where there was none is right.

Entities are looked at more finely: a spoken keyword counts by its character error rate against the window of the
hypothesis that is most like it, see `entity_errors`.

A row's column `hotwords` holds names and terms that its clip may say: a list of strings, or one string with commas
(",", "，" or "、") between the words.
"""  # noqa: RUF002

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from audiorl.audio.sources import not_unicode, short_repr
from audiorl.text.error_rates import TextPair, split_units
from audiorl.text.normalizers import Normalizer

HOTWORDS_COLUMN = "hotwords"
COMMAS = re.compile("[,，、]")  # noqa: RUF001
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

    def __str__(self) -> str:
        return (
            f"{self.hits} of {self.true} keywords heard ({self.recall:.1%}); {self.said} said, {self.precision:.1%} of "
            "them true"
        )


def read_keywords(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Keywords from a UTF-8 text file, one a line; blank lines are left out.

    Raises:
        ValueError: no such file, or no keyword in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Keywords cannot be read from {os.fspath(path)!r}: {error}. Give a UTF-8 text file, one keyword a line, "
            "or a list."
        ) from error
    return checked_keywords([line.strip() for line in lines if line.strip()], f"the file {os.fspath(path)}")


def keyword_index(keywords: Sequence[str], function: Normalizer, unit: str) -> KeywordIndex:
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
    true = Counter(keyword for _, keyword in keyword_places(pair.transcript, index))
    said = Counter(keyword for _, keyword in keyword_places(pair.hypothesis, index))
    return KeywordCounts((true & said).total(), true.total(), said.total())


# A spoken keyword whose nearest window has at most this character error rate is a hit.
ENTITY_TOLERANCE = 0.15
# Units -> what is compared of them: their letters, or how they sound.
Spelling = Callable[[Sequence[str]], Sequence[str]]


class EntityErrors(NamedTuple):
    """How near a hypothesis comes to the keywords that were spoken."""

    errors: float  # sum over them of character error rate, 1 at most, times characters
    characters: int  # of the spoken keywords
    hits: int  # keywords within `ENTITY_TOLERANCE`
    spoken: int  # different keywords in the transcript
    excess: int  # characters of keywords said oftener than they were spoken

    @property
    def rate(self) -> float:
        """Character error rate of the spoken keywords, longer ones weighing more; 0 where none was spoken."""
        return self.errors / self.characters if self.characters else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of the spoken keywords that are right or nearly right; 1 where none was spoken."""
        return self.hits / self.spoken if self.spoken else 1.0


def as_letters(units: Sequence[str]) -> Sequence[str]:
    """Characters of some units, a space between words counting as one."""
    return split_units(" ".join(units), "character")


def entity_errors(pair: TextPair, index: KeywordIndex, spell: Spelling = as_letters) -> EntityErrors:
    """The character error rate of each spoken keyword against the window of the hypothesis that is most like it.

        rate(k) = min(1, min over windows w of edits(k, w) / characters(k))

    Windows have as many units as the keyword, one fewer or one more. Half a name right is worth half; that a name is
    said which was not spoken shows only in `excess`.

    Args:
        pair: transcript and hypothesis.
        index: the row's keywords; of these, what the transcript has counts, each once.
        spell: what is compared of units.

    Source: the medical recipe of tinker-cookbook, whose entities are annotated in the transcript; the tolerance of
    0.15 is its own. It normalises drug doses as well, which is left to the normaliser here.
    """
    true = Counter(keyword for _, keyword in keyword_places(pair.transcript, index))
    said = Counter(keyword for _, keyword in keyword_places(pair.hypothesis, index))
    errors, characters, hits = 0.0, 0, 0
    for keyword in true:
        wanted = spell(keyword)
        rate = 0.0 if said[keyword] else _window_rate(wanted, len(keyword), pair.hypothesis, spell)
        errors += rate * len(wanted)
        characters += len(wanted)
        hits += rate <= ENTITY_TOLERANCE
    excess = sum(count * len(spell(keyword)) for keyword, count in (said - true).items())
    return EntityErrors(errors, characters, hits, len(true), excess)


def _window_rate(wanted: Sequence[str], units: int, said: Sequence[str], spell: Spelling) -> float:
    """The smallest error rate of a window, 1 at most."""
    most = len(wanted)  # that many edits are as bad as nothing said
    for width in (units, units - 1, units + 1):
        for start in range(max(1, len(said) - width + 1) if width and said else 0):
            window = spell(said[start : start + width])
            most = min(most, Levenshtein.distance(wanted, window, score_cutoff=most))
    return most / max(len(wanted), 1)


class KeywordFinder:
    """Indices of the keyword lists of one batch: the same list of K hypotheses is normalised once."""

    def __init__(self, function: Normalizer):
        self._function = function
        self._known: dict[tuple[tuple[str, ...], str], KeywordIndex] = {}

    def __call__(self, keywords: Sequence[str], unit: str) -> KeywordIndex:
        if isinstance(keywords, str) or not isinstance(keywords, Sequence):
            checked_keywords(keywords, "a row")
        key = (tuple(keywords), unit)
        if key not in self._known:
            self._known[key] = keyword_index(checked_keywords(keywords, "a row"), self._function, unit)
        return self._known[key]


def checked_keywords(keywords: Any, source: str) -> tuple[str, ...]:
    """The keywords of a list.

    Raises:
        ValueError: it is no list of texts, or an empty one.
    """
    listed = not isinstance(keywords, str) and isinstance(keywords, Sequence)
    if not listed or not keywords or not all(isinstance(keyword, str) for keyword in keywords):
        raise ValueError(
            f"Keywords are a list of texts with at least one in it; {source} has {keywords!r:.80}. "
            "Write ['Nguyen', 'New York'], one text for each keyword."
        )
    return tuple(keywords)


# ---- a row's hot words ----


def read_hotwords(value: Any) -> list[str]:
    """The words in a row's `hotwords`, outer spaces stripped; none for None, an empty list or a blank string.

    What is blank between two commas of a string is no word.

    Raises:
        ValueError: neither a string nor a list of words.
    """
    if value is None:
        return []
    for text in [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []:
        if isinstance(text, str) and not_unicode(text):
            raise ValueError(f"hotwords has {short_repr(text)}, half of a surrogate pair. Write it as UTF-8 anew")
    if isinstance(value, str):
        return [word.strip() for word in COMMAS.split(value) if word.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(
            f"hotwords is {short_repr(value)} ({type(value).__name__}), not words. Give a list of strings, or one "
            "string with commas between the words"
        )
    for word in value:
        if not isinstance(word, str) or not word.strip():
            raise ValueError(
                f"hotwords has {short_repr(word)} ({type(word).__name__}) in its list, which is no word. Make every "
                "entry a string with something in it"
            )
    return [word.strip() for word in value]


def distinct_hotwords(values: Iterable[Any]) -> list[str]:
    """The hot words of many rows, each once, in the order in which they come."""
    return list(dict.fromkeys(word for value in values for word in read_hotwords(value)))


def changed_hotwords(
    words: Sequence[str],
    pool: Sequence[str],
    text: str | None,
    *,
    dropout: float,
    distractors: int,
    rng: np.random.Generator,
) -> list[str]:
    """A row's hot words with some left out, and some of other rows among them, in a shuffled order.

    Args:
        words: the row's own.
        pool: hot words of all rows.
        text: its transcript, whose words are no distractors; None where it has none.
        dropout: 0 to 1, how likely each word is left out.
        distractors: >= 0, how many are added; fewer where the pool has no more to offer.
        rng: of this row.

    Source: ours; that models parrot lists in which every word was spoken is reported of Qwen3-ASR.
    """
    kept = [word for word in words if rng.random() >= dropout]
    own = {word.casefold() for word in words}
    spoken = (text or "").casefold()
    if distractors and pool:
        drawn = dict.fromkeys(pool[i] for i in rng.integers(len(pool), size=8 * distractors + 16).tolist())
        others = (word for word in drawn if word.casefold() not in own and word.casefold() not in spoken)
        kept += [word for word, _ in zip(others, range(distractors), strict=False)]
    return [kept[i] for i in rng.permutation(len(kept)).tolist()]
