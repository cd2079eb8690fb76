"""Where the errors are: by speaker, by language, by duration, by word."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from audiorl.report.alignment import EQUAL, INSERTION, Piece, true_units

# Words of a page's table; those with most errors.
MOST_WORDS = 500
# How many ways of mishearing a word are named.
MISHEARINGS = 3


def by_part(systems: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """The parts of a breakdown with the error rate of each system: `{"value", "clips", "words", "wer"}`.

    Args:
        systems: measurements of an evaluation document, on the same clips.
        name: "speaker", "language" or "duration".
    """
    parts = zip(*(system["breakdown"][name] for system in systems), strict=True)
    return [
        {**{key: part[0][key] for key in ("value", "clips", "words")}, "wer": [one["wer"] for one in part]}
        for part in parts
    ]


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
