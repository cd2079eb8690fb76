"""Which texts of a clip become chosen and rejected: functions of rewards, nothing else.

Place 0 is the transcript, 1 ... K are hypotheses. No strategy pairs two texts that the filters do not allow.

Hard cases: clips on which other systems agree with each other and this model does not agree with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

from audiorl.evaluation import count_errors

TRANSCRIPT = 0
Pair = tuple[int, int]  # places of chosen and rejected


class ScoredTexts(NamedTuple):
    """One clip's texts as a strategy sees them."""

    rewards: Sequence[float]  # (K + 1,) NaN where no reward scored the text
    scores: Sequence[float]  # (K + 1,) how likely the model holds each; NaN for texts it was not asked about
    usable: Sequence[int]  # places of the hypotheses that may stand in a pair at all
    allowed: Callable[[int, int], bool]  # (chosen, rejected) -> whether the filters let them be a pair

    @property
    def best(self) -> int | None:
        """The usable hypothesis of the highest reward, the first of several."""
        return max(self.usable, key=lambda place: self.rewards[place], default=None)

    def worse_than(self, chosen: int) -> list[int]:
        """What `chosen` may be paired with, the lowest reward first."""
        found = [place for place in self.usable if self.allowed(chosen, place)]
        return sorted(found, key=lambda place: self.rewards[place])


def transcript_vs_worst(texts: ScoredTexts) -> list[Pair]:
    """The transcript against the hypothesis of the lowest reward."""
    return transcript_vs_each(texts)[:1]


def transcript_vs_each(texts: ScoredTexts) -> list[Pair]:
    """The transcript against every hypothesis that is worse."""
    return [(TRANSCRIPT, place) for place in texts.worse_than(TRANSCRIPT)]


def best_vs_worst(texts: ScoredTexts) -> list[Pair]:
    """The hypothesis of the highest reward against that of the lowest; the transcript is not learnt from."""
    if texts.best is None:
        return []
    return [(texts.best, place) for place in texts.worse_than(texts.best)[:1]]


def above_margin(texts: ScoredTexts) -> list[Pair]:
    """Every two hypotheses whose rewards lie far enough apart, the widest margins first."""
    pairs = [(chosen, place) for chosen in texts.usable for place in texts.worse_than(chosen)]
    return sorted(pairs, key=lambda pair: texts.rewards[pair[1]] - texts.rewards[pair[0]])


def nbest(texts: ScoredTexts) -> list[Pair]:
    """The best hypothesis of a list against those that earn less and that the model holds likelier: its false ranks.

    The lowest reward comes first. Made for the lists of a beam search; samples are ranked by their log-probability.
    """
    if texts.best is None:
        return []
    likelier = texts.scores[texts.best]
    return [(texts.best, place) for place in texts.worse_than(texts.best) if texts.scores[place] > likelier]


STRATEGIES: dict[str, Callable[[ScoredTexts], list[Pair]]] = {
    "transcript_vs_worst": transcript_vs_worst,
    "transcript_vs_each": transcript_vs_each,
    "best_vs_worst": best_vs_worst,
    "above_margin": above_margin,
    "nbest": nbest,
}


def is_hard_case(
    own: str,
    others: Sequence[str | None],
    *,
    max_disagreement: float = 0.05,
    min_disagreement: float = 0.10,
    unit: str = "auto",
    normalise: str | Callable[[str], str] = "basic",
) -> bool:
    """Whether a clip is worth tuning on, as far as transcripts of other systems tell.

        hard = D(a, b) <= max_disagreement   for every two of the others, and
               D(a, own) >= min_disagreement for every one of them
        D(a, b) = max(WER(a; b), WER(b; a))

    Args:
        own: what the model says of the clip.
        others: what other systems say; None where one has no transcript, which is no agreement. One system alone
            agrees with itself.
        max_disagreement: >= 0, a fraction.
        min_disagreement: > 0, a fraction.
        unit, normalise: see `audiorl.evaluation.count_errors`.

    Source: An et al. 2025 (Fun-ASR), arXiv:2509.12508, the hard cases among its data for reinforcement learning: three
        systems that agree within 5 % and differ from the model by 10 % (both figures from memory, the passage could
        not be looked up). That a disagreement is the larger of the two
        error rates is ours: the report does not say which transcript counts as the true one.
    """
    said = [text for text in others if text is not None]
    if not said or len(said) < len(others):
        return False

    def disagreement(first: str, second: str) -> float:
        both = count_errors([first], [second], unit=unit, normalise=normalise)
        swapped = count_errors([second], [first], unit=unit, normalise=normalise)
        return max(both.wer, swapped.wer)

    if any(disagreement(a, b) > max_disagreement for a, b in combinations(said, 2)):
        return False
    return all(disagreement(text, own) >= min_disagreement for text in said)
