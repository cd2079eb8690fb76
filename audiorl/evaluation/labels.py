"""Answers of a label task: which label each hypothesis stands for, accuracy, and what is taken for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from audiorl.evaluation.settings import EvaluationSettings
from audiorl.rewards.labels import LabelMatch
from audiorl.text.error_rates import Errors
from audiorl.text.tasks import whole_answers


@dataclass(frozen=True)
class LabelAnswers:
    """True and predicted label of N clips, by the name that the data set or the aliases give them."""

    true: list[str]
    predicted: list[str | None]  # None where a hypothesis is no known label

    def part(self, places: Sequence[int]) -> LabelAnswers:
        """Those of some of the clips."""
        return LabelAnswers([self.true[place] for place in places], [self.predicted[place] for place in places])

    @property
    def right(self) -> np.ndarray:
        """(N,) bool."""
        return np.array([true == predicted for true, predicted in zip(self.true, self.predicted, strict=True)])

    def errors(self, normaliser: str) -> Errors:
        """One substitution or one hit for each clip, so that the error rate is 1 - accuracy and can be resampled."""
        return whole_answers(self.true, self.predicted, normaliser)

    def to_dict(self) -> dict[str, Any]:
        """Accuracy overall and by label, and the counts of each pair of true and predicted label that occurs."""
        clips, right = Counter(self.true), Counter(np.array(self.true, dtype=object)[self.right].tolist())
        pairs = Counter(zip(self.true, self.predicted, strict=True))
        ordered = sorted(pairs.items(), key=lambda pair: (pair[0][0], -pair[1], pair[0][1] or ""))
        return {
            "accuracy": sum(right.values()) / len(self.true),
            "per_label": [
                {"label": label, "clips": count, "right": right[label], "accuracy": right[label] / count}
                for label, count in sorted(clips.items())
            ],
            "confusion": [
                {"label": label, "predicted": predicted, "clips": count} for (label, predicted), count in ordered
            ],
        }


def answers(
    labels: Sequence[str],
    hypotheses: Sequence[str],
    settings: EvaluationSettings,
    accepted: Sequence[Sequence[str]] | None = None,
) -> LabelAnswers:
    """Find the label of each row and of each hypothesis, by `audiorl.rewards.labels.LabelMatch`.

    A hypothesis that is one of its row's accepted answers, once normalised, stands for the row's label, as in
    `audiorl.rewards.labels.AnswerMatch`.

    Args:
        labels: N labels of the rows, or aliases of them; together with those of the settings and of the aliases they
            are all there are.
        hypotheses: N texts of a model.
        settings: normaliser, further labels, aliases and similarity.
        accepted: N lists of what counts as the label in that row alone; None for none.

    Raises:
        ValueError: one spelling for two labels.
    """
    function = settings.normaliser
    aliases = {function(alias) for spellings in settings.aliases.values() for alias in spellings}
    own = [label for label in dict.fromkeys([*labels, *settings.labels]) if function(label) not in aliases]
    names: dict[str, str] = {}
    for label in (*settings.aliases, *own):
        names.setdefault(function(label), label)
    match = LabelMatch(
        labels=own, aliases=settings.aliases, min_similarity=settings.label_similarity, normalise=function
    )
    true = [match.label_of(label) for label in labels]
    predicted = [
        label if function(said) in map(function, others) else match.label_of(said)
        for label, said, others in zip(true, hypotheses, accepted or [()] * len(labels), strict=True)
    ]
    return LabelAnswers(
        [names[label] for label in true if label is not None],
        [None if label is None else names[label] for label in predicted],
    )
