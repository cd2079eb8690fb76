"""Which words a hypothesis got wrong: a transcript and what was heard, laid side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

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
