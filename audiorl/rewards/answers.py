"""Rewards for free answers to questions about a clip: audio question answering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from audiorl.rewards.base import ShippedReward
from audiorl.text.normalizers import normalizer
from audiorl.text.pairs import completion_text, text_pairs


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
