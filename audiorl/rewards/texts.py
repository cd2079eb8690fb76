"""What every text reward starts from: a hypothesis and its transcript, normalised alike and split into units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

from rapidfuzz.distance import Levenshtein

from audiorl.evaluation.error_rates import UNSPACED_CHARACTER, resolve_unit, split_units
from audiorl.normalisers import Normaliser, normaliser

# (equal | replace | insert | delete, transcript start, end, hypothesis start, end) of each stretch of an alignment
Opcodes = Sequence[tuple[str, int, int, int, int]]


class TextPair(NamedTuple):
    """One hypothesis beside its transcript."""

    transcript: list[str]  # units of the normalised transcript, empty for silence
    hypothesis: list[str]  # units of the normalised hypothesis
    unit: str  # "word", "character" or "mixed"
    normalised_hypothesis: str  # as one text

    def opcodes(self) -> Opcodes:
        """The shortest alignment, which jiwer takes from the same library."""
        return cast(Opcodes, Levenshtein.opcodes(self.transcript, self.hypothesis).as_list())


@dataclass(frozen=True, kw_only=True)
class ShippedReward(ABC):
    """Settings under a name, called as TRL calls rewards; picklable and comparable.

    Args:
        name: under which the reward is logged; default the one it is registered under.
    """

    name: str = ""

    default_name: ClassVar[str]
    needed_columns: ClassVar[tuple[str, ...]] = ("text",)

    @property
    def __name__(self) -> str:
        return self.name or self.default_name


@dataclass(frozen=True, kw_only=True)
class TextReward(ShippedReward):
    """A reward that compares a hypothesis with its transcript; called as TRL calls rewards.

    Args:
        normalise: a name or function that `audiorl.normalisers.normaliser` takes, applied to both texts.
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
        object.__setattr__(self, "normalise", normaliser(self.normalise))
        resolve_unit(self.unit, ())

    @property
    def normaliser(self) -> Normaliser:
        """What `normalise` stands for."""
        return normaliser(self.normalise)

    def pairs(self, completions: Sequence[Any], text: Sequence[str | None]) -> list[TextPair | None]:
        """Each completion beside its transcript, see `text_pairs`."""
        return text_pairs(completions, text, self.normaliser, self.unit)

    @abstractmethod
    def __call__(self, completions: Sequence[Any], text: Sequence[str | None], **columns: Any) -> list[float | None]:
        """One value for each completion; None where the row has no transcript."""


class PairReward(TextReward):
    """A `TextReward` that looks at one pair at a time and at nothing else."""

    def __call__(self, completions: Sequence[Any], text: Sequence[str | None], **columns: Any) -> list[float | None]:
        return [None if pair is None else self.score(pair) for pair in self.pairs(completions, text)]

    @abstractmethod
    def score(self, pair: TextPair) -> float:
        """The reward of one hypothesis."""


def completion_text(completion: Any) -> str:
    """The transcript that a model wrote: a string, or TRL's conversational form, a list of messages.

    Raises:
        ValueError: neither of the two.
    """
    if isinstance(completion, str):
        return completion
    try:
        return " ".join(_content_text(message["content"]) for message in completion)
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"A completion is a string or a list of messages with 'content'; got {completion!r:.80}. "
            "Pass the decoded transcript."
        ) from error


def _content_text(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(part["text"] for part in content if "text" in part)


def unit_of_row(unit: str, transcript: str) -> str:
    """The unit of one row: `unit` itself, or what "auto" makes of a normalised transcript, see `TextReward`."""
    if unit != "auto":
        return unit
    if transcript.isascii():
        return "mixed"
    spaced = UNSPACED_CHARACTER.sub("", transcript)
    only_unspaced = len(spaced) < len(transcript) and not any(map(str.isalpha, spaced))
    return "character" if only_unspaced else "mixed"


def text_pairs(
    completions: Sequence[Any], text: Sequence[str | None], function: Normaliser, unit: str
) -> list[TextPair | None]:
    """Each completion beside its transcript; None where there is no transcript.

    K hypotheses share a transcript, and a sure policy repeats itself: each distinct text is normalised once.
    """
    transcripts: dict[str, tuple[list[str], str]] = {}
    hypotheses: dict[tuple[str, str], tuple[list[str], str]] = {}
    pairs: list[TextPair | None] = []
    for completion, transcript in zip(completions, text, strict=True):
        if transcript is None:
            pairs.append(None)
            continue
        if transcript not in transcripts:
            normalised = function(transcript)
            own = unit_of_row(unit, normalised)
            transcripts[transcript] = split_units(normalised, own), own
        units, own = transcripts[transcript]
        said = completion_text(completion)
        if (said, own) not in hypotheses:
            normalised = function(said)
            hypotheses[said, own] = split_units(normalised, own), normalised
        pairs.append(TextPair(units, hypotheses[said, own][0], own, hypotheses[said, own][1]))
    return pairs
