"""What one model said of one data set: counted clip by clip, summed up for all clips or a part of them, compared.

A clip is kept as its texts, counts and place once its audio is gone. Summaries are made of all clips, and of those of a
speaker, a language or a duration. Changes hold two models against each other on the same clips.
"""

from __future__ import annotations

import difflib
import functools
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from audiorl.audio import channel_of
from audiorl.datasets.storage import text_problem, unkept_values
from audiorl.evaluation.labels import LabelAnswers, answers
from audiorl.evaluation.settings import LABELS, LEVEL, TRANSCRIPTION, EvaluationSettings
from audiorl.evaluation.significance import PairedResult, bootstrap_interval, check_same_utterances, paired_bootstrap
from audiorl.evaluation.transcription import Row, TranscribedRow, check_kept
from audiorl.rewards.hallucination import ONE_CHARACTER_OVER_AND_OVER, Hallucination
from audiorl.rewards.labels import accepted_answers, is_answer
from audiorl.text.error_rates import Errors, count_errors, tagged_transcript
from audiorl.text.keywords import EntityErrors, KeywordCounts, KeywordFinder, count_keywords, entity_errors
from audiorl.text.pairs import text_pairs


@dataclass(frozen=True)
class Clip:
    """What is kept of a row and its hypothesis once the audio is gone.

    Attributes:
        id: the row's `id` as text, or its place.
        where: its place for a person to find.
        audio: absolute path or address; None where the audio is no file of its own.
        channel: which of the file's channels was heard; None for the mean of all.
        transcript: as in the row; of label tasks the label, or the first of several right answers.
        hypothesis: as the model said it.
        seconds: of audio.
        speaker, language: as text, None where the row has none.
        group: what the bootstrap draws it with.
        keywords: of its row, where the settings have none for all.
        accepted: of label tasks everything that counts as the label in this row, the label first.
    """

    id: str
    where: str
    audio: str | None
    transcript: str
    hypothesis: str
    seconds: float
    speaker: str | None = None
    language: str | None = None
    group: Any = None
    keywords: Sequence[str] | None = None
    accepted: Sequence[str] = ()
    channel: int | None = None


def clip_of(found: TranscribedRow, place: int, settings: EvaluationSettings) -> Clip:
    """What is kept of a transcribed row.

    Args:
        found: whose row has the columns that `settings` names, see `row_problem`.
        place: its number from 0.
    """
    row = found.row
    speaker, language = row.get(settings.speaker_column), row.get(settings.language_column)
    written = row[settings.text_column]
    accepted = (accepted_answers(written, settings.text_column) or ("",)) if settings.task == LABELS else ()
    return Clip(
        id=str(row["id"]) if row.get("id") is not None else f"row {place}",
        where=str(row.get("where") or f"row {place}"),
        audio=audio_path(row.get("audio")),
        transcript=accepted[0] if accepted else tagged_transcript(written).text,
        hypothesis=found.hypothesis if accepted else tagged_transcript(found.hypothesis).text,
        seconds=found.seconds,
        speaker=None if speaker is None else str(speaker),
        language=None if language is None else str(language),
        group=None if settings.group_column is None else row[settings.group_column],
        keywords=row.get("keywords"),
        accepted=accepted,
        channel=row_channel(row),
    )


def row_problem(row: Row, settings: EvaluationSettings) -> tuple[str, str] | None:
    """What keeps a row from being measured, and what to do about it; None for nothing.

    A row needs a transcript as text, or a label as text or a list of answers, and a value of the group column; keywords
    are a list of texts.
    """
    if unkept_values(row):
        return None  # whoever judges the row says so
    needed = [settings.text_column, *([settings.group_column] if settings.group_column else [])]
    for column in needed:
        if row.get(column) is None:
            nearest = difflib.get_close_matches(column, [name for name in row if name != column], n=1)
            return (
                f"an evaluation needs column {column!r} in every row, and this has none (its columns: "
                f"{', '.join(map(str, row))})",
                (f"Did you mean {nearest[0]!r}? " if nearest else "")
                + "Pass the column's name as text_column or group_column.",
            )
    text = row[settings.text_column]
    if settings.task == LABELS and not is_answer(text):
        return (
            f"A label is a text, or a list of answers that are all right; this row has {text!r:.80} in column "
            f"{settings.text_column!r}",
            "Write the label's name instead of its number.",
        )
    if settings.task != LABELS and not isinstance(text, str):
        return (
            f"A transcript is a text; this row has {type(text).__name__} in column {settings.text_column!r}",
            "Use '' for silence.",
        )
    if settings.task != LABELS and (problem := text_problem(settings.text_column, text)):
        return problem
    keywords = None if settings.keywords is not None else row.get("keywords")
    if keywords is not None and (
        isinstance(keywords, str)
        or not isinstance(keywords, Sequence)
        or not all(isinstance(word, str) for word in keywords)
    ):
        return f"keywords are a list of texts; this row has {keywords!r:.80}", "Write ['Nguyen', 'New York'], or null."
    return None


def check_row(row: Row, place: str, settings: EvaluationSettings) -> None:
    """Refuse a row that cannot be measured, with a ValueError that names it."""
    check_kept(row, place, () if settings.task == LABELS else ("language", "task"))
    if problem := row_problem(row, settings):
        what, remedy = problem
        raise ValueError(f"{place}: {what}. {remedy}")


def row_channel(row: Row) -> int | None:
    """Which channel of its clip a row names; None for the mean of all."""
    channel = channel_of(row.get("channel"))
    return None if channel == "mix" else channel


def audio_path(entry: Any) -> str | None:
    """Where a stored audio entry's file is: absolute path or address, None for bytes inside the data set."""
    if not isinstance(entry, dict) or entry.get("bytes") is not None or not entry.get("path"):
        return None
    path = str(entry["path"])
    return path if "://" in path else os.path.abspath(path)


@dataclass(frozen=True)
class Silence:
    """What was said where nothing was spoken."""

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
class Summary:
    """Sums and rates; `audiorl.evaluation.document` says what each of them is."""

    clips: int
    seconds: float
    unit: str
    wer: float
    interval: tuple[float, float] | None
    substitutions: int
    deletions: int
    insertions: int
    hits: int
    words: int
    cer: float | None
    empty: int
    empty_share: float
    looping: int
    looping_share: float
    silence: Silence | None
    keywords: Keywords | None
    decoding_seconds: float | None
    rtfx: float | None
    rtfx_includes: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Timing:
    """How long decoding took, and what that includes."""

    seconds: float  # wall time
    includes: str


@dataclass(frozen=True, eq=False)
class Measurement:
    """N clips with their counts, in the order of the rows.

    Attributes:
        clips: N.
        errors: (N,) counts in words, characters or labels.
        characters: (N,) counts in characters; None for labels.
        empty: (N,) bool, nothing is left of the normalised hypothesis.
        looping: (N,) bool, an n-gram comes back more often than in the transcript, or one character ten times in a row.
        silent: (N,) bool, nothing is left of the normalised transcript.
        keywords: N counts; None for clips without keywords.
        entities: N, how near hypotheses come to the keywords spoken; None likewise.
        answers: what the hypotheses stand for; None in transcription.
        settings: how it was counted.
        timing: None for a part of the clips.
    """

    clips: Sequence[Clip]
    errors: Errors
    characters: Errors | None
    empty: np.ndarray
    looping: np.ndarray
    silent: np.ndarray
    keywords: Sequence[KeywordCounts | None]
    entities: Sequence[EntityErrors | None]
    answers: LabelAnswers | None
    settings: EvaluationSettings
    timing: Timing | None = None

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def groups(self) -> list[Any] | None:
        """What the bootstrap draws; None for the clips themselves."""
        return None if self.settings.group_column is None else [clip.group for clip in self.clips]

    @property
    def can_be_resampled(self) -> bool:
        """Whether there are two clips, or two groups, at least."""
        return len(self.clips if self.groups is None else set(self.groups)) >= 2

    @functools.cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of the error rate; None rather than an exception where there is nothing to resample:
        an hour of decoding is not thrown away for want of a second speaker."""
        if not self.can_be_resampled:
            return None
        given = self.settings
        return bootstrap_interval(
            self.errors, level=LEVEL, resamples=given.resamples, seed=given.seed, groups=self.groups
        )

    def part(self, places: Sequence[int]) -> Measurement:
        """The measurement of some of the clips, with their counts as they are."""
        return replace(
            self,
            clips=[self.clips[place] for place in places],
            errors=self.errors.part(places),
            characters=None if self.characters is None else self.characters.part(places),
            empty=self.empty[places],
            looping=self.looping[places],
            silent=self.silent[places],
            keywords=[self.keywords[place] for place in places],
            entities=[self.entities[place] for place in places],
            answers=None if self.answers is None else self.answers.part(places),
            timing=None,
        )

    def summary(self) -> Summary:
        """All sums and rates."""
        total, timing = self.errors.total, self.timing
        seconds = float(sum(clip.seconds for clip in self.clips))
        found = [counts for counts in self.keywords if counts is not None]
        near = [errors for errors in self.entities if errors is not None]
        return Summary(
            clips=len(self),
            seconds=seconds,
            unit=self.errors.unit,
            wer=self.errors.wer,
            interval=self.interval,
            substitutions=total.substitutions,
            deletions=total.deletions,
            insertions=total.insertions,
            hits=total.hits,
            words=total.words,
            cer=None if self.characters is None else self.characters.wer,
            empty=int(self.empty.sum()),
            empty_share=float(self.empty.mean()),
            looping=int(self.looping.sum()),
            looping_share=float(self.looping.mean()),
            silence=self._silence(),
            keywords=Keywords.of(found, near) if found else None,
            decoding_seconds=None if timing is None else timing.seconds,
            rtfx=seconds / timing.seconds if timing is not None and timing.seconds > 0 else None,
            rtfx_includes=None if timing is None else timing.includes,
        )

    def _silence(self) -> Silence | None:
        if self.answers is not None or not self.silent.any():
            return None
        return Silence(
            clips=int(self.silent.sum()),
            with_output=int((self.silent & ~self.empty).sum()),
            words=int(self.errors.insertions[self.silent].sum()),
        )


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
        clips=clips,
        errors=errors,
        characters=characters,
        empty=empty,
        looping=_loops(transcripts, hypotheses, settings) & ~empty,
        silent=np.array([not function(text).strip() for text in transcripts]),
        keywords=[None if found is None else found[0] for found in counted],
        entities=[None if found is None else found[1] for found in counted],
        answers=label_answers,
        settings=settings,
        timing=timing,
    )


def _loops(transcripts: Sequence[str], hypotheses: Sequence[str], settings: EvaluationSettings) -> np.ndarray:
    """(N,) bool; an empty hypothesis counts as a fault here, which is no loop."""
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


Parts = list[tuple[str, Summary]]


def breakdown(measured: Measurement) -> dict[str, Parts]:
    """Summaries of the parts, each with its name; an empty list where no clip has a speaker or language.

    Speakers and languages are in alphabetical order, durations from short to long. Clips without a speaker or language
    among others that have one are the part "unknown".
    """
    return {
        "speaker": _parts(measured, lambda clip: clip.speaker),
        "language": _parts(measured, lambda clip: clip.language, _recounted),
        "duration": _durations(measured),
    }


def duration_group(seconds: float, edges: Sequence[float]) -> int:
    """How many edges a clip has reached."""
    return bisect_right(list(edges), seconds)


def duration_name(group: int, edges: Sequence[float]) -> str:
    """What a group of durations is called: "under 2 s", "2-5 s" (2 included, 5 not), "20 s and over"."""
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
    for place, clip in enumerate(measured.clips):
        places.setdefault(name(clip), []).append(place)
    if set(places) == {None}:
        return []
    named = sorted((value, found) for value, found in places.items() if value is not None)
    nameless = [("unknown", places[None])] if None in places else []
    return [(value, part(measured, found).summary()) for value, found in [*named, *nameless]]


def _recounted(measured: Measurement, places: list[int]) -> Measurement:
    """Counted anew, so that unit "auto" is decided by the part's own script."""
    if measured.settings.task != TRANSCRIPTION or measured.settings.unit != "auto":
        return measured.part(places)
    return measure([measured.clips[place] for place in places], measured.settings)


def _durations(measured: Measurement) -> Parts:
    edges = measured.settings.duration_edges
    places: dict[int, list[int]] = {}
    for place, clip in enumerate(measured.clips):
        places.setdefault(duration_group(clip.seconds, edges), []).append(place)
    return [(duration_name(group, edges), measured.part(found).summary()) for group, found in sorted(places.items())]


@dataclass(frozen=True)
class Change:
    """One clip on which two models make different numbers of errors."""

    clip: int  # its place among the clips
    id: str
    errors_before: int
    errors_after: int


@dataclass(frozen=True)
class Changes:
    """From one model to another on the same clips.

    Attributes:
        difference: of the error rates, after - before; negative is better.
        paired: interval and p-value; None where there are not two clips, or groups, to resample.
        relative_gain: share of the errors that is gone; negative where there are more.
        better, worse: clips with fewer and with more errors, the largest change first, equal ones in their order.
        same: how many clips have as many.
    """

    difference: float
    paired: PairedResult | None
    relative_gain: float
    better: list[Change]
    worse: list[Change]
    same: int

    def to_dict(self) -> dict[str, Any]:
        """As in an evaluation document, but for which models and data set these are."""
        paired = self.paired
        return {
            "difference": self.difference,
            "interval": None if paired is None else [paired.low, paired.high],
            "p_value": None if paired is None else paired.p_value,
            "relative_gain": self.relative_gain,
            "better": [asdict(change) for change in self.better],
            "worse": [asdict(change) for change in self.worse],
            "same": self.same,
        }


def changes(before: Measurement, after: Measurement) -> Changes:
    """Compare two models clip by clip and by a paired bootstrap with the settings of `before`.

    Raises:
        ValueError: they were not measured on the same clips in the same way.
    """
    check_same_utterances(before.errors, after.errors)
    settings = before.settings
    paired = (
        paired_bootstrap(
            before.errors, after.errors, resamples=settings.resamples, seed=settings.seed, groups=before.groups
        )
        if before.can_be_resampled
        else None
    )
    pairs = zip(before.clips, before.errors.errors.tolist(), after.errors.errors.tolist(), strict=True)
    found = [Change(place, clip.id, one, other) for place, (clip, one, other) in enumerate(pairs)]
    # sorted() keeps the order of equal ones
    ordered = sorted(found, key=lambda change: -abs(change.errors_after - change.errors_before))
    old, new = before.errors.wer, after.errors.wer
    return Changes(
        difference=new - old,
        paired=paired,
        relative_gain=1 - new / old if old else 0.0,
        better=[change for change in ordered if change.errors_after < change.errors_before],
        worse=[change for change in ordered if change.errors_after > change.errors_before],
        same=sum(change.errors_after == change.errors_before for change in found),
    )
