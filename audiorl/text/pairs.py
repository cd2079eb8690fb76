"""A hypothesis beside its transcript: normalised alike, split into units, aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from rapidfuzz.distance import Levenshtein

from audiorl.text.error_rates import UNSPACED_CHARACTER, split_units, tagged_transcript
from audiorl.text.normalizers import Normalizer

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


def completion_text(completion: Any) -> str:
    """The transcript that a model wrote: a string, or TRL's conversational form, a list of messages.

    Of Qwen3-ASR's own format it is what stands behind the language, see `tagged_transcript`.

    Raises:
        ValueError: neither of the two.
    """
    if isinstance(completion, str):
        return tagged_transcript(completion).text
    try:
        return tagged_transcript(" ".join(_content_text(message["content"]) for message in completion)).text
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
    completions: Sequence[Any], text: Sequence[str | None], function: Normalizer, unit: str
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
            normalised = function(tagged_transcript(transcript).text)
            own = unit_of_row(unit, normalised)
            transcripts[transcript] = split_units(normalised, own), own
        units, own = transcripts[transcript]
        said = completion_text(completion)
        if (said, own) not in hypotheses:
            normalised = function(said)
            hypotheses[said, own] = split_units(normalised, own), normalised
        pairs.append(TextPair(units, hypotheses[said, own][0], own, hypotheses[said, own][1]))
    return pairs
