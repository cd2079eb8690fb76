"""Rewards of length alone: too short or too long for the transcript, too long for the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from audiorl.rewards.base import PairReward, ShippedReward
from audiorl.text.pairs import TextPair


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
        """The penalty of a completion of so many tokens."""
        if tokens > self.max_tokens:
            return -1.0
        over = tokens - (self.max_tokens - self.margin)
        return -over / self.margin if over > 0 else 0.0
