"""What one model wrote for one data set: errors counted clip by clip, summed up, and compared with another model's.

Of each clip the texts, counts and place are kept, not the audio. A `Measurement` has the sums and rates of all clips,
or of those of one speaker, language or duration. `changes` compares two measurements of the same clips.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from audiorl.evaluation.settings import LABELS, LEVEL, TRANSCRIPTION, EvaluationSettings
from audiorl.evaluation.significance import Comparison, bootstrap_interval, check_same_utterances, paired_bootstrap
from audiorl.evaluation.transcription import Clip, FailedClip
from audiorl.notebook import html_table, percent
from audiorl.rewards.hallucination import ONE_CHARACTER_OVER_AND_OVER, Hallucination
from audiorl.rewards.labels import LabelMatch
from audiorl.text.error_rates import ErrorCounts, Errors, count_errors, text_pairs
from audiorl.text.keywords import EntityErrors, KeywordCounts, KeywordFinder, count_keywords, entity_errors
from audiorl.text.tasks import whole_answers

# Parts of a measurement, each with its name: a speaker, a language, a duration.
Parts = list[tuple[str, "Measurement"]]


# ---- answers of a label task ----


@dataclass(frozen=True)
class LabelAnswers:
    """True and predicted labels of N clips, spelt as in the data set or the aliases."""

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


# ---- what was counted ----


@dataclass(frozen=True)
class Silence:
    """What a model wrote for clips in which nothing is said."""

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
    entity_cer: float | None  # character error rate of the spoken keywords in their nearest windows; None: none spoken
    entity_hit_rate: float | None  # share of them that are right or nearly right

    @classmethod
    def of(cls, counts: Sequence[KeywordCounts], entities: Sequence[EntityErrors]) -> Keywords:
        """Of the counts of at least one clip."""
        total = KeywordCounts(*map(sum, zip(*counts, strict=True)))
        precision, recall = total.precision, total.recall
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        near = EntityErrors(*map(sum, zip(*entities, strict=True)))
        of_entities = (near.rate, near.hit_rate) if near.spoken else (None, None)
        return cls(*total, precision, recall, f1, *of_entities)


@dataclass(frozen=True)
class Timing:
    """How long decoding took, and what that includes."""

    seconds: float  # wall time
    includes: str


@dataclass(frozen=True, eq=False)
class Measurement:
    """What one model wrote for N clips of one data set, counted clip by clip and summed up.

    `audiorl.evaluation.document` says what each number is. Rates and shares are fractions.

    Attributes:
        rows: N clips with their texts, in the order of the data set, without rows that failed.
        errors: (N,) counts in words, characters or labels, for `paired_bootstrap` and `bootstrap_interval`.
        characters: (N,) counts in characters; None for labels.
        is_empty: (N,) bool, nothing is left of the normalised hypothesis.
        is_looping: (N,) bool, an n-gram comes back more often than in the transcript, or one character ten times in a
            row.
        is_silent: (N,) bool, nothing is left of the normalised transcript.
        keyword_counts: N counts; None for clips without keywords.
        entities: N, how near hypotheses come to the keywords spoken; None for clips without keywords.
        answers: what the hypotheses stand for; None in transcription.
        settings: how it was counted.
        timing: None for a part of the clips.
        model, dataset: their names, where known.
        left_out: clips of the data set outside the seconds that the user set.
        decoding: batch_size and the settings of the search that were in force.
        failed: rows that a served model did not answer, which are in none of the numbers.
    """

    rows: Sequence[Clip]
    errors: Errors
    characters: Errors | None
    is_empty: np.ndarray
    is_looping: np.ndarray
    is_silent: np.ndarray
    keyword_counts: Sequence[KeywordCounts | None]
    entities: Sequence[EntityErrors | None]
    answers: LabelAnswers | None
    settings: EvaluationSettings
    timing: Timing | None = None
    model: str = ""
    dataset: str = ""
    left_out: int = 0
    decoding: Mapping[str, Any] = field(default_factory=dict)
    failed: Sequence[FailedClip] = ()

    def __len__(self) -> int:
        return len(self.rows)

    # ---- rates ----

    @property
    def wer(self) -> float:
        """Corpus error rate in `unit`: for scripts without spaces the character error rate, for labels 1 - accuracy."""
        return self.errors.wer

    @property
    def cer(self) -> float | None:
        """Corpus character error rate; None for labels."""
        return None if self.characters is None else self.characters.wer

    @functools.cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of `wer`; None with fewer than two clips, or groups, to resample."""
        if not self.can_be_resampled:
            return None
        given = self.settings
        return bootstrap_interval(
            self.errors, level=LEVEL, resamples=given.resamples, seed=given.seed, groups=self.groups
        )

    @property
    def groups(self) -> list[Any] | None:
        """What the bootstrap draws; None for the clips themselves."""
        return None if self.settings.group_column is None else [clip.group for clip in self.rows]

    @property
    def can_be_resampled(self) -> bool:
        """Whether there are two clips, or two groups, at least."""
        return len(self.rows if self.groups is None else set(self.groups)) >= 2

    # ---- sums ----

    @property
    def clips(self) -> int:
        """N."""
        return len(self.rows)

    @property
    def places(self) -> list[int]:
        """The place of each clip's row in the data set; of a part its place among the clips."""
        failed = {clip.place for clip in self.failed}
        return [place for place in range(self.clips + len(failed)) if place not in failed]

    @property
    def seconds(self) -> float:
        """Of audio, summed over the clips."""
        return float(sum(clip.seconds for clip in self.rows))

    @property
    def seconds_of_audio(self) -> float:
        """The same as `seconds`."""
        return self.seconds

    @property
    def unit(self) -> str:
        """What `wer` counts: "word", "character", "mixed" or "label"."""
        return self.errors.unit

    @property
    def normaliser(self) -> str:
        """Name of the normaliser."""
        return self.errors.normaliser

    @property
    def hypotheses(self) -> list[str]:
        """The model's text of each clip, as decoded."""
        return [clip.hypothesis for clip in self.rows]

    @functools.cached_property
    def total(self) -> ErrorCounts:
        """Substitutions, deletions, insertions, hits and words, summed over the clips."""
        return self.errors.total

    @property
    def substitutions(self) -> int:
        return self.total.substitutions

    @property
    def deletions(self) -> int:
        return self.total.deletions

    @property
    def insertions(self) -> int:
        return self.total.insertions

    @property
    def hits(self) -> int:
        return self.total.hits

    @property
    def words(self) -> int:
        """Of all transcripts, in `unit`."""
        return self.total.words

    @property
    def empty(self) -> int:
        """How many clips have an empty hypothesis."""
        return int(self.is_empty.sum())

    @property
    def empty_share(self) -> float:
        return float(self.is_empty.mean())

    @property
    def looping(self) -> int:
        """How many clips have a hypothesis that repeats itself."""
        return int(self.is_looping.sum())

    @property
    def looping_share(self) -> float:
        return float(self.is_looping.mean())

    @property
    def silence(self) -> Silence | None:
        """What was said where nothing was spoken; None for labels, and without such clips."""
        if self.answers is not None or not self.is_silent.any():
            return None
        return Silence(
            clips=int(self.is_silent.sum()),
            with_output=int((self.is_silent & ~self.is_empty).sum()),
            words=int(self.errors.insertions[self.is_silent].sum()),
        )

    @property
    def keywords(self) -> Keywords | None:
        """Of the clips that have keywords; None where none has."""
        found = [counts for counts in self.keyword_counts if counts is not None]
        near = [errors for errors in self.entities if errors is not None]
        return Keywords.of(found, near) if found else None

    # ---- time ----

    @property
    def decoding_seconds(self) -> float | None:
        """Wall time of `timing`; None for a part of the clips."""
        return None if self.timing is None else self.timing.seconds

    @property
    def wall_seconds(self) -> float | None:
        """The same as `decoding_seconds`: for `evaluate_model` from the first clip opened to the last one decoded."""
        return self.decoding_seconds

    @property
    def rtfx(self) -> float | None:
        """Seconds of audio for each second of decoding."""
        return self.seconds / self.timing.seconds if self.timing is not None and self.timing.seconds > 0 else None

    @property
    def rtfx_includes(self) -> str | None:
        return None if self.timing is None else self.timing.includes

    # ---- parts, and other forms ----

    def part(self, places: Sequence[int]) -> Measurement:
        """The measurement of some of the clips, with their counts as they are."""
        return replace(
            self,
            rows=[self.rows[place] for place in places],
            errors=self.errors.part(places),
            characters=None if self.characters is None else self.characters.part(places),
            is_empty=self.is_empty[places],
            is_looping=self.is_looping[places],
            is_silent=self.is_silent[places],
            keyword_counts=[self.keyword_counts[place] for place in places],
            entities=[self.entities[place] for place in places],
            answers=None if self.answers is None else self.answers.part(places),
            timing=None,
            failed=(),
        )

    @functools.cached_property
    def breakdown(self) -> dict[str, Parts]:
        """See the function `breakdown`."""
        return breakdown(self)

    @property
    def measured(self) -> Measurement:
        """This measurement: the name that one model on one data set had beside its counts."""
        return self

    def summary(self) -> Measurement:
        """This measurement, which has all sums and rates itself."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """The main numbers as plain values for JSON; `audiorl.evaluation.document` has all of them, clip by clip."""
        plain = {name: getattr(self, name) for name in MAIN_NUMBERS}
        interval = None if self.interval is None else list(self.interval)
        return {**plain, "decoding": dict(self.decoding), "interval": interval, "errors": self.errors.to_dict()}

    def __repr__(self) -> str:
        name = f"{self.model!r} on {self.dataset!r}, " if self.model else ""
        return f"Measurement({name}wer={self.wer:.4f}, unit={self.unit!r}, clips={self.clips})"

    def _repr_html_(self) -> str:
        interval = None if self.interval is None else " to ".join(percent(end) for end in self.interval)
        counts = (self.substitutions, self.deletions, self.insertions, self.words, self.clips)
        return html_table(
            ["error rate", "95 % interval", "CER", "S", "D", "I", f"{self.unit}s", "clips", "empty", "looping"],
            [
                [
                    *(percent(self.wer), interval, percent(self.cer), *counts),
                    *(percent(self.empty_share), percent(self.looping_share)),
                ]
            ],
            f"{self.model} on {self.dataset}" if self.model else "",
        )

    def __str__(self) -> str:
        return format_result(self)


# What `Measurement.to_dict` holds besides the counts of each clip.
MAIN_NUMBERS = (
    *("wer", "cer", "interval", "substitutions", "deletions", "insertions", "words", "unit", "clips", "empty_share"),
    *("hypotheses", "seconds_of_audio", "wall_seconds", "normaliser", "looping_share"),
)
# The name that the measurement of `evaluate_model` had.
EvaluationResult = Measurement


def format_result(result: Measurement) -> str:
    """One line: rate, interval, counts.

    `WER 35.5 % (95 % interval 32.1 to 39.0), 412 S 120 D 98 I in 1772 words, 64 clips`
    """
    name = {"word": "WER", "label": "wrong"}.get(result.unit, "CER")
    if result.interval is None:
        interval = "no interval"
    else:
        low, high = (100 * end for end in result.interval)
        interval = f"95 % interval {low:.1f} to {high:.1f}"
    return (
        f"{name} {100 * result.wer:.1f} % ({interval}), "
        f"{result.substitutions} S {result.deletions} D {result.insertions} I "
        f"in {_many(result.words, result.unit)}, {_many(result.clips, 'clip')}"
    )


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def measure(clips: Iterable[Clip], settings: EvaluationSettings, timing: Timing | None = None) -> Measurement:
    """Count what is wrong with each hypothesis.

    Args:
        clips: N >= 1, with transcripts and hypotheses.
        settings: what is counted, and how.
        timing: of the decoding.

    Raises:
        ValueError: no clips; keywords that are no list of texts; one spelling for two labels.
    """
    clips = list(clips)
    if not clips:
        raise ValueError("An error rate needs clips; the data set has no rows. Check its path, split and filters.")
    function = settings.normaliser
    transcripts, hypotheses = [clip.transcript for clip in clips], [clip.hypothesis for clip in clips]
    accepted = [clip.accepted for clip in clips]
    label_answers = answers(transcripts, hypotheses, settings, accepted) if settings.task == LABELS else None
    if label_answers is None:
        errors = count_errors(transcripts, hypotheses, unit=settings.unit, normalise=function)
        characters = count_errors(transcripts, hypotheses, unit="character", normalise=function)
    else:
        errors, characters = label_answers.errors(function.name), None
    empty = np.array([not function(text).strip() for text in hypotheses])
    counted = _keyword_counts(clips, settings)
    return Measurement(
        rows=clips,
        errors=errors,
        characters=characters,
        is_empty=empty,
        is_looping=_loops(transcripts, hypotheses, settings) & ~empty,
        is_silent=np.array([not function(text).strip() for text in transcripts]),
        keyword_counts=[None if found is None else found[0] for found in counted],
        entities=[None if found is None else found[1] for found in counted],
        answers=label_answers,
        settings=settings,
        timing=timing,
    )


def _loops(transcripts: Sequence[str], hypotheses: Sequence[str], settings: EvaluationSettings) -> np.ndarray:
    """(N,) bool, whether a hypothesis loops."""
    detector = Hallucination(
        detect=("repetition", "patterns"), patterns=(ONE_CHARACTER_OVER_AND_OVER,), normalise=settings.normalise
    )
    return np.array([bool(penalty) for penalty in detector(hypotheses, transcripts)])


def _keyword_counts(
    clips: Sequence[Clip], settings: EvaluationSettings
) -> list[tuple[KeywordCounts, EntityErrors] | None]:
    lists = [clip.keywords if settings.keywords is None else settings.keywords for clip in clips]
    if not any(lists):
        return [None] * len(clips)
    find = KeywordFinder(settings.normaliser)
    pairs = text_pairs(
        [clip.hypothesis for clip in clips], [clip.transcript for clip in clips], settings.normaliser, "auto"
    )
    counted: list[tuple[KeywordCounts, EntityErrors] | None] = []
    for keywords, pair in zip(lists, pairs, strict=True):
        if keywords and pair is not None:
            index = find(keywords, pair.unit)
            counted.append((count_keywords(pair, index), entity_errors(pair, index)))
        else:
            counted.append(None)
    return counted


def breakdown(measured: Measurement) -> dict[str, Parts]:
    """The parts of a measurement by speaker, language and duration, each with its name; an empty list if no clip has
    such a value.

    Speakers and languages are in alphabetical order, durations from short to long. Clips without a speaker or language
    among others that have one are the part "unknown".
    """
    return {
        "speaker": _parts(measured, lambda clip: clip.speaker),
        "language": _parts(measured, lambda clip: clip.language, _recounted),
        "duration": _durations(measured),
    }


def duration_group(seconds: float, edges: Sequence[float]) -> int:
    """The number of edges that a clip reaches or exceeds."""
    return bisect_right(list(edges), seconds)


def duration_name(group: int, edges: Sequence[float]) -> str:
    """The name of a group of durations: "under 2 s", "2-5 s" (2 included, 5 not), "20 s and over"."""
    if group == 0:
        return f"under {edges[0]:g} s"
    if group == len(edges):
        return f"{edges[-1]:g} s and over"
    return f"{edges[group - 1]:g}-{edges[group]:g} s"


def _parts(
    measured: Measurement,
    name: Callable[[Clip], str | None],
    part: Callable[[Measurement, list[int]], Measurement] = Measurement.part,
) -> Parts:
    places: dict[str | None, list[int]] = {}
    for place, clip in enumerate(measured.rows):
        places.setdefault(name(clip), []).append(place)
    if set(places) == {None}:
        return []
    named = sorted((value, found) for value, found in places.items() if value is not None)
    nameless = [("unknown", places[None])] if None in places else []
    return [(value, part(measured, found)) for value, found in [*named, *nameless]]


def _recounted(measured: Measurement, places: list[int]) -> Measurement:
    """Count a part again, so that unit "auto" depends on the part's own script."""
    if measured.settings.task != TRANSCRIPTION or measured.settings.unit != "auto":
        return measured.part(places)
    return measure([measured.rows[place] for place in places], measured.settings)


def _durations(measured: Measurement) -> Parts:
    edges = measured.settings.duration_edges
    places: dict[int, list[int]] = {}
    for place, clip in enumerate(measured.rows):
        places.setdefault(duration_group(clip.seconds, edges), []).append(place)
    return [(duration_name(group, edges), measured.part(found)) for group, found in sorted(places.items())]


def changes(before: Measurement, after: Measurement) -> Comparison:
    """Compare two models clip by clip and by a paired bootstrap with the settings of `before`.

    Rows that failed for one of them are left out of both.

    Raises:
        ValueError: they were not measured on the same clips in the same way, or have no row in common.
    """
    shared: list[tuple[int, int]] = []
    if before.failed or after.failed:
        others = {row: place for place, row in enumerate(after.places)}
        shared = [(place, others[row]) for place, row in enumerate(before.places) if row in others]
        # counted anew, so that unit "auto" is that of the same transcripts
        before = measure([before.rows[one] for one, _ in shared], before.settings)
        after = measure([after.rows[other] for _, other in shared], after.settings)
    check_same_utterances(before.errors, after.errors)
    given, tested = before.settings, None
    if before.can_be_resampled:
        tested = paired_bootstrap(
            before.errors, after.errors, resamples=given.resamples, seed=given.seed, groups=before.groups
        )
    return Comparison(before.errors, after.errors, tested, [clip.id for clip in before.rows], shared)
