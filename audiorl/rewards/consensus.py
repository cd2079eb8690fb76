"""Rewards that need no transcript: what a clip's hypotheses, the model itself, or other systems say of a hypothesis.

None of them has listened. They know which hypothesis is the safest guess, not which is right, and a model that learns
from them alone drifts to what is easy to agree on: short, frequent, sure. What guards against it: a penalty for short
outputs (`Consensus.min_length`), the KL to the frozen policy (`beta`), an entropy bonus (`entropy_coef`), transcribed
rows beside them, and a WER on held-out clips that is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from rapidfuzz.distance import Levenshtein

from audiorl.rewards.base import RewardError, ShippedReward
from audiorl.text.error_rates import completion_text, resolve_unit, split_units, unit_of_row
from audiorl.text.normalizers import Normalizer, normalizer


def accuracy(transcript: Sequence[str], hypothesis: Sequence[str]) -> float:
    """max(0, 1 - WER) of two lists of units, taking the first for the transcript."""
    edits = Levenshtein.distance(transcript, hypothesis)
    return max(0.0, 1.0 - edits / max(len(transcript), 1))


@dataclass(frozen=True, kw_only=True)
class _Compared(ShippedReward):
    """A reward that compares hypotheses with texts that may be wrong, in units of their own."""

    normalise: str = "basic"
    unit: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "normalise", normalizer(self.normalise))
        resolve_unit(self.unit, ())

    @property
    def normaliser(self) -> Normalizer:
        """The normalizer that `normalise` names."""
        return normalizer(self.normalise)

    def units(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """Texts of one clip in one unit, "auto" decided by all of them together."""
        plain = {text: self.normaliser(text) for text in dict.fromkeys(texts)}
        unit = unit_of_row(self.unit, " ".join(plain.values()))
        split = {text: tuple(split_units(normalised, unit)) for text, normalised in plain.items()}
        return [split[text] for text in texts]


@dataclass(frozen=True, kw_only=True)
class Consensus(_Compared):
    """How far a hypothesis agrees with the other hypotheses of its clip: minimum Bayes risk, made a reward.

        reward[k] = mean over j != k of max(0, 1 - WER(y_j; y_k)),   y_j standing for the transcript

    The hypothesis of the highest reward is the one with the fewest errors to be expected, if the truth is distributed
    as the samples are. Identical hypotheses cannot tell right from wrong, so a group that says one thing only earns
    nothing: all K get 0. That shows a collapse in `rewards/consensus/mean`, which then falls instead of rising to 1.

    Short hypotheses are easier to agree on than long ones, and an empty one easiest of all. An empty hypothesis earns
    0, and so does one shorter than `min_length` times the median of its group; this holds a single step, not a drift
    over many: keep `beta` above 0, add `entropy_coef`, and watch `completions/mean_length`.

    Args:
        min_length: 0 to 1, the share of the group's median length in units below which a hypothesis earns 0.
        normalise, unit, name: see `TextReward`; "auto" is decided by the hypotheses of a clip together.

    It asks for `group` by name and reads no column. A clip with one hypothesis gives None, as in evaluation.

    Range: [0, 1]. K identical hypotheses, wrong, right or empty: 0. Silence: 0 for all that are empty.

    Source: minimum Bayes risk decoding, Goel and Byrne 2000, "Minimum Bayes-risk automatic speech recognition"; as a
    reward without labels in the spirit of majority votes, Zuo et al. 2025 (TTRL), arXiv:2504.16084. That unanimous
    groups earn nothing, and the guard by length, are ours.

    Raises:
        ValueError: an unknown normaliser or unit, or min_length out of range, when built.
        RewardError: called without `group`.
    """

    min_length: float = 0.5

    default_name: ClassVar[str] = "consensus"
    needed_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_length <= 1:
            raise ValueError(
                f"{self.__name__} takes min_length, a share of the group's median length, 0 to 1 (shorter hypotheses "
                f"get 0); got {self.min_length}. Use 0.5, or 0 for no such limit."
            )

    def __call__(
        self, completions: Sequence[Any], group: Sequence[tuple[int, int]] | None = None, **columns: Any
    ) -> list[float | None]:
        """One value for each completion; None where its clip has no other."""
        if group is None:
            raise RewardError(
                f"{self.__name__} compares the hypotheses of a clip with each other, but was not told which belong "
                "to one clip. Pass group=[(row, hypothesis), ...], one for each completion, as the trainers do."
            )
        clips: dict[int, list[int]] = {}
        for place, (row, _) in enumerate(group):
            clips.setdefault(row, []).append(place)
        rewards: list[float | None] = [None] * len(completions)
        for places in clips.values():
            if len(places) > 1:
                found = self.scores([completion_text(completions[place]) for place in places])
                for place, value in zip(places, found, strict=True):
                    rewards[place] = value
        return rewards

    def scores(self, texts: Sequence[str]) -> list[float]:
        """The rewards of the K >= 2 hypotheses of one clip."""
        units = self.units(texts)
        counts = Counter(units)
        if len(counts) == 1:
            return [0.0] * len(texts)
        shortest = max(1.0, self.min_length * median(map(len, units)))
        agreed = {}
        for said in counts:
            total = sum(count * accuracy(other, said) for other, count in counts.items() if other != said)
            agreed[said] = 0.0 if len(said) < shortest else (total + counts[said] - 1) / (len(texts) - 1)
        return [agreed[said] for said in units]


@dataclass(frozen=True, kw_only=True)
class Confidence(ShippedReward):
    """How sure the model is of a hypothesis: its log-probability for each token.

        reward = sum over its n tokens of log p(token) / n

    It reinforces what the model would say anyway, right or wrong, and alone ends in one sure output for every clip
    (entropy 0). Its place is a small weight beside a reward that compares, or weight 0: a figure to watch.

    Args:
        name: see `ShippedReward`.

    It asks for `completion_logps` by name and reads no column; where nobody knows them, as in evaluation and of
    transcripts, it gives None.

    Range: (-inf, 0]. Silence, empty hypothesis: the log-probability of the end token. It is that of the policy at the
    sampling temperature, before top-k and the like.

    Source: length-normalised log-probabilities as confidence, Wu et al. 2016, arXiv:1609.08144, section 7, without its
    exponent; as a reward, "self-certainty" and its kin, Zhao et al. 2025, arXiv:2505.19590, use the whole distribution.
    """

    default_name: ClassVar[str] = "confidence"
    needed_columns: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self,
        completion_ids: Sequence[Sequence[int]],
        completion_logps: Sequence[float | None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One value for each completion; None where its log-probability is not known."""
        known = [None] * len(completion_ids) if completion_logps is None else completion_logps
        return [
            None if logp is None else logp / max(len(ids), 1) for ids, logp in zip(completion_ids, known, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Agreement(_Compared):
    """How far a hypothesis agrees with what other systems say of the clip.

        reward = mean over systems s of max(0, 1 - WER(y_s; y)),   y_s standing for the transcript

    Args:
        column: where their hypotheses are: a text, or a list of texts in which None is a system without one.
        normalise, unit, name: see `TextReward`; "auto" is decided by the systems' texts together.

    Rows without any (None, an empty list, a list of None) give None.

    Range: [0, 1]. A hypothesis that all systems share: 1; these may err together, so take systems that were trained
    apart. Where a system heard nothing (""): 1 for an empty hypothesis, else 0. Empty hypothesis: 0 where all heard
    something.

    Source: the idea of ROVER, Fiscus 1997, and of the hard cases of Fun-ASR, arXiv:2509.12508; the formula is ours.

    Raises:
        ValueError: an unknown normaliser or unit, when built.
        RewardError: when called, a row whose column holds something else.
    """

    column: str = "other_transcripts"

    default_name: ClassVar[str] = "agreement"

    @property
    def needed_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """One value for each completion; None where no other system has a transcript."""
        if self.column not in columns:
            raise RewardError(
                f"{self.__name__} compares with other systems' hypotheses in the column {self.column!r}, which the "
                "rows do not have. Add it, or pass column=."
            )
        return [
            self._score(completion_text(said), self._texts(own))
            for said, own in zip(completions, columns[self.column], strict=True)
        ]

    def _texts(self, value: Any) -> list[str]:
        listed = [value] if isinstance(value, str) else value
        if listed is None:
            return []
        if not isinstance(listed, Sequence) or not all(isinstance(text, str | None) for text in listed):
            raise RewardError(
                f"{self.__name__}: the column {self.column!r} holds a text or a list of texts; a row has "
                f"{value!r:.80}. Write ['what one heard', 'what another heard']."
            )
        return [text for text in listed if text is not None]

    def _score(self, said: str, others: Sequence[str]) -> float | None:
        if not others:
            return None
        plain = [self.normaliser(text) for text in others]
        unit = unit_of_row(self.unit, " ".join(plain))
        own = split_units(self.normaliser(said), unit)
        return sum(accuracy(split_units(text, unit), own) for text in plain) / len(others)
