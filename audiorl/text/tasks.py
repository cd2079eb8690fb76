"""What a model answers a clip with, text or a label, and how right answers are counted.

A family of models has a task (`SpeechFamily.task`). Whoever measures answers asks it instead of looking whether the
family has labels, so that trainers, cards and evaluations treat both kinds alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from audiorl.text.error_rates import Errors, count_errors, transcripts_digest

Normalise = str | Callable[[str], str]
Number = TypeVar("Number", bound=Any)  # a float, an array or a tensor

# What the rate of `Labels` is called on a model card.
WRONG_LABELS = "wrong labels"


class Task(ABC):
    """How the answers of a model are measured.

    Attributes:
        name: as in `EvaluationSettings.task`.
        labels: all that the model can say; empty for a model that writes text.
        metric: what an evaluation logs first, without its prefix.
        greater_is_better: whether a larger value of that metric is the better one.
    """

    name: str
    labels: Sequence[str] = ()
    metric: str
    greater_is_better: bool

    @property
    def writes_text(self) -> bool:
        """Whether answers are searched for token by token, instead of chosen from `labels`."""
        return not self.labels

    @abstractmethod
    def count(self, transcripts: Sequence[str], answers: Sequence[str], normalise: Normalise) -> Errors:
        """What is wrong with each of N answers, in the unit of the main rate.

        Args:
            transcripts: N true texts or labels.
            answers: N answers of a model.
            normalise: as in `count_errors`; labels are compared letter for letter.
        """

    def count_all(self, transcripts: Sequence[str], answers: Sequence[str], normalise: Normalise) -> dict[str, Errors]:
        """Every rate that a model card shows: name -> counts, the main one first."""
        return {self.shown: self.count(transcripts, answers, normalise)}

    @property
    @abstractmethod
    def shown(self) -> str:
        """Name of the main rate on a model card."""

    @abstractmethod
    def metrics(self, transcripts: Sequence[str], answers: Sequence[str], normalise: Normalise) -> dict[str, float]:
        """What an evaluation logs of N answers: name -> fraction."""

    @abstractmethod
    def parts(self, errors: Number, words: Number) -> tuple[Number, Number]:
        """Numerator and denominator of `metric`, given sums of errors and of words (clips, for labels)."""

    def evaluation(self, normalise: Normalise) -> dict[str, Any]:
        """Keywords of an `EvaluationSettings` that counts as this task does."""
        return {"normalise": normalise}


class Transcription(Task):
    """Answers are text: word and character error rates."""

    name = "transcription"
    metric, greater_is_better = "wer", False
    shown = "WER"

    def __repr__(self) -> str:
        return "Transcription()"

    def count(self, transcripts: Sequence[str], answers: Sequence[str], normalise: Normalise) -> Errors:
        return count_errors(transcripts, answers, unit="auto", normalise=normalise)

    def count_all(self, transcripts: Sequence[str], answers: Sequence[str], normalise: Normalise) -> dict[str, Errors]:
        """WER and CER; CER alone where a script without spaces makes characters the unit of both."""
        words = self.count(transcripts, answers, normalise)
        if words.unit == "character":
            return {"CER": words}
        return {"WER": words, "CER": count_errors(transcripts, answers, unit="character", normalise=normalise)}

    def metrics(self, transcripts: Sequence[str], answers: Sequence[str], normalise: Normalise) -> dict[str, float]:
        """`wer` and `cer`; both are the character error rate for scripts without spaces."""
        found = self.count_all(transcripts, answers, normalise)
        return {"wer": found.get("WER", found["CER"]).wer, "cer": found["CER"].wer}

    def parts(self, errors: Number, words: Number) -> tuple[Number, Number]:
        return errors, words


@dataclass(frozen=True)
class Labels(Task):
    """Answers are labels: the share of clips with the right one.

    Args:
        labels: all that the model can say.
    """

    labels: Sequence[str]

    name = "labels"
    metric, greater_is_better = "accuracy", True
    shown = WRONG_LABELS

    def count(self, transcripts: Sequence[str], answers: Sequence[str], normalise: Normalise) -> Errors:
        return whole_answers(transcripts, answers, "none")

    def metrics(self, transcripts: Sequence[str], answers: Sequence[str], normalise: Normalise) -> dict[str, float]:
        """`accuracy`, the share of answers that are the row's label."""
        return {"accuracy": 1 - self.count(transcripts, answers, normalise).wer}

    def parts(self, errors: Number, words: Number) -> tuple[Number, Number]:
        return words - errors, words

    def evaluation(self, normalise: Normalise) -> dict[str, Any]:
        return {"task": self.name, "labels": self.labels, "normalise": "none"}


TRANSCRIPTION = Transcription()


def whole_answers(true: Sequence[str], answers: Sequence[str | None], normaliser: str) -> Errors:
    """Answers that are right or wrong as a whole: one hit or one substitution for each.

    The error rate is 1 - accuracy, and can be resampled.

    Args:
        true: N labels.
        answers: N labels; None where an answer is no label at all.
        normaliser: name of what made both comparable.
    """
    right = np.array([one == other for one, other in zip(true, answers, strict=True)], dtype=bool)
    none = np.zeros(len(true), dtype=np.int64)
    return Errors(~right, none, none, right, "label", normaliser, transcripts_digest(true))
