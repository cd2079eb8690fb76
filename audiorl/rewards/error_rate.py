"""Rewards made of edit counts: how far a hypothesis is from its transcript.

All of them count as `audiorl.evaluation.count_errors` does (Levenshtein, by the library under jiwer): the fewest
substitutions, deletions and insertions. With N units in the transcript

    WER = (S + D + I) / max(N, 1)

so for silence (N = 0) each word of the hypothesis counts as one error. An empty hypothesis has WER 1 if something was
said, and 0 for silence.

Other rewards look at the length only: too short or too long for the transcript, too long for the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rapidfuzz.distance import Levenshtein

from audiorl.rewards.base import PairReward, ShippedReward
from audiorl.text.error_rates import TextPair


def edit_count(pair: TextPair) -> int:
    """S + D + I, >= 0."""
    return Levenshtein.distance(pair.transcript, pair.hypothesis)


def error_rate(pair: TextPair) -> float:
    """(S + D + I) / max(N, 1), >= 0, above 1 where more is inserted than there was to say."""
    return edit_count(pair) / max(len(pair.transcript), 1)


@dataclass(frozen=True, kw_only=True)
class OneMinusWER(PairReward):
    """Share of the transcript that is right, minus the invented words.

        reward = max(0, 1 - WER)

    Range: [0, 1]. Silence: 1 for an empty hypothesis, 0 for any word. Empty hypothesis for speech: 0. All hypotheses of
    WER 1 and more get 0: the transcript twice is no better than nothing at all.

    Source: Shivakumar et al. 2025, arXiv:2509.01939 (rule-based rewards for ASR); An et al. 2025, arXiv:2509.12508,
    section 4.4.2, R1.
    """

    default_name: ClassVar[str] = "one_minus_wer"

    def score(self, pair: TextPair) -> float:
        return max(0.0, 1.0 - error_rate(pair))


@dataclass(frozen=True, kw_only=True)
class NegativeWER(PairReward):
    """Minus the error rate; unlike `OneMinusWER` it still tells an empty hypothesis from a long invention.

        reward = max(floor, -WER)

    Args:
        floor: < 0, below which a loop of any length does not fall, so that it cannot drown its group's other
            differences.

    Range: [floor, 0]. Silence: 0 for an empty hypothesis, minus the number of words for any other, down to the floor.
    Empty hypothesis for speech: -1.

    Source: Prabhavalkar et al. 2018, arXiv:1712.01818, whose loss is the number of word errors; the floor is ours.

    Raises:
        ValueError: floor >= 0 or not finite.
    """

    floor: float = -2.0

    default_name: ClassVar[str] = "negative_wer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -float("inf") < self.floor < 0:
            raise ValueError(
                f"{self.__name__} is 0 at best and floor at worst, so floor has to be below 0 and finite; got "
                f"{self.floor}. Use -2, or -1 for a reward that does not tell an invention from silence."
            )

    def score(self, pair: TextPair) -> float:
        rate = error_rate(pair)
        return max(self.floor, -rate) if rate else 0.0


@dataclass(frozen=True, kw_only=True)
class NegativeCER(NegativeWER):
    """`NegativeWER` of characters: half a word right earns half.

        reward = max(floor, -CER)

    Range, silence, empty hypothesis: as `NegativeWER`. A space is a character, except beside a script written without.

    Source: as `NegativeWER`, on characters.
    """

    unit: str = "character"

    default_name: ClassVar[str] = "negative_cer"


@dataclass(frozen=True, kw_only=True)
class ExpCER(PairReward):
    """Share of the characters that are right, on a scale that tells good hypotheses apart better than bad ones.

        reward = exp(-rate * CER)

    From CER 0 to 0.1 it falls by 0.18, from 0.9 to 1 by 0.03; it never reaches 0, so that of two bad hypotheses the
    less bad one still earns more.

    Args:
        rate: > 0, how fast it falls.

    Range: [0, 1]; 1 for the transcript itself, exp(-rate) = 0.14 for an empty hypothesis for speech. Silence: 1 for an
    empty hypothesis, exp(-rate n) for n characters.

    Source: exp(-2 CER) is the accuracy reward of NIM4-ASR, Xie et al. 2026, arXiv:2604.18105, as reported to us; the
    passage could not be looked up.

    Raises:
        ValueError: rate is not above 0 and finite.
    """

    rate: float = 2.0
    unit: str = "character"

    default_name: ClassVar[str] = "exp_cer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate < float("inf"):
            raise ValueError(
                f"{self.__name__} is exp(-rate * CER), so rate is above 0 and finite; got {self.rate}. Use 2, or "
                "NegativeCER for a reward that falls in proportion to the errors."
            )

    def score(self, pair: TextPair) -> float:
        return math.exp(-self.rate * error_rate(pair))


@dataclass(frozen=True, kw_only=True)
class NegativeEdits(PairReward):
    """Minus the number of errors, not divided by the transcript's length: long clips weigh more.

        reward = -(S + D + I)

    Range: (-inf, 0], integers. Silence: 0 for an empty hypothesis, else minus its words. Empty hypothesis: -N.

    Source: Prabhavalkar et al. 2018, arXiv:1712.01818, section 2.3: the number of word errors W(y, y*).
    """

    default_name: ClassVar[str] = "negative_edits"

    def score(self, pair: TextPair) -> float:
        return -float(edit_count(pair)) if pair.transcript != pair.hypothesis else 0.0


@dataclass(frozen=True, kw_only=True)
class ExactMatch(PairReward):
    """1 where the normalised texts are the same, else 0.

    Range: {0, 1}. Silence: 1 for an empty hypothesis. A sparse reward: groups in which nobody is right learn nothing.

    Source: sentence accuracy, 1 - SER.
    """

    default_name: ClassVar[str] = "exact_match"

    def score(self, pair: TextPair) -> float:
        return float(pair.transcript == pair.hypothesis)


@dataclass(frozen=True, kw_only=True)
class LengthRatio(PairReward):
    """How well the number of units fits the transcript's.

        reward = min(n, N) / max(n, N)      with n units in the hypothesis and N in the transcript, 1 where both are 0

    Range: [0, 1]. Silence: 1 for an empty hypothesis, else 0. Empty hypothesis for speech: 0. It sees no words: an
    invention of the right length scores 1.

    Source: ours; the ratio is that of BLEU's brevity penalty (Papineni et al. 2002), made symmetric.
    """

    default_name: ClassVar[str] = "length_ratio"

    def score(self, pair: TextPair) -> float:
        shorter, longer = sorted((len(pair.transcript), len(pair.hypothesis)))
        return shorter / longer if longer else 1.0


@dataclass(frozen=True, kw_only=True)
class LengthHallucination(PairReward):
    """Above 0 for a plausible length, below 0 only for one that must be invented.

        reward = max(-1, 1 - |n - N| / max(N, 1))   with n units in the hypothesis and N in the transcript

    A hypothesis twice as long as the transcript gets 0, one three times as long -1; leaving words out never costs more
    than the 1 that the right length earns, so that silence is not taken for hallucination.

    Range: [-1, 1]. Silence: 1 for an empty hypothesis, 0 for one unit, -1 for more. Empty hypothesis for speech: 0. It
    sees no words: an invention of the right length scores 1.

    Source: NIM4-ASR, Xie et al. 2026, arXiv:2604.18105, has a signed reward of the length ratio against hallucination;
    the passage could not be looked up, and **this formula is our interpretation**.
    """

    default_name: ClassVar[str] = "length_hallucination"

    def score(self, pair: TextPair) -> float:
        spoken = len(pair.transcript)
        return max(-1.0, 1.0 - abs(len(pair.hypothesis) - spoken) / max(spoken, 1))


@dataclass(frozen=True, kw_only=True)
class SoftOverlong(ShippedReward):
    """A penalty that grows over the last tokens before a limit.

    With n tokens in the completion

        reward = 0                                        n <= max_tokens - margin
               = (max_tokens - margin - n) / margin       up to max_tokens
               = -1                                       above

    Args:
        max_tokens: > 0, tokens of a completion (`completion_ids`); set it to the trainer's max_completion_length.
        margin: 0 to max_tokens, over how many tokens the penalty grows; 0 for a step.
        name: see `ShippedReward`.

    Range: [-1, 0]. Silence, empty transcript: as any other. Empty hypothesis: 0. The transcript is not looked at.

    Source: Yu et al. 2025 (DAPO), arXiv:2503.14476, eq. 13; TRL's `get_soft_overlong_punishment` under our names.

    Raises:
        ValueError: max_tokens or margin out of range.
    """

    max_tokens: int = 256
    margin: int = 64

    default_name: ClassVar[str] = "overlong"
    needed_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or not 0 <= self.margin <= self.max_tokens:
            raise ValueError(
                f"{self.__name__} punishes from max_tokens - margin to max_tokens tokens, 0 <= margin <= max_tokens; "
                f"got max_tokens={self.max_tokens}, margin={self.margin}. Use the rollout's limit and a quarter of it."
            )

    def __call__(self, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float | None]:
        """One value for each completion."""
        return [self.score(len(ids)) for ids in completion_ids]

    def score(self, tokens: int) -> float:
        """The penalty of a completion of this many tokens."""
        if tokens > self.max_tokens:
            return -1.0
        over = tokens - (self.max_tokens - self.margin)
        return -over / self.margin if over > 0 else 0.0
