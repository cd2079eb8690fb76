"""Two models on the same clips: whether the difference is real, and which clips got better and worse."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from audiorl.evaluation.measurement import Measurement
from audiorl.evaluation.significance import PairedResult, check_same_utterances, paired_bootstrap


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
