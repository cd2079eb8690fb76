"""Clips beyond a model's window, in parts that overlap: where they are cut, and how their answers become one.

1. Every part is as long as the model hears, the last one too: it begins earlier instead of being shorter.
2. CTC models give frames. The frames of two parts are joined in the middle of their overlap, where both have heard what
   is around it, and decoded as a whole (`CTCFamily.transcribe_chunks`).
3. Other models give texts. The end of a text and the start of the next one are aligned; the second text goes on from
   the equal unit nearest the middle. If nothing is equal, the texts follow each other whole, so that words of the
   overlap may come twice, and none is lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WAYS = ("auto", "chunks")
# Units of a text that are said in a second at most: words, and characters of scripts without spaces.
_UNITS_A_SECOND = 12
# Han, kana, Thai, Lao, Burmese, Khmer: a unit is a character.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")
_NO_LETTER = re.compile(r"\W+")


@dataclass(frozen=True)
class LongForm:
    """How clips that are longer than the window are transcribed.

    Args:
        way: "auto", the family's own way: Whisper goes from timestamp to timestamp (Radford et al. 2022,
            arXiv:2212.04356, section 3.8), other models hear chunks that overlap; "chunks" for Whisper, too.
        chunk_seconds: seconds of a chunk, > 0; None for the model's window. A model without a window hears clips whole
            unless this says otherwise.
        overlap_seconds: seconds that two chunks share, > 0 and at most half a chunk; None for 4, or a quarter of a
            chunk that is shorter than 16.

    Raises:
        ValueError: another way, or seconds out of range.
    """

    way: str = "auto"
    chunk_seconds: float | None = None
    overlap_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise ValueError(
                f"Long clips are transcribed by one of {WAYS}; got {self.way!r}. Change --long_form (in Python "
                "LongForm(way=...))."
            )
        overlap = self.overlap_seconds
        if overlap is not None and not overlap > 0:
            raise ValueError(
                f"Chunks overlap by more than 0 s; got {overlap!r}. Change --overlap_seconds (in Python "
                "LongForm(overlap_seconds=...))."
            )
        if self.chunk_seconds is not None and not self.chunk_seconds > 0:
            raise ValueError(f"A chunk is longer than 0 s; got {self.chunk_seconds!r}. Raise --chunk_seconds.")
        if self.chunk_seconds is not None and overlap is not None and self.chunk_seconds < 2 * overlap:
            raise ValueError(
                f"A chunk is at least twice as long as the overlap of {overlap:g} s; got {self.chunk_seconds:g} s. "
                "Raise --chunk_seconds, or lower --overlap_seconds."
            )

    def seconds_of(self, family: Any) -> float | None:
        """Seconds of a family's chunks; None where it hears clips of any length whole.

        Raises:
            ValueError: chunks that the model cannot hear, or that are shorter than two overlaps.
        """
        window = family.max_seconds
        if self.chunk_seconds is not None and window is not None and self.chunk_seconds > window:
            raise ValueError(
                f"The model hears {window:g} s at once, and chunks of {self.chunk_seconds:g} s are asked for. Lower "
                "--chunk_seconds, or leave it out."
            )
        seconds = window if self.chunk_seconds is None else self.chunk_seconds
        if seconds is not None and self.overlap_seconds is not None and seconds < 2 * self.overlap_seconds:
            raise ValueError(
                f"The model's window of {seconds:g} s is shorter than two overlaps of {self.overlap_seconds:g} s. "
                "Lower --overlap_seconds."
            )
        return seconds

    def overlap_of(self, chunk_seconds: float) -> float:
        """Seconds that two chunks of this length share."""
        return min(4.0, chunk_seconds / 4) if self.overlap_seconds is None else self.overlap_seconds

    def transcribe(self, family: Any, model: Any, clip: np.ndarray, **asked: Any) -> str:
        """The transcript of a clip that is longer than `seconds_of`.

        Args:
            clip: (samples,) at the family's rate.
            asked: keywords of `family.transcribe`: language, task and prompt of one clip, and of the search.
        """
        chunk = self.seconds_of(family)
        assert chunk is not None
        way = family.transcribe_long if self.way == "auto" else family.transcribe_chunks
        return way(model, clip, chunk_seconds=chunk, overlap_seconds=self.overlap_of(chunk), **asked)


def chunk_starts(samples: int, chunk: int, overlap: int, step: int = 1) -> list[int]:
    """Where the chunks of a clip begin.

    Args:
        samples: of the clip.
        chunk: samples of a chunk, >= 2 `overlap`.
        overlap: samples that neighbors share at least, > 0.
        step: every start is a multiple of it, at most `overlap`.
    """
    if samples <= chunk:
        return [0]
    stride = (chunk - overlap) // step * step
    last = -((chunk - samples) // step) * step  # rounded up, so that the last chunk is not too long
    return [*range(0, last, stride), last]


def transcript_of_chunks(
    transcribe: Callable[[np.ndarray], str], clip: np.ndarray, rate: int, chunk_seconds: float, overlap_seconds: float
) -> str:
    """The texts of a clip's chunks, as one.

    Args:
        transcribe: samples of a chunk -> its text.
        clip: (samples,).
        rate: Hz.
        chunk_seconds, overlap_seconds: see `LongForm`.
    """
    chunk, overlap = round(chunk_seconds * rate), round(overlap_seconds * rate)
    text, before = "", 0
    for start in chunk_starts(len(clip), chunk, overlap):
        shared = (before - start) / rate  # of the last two chunks perhaps more than the others'
        text = merge_texts(text, transcribe(clip[start : start + chunk]), shared)
        before = start + chunk
    return text


def merge_texts(first: str, second: str, shared_seconds: float) -> str:
    """Two texts of which the end of one and the start of the other say the same.

    The last units of the first and the first units of the second are aligned (a match counts 1, anything else -1), at
    any start and to any end. The first text's last unit and the second's first one may be halves of words, and cost
    nothing. Of the best alignment's equal units, the one nearest its middle is where the second text goes on.

    Args:
        shared_seconds: that both have heard: they bound how many units are compared.
    """
    before, after = _UNIT.findall(first.strip()), _UNIT.findall(second.strip())
    most = max(1, round(_UNITS_A_SECOND * shared_seconds))
    tail, head = before[-most:], after[:most]
    joint = _joint([_compared(unit) for unit in tail], [_compared(unit) for unit in head])
    if joint is None:
        return f"{first.strip()} {second.strip()}".strip() if _spaced(before, after) else first.strip() + second.strip()
    kept = before[: len(before) - len(tail) + joint[0]]
    return ("".join(kept) + "".join(after[joint[1] :])).strip() if kept else "".join(after[joint[1] :]).strip()


def _compared(unit: str) -> str:
    return _NO_LETTER.sub("", unit).casefold() or unit.strip()


def _spaced(before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether a space belongs between two texts: not between characters of scripts that have none."""
    if not before or not after:
        return False
    return not (re.match(rf"\s*[{_UNSPACED}]", before[-1]) and re.match(rf"[{_UNSPACED}]", after[0]))


def _joint(tail: Sequence[str], head: Sequence[str]) -> tuple[int, int] | None:
    """Places of the equal units at which the second text goes on; None if no alignment has more matches than faults."""
    score = np.zeros((len(tail) + 1, len(head) + 1), dtype=np.int64)
    # units of the second text before what both say, the first of them free; those of the first text all are
    score[0] = -(np.arange(len(head) + 1) - 1).clip(min=0)
    for i, ours in enumerate(tail, 1):
        for j, theirs in enumerate(head, 1):
            match = 1 if ours == theirs else -1
            score[i, j] = max(score[i - 1, j - 1] + match, score[i - 1, j] - 1, score[i, j - 1] - 1)
    i = max((len(tail), len(tail) - 1), key=lambda row: score[row].max())
    j = int(score[i].argmax())
    if score[i, j] <= 0:
        return None
    equal: list[tuple[int, int]] = []
    while i > 0 and j > 0:
        match = 1 if tail[i - 1] == head[j - 1] else -1
        if score[i, j] == score[i - 1, j - 1] + match:
            i, j = i - 1, j - 1
            if match == 1:
                equal.append((i, j))
        elif score[i, j] == score[i - 1, j] - 1:
            i -= 1
        else:
            j -= 1
    middle = (i + len(tail)) / 2
    return min(equal, key=lambda pair: abs(pair[0] + 0.5 - middle))
