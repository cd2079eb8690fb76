"""Where two texts differ, and what is counted of many such differences: by word, by confusion, by part of the data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from audiorl.text.error_rates import align_units, split_units

EQUAL, SUBSTITUTION, INSERTION, DELETION = "=", "S", "I", "D"


class Piece(NamedTuple):
    """A stretch of an alignment: a run of right units, or one error."""

    kind: str  # EQUAL, SUBSTITUTION, INSERTION or DELETION
    true: str  # the transcript's units, "" for an insertion
    said: str  # the hypothesis's units, "" for a deletion


def align(
    transcripts: Sequence[str], hypotheses: Sequence[str], *, unit: str, normalise: Callable[[str], str]
) -> list[list[Piece]]:
    """The pieces of each pair of texts, from left to right; their counts are those of `count_errors`.

    Args:
        transcripts, hypotheses: N texts each, not normalised.
        unit: "word", "character" or "mixed"; see `audiorl.evaluation.count_errors`.
        normalise: from text to text.
    """
    true, said = ([normalise(text) for text in texts] for texts in (transcripts, hypotheses))
    glue = "" if unit == "character" else " "
    return [
        _pieces(chunks, split_units(a, unit), split_units(b, unit), glue)
        for chunks, a, b in zip(align_units(true, said, unit), true, said, strict=True)
    ]


def _pieces(chunks: Sequence, true: list[str], said: list[str], glue: str) -> list[Piece]:
    pieces: list[Piece] = []
    for chunk in chunks:
        left = true[chunk.ref_start_idx : chunk.ref_end_idx]
        right = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            pieces.append(Piece(EQUAL, glue.join(left), glue.join(right)))
        elif chunk.type == "substitute":
            pieces += [Piece(SUBSTITUTION, a, b) for a, b in zip(left, right, strict=True)]
        elif chunk.type == "insert":
            pieces += [Piece(INSERTION, "", unit) for unit in right]
        else:
            pieces += [Piece(DELETION, unit, "") for unit in left]
    return pieces


def true_units(piece: Piece, unit: str) -> list[str]:
    """The units of the transcript that a piece holds."""
    if piece.kind != EQUAL or unit == "label":
        return [piece.true] if piece.true else []
    return list(piece.true) if unit == "character" else piece.true.split()


# Words of a page's table, and confusions of another; those with most errors.
MOST_WORDS = 500
# How many ways of mishearing a word are named.
MISHEARINGS = 3


def by_part(systems: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """The parts of a breakdown with the error rate of each system: `{"value", "clips", "words", "wer"}`.

    Args:
        systems: measurements of an evaluation document, on the same rows.
        name: "speaker", "language" or "duration".

    Returns:
        Parts in the order of the first system; a rate is None where all rows of a part failed for a system. Clips and
        words are those of the first system that has the part.
    """
    found: dict[str, dict[str, Any]] = {}
    for place, system in enumerate(systems):
        for part in system["breakdown"][name]:
            known = {key: part[key] for key in ("value", "clips", "words")}
            row = found.setdefault(part["value"], {**known, "wer": [None] * len(systems)})
            row["wer"][place] = part["wer"]
    return list(found.values())


def by_word(alignments: Sequence[Sequence[Sequence[Piece]]], unit: str) -> tuple[list[dict[str, Any]], int]:
    """Errors on each word of the transcripts, and how many words have any.

    Args:
        alignments: for each system, for each clip, the pieces.
        unit: what they are counted in.

    Returns:
        At most `MOST_WORDS` of `{"word", "count", "errors", "inserted", "heard"}`, most errors first, and the number
        of all such words. `count` is that of the transcripts; `errors` are the substitutions and deletions of each
        system, `inserted` its insertions, `heard` what it made of the word most often ("" for nothing).
    """
    count: Counter[str] = Counter()
    errors: list[Counter[str]] = [Counter() for _ in alignments]
    inserted: list[Counter[str]] = [Counter() for _ in alignments]
    heard: list[defaultdict[str, Counter[str]]] = [defaultdict(Counter) for _ in alignments]
    for system, clips in enumerate(alignments):
        for piece in (piece for pieces in clips for piece in pieces):
            if piece.kind == INSERTION:
                inserted[system][piece.said] += 1
                continue
            if system == 0:
                count.update(true_units(piece, unit))
            if piece.kind != EQUAL:
                errors[system][piece.true] += 1
                heard[system][piece.true][piece.said] += 1
    rows: list[dict[str, Any]] = [
        {
            "word": word,
            "count": count[word],
            "errors": [found[word] for found in errors],
            "inserted": [found[word] for found in inserted],
            "heard": [found[word].most_common(MISHEARINGS) if word in found else [] for found in heard],
        }
        for word in set().union(*errors, *inserted)
    ]
    rows.sort(key=lambda row: (-max(map(sum, zip(row["errors"], row["inserted"], strict=True))), row["word"]))
    return rows[:MOST_WORDS], len(rows)


def by_confusion(alignments: Sequence[Sequence[Sequence[Piece]]]) -> tuple[list[dict[str, Any]], int]:
    """How often each thing was heard for another: a substitution, a missing or an added unit.

    Args:
        alignments: for each system, for each clip, the pieces.

    Returns:
        At most `MOST_WORDS` of `{"true", "said", "counts"}`, the most frequent first, and the number of all. `true` is
        "" of an insertion, `said` "" of a deletion; `counts` has a number for each system.
    """
    counts: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * len(alignments))
    for system, clips in enumerate(alignments):
        for piece in (piece for pieces in clips for piece in pieces if piece.kind != EQUAL):
            counts[piece.true, piece.said][system] += 1
    ranked = sorted(counts.items(), key=lambda found: (-max(found[1]), found[0]))
    rows = [{"true": true, "said": said, "counts": found} for (true, said), found in ranked[:MOST_WORDS]]
    return rows, len(ranked)
