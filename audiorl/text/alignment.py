"""A hypothesis below its transcript, unit by unit: what was substituted, deleted and inserted.

    >>> audiorl.show_alignment("the quick brown fox jumps", "the quack fox jumps over")
    transcript  the quick brown fox jumps ****
    hypothesis  the quack ***** fox jumps over
                    S     D               I
    60.0 % errors: 1 substituted, 1 deleted, 1 inserted of 5 words

Units are words, and characters in scripts without spaces; a text may have both. Wide characters take two columns.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, NamedTuple

from rich.cells import cell_len

from audiorl.terminal import columns, painted
from audiorl.text.error_rates import (
    UNSPACED_CHARACTER,
    ErrorCounts,
    align_units,
    split_units,
    tagged_transcript,
    unit_of_row,
)
from audiorl.text.normalizers import normalizer

Kind = Literal["equal", "substitution", "deletion", "insertion"]
# kind -> the mark below it, and its colour
MARKS: dict[Kind, tuple[str, str]] = {
    "equal": ("", ""),
    "substitution": ("S", "yellow"),
    "deletion": ("D", "red"),
    "insertion": ("I", "cyan"),
}
_KINDS: dict[str, Kind] = {
    "equal": "equal",
    "substitute": "substitution",
    "delete": "deletion",
    "insert": "insertion",
}
_NAMES = ("transcript", "hypothesis", "")
_INDENT = max(map(len, _NAMES)) + 2
FILE_COLUMNS = 100


class Unit(NamedTuple):
    """One unit of an alignment; None where the other text has none."""

    kind: Kind
    transcript: str | None
    hypothesis: str | None


@dataclass(frozen=True)
class Alignment:
    """The units of a transcript beside those of a hypothesis; `str()` draws them below each other.

    Attributes:
        units: in their order.
        unit: "word", "character" or "mixed".
    """

    units: tuple[Unit, ...]
    unit: str

    @property
    def counts(self) -> ErrorCounts:
        kinds = [one.kind for one in self.units]
        return ErrorCounts(*(kinds.count(kind) for kind in ("substitution", "deletion", "insertion", "equal")))

    def drawn(self, width: int = FILE_COLUMNS, paint: Callable[[str, str], str] | None = None) -> str:
        """Three lines for each stretch of units that fits the width, and the counts.

        Args:
            width: columns, 40 or more.
            paint: called with a text and a colour.
        """
        paint = paint or (lambda text, _: text)
        blocks = ["\n".join(self._block(block, paint)) for block in self._blocks(width - _INDENT)]
        return "\n\n".join(blocks) + ("\n" if blocks else "") + self.counts.in_words(self._counted)

    @property
    def _counted(self) -> str:
        """What the units are called: those of a mixed text without characters on their own are words."""
        texts = "".join((one.transcript or "") + (one.hypothesis or "") for one in self.units)
        return "word" if self.unit == "mixed" and not UNSPACED_CHARACTER.search(texts) else self.unit

    def _blocks(self, width: int) -> Iterator[list[Unit]]:
        block: list[Unit] = []
        taken = 0
        for one in self.units:
            needed = _width(one) + self._gap
            if block and taken + needed > width:
                yield block
                block, taken = [], 0
            block.append(one)
            taken += needed
        if block:
            yield block

    @property
    def _gap(self) -> int:
        return 0 if self.unit == "character" else 1

    def _block(self, block: Sequence[Unit], paint: Callable[[str, str], str]) -> Iterator[str]:
        rows: list[list[str]] = [[], [], []]
        for one in block:
            width, (mark, colour) = _width(one), MARKS[one.kind]
            for row, text in zip(rows, (one.transcript, one.hypothesis, mark), strict=True):
                shown = "*" * width if text is None else text
                padded = shown + " " * (width - cell_len(shown))
                row.append(paint(padded, colour) if colour else padded)
        for name, row in zip(_NAMES, rows, strict=True):
            yield f"{name:<{_INDENT}}{(' ' * self._gap).join(row)}".rstrip()

    def __repr__(self) -> str:
        return f"Alignment({len(self.units)} units, {self.counts.errors} errors)"

    def __str__(self) -> str:
        return self.drawn()

    def _repr_html_(self) -> str:
        def paint(text: str, colour: str) -> str:
            return f"\0{colour}\1{text}\2"

        drawn = escape(self.drawn(paint=paint))
        colours = {"yellow": "#b58900", "red": "#dc322f", "cyan": "#2aa198"}
        for colour, shade in colours.items():
            drawn = drawn.replace(f"\0{colour}\1", f'<span style="color:{shade}">')
        return f"<pre>{drawn.replace(chr(2), '</span>')}</pre>"


def _width(one: Unit) -> int:
    return max(cell_len(one.transcript or ""), cell_len(one.hypothesis or ""), 1)


def align_texts(
    transcript: str,
    hypothesis: str,
    *,
    normalise: str | Callable[[str], str] = "basic",
    unit: str = "auto",
) -> Alignment:
    """The shortest alignment of two texts, as error rates count it.

    Args:
        transcript: what is said; "" for silence.
        hypothesis: what a model wrote.
        normalise: name of a normalizer, or a function; "none" compares the texts as they are.
        unit: "word", "character", "mixed" (words, and characters of scripts without spaces), or "auto": the last,
            unless the transcript has no words between spaces.

    Raises:
        ValueError: no texts, or no such normalizer or unit.
    """
    for name, text in (("transcript", transcript), ("hypothesis", hypothesis)):
        if not isinstance(text, str):
            raise ValueError(f"{name} is a text; got {type(text).__name__}. Pass a str, '' for silence.")
    function = normalizer(normalise)
    true, said = (function(tagged_transcript(text).text) for text in (transcript, hypothesis))
    unit = unit_of_row(unit, true or said)
    first, second = split_units(true, unit), split_units(said, unit)
    units: list[Unit] = []
    for chunk in align_units([true], [said], unit)[0]:
        ours = first[chunk.ref_start_idx : chunk.ref_end_idx]
        theirs = second[chunk.hyp_start_idx : chunk.hyp_end_idx]
        units += [Unit(_KINDS[chunk.type], *pair) for pair in itertools.zip_longest(ours, theirs)]
    return Alignment(tuple(units), unit)


def show_alignment(
    transcript: str | Sequence[str],
    hypothesis: str | Sequence[str],
    *,
    normalise: str | Callable[[str], str] = "basic",
    unit: str = "auto",
) -> None:
    """Print a hypothesis below its transcript, with colours where the terminal, or the notebook, has them.

    Args:
        transcript, hypothesis: two texts, or two lists of as many texts.
        normalise, unit: see `align_texts`, which returns what is shown here.

    Raises:
        ValueError: lists of different lengths, or what `align_texts` refuses.
    """
    first, second = ([texts] if isinstance(texts, str) else list(texts) for texts in (transcript, hypothesis))
    if len(first) != len(second):
        raise ValueError(
            f"Each hypothesis is shown below its transcript; got {len(first)} transcripts and {len(second)} "
            "hypotheses. Pass as many of both."
        )
    found = [align_texts(true, said, normalise=normalise, unit=unit) for true, said in zip(first, second, strict=True)]
    if _is_notebook():
        from IPython.display import HTML, display

        display(HTML("".join(one._repr_html_() for one in found)))
        return
    width = columns(sys.stdout) or FILE_COLUMNS
    print("\n\n".join(one.drawn(width, painted) for one in found))


def _is_notebook() -> bool:
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
