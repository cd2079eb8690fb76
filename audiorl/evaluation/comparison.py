"""Two systems on the same clips: both error rates with their intervals, and whether the difference is real."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from audiorl.evaluation.significance import PairedResult, bootstrap_interval, paired_bootstrap
from audiorl.text.error_rates import Errors, count_errors


class Decoded(NamedTuple):
    """What was said and what a model made of it, clip by clip."""

    transcripts: list[str]
    hypotheses: list[str]

    @property
    def accuracy(self) -> float:
        """Share of the hypotheses that are their transcript, letter for letter: for labels, right or wrong."""
        right = [said == true for said, true in zip(self.hypotheses, self.transcripts, strict=True)]
        return sum(right) / len(right)


class Comparison(NamedTuple):
    """Error counts of two systems on the same clips.

    `str()` gives three lines: before, after, difference.
    """

    before: Errors
    after: Errors
    paired: PairedResult

    @property
    def relative_gain(self) -> float:
        """Share of the errors that is gone: 0.2 for a WER of 40 % that became 32 %; negative where it got worse."""
        return 1 - self.after.wer / self.before.wer if self.before.wer else 0.0

    def __str__(self) -> str:
        low, high = (100 * end for end in (self.paired.low, self.paired.high))
        clips = f"{len(self.before)} held-out clips"
        return "\n".join(
            [
                f"WER before  {_rate(self.before)}  on {clips}",
                f"WER after   {_rate(self.after)}  on the same clips",
                f"Difference  {100 * self.paired.difference:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}), "
                f"{-100 * self.relative_gain:+.0f} % relative, paired bootstrap p = {self.paired.p_value:.2g}",
            ]
        )


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
    return Comparison(first, second, paired_bootstrap(first, second))


def _rate(errors: Errors) -> str:
    low, high = bootstrap_interval(errors)
    return f"{100 * errors.wer:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f})"
