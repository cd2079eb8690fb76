"""Substitutions, deletions and insertions of each utterance, and the error rates made of them.

The end of the module aligns one hypothesis with its transcript (`TextPair`), for rewards and keyword counts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
from jiwer import process_characters, process_words
from jiwer.transforms import AbstractTransform
from rapidfuzz.distance import Levenshtein

from audiorl.text.normalizers import Normalizer, normalizer

UNITS = ("word", "character", "mixed", "auto")

# Scripts that put no space between words: Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar.
_UNSPACED = (
    "\u2e80-\u2fd5\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufad9\U00020000-\U000323af"
    "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
    "\u0e01-\u0e3a\u0e40-\u0e5b\u0e81-\u0edf\u1780-\u17f9\u19e0-\u19ff\u1000-\u109f\ua9e0-\ua9fe\uaa60-\uaa7f"
)
UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")


class ErrorCounts(NamedTuple):
    """How often one hypothesis, or a whole set of them, departs from the transcript."""

    substitutions: int
    deletions: int
    insertions: int
    hits: int

    @property
    def words(self) -> int:
        """Words (or characters) of the transcript: substitutions + deletions + hits."""
        return self.substitutions + self.deletions + self.hits

    @property
    def errors(self) -> int:
        """substitutions + deletions + insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """errors / max(words, 1), see `Errors.wer`."""
        return self.errors / max(self.words, 1)

    def in_words(self, unit: str = "word") -> str:
        """The rate, and what it is made of; `unit` says of what."""
        kinds = f"{self.substitutions} substituted, {self.deletions} deleted, {self.insertions} inserted"
        what = {"word": "words", "character": "characters", "label": "labels"}.get(unit, "words or characters")
        return f"{100 * self.rate:.1f} % errors: {kinds} of {self.words} {what}"

    def __str__(self) -> str:
        return self.in_words()


@dataclass(frozen=True, eq=False)
class Errors:
    """Error counts of N utterances, in the order in which they were given.

    Attributes:
        substitutions, deletions, insertions, hits: (N,) int64.
        unit: "word", "character" or "mixed", what was counted.
        normaliser: name of the normaliser.
        transcripts_digest: fingerprint of the normalised transcripts, so that two measurements can be told
            to be of the same utterances.
    """

    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    hits: np.ndarray
    unit: str
    normaliser: str
    transcripts_digest: str

    def __post_init__(self) -> None:
        for name in ErrorCounts._fields:
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, place: int) -> ErrorCounts:
        """Counts of one utterance."""
        return ErrorCounts(*(int(getattr(self, name)[place]) for name in ErrorCounts._fields))

    def part(self, places: Sequence[int]) -> Errors:
        """Counts of some of the utterances, as they are."""
        counts: dict[str, Any] = {name: getattr(self, name)[list(places)] for name in ErrorCounts._fields}
        digest = transcripts_digest([self.transcripts_digest, *map(str, places)])
        return replace(self, **counts, transcripts_digest=digest)

    @property
    def words(self) -> np.ndarray:
        """(N,) words (or characters) of each transcript."""
        return self.substitutions + self.deletions + self.hits

    @property
    def errors(self) -> np.ndarray:
        """(N,) substitutions + deletions + insertions of each utterance."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def total(self) -> ErrorCounts:
        """Sums over all utterances."""
        return ErrorCounts(*(int(getattr(self, name).sum()) for name in ErrorCounts._fields))

    @property
    def wer(self) -> float:
        """Corpus error rate, a fraction; the character error rate where `unit` is "character".

            wer = sum of errors / max(sum of words, 1)

        Sums come first, so an utterance with an empty transcript has a share: its insertions. Where all
            transcripts
        are empty the value is the number of insertions (0 for silence everywhere), as in jiwer; it is
        finite, and no rate in the usual sense: `words` is 0 there.
        """
        return self.total.rate

    def __repr__(self) -> str:
        return f"Errors(wer={self.wer:.4f}, unit={self.unit!r}, clips={len(self)})"

    def __str__(self) -> str:
        return f"{self.total.in_words(self.unit)}, in {len(self)} clips; normalizer {self.normaliser}"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings for JSON; `Errors(**errors.to_dict())` gives the same errors back."""
        counts = {name: getattr(self, name).tolist() for name in ErrorCounts._fields}
        return {
            **counts,
            "unit": self.unit,
            "normaliser": self.normaliser,
            "transcripts_digest": self.transcripts_digest,
        }


class TaggedTranscript(NamedTuple):
    """A transcript and the language that was written in front of it."""

    language: str | None  # as it was written; None where none is, or "None"
    text: str


# Qwen3-ASR writes "language English<asr_text>the transcript", of a clip without speech "language None<asr_text>".
_TAG = re.compile(r"\A\s*language\s+([^<>\s][^<>\n]{0,39}?)\s*<asr_text>\s*", re.IGNORECASE)


def tagged_transcript(text: str) -> TaggedTranscript:
    """The transcript in a text of Qwen3-ASR's own format, as its fine-tuning files and its servers have it.

    Nothing but a text that begins with this mark is touched: no other one means `<asr_text>` to be spoken.

    Source: the prompt and `parse_output` of transformers' `Qwen3ASRProcessor`.
    """
    found = _TAG.match(text)
    if found is None:
        return TaggedTranscript(None, text)
    language = found.group(1).strip()
    return TaggedTranscript(None if language.lower() == "none" else language, text[found.end() :])


def count_errors(
    transcripts: Sequence[str],
    hypotheses: Sequence[str],
    *,
    unit: str = "word",
    normalise: str | Callable[[str], str] = "none",
) -> Errors:
    """Align each hypothesis with its transcript by the fewest substitutions, deletions and insertions.

    An empty transcript with n words in the hypothesis has n insertions and no words of its own; an empty
    hypothesis for n words has n deletions. Both texts are normalised alike; of Qwen3-ASR's own format they are what
    stands behind the language, see `tagged_transcript`.

    Args:
        transcripts: N true texts.
        hypotheses: N texts of the model, in the same order.
        unit: "word" splits at white space. "character" counts code points; a run of spaces is one character,
            except beside a script written without spaces, where it is none ("你好 世界" has 4, "at sea"
            has 6). "mixed" counts each character of those scripts and each word of the others, for speech that
            switches between them ("我买了 new phone" has 5). "auto" chooses once for all utterances: characters
            if more than half of the transcripts' letters are Han, Hiragana, Katakana, Thai, Lao, Khmer or
            Myanmar, otherwise words. Measure a multilingual set one language at a time.
        normalise: a name or function that `audiorl.text.normalizers.normalizer` takes.

    Returns:
        `Errors` with (N,) counts.

    Raises:
        ValueError: unequal numbers of texts, something that is not text, an unknown unit or normaliser.

    Source: Levenshtein alignment by jiwer; where several alignments are shortest their sum is fixed, their
    split into substitutions, deletions and insertions is jiwer's choice.
    """
    _check_texts(transcripts, hypotheses)
    function = normalizer(normalise)
    true, said = ([function(tagged_transcript(text).text) for text in texts] for texts in (transcripts, hypotheses))
    unit = resolve_unit(unit, true)
    rows = [_count(chunks) for chunks in align_units(true, said, unit)]
    counts = np.array(rows, dtype=np.int64).reshape(len(rows), len(ErrorCounts._fields))
    substitutions, deletions, insertions, hits = counts.T
    return Errors(substitutions, deletions, insertions, hits, unit, function.name, transcripts_digest(true))


def resolve_unit(unit: str, transcripts: Sequence[str]) -> str:
    """ "word", "character" and "mixed" as they are; "auto" by the script of the transcripts, see `count_errors`."""
    if unit not in UNITS:
        raise ValueError(
            f"Errors are counted in one unit of {', '.join(UNITS)}; got unit={unit!r}. "
            "Choose 'character' for scripts without spaces between words, 'word' for the others, 'mixed' for both in "
            "one transcript, or 'auto'."
        )
    if unit != "auto":
        return unit
    text = "".join(transcripts)
    unspaced = sum(character.isalpha() for character in UNSPACED_CHARACTER.findall(text))
    letters = sum(character.isalpha() for character in text)
    return "character" if 2 * unspaced > letters else "word"


def split_units(text: str, unit: str) -> list[str]:
    """What is counted of a normalised text: its words, its characters, or a mixture; see `count_errors`.

    Args:
        text: normalised.
        unit: "word", "character" or "mixed".
    """
    if unit == "character":
        words = text.split()
        units = list(words[0]) if words else []
        for before, word in pairwise(words):
            beside_unspaced = UNSPACED_CHARACTER.match(before[-1]) or UNSPACED_CHARACTER.match(word[0])
            units.extend(word if beside_unspaced else " " + word)
        return units
    if unit == "mixed" and not text.isascii():
        text = UNSPACED_CHARACTER.sub(r" \g<0> ", text)
    return text.split()


class _Split(AbstractTransform):
    """jiwer's own splitter knows one kind of space and refuses texts without words."""

    def __init__(self, unit: str):
        self.unit = unit

    def process_string(self, s: str) -> list[str]:
        return split_units(s, self.unit)


def align_units(transcripts: list[str], hypotheses: list[str], unit: str) -> list[list[Any]]:
    """jiwer's `AlignmentChunk`s of each pair of normalised texts; they index what `split_units` makes of them."""
    process = process_characters if unit == "character" else process_words
    return process(transcripts, hypotheses, _Split(unit), _Split(unit)).alignments


def _count(chunks: list[Any]) -> ErrorCounts:
    lengths = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
    for chunk in chunks:
        # an insertion has no extent in the transcript, a deletion none in the hypothesis
        lengths[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
    return ErrorCounts(*lengths.values())


def _check_texts(transcripts: Sequence[str], hypotheses: Sequence[str]) -> None:
    if isinstance(transcripts, str) or isinstance(hypotheses, str):
        raise ValueError(
            "Errors are counted over lists of texts; got a single str. Put it in a list: "
            "count_errors([transcript], [hypothesis])."
        )
    if len(transcripts) != len(hypotheses):
        raise ValueError(
            f"Each hypothesis is compared with its transcript; got {len(transcripts)} transcripts and "
            f"{len(hypotheses)} hypotheses. Pass one hypothesis for each clip, '' where nothing was said."
        )
    for name, texts in (("transcripts", transcripts), ("hypotheses", hypotheses)):
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(
                    f"Errors are counted between texts; {name}[{place}] is {type(text).__name__}. "
                    "Pass a str, '' for silence."
                )


def transcripts_digest(transcripts: Sequence[str]) -> str:
    """A fingerprint of texts in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in transcripts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


# ---- a hypothesis beside its transcript: normalised alike, split into units, aligned ----

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
