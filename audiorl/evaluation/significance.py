"""How certain an error rate is, and whether two of them differ: the bootstrap over utterances or speakers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from audiorl.notebook import SHOWN_ROWS, html_table, percent
from audiorl.text.error_rates import Errors, count_errors

Verdict = Literal["better", "worse", "cannot tell"]
# What the error rate in a unit is called, where it is not WER
_NAMES = {"character": "CER"}
# Resampled places held at once; bounds memory at some tens of MB whatever the number of utterances.
_PLACES_AT_ONCE = 2_000_000


class PairedResult(NamedTuple):
    """The change of the corpus error rate from one system to another on the same utterances."""

    difference: float  # after - before, a fraction: negative where `after` makes fewer errors
    low: float  # lower end of the 95 % interval of the difference
    high: float  # upper end
    p_value: float  # two-sided, in (0, 1]

    def __str__(self) -> str:
        return (
            f"{100 * self.difference:+.1f} points (95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}), "
            f"p = {self.p_value:.2g}"
        )


def bootstrap_interval(
    errors: Errors,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    groups: Sequence[Any] | np.ndarray | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the corpus error rate.

    Each resample draws N utterances (or all utterances of G drawn speakers) with replacement and computes

        wer* = sum of errors / max(sum of words, 1)

    The interval runs from the (1 - level) / 2 to the (1 + level) / 2 quantile of wer*.

    Args:
        errors: counts of N utterances.
        level: coverage aimed at, in (0, 1).
        resamples: > 0.
        seed: of `numpy.random.default_rng`.
        groups: (N,) speaker of each utterance. Clips of one speaker are not independent, and without this the
            interval speaks of new clips of these speakers, not of new speakers. With few speakers (under
            about 20) it is still too narrow.

    Returns:
        (low, high), fractions.

    Raises:
        ValueError: fewer than two utterances or speakers, or arguments out of range.

    Source: Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance
    evaluation", ICASSP.
    """
    if not 0 < level < 1:
        raise ValueError(f"An interval covers a share between 0 and 1; got level={level}. Try level=0.95.")
    sums = _sum_groups(np.stack([errors.errors, errors.words], axis=1), groups)
    error_sums, word_sums = _resample(sums, resamples, seed).T
    rates = error_sums / np.maximum(word_sums, 1)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap(
    before: Errors,
    after: Errors,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    groups: Sequence[Any] | np.ndarray | None = None,
) -> PairedResult:
    """Test whether two systems differ, measured on the same utterances.

    Both systems are resampled with the same draws; d* is the difference of their corpus rates in one of R
    resamples:

        d* = (sum of errors after - sum of errors before) / max(sum of words, 1)
        p  = min(1, 2 * min(1 + #(d* <= 0), 1 + #(d* >= 0)) / (R + 1))

    which is twice the smaller bootstrap probability that the change has, or lacks, the other sign. A tie
    counts on both sides, so equal systems have p = 1; the added one keeps p above 0: the smallest value is
    2 / (R + 1). A 95 % interval of d* that leaves out 0 goes with p < 0.05 (but for the added one). Swapping
    the two turns the signs and keeps p.

    Args:
        before, after: counts of the same N utterances in the same order.
        resamples: R > 0.
        seed: of `numpy.random.default_rng`.
        groups: (N,) speaker of each utterance; whole speakers are drawn, see `bootstrap_interval`.

    Returns:
        `PairedResult`; low and high are the 2.5 % and 97.5 % quantiles of d*.

    Raises:
        ValueError: the two were not measured on the same utterances with the same unit and normaliser, fewer
            than two utterances or speakers, or arguments out of range.

    Source: Bisani and Ney 2004, ICASSP (their probability of improvement is #(d* < 0) / R); the added one:
    Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 4.2.
    """
    check_same_utterances(before, after)
    change = after.errors - before.errors
    sums = _sum_groups(np.stack([change, before.words], axis=1), groups)
    change_sums, word_sums = _resample(sums, resamples, seed).T
    differences = change_sums / np.maximum(word_sums, 1)
    low, high = np.quantile(differences, [0.025, 0.975])
    rarer = 1 + min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    difference = int(change.sum()) / max(int(before.words.sum()), 1)
    return PairedResult(difference, float(low), float(high), min(1.0, 2 * rarer / (resamples + 1)))


def _resample(sums: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(G, 2) counts -> (resamples, 2) totals of G draws with replacement."""
    if resamples < 1:
        raise ValueError(f"The bootstrap needs at least one resample; got resamples={resamples}. Try 10_000.")
    rng = np.random.default_rng(seed)
    size = len(sums)
    totals = np.empty((resamples, 2), dtype=np.int64)
    step = max(_PLACES_AT_ONCE // size, 1)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn = rng.integers(0, size, size=(stop - start, size))
        for column in range(2):
            totals[start:stop, column] = np.take(sums[:, column], drawn).sum(axis=1)
    return totals


def _sum_groups(counts: np.ndarray, groups: Sequence[Any] | np.ndarray | None) -> np.ndarray:
    """(N, 2) counts of utterances -> (G, 2) counts of the units that are drawn."""
    if groups is None:
        drawn = counts
    else:
        if len(groups) != len(counts):
            raise ValueError(
                f"groups names the speaker of each utterance; got {len(groups)} for {len(counts)} "
                "utterances. Pass one for each, in the order of the utterances."
            )
        # by value, not by numpy's order: speakers may be of mixed types
        places: dict[Any, int] = {}
        group_of = np.array([places.setdefault(group, len(places)) for group in groups], dtype=np.int64)
        drawn = np.zeros((len(places), 2), dtype=np.int64)
        np.add.at(drawn, group_of, counts)
    if len(drawn) < 2:
        kind = "utterances" if groups is None else "speakers"
        raise ValueError(
            f"The bootstrap measures spread between {kind}, so it needs at least 2; got {len(drawn)}. "
            + ("Measure more clips." if groups is None else "Leave groups out to resample utterances.")
        )
    return drawn


def check_same_utterances(before: Errors, after: Errors) -> None:
    """Refuse to compare counts of different utterances, units or normalizers, with a ValueError."""
    for what, one, other in (
        ("numbers of utterances", len(before), len(after)),
        ("units", before.unit, after.unit),
        ("normalisers", before.normaliser, after.normaliser),
    ):
        if one != other:
            raise ValueError(
                f"A paired test compares two systems on the same utterances; their {what} differ: "
                f"before {one!r}, after {other!r}. Measure both on the same rows with the same settings."
            )
    if before.transcripts_digest != after.transcripts_digest:
        raise ValueError(
            "A paired test compares two systems on the same utterances; the transcripts of before and "
            "after differ (or their order does). Measure both on the same rows in the same order."
        )


class Decoded(NamedTuple):
    """Transcripts and a model's hypotheses, clip by clip."""

    transcripts: list[str]
    hypotheses: list[str]

    @property
    def accuracy(self) -> float:
        """Share of the hypotheses that equal their transcript letter for letter: accuracy, for labels."""
        right = [said == true for said, true in zip(self.hypotheses, self.transcripts, strict=True)]
        return sum(right) / len(right)

    def __repr__(self) -> str:
        return f"Decoded({len(self.hypotheses)} clips)"

    def __str__(self) -> str:
        first = zip(*(part[:SHOWN_ROWS] for part in self), strict=True)
        shown = [f"transcript  {true}\nhypothesis  {said}" for true, said in first]
        rest = len(self.hypotheses) - len(shown)
        return "\n\n".join([*shown, *([f"and {rest} more clips"] if rest > 0 else [])]) or "no clips"


class Change(NamedTuple):
    """One clip on which two systems make different numbers of errors."""

    clip: int  # its place among the clips of before
    id: str
    errors_before: int
    errors_after: int
    clip_after: int  # and of after: another one where rows failed


@dataclass(frozen=True, eq=False)
class Comparison:
    """Error counts of two systems on the same clips.

    `str()` gives four lines: before, after, difference, verdict. For labels it gives the accuracy.

    Attributes:
        before, after: counts of the same N clips.
        tested: interval and p-value; None where there are not two clips, or speakers, to resample.
        ids: N names of the clips; empty names them by their places.
        places: N places of the clips before and after; empty where both have the same clips.
    """

    before: Errors
    after: Errors
    tested: PairedResult | None
    ids: Sequence[str] = ()
    places: Sequence[tuple[int, int]] = ()

    @property
    def paired(self) -> PairedResult:
        """Interval and p-value.

        Raises:
            ValueError: there were not two clips, or speakers, to resample.
        """
        if self.tested is None:
            raise ValueError(
                f"A paired test needs at least two clips or speakers; these are {len(self.before)} clips. Measure "
                "more clips, or read difference, which needs no test."
            )
        return self.tested

    @property
    def difference(self) -> float:
        """Error rate after - before, a fraction: negative if `after` makes fewer errors."""
        return self.after.wer - self.before.wer

    @property
    def relative_gain(self) -> float:
        """Share of the errors that is gone: 0.2 if a WER of 40 % became 32 %; negative if there are more errors."""
        return 1 - self.after.wer / self.before.wer if self.before.wer else 0.0

    @functools.cached_property
    def changes(self) -> list[Change]:
        """Every clip, the largest change first, equal ones in their order."""
        counts = zip(self.before.errors.tolist(), self.after.errors.tolist(), strict=True)
        ids = self.ids or [f"clip {place}" for place in range(len(self.before))]
        places = self.places or [(place, place) for place in range(len(self.before))]
        found = [
            Change(clip, name, one, other, clip_after)
            for (clip, clip_after), name, (one, other) in zip(places, ids, counts, strict=True)
        ]
        # sorted() keeps the order of equal ones
        return sorted(found, key=lambda change: -abs(change.errors_after - change.errors_before))

    @property
    def better(self) -> list[Change]:
        """Clips with fewer errors than before, the largest change first."""
        return [change for change in self.changes if change.errors_after < change.errors_before]

    @property
    def worse(self) -> list[Change]:
        """Clips with more errors than before, the largest change first."""
        return [change for change in self.changes if change.errors_after > change.errors_before]

    @property
    def same(self) -> int:
        """How many clips have as many errors as before."""
        return sum(change.errors_after == change.errors_before for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """As in an evaluation document, without the names of models and data set."""
        tested = self.tested
        return {
            "difference": self.difference,
            "interval": None if tested is None else [tested.low, tested.high],
            "p_value": None if tested is None else tested.p_value,
            "relative_gain": self.relative_gain,
            "better": [change._asdict() for change in self.better],
            "worse": [change._asdict() for change in self.worse],
            "same": self.same,
            "clips": len(self.before),
        }

    def __repr__(self) -> str:
        return (
            f"Comparison(before={self.before.wer:.4f}, after={self.after.wer:.4f}, unit={self.before.unit!r}, "
            f"clips={len(self.before)})"
        )

    def _repr_html_(self) -> str:
        tested = self.tested
        points = None if tested is None else f"{100 * tested.low:+.1f} to {100 * tested.high:+.1f} points"
        return html_table(
            ["before", "after", "difference", "95 % interval", "p", "better", "worse", "same"],
            [
                [
                    *(percent(self.before.wer), percent(self.after.wer), f"{100 * self.difference:+.1f} points"),
                    *(points, None if tested is None else f"{tested.p_value:.2g}"),
                    *(len(self.better), len(self.worse), self.same),
                ]
            ],
            f"Error rate in {self.before.unit}s on {len(self.before)} clips",
        )

    def __str__(self) -> str:
        labels = self.before.unit == "label"
        what, width = ("Accuracy", 16) if labels else (_NAMES.get(self.before.unit, "WER"), 11)
        before, after = (
            f"{100 * (1 - errors.wer):.1f} %" if labels else _rate(errors) for errors in (self.before, self.after)
        )
        sign, share = (-1, "") if labels else (1, f", {_signed(-100 * self.relative_gain, 0)} % relative")
        interval = ""
        if self.tested is not None:
            low, high = sorted(100 * sign * end for end in (self.tested.low, self.tested.high))
            interval = f" (95 % interval {_signed(low)} to {_signed(high)})"
        lines = {
            f"{what} before": f"{before}  on {len(self.before)} held-out clips",
            f"{what} after": f"{after}  on the same clips",
            "Difference": f"{_signed(100 * sign * self.difference)} points{interval}{share}",
            "Verdict": self._verdict_in_words(),
        }
        return "\n".join(f"{name:<{width}} {line}" for name, line in lines.items())

    @property
    def verdict(self) -> Verdict:
        """ "better" or "worse" where the 95 % interval of the difference leaves out 0, else "cannot tell"."""
        if self.tested is None or self.tested.low <= 0 <= self.tested.high:
            return "cannot tell"
        return "better" if self.tested.high < 0 else "worse"

    def _verdict_in_words(self) -> str:
        if self.tested is None:
            return "cannot tell: one clip, or one speaker, has no interval"
        told = f"paired bootstrap p = {self.tested.p_value:.2g}"
        if self.verdict == "cannot tell":
            return f"cannot tell: the interval includes 0 ({told})"
        return f"{self.verdict} ({told})"


def compare(
    before: Decoded, after: Decoded, *, normalise: str | Callable[[str], str] = "basic", unit: str = "auto"
) -> Comparison:
    """Count the errors of both and resample the clips.

    Args:
        before, after: hypotheses for the same clips in the same order.
        normalise, unit: see `count_errors`.

    Raises:
        ValueError: the two were not measured on the same clips.
    """
    first, second = (count_errors(*decoded, unit=unit, normalise=normalise) for decoded in (before, after))
    return compared(first, second)


def compared(before: Errors, after: Errors) -> Comparison:
    """Compare two error counts of the same clips, with a paired bootstrap over the clips."""
    return Comparison(before, after, paired_bootstrap(before, after))


def _rate(errors: Errors) -> str:
    if len(errors) < 2:
        return f"{100 * errors.wer:.1f} %"
    low, high = bootstrap_interval(errors)
    return f"{100 * errors.wer:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f})"


def _signed(value: float, digits: int = 1) -> str:
    """With its sign; what rounds to nothing is +0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"
