"""What the shipped rewards share: a name, settings and, if they read texts, a normalizer and a unit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from audiorl.text.error_rates import TextPair, resolve_unit, text_pairs
from audiorl.text.normalizers import Normalizer, normalizer


class RewardError(ValueError):
    """A reward that cannot be found or called, that failed, or that answered with something that is no reward.

    The message names the reward, the row where one is concerned, and what to do; the reward's own exception, if it
    raised one, is the `__cause__`.
    """


@dataclass(frozen=True, kw_only=True)
class ShippedReward(ABC):
    """Settings under a name, called as TRL calls rewards; picklable and comparable.

    Args:
        name: under which the reward is logged; default the one it is registered under.
    """

    name: str = ""

    default_name: ClassVar[str]
    needed_columns: ClassVar[tuple[str, ...]] = ("text",)
    ways: ClassVar[tuple[str, ...]] = ()  # settings that do not change values: a resumed run may change them

    @property
    def __name__(self) -> str:
        return self.name or self.default_name


@dataclass(frozen=True, kw_only=True)
class TextReward(ShippedReward):
    """A reward that compares a hypothesis with its transcript; called as TRL calls rewards.

    Args:
        normalise: a name or function that `audiorl.text.normalizers.normalizer` takes, applied to both texts.
        unit: "word", "character", "mixed", or "auto", which is decided for each row by its transcript: characters
            where all its letters are of scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese), else
            mixed, that is each character of those scripts and the words of all others. For a transcript without
            them these are the words.
        name: under which the reward is logged; default the one it is registered under.

    A transcript of None (the row has none) gives None, the reward abstains; "" is silence.

    Raises:
        ValueError: an unknown normaliser or unit, when built.
    """

    normalise: str | Callable[[str], str] = "basic"
    unit: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "normalise", normalizer(self.normalise))
        resolve_unit(self.unit, ())

    @property
    def normaliser(self) -> Normalizer:
        """The normalizer that `normalise` names."""
        return normalizer(self.normalise)

    def pairs(self, completions: Sequence[Any], text: Sequence[str | None]) -> list[TextPair | None]:
        """Each completion with its transcript, see `text_pairs`."""
        return text_pairs(completions, text, self.normaliser, self.unit)

    @abstractmethod
    def __call__(self, completions: Sequence[Any], text: Sequence[str | None], **columns: Any) -> list[float | None]:
        """One value for each completion; None where the row has no transcript."""


class PairReward(TextReward):
    """A `TextReward` that looks at one pair at a time."""

    def __call__(self, completions: Sequence[Any], text: Sequence[str | None], **columns: Any) -> list[float | None]:
        return [None if pair is None else self.score(pair) for pair in self.pairs(completions, text)]

    @abstractmethod
    def score(self, pair: TextPair) -> float:
        """The reward of one hypothesis."""
