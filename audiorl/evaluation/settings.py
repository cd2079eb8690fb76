"""What is counted and how: one description for every model and data set of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from audiorl.text.error_rates import resolve_unit
from audiorl.text.normalizers import Normalizer, normalizer

# Of every interval; `paired_bootstrap` knows no other.
LEVEL = 0.95
TRANSCRIPTION, LABELS = "transcription", "labels"


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Which columns are read and how hypotheses are counted.

    Args:
        task: "transcription" counts words or characters; "labels" asks whether a hypothesis is the row's label.
        text_column: column of the transcript, "" where nothing was said; with "labels" of the label, as text, or of a
            list of answers to the row's question, any of which is right and the first of which stands for all.
        normalise: a name or function that `audiorl.text.normalizers.normalizer` takes.
        unit: see `audiorl.evaluation.count_errors`; not read with "labels".
        group_column: column whose values, usually speakers, the bootstrap draws; None draws clips.
        resamples: of the bootstrap, > 0.
        seed: of the bootstrap.
        keywords: texts for all clips; None takes each row's list from its column `keywords`, where it has one.
        duration_edges: seconds, rising, at which one group of durations ends and the next begins.
        speaker_column, language_column: columns of the breakdown, where rows have them.
        aliases: label -> other spellings that count as it.
        labels: those that a model may say besides the labels of the rows.
        label_similarity: above 0 to 1; below 1 the nearest label is taken where its spelling is so similar.

    Raises:
        ValueError: something is out of its range or unknown; aliases without labels.
    """

    task: str = TRANSCRIPTION
    text_column: str = "text"
    normalise: str | Callable[[str], str] = "basic"
    unit: str = "auto"
    group_column: str | None = None
    resamples: int = 10_000
    seed: int = 0
    keywords: Sequence[str] | None = None
    duration_edges: Sequence[float] = (2, 5, 10, 20)
    speaker_column: str = "speaker"
    language_column: str = "language"
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    labels: Sequence[str] = ()
    label_similarity: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "normalise", normalizer(self.normalise))
        resolve_unit(self.unit, ())
        if self.task not in (TRANSCRIPTION, LABELS):
            raise ValueError(
                f"An evaluation's task is {TRANSCRIPTION!r} or {LABELS!r}; got {self.task!r}. Use {LABELS!r} for "
                "models that answer with one of several labels."
            )
        if self.resamples < 1:
            raise ValueError(f"The bootstrap needs at least one resample; got resamples={self.resamples}. Try 10_000.")
        edges = list(self.duration_edges)
        if not edges or not all(math.isfinite(edge) and edge > 0 for edge in edges) or sorted(set(edges)) != edges:
            raise ValueError(
                f"duration_edges are seconds above 0, each larger than the one before; got {edges}. Try 2 5 10 20."
            )
        if self.task != LABELS and (self.aliases or self.labels or self.label_similarity != 1):
            raise ValueError(
                "aliases, labels and label_similarity belong to labels, but transcripts are compared. Say which column "
                "holds the labels (--label_column), or leave them out."
            )

    @property
    def normaliser(self) -> Normalizer:
        """What `normalise` stands for."""
        return normalizer(self.normalise)

    def to_dict(self) -> dict[str, Any]:
        """The settings as an evaluation document has them, see `audiorl.evaluation.document`."""
        return {
            "task": self.task,
            "text_column": self.text_column,
            "normaliser": self.normaliser.name,
            "unit": self.unit,
            "group_column": self.group_column,
            "level": LEVEL,
            "resamples": self.resamples,
            "seed": self.seed,
            "keywords": None if self.keywords is None else list(self.keywords),
            "duration_edges": list(self.duration_edges),
            "aliases": {label: list(spellings) for label, spellings in self.aliases.items()},
            "label_similarity": self.label_similarity,
        }
