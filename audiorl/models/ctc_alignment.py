"""A long transcript laid over its recording by a CTC model, and cut into segments: forced alignment.

1. The most probable of all paths that say the transcript is found by Viterbi's algorithm (`best_path`). Only every
   sqrt(S)-th row of scores is kept, and the moves between two of them are computed again on the way back, so that an
   hour of speech needs 0.4 GiB instead of 20; the path is exact.
2. A word without any symbol that the model knows, a number in digits for example, belongs to the word before it.
   Characters that the model does not know are passed over; the text of a segment has all of them.
3. A transcript of several lines is one segment for each line. A line that is too long, and a transcript of one line,
   are cut where nobody speaks longest.
4. A segment's confidence is the lowest geometric mean of the path's probabilities over any second of it, from 0 to 1.
   One second of other words makes it low, however good the rest is.

Source: Kürzinger et al. 2020, arXiv:2007.09127, for aligning by CTC and for the confidence. Deviations: the path starts
and ends with the recording; windows of the confidence are a second long, not 30 frames, and it is no logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from audiorl.models.ctc import CTCFamily

_WINDOW_SECONDS = 1.0
# Silence that a segment takes along on each side, at most, and at most half of the pause there
_MARGIN_SECONDS = 0.2
# Pieces shorter than this are not cut off where a longer one is possible
_SHORTEST_SECONDS = 1.0


class AlignedWord(NamedTuple):
    """A word of a transcript in its recording."""

    text: str
    line: int  # of the transcript, from 0
    start: float  # seconds
    end: float


class Alignment(NamedTuple):
    """A transcript laid over its recording.

    Args:
        words: in their order.
        frame_logps: (S,) log-probability of the path in each frame, nats.
        frame_seconds: from one frame to the next.
    """

    words: list[AlignedWord]
    frame_logps: np.ndarray
    frame_seconds: float

    def confidence(self, start: float, end: float) -> float:
        """The lowest geometric mean of probabilities over any second between two times; over all of a shorter time."""
        first, last = (round(time / self.frame_seconds) for time in (start, end))
        values = self.frame_logps[first : max(last, first + 1)]
        width = min(len(values), max(1, round(_WINDOW_SECONDS / self.frame_seconds)))
        sums = np.concatenate([[0.0], values.cumsum(dtype=np.float64)])
        return math.exp(min(0.0, ((sums[width:] - sums[:-width]) / width).min()))


class SpokenSegment(NamedTuple):
    """A part of a recording with its text."""

    start: float  # seconds
    end: float
    text: str
    confidence: float  # from 0 to 1; see the module


def align(
    family: CTCFamily,
    model: Any,
    clip: np.ndarray,
    text: str,
    *,
    chunk_seconds: float = 30.0,
    overlap_seconds: float | None = None,
) -> Alignment:
    """Find where each word of a transcript is said.

    Args:
        clip: (samples,) at the family's rate, of any length.
        text: what is said in it; several lines are kept apart.
        chunk_seconds, overlap_seconds: how the clip is heard, see `LongForm`.

    Raises:
        ValueError: no word that the model can write, or more symbols than the clip has frames.
    """
    words = list(_spelt(family, text))
    if not words:
        raise ValueError("the transcript has no word that the model can write. Spell it with the model's letters")
    chunk = min(chunk_seconds, family.max_seconds or math.inf)
    heard = family.frame_logps(model, clip, chunk_seconds=chunk, overlap_seconds=overlap_seconds)
    logps = heard.numpy()
    between = getattr(family.ctc_text.tokenizer, "word_delimiter_token_id", None)
    symbols: list[int] = []
    spans = []
    for word in words:
        if symbols and between is not None:
            symbols.append(between)
        spans.append((len(symbols), len(symbols) + len(word.ids)))
        symbols += word.ids
    path = best_path(logps, symbols, family.end_token)
    states = 2 * np.arange(len(symbols)) + 1
    firsts, lasts = np.searchsorted(path, states, "left"), np.searchsorted(path, states, "right")  # it never goes back
    seconds = family.frame_samples / family.sampling_rate
    found = [
        AlignedWord(word.text, word.line, firsts[a] * seconds, lasts[b - 1] * seconds)
        for word, (a, b) in zip(words, spans, strict=True)
    ]
    extended = np.full(2 * len(symbols) + 1, family.end_token)
    extended[1::2] = symbols
    return Alignment(found, logps[np.arange(len(logps)), extended[path]], seconds)


class _Spelt(NamedTuple):
    text: str
    line: int
    ids: list[int]


def _spelt(family: CTCFamily, text: str) -> Iterator[_Spelt]:
    """Words with the symbols that the model has for them; those without any go with their neighbor."""
    known: dict[str, bool] = {}
    for line, written in enumerate(text.splitlines()):
        waiting: list[str] = []
        last: _Spelt | None = None
        for word in written.split():
            for character in word:
                if character not in known:
                    known[character] = family.ctc_text.knows(character)
            ids = family.ctc_text.ids("".join(filter(known.__getitem__, word)))
            if not ids:
                waiting.append(word)
                continue
            if last is not None:
                yield last._replace(text=" ".join([last.text, *waiting]))
                waiting = []
            last, waiting = _Spelt(" ".join([*waiting, word]), line, ids), []
        if last is not None:
            yield last._replace(text=" ".join([last.text, *waiting]))


def best_path(frame_logps: np.ndarray, symbols: Sequence[int], blank: int) -> np.ndarray:
    """The most probable path that says the symbols.

    Args:
        frame_logps: (S, V) nats.
        symbols: N > 0 of them, without blanks.
        blank: id of the blank.

    Returns:
        (S,) places in (blank, symbol 0, blank, symbol 1, ..., blank), which never go back: 2 i + 1 is symbol i.

    Raises:
        ValueError: the symbols need more frames than there are.
    """
    frames = len(frame_logps)
    extended = np.full(2 * len(symbols) + 1, blank)
    extended[1::2] = symbols
    skips = np.zeros(len(extended), dtype=bool)  # whether the blank before a symbol may be left out
    skips[3::2] = extended[3::2] != extended[1:-2:2]
    needed = len(symbols) + int((~skips[3::2]).sum())
    if needed > frames:
        raise ValueError(
            f"the transcript needs {needed} frames of the model, and the clip has {frames}. Check that audio and text "
            "belong together"
        )
    trellis = _Trellis(frame_logps, extended, np.where(skips, 0.0, -np.inf))
    step = math.isqrt(frames - 1) + 1
    scores = np.full(len(extended), -np.inf)
    scores[:2] = frame_logps[0, extended[:2]]
    kept = {}
    for t in range(1, frames):
        if (t - 1) % step == 0:
            kept[t] = scores.copy()
        trellis.advance(scores, t)
    path = np.empty(frames, dtype=np.int64)
    path[-1] = len(extended) - 1 if scores[-1] >= scores[-2] else len(extended) - 2
    for start in sorted(kept, reverse=True):
        scores = kept.pop(start)
        moves = [trellis.advance(scores, t, moves=True) for t in range(start, min(start + step, frames))]
        for t in reversed(range(start, start + len(moves))):
            first, moved = moves[t - start]
            path[t - 1] = path[t] - moved[path[t] - first]
    return path


class _Trellis(NamedTuple):
    """Scores of paths, one frame after another.

    Args:
        frame_logps: (S, V).
        extended: (L,) the symbols with blanks around them.
        skipping: (L,) 0 where the place before may be left out, else -inf.
    """

    frame_logps: np.ndarray
    extended: np.ndarray
    skipping: np.ndarray

    def advance(self, scores: np.ndarray, t: int, *, moves: bool = False) -> tuple[int, np.ndarray]:
        """Turn the scores of the best paths to each place in frame t - 1 into those in frame t.

        Only places are looked at that a path can have reached by then and that can still reach the end.

        Returns:
            With `moves` by how many places (0, 1 or 2) each best path moved, from which place on; else nothing.
        """
        frames, places = len(self.frame_logps), len(self.extended)
        first, stop = max(0, places - 2 * (frames - t)), min(places, 2 * t + 2)
        before = scores[max(0, first - 2) : stop].copy()
        at = min(first, 2)  # of `first` in it
        best = scores[first:stop]
        one = before[at - 1 : -1] if at else before[:-1]
        two = before[at - 2 : -2] if at == 2 else before[:-2]
        two = two + self.skipping[stop - len(two) : stop]
        longer, longest = best[len(best) - len(one) :], best[len(best) - len(two) :]
        moved = np.zeros(len(best) if moves else 0, dtype=np.int8)
        if moves:
            moved[len(best) - len(one) :] = one > longer
        np.maximum(longer, one, out=longer)
        if moves:
            moved[len(best) - len(two) :][two > longest] = 2
        np.maximum(longest, two, out=longest)
        best += self.frame_logps[t, self.extended[first:stop]]
        return first, moved


# ---- segments ----


def segments_of(alignment: Alignment, *, max_seconds: float = 20.0) -> list[SpokenSegment]:
    """The segments of an aligned transcript.

    Args:
        max_seconds: longest segment, > 0; a single word may be longer.
    """
    words = alignment.words
    total = len(alignment.frame_logps) * alignment.frame_seconds
    borders = [i for i in range(1, len(words)) if words[i].line != words[i - 1].line]
    one_line = not borders
    spans = []
    for first, last in zip([0, *borders], [*borders, len(words)], strict=True):
        spans += _cut(words, first, last, max_seconds)
    if one_line:
        spans = _joined(words, spans, max_seconds)
    found = []
    for first, last in spans:
        before = words[first - 1].end if first else 0.0
        after = words[last].start if last < len(words) else total
        start = words[first].start - min(_MARGIN_SECONDS, (words[first].start - before) / 2)
        end = words[last - 1].end + min(_MARGIN_SECONDS, (after - words[last - 1].end) / 2)
        confidence = alignment.confidence(words[first].start, words[last - 1].end)
        found.append(SpokenSegment(start, end, " ".join(word.text for word in words[first:last]), confidence))
    return found


def _cut(words: Sequence[AlignedWord], first: int, last: int, max_seconds: float) -> list[tuple[int, int]]:
    """Spans of words, none longer than `max_seconds` if that is possible, cut at their longest pauses."""
    found, todo = [], [(first, last)]
    room = max_seconds - 2 * _MARGIN_SECONDS
    while todo:
        a, b = todo.pop()
        if words[b - 1].end - words[a].start <= room or b - a == 1:
            found.append((a, b))
            continue
        cuts = [
            i
            for i in range(a + 1, b)
            if min(words[i - 1].end - words[a].start, words[b - 1].end - words[i].start) >= _SHORTEST_SECONDS
        ]
        cut = max(cuts or range(a + 1, b), key=lambda i: words[i].start - words[i - 1].end)
        todo += [(cut, b), (a, cut)]  # the first one is next
    return found


def _joined(
    words: Sequence[AlignedWord], spans: Sequence[tuple[int, int]], max_seconds: float
) -> list[tuple[int, int]]:
    """Spans joined with their neighbors while they stay short enough."""
    room = max_seconds - 2 * _MARGIN_SECONDS
    found: list[tuple[int, int]] = []
    for first, last in spans:
        if found and words[last - 1].end - words[found[-1][0]].start <= room:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found
