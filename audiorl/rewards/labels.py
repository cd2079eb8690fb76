"""Rewards for labels (emotion, language, intent, sound events) and for free answers to questions about a clip."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rapidfuzz.distance import Levenshtein

from audiorl.rewards.base import ShippedReward
from audiorl.text.error_rates import completion_text, text_pairs
from audiorl.text.normalizers import Normalizer, normalizer


@dataclass(frozen=True, kw_only=True)
class LabelMatch(ShippedReward):
    """1 for the row's label or one of its aliases, part of it for a near miss if that is wanted, else 0.

        reward = 1                                  the completion is the label or an alias of it
               = 0                                  it is another label or an alias of another
               = s where s >= min_similarity        the nearest spelling of the label has normalised similarity s, and
                                                    no other known label has one as near
               = 0                                  else

    s = 1 - edits / length of the longer text, in characters.

    Args:
        labels: the other labels there are, against which a near miss is checked; those of `aliases` are known already.
        aliases: label -> other spellings that count as it.
        min_similarity: above 0 to 1; 1 takes exact matches only.
        column: of the rows, with the label as text.
        normalise: see `audiorl.text.normalizers.normalizer`; applied to labels and completions.
        name: see `ShippedReward`.

    Range: [0, 1]; {0, 1} for exact matches. Empty label: 1 for an empty hypothesis, else 0. Empty hypothesis: 0 for any
    other label. A row whose label is None gives None. More than the label ("happy happy", "happy, sad") is no match.

    Source: accuracy; the similarity is Levenshtein's.

    Raises:
        ValueError: when built, min_similarity out of range, or one spelling for two labels; when called, a label that
            is no text.
    """

    labels: Sequence[str] = ()
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    min_similarity: float = 1.0
    column: str = "label"
    normalise: str | Callable[[str], str] = "basic"

    default_name: ClassVar[str] = "label_match"

    def __post_init__(self) -> None:
        object.__setattr__(self, "normalise", normalizer(self.normalise))
        if not 0 < self.min_similarity <= 1:
            raise ValueError(
                f"{self.__name__} accepts answers of at least min_similarity, above 0 to 1; got "
                f"{self.min_similarity}. Use 1 for exact matches, 0.8 for spelling mistakes."
            )
        self._spellings()

    @property
    def needed_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """One value for each completion; None where the row has no label."""
        function, known = normalizer(self.normalise), self._spellings()
        rewards: list[float | None] = []
        for completion, label in zip(completions, columns[self.column], strict=True):
            if label is None:
                rewards.append(None)
                continue
            if not isinstance(label, str):
                raise ValueError(
                    f"{self.__name__} compares texts; the column {self.column!r} has {label!r}, a "
                    f"{type(label).__name__}. Write the label's name instead of its number."
                )
            rewards.append(self._score(function(completion_text(completion)), function(label), known))
        return rewards

    def label_of(self, completion: Any) -> str | None:
        """The known label, normalised, that a completion stands for by the rule of the reward; None where none.

        With min_similarity below 1 that is the label of the nearest spelling, if it is near enough and no other label
        has one as near.
        """
        said, known = normalizer(self.normalise)(completion_text(completion)), self._spellings()
        if said in known or self.min_similarity == 1:
            return known.get(said)
        nearest = max((_similarity(said, spelling) for spelling in known), default=0.0)
        found = {label for spelling, label in known.items() if _similarity(said, spelling) == nearest}
        return found.pop() if nearest >= self.min_similarity and len(found) == 1 else None

    def _score(self, said: str, label: str, known: Mapping[str, str]) -> float:
        if said == label or (said in known and known[said] == label):
            return 1.0
        if said in known or self.min_similarity == 1:
            return 0.0
        own = max(_similarity(said, spelling) for spelling in (label, *(s for s, of in known.items() if of == label)))
        others = max((_similarity(said, spelling) for spelling, of in known.items() if of != label), default=0.0)
        return own if own >= self.min_similarity and own > others else 0.0

    def _spellings(self) -> dict[str, str]:
        """Every normalised spelling with the normalised label that it stands for."""
        function: Normalizer = normalizer(self.normalise)
        pairs = [(label, label) for label in (*self.labels, *self.aliases)]
        pairs += [(alias, label) for label, aliases in self.aliases.items() for alias in aliases]
        known: dict[str, str] = {}
        for spelling, label in ((function(spelling), function(label)) for spelling, label in pairs):
            if known.setdefault(spelling, label) != label:
                raise ValueError(
                    f"{self.__name__} got the spelling {spelling!r} for two labels, {known[spelling]!r} and {label!r}. "
                    "Leave it out of one of them."
                )
        return known


@dataclass(frozen=True, kw_only=True)
class LabelSetMatch(ShippedReward):
    """How well the labels of a completion are those of a clip that has several, as AudioSet's `all_labels`.

        hits = |said & true|,  precision = hits / |said|,  recall = hits / |true|
        reward = (1 + beta^2) precision recall / (beta^2 precision + recall),  0 without hits

    Args:
        beta: >= 0, what recall weighs against precision. 0 is precision alone: 1 for a classifier's one label if the
            clip has it, else 0. A model that lists labels wants 1, or the surest label alone would be its best answer.
        separator: what stands between the labels of a completion, ", " for example; None takes the whole completion
            for one label, as labels may contain commas themselves.
        column: of the rows, with lists of labels.
        normalise: see `audiorl.text.normalizers.normalizer`; applied to each label.
        name: see `ShippedReward`.

    Range: [0, 1]. A label said twice counts once. A row without labels (an empty list): 1 for an empty completion, else
    0. A row whose list is None gives None.

    Source: the F measure, van Rijsbergen 1979, over sets of labels.

    Raises:
        ValueError: when built, beta below 0 or an empty separator; when called, a row whose labels are no list of
            texts.
    """

    beta: float = 0.0
    separator: str | None = None
    column: str = "all_labels"
    normalise: str | Callable[[str], str] = "basic"

    default_name: ClassVar[str] = "label_set_match"

    def __post_init__(self) -> None:
        object.__setattr__(self, "normalise", normalizer(self.normalise))
        if not 0 <= self.beta < math.inf:
            raise ValueError(
                f"{self.__name__} weighs recall by beta, 0 or more; got {self.beta}. Use 0 for precision alone, 1 for "
                "both alike."
            )
        if self.separator == "":
            raise ValueError(f"{self.__name__} got an empty separator. Use ', ', or None for one label an answer.")

    @property
    def needed_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """One value for each completion; None where the row has no list."""
        rewards: list[float | None] = []
        for completion, labels in zip(completions, columns[self.column], strict=True):
            said = completion_text(completion)
            written = [said] if self.separator is None else said.split(self.separator)
            rewards.append(
                None if labels is None else self._score(self._set(written), self._set(self._checked(labels)))
            )
        return rewards

    def _checked(self, labels: Any) -> Sequence[str]:
        listed = isinstance(labels, Sequence) and not isinstance(labels, str)
        if not listed or not all(isinstance(label, str) for label in labels):
            raise ValueError(
                f"{self.__name__} compares sets of labels; the column {self.column!r} has {labels!r:.80}. Give a list "
                "of names, with one name for a clip of one label."
            )
        return labels

    def _set(self, labels: Sequence[str]) -> set[str]:
        function = normalizer(self.normalise)
        return {label for label in map(function, labels) if label}

    def _score(self, said: set[str], true: set[str]) -> float:
        if not said or not true:
            return float(said == true)
        hits, weight = len(said & true), self.beta**2
        if not hits:
            return 0.0
        precision, recall = hits / len(said), hits / len(true)
        return (1 + weight) * precision * recall / (weight * precision + recall)


def _similarity(one: str, other: str) -> float:
    return Levenshtein.normalized_similarity(one, other)


def accepted_answers(found: Any, column: str) -> Sequence[str]:
    """The accepted answers in a row's column: a text is one, a list has several or, for questions without any, none.

    Raises:
        ValueError: something else.
    """
    if not is_answer(found):
        raise ValueError(
            f"accepted answers are a text or a list of texts; the column {column!r} has {found!r:.80}. Write "
            '"two", or ["two", "2"] where several answers are right.'
        )
    return (found,) if isinstance(found, str) else found


def is_answer(found: Any) -> bool:
    """Whether that is a text or a list of texts."""
    return isinstance(found, str) or (isinstance(found, Sequence) and all(isinstance(text, str) for text in found))


@dataclass(frozen=True, kw_only=True)
class AnswerMatch(ShippedReward):
    """How right an answer is, beside the one of the accepted answers that is nearest to it.

        reward = max over accepted answers a of  [said = a]                           the whole answer, or
                                                 2 hits / (|said| + |a|)              its words, with partial=True
        hits   = words (characters in scripts without spaces) that both have, each as often as both have it

    Args:
        partial: whether a part of an answer is worth something; without it only a whole one counts, once both are
            normalised.
        column: of the rows, with a text, or with a list where several answers are right ("two", "2").
        normalise: see `audiorl.text.normalizers.normalizer`; applied to answers and completions.
        name: see `ShippedReward`.

    Range: [0, 1]; {0, 1} without partial. A question without an answer (an empty list, ""): 1 for an empty completion,
    else 0. Empty completion: 0 for any other question. A row whose column is None gives None. A right answer within a
    sentence ("it is a dog") is no whole one. Partial rewards do not see the order of words, and answers of few words
    earn something by a frequent word; hedging ("yes no") earns less than the answer alone.

    Source: exact match and F1 of Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1. Articles count here: taking "a"
    away, as there, would leave nothing of the answer "A" of a multiple choice.

    Raises:
        ValueError: when called, a row whose answers are no texts.
    """

    partial: bool = False
    column: str = "answers"
    normalise: str | Callable[[str], str] = "basic"

    default_name: ClassVar[str] = "answer_match"

    def __post_init__(self) -> None:
        object.__setattr__(self, "normalise", normalizer(self.normalise))

    @property
    def needed_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """One value for each completion; None where the row has no answers."""
        return [
            None if found is None else self._score(completion_text(completion), self._answers(found))
            for completion, found in zip(completions, columns[self.column], strict=True)
        ]

    def _answers(self, found: Any) -> Sequence[str]:
        try:
            return accepted_answers(found, self.column) or ("",)
        except ValueError as error:
            raise ValueError(f"{self.__name__}: {error}") from error

    def _score(self, said: str, answers: Sequence[str]) -> float:
        function = normalizer(self.normalise)
        if not self.partial:
            return float(function(said) in map(function, answers))
        pairs = text_pairs([said] * len(answers), answers, function, "auto")
        return max(_overlap(pair.hypothesis, pair.transcript) for pair in pairs if pair is not None)


def _overlap(said: Sequence[str], true: Sequence[str]) -> float:
    if not said or not true:
        return float(said == true)
    return 2 * (Counter(said) & Counter(true)).total() / (len(said) + len(true))
