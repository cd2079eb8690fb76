"""What one model said of one data set, counted clip by clip, and summed up for all clips or a part of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from audiorl.evaluation.clips import Clip
from audiorl.evaluation.labels import LabelAnswers, answers
from audiorl.evaluation.settings import LABELS, LEVEL, EvaluationSettings
from audiorl.evaluation.significance import bootstrap_interval
from audiorl.evaluation.summaries import Keywords, Silence, Summary
from audiorl.rewards.hallucination import ONE_CHARACTER_OVER_AND_OVER, Hallucination
from audiorl.text.error_rates import Errors, count_errors
from audiorl.text.keywords import KeywordCounts, KeywordFinder, count_keywords
from audiorl.text.pairs import text_pairs


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
            answers=None if self.answers is None else self.answers.part(places),
            timing=None,
        )

    def summary(self) -> Summary:
        """All sums and rates."""
        total, timing = self.errors.total, self.timing
        seconds = float(sum(clip.seconds for clip in self.clips))
        found = [counts for counts in self.keywords if counts is not None]
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
            keywords=Keywords.of(found) if found else None,
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
    return Measurement(
        clips=clips,
        errors=errors,
        characters=characters,
        empty=empty,
        looping=_loops(transcripts, hypotheses, settings) & ~empty,
        silent=np.array([not function(text).strip() for text in transcripts]),
        keywords=_keyword_counts(clips, settings),
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


def _keyword_counts(clips: Sequence[Clip], settings: EvaluationSettings) -> list[KeywordCounts | None]:
    lists = [clip.keywords if settings.keywords is None else settings.keywords for clip in clips]
    if not any(lists):
        return [None] * len(clips)
    find = KeywordFinder(settings.normaliser)
    pairs = text_pairs(
        [clip.hypothesis for clip in clips], [clip.transcript for clip in clips], settings.normaliser, "auto"
    )
    return [
        count_keywords(pair, find(keywords, pair.unit)) if keywords and pair is not None else None
        for keywords, pair in zip(lists, pairs, strict=True)
    ]
