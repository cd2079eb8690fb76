"""What was said before a clip, as context for the model that transcribes it.

Two columns of a row hold it, and a model that reads prompts finds it in its own:

    history             as it was said: the transcripts of the clips before
    history_hypothesis  as a model wrote it, with the model's errors

A model that is tuned behind true histories meets its own errors for the first time when it is used: contextual exposure
bias. The remedies are those of Guo et al.: hypotheses as history while tuning, histories left out now and then, and
preference tuning behind them.

Source: Guo et al. 2026, arXiv:2603.24034. They train on the hypotheses of a teacher alone; a share between 0 and 1 is
ours.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from audiorl.audio.sources import not_unicode, short_repr

HISTORY_COLUMN, HYPOTHESIS_COLUMN = "history", "history_hypothesis"
# Where a row's history is taken from -> its column.
SOURCES: Mapping[str, str | None] = {"transcript": HISTORY_COLUMN, "hypothesis": HYPOTHESIS_COLUMN, "none": None}


def checked_source(source: str) -> str:
    """A name of `SOURCES`.

    Raises:
        ValueError: another one.
    """
    if source not in SOURCES:
        raise ValueError(
            f"history_source is one of {', '.join(SOURCES)}; got {source!r}. 'transcript' reads the column "
            f"{HISTORY_COLUMN}, 'hypothesis' {HYPOTHESIS_COLUMN}, 'none' neither."
        )
    return source


def read_history(row: Mapping[str, Any], source: str = "transcript") -> str | None:
    """A row's history, outer spaces stripped; None where nothing was said before.

    Raises:
        ValueError: it is no text, or the row has no column of hypotheses.
    """
    column = SOURCES[source]
    if column is None:
        return None
    if source == "hypothesis" and column not in row:
        raise ValueError(
            f"the row has no column {column}, and history_source is 'hypothesis'. Make it with `audiorl history "
            "--model_name_or_path`, or take the transcripts"
        )
    value = row.get(column)
    if not isinstance(value, str | None):
        raise ValueError(f"{column} is {short_repr(value)} ({type(value).__name__}), not text. Give a string")
    if value is not None and not_unicode(value):
        raise ValueError(f"{column} {short_repr(value)} holds half of a surrogate pair. Write it as UTF-8 anew")
    return (value or "").strip() or None


def drawn_history(
    row: Mapping[str, Any], *, dropout: float, hypotheses: float, rng: np.random.Generator
) -> dict[str, Any]:
    """A row whose history is left out, or a hypothesis, as often as asked; without its column of hypotheses.

    Args:
        dropout: 0 to 1, how likely the history is left out.
        hypotheses: 0 to 1, how likely a history that stays is the row's `history_hypothesis`.
        rng: of this row.

    Raises:
        ValueError: the row has no column of hypotheses and is to be read behind one.
    """
    left_out, other = rng.random(2)
    column = HYPOTHESIS_COLUMN if other < hypotheses else HISTORY_COLUMN
    if left_out >= dropout and column == HYPOTHESIS_COLUMN and column not in row:
        raise ValueError(
            f"{row.get('where', 'A row')} has no column {column}, and history_hypotheses={hypotheses:g} reads it. Make "
            "it with `audiorl history --model_name_or_path`, or leave history_hypotheses out."
        )
    history = None if left_out < dropout else row.get(column)
    return {**{name: value for name, value in row.items() if name != HYPOTHESIS_COLUMN}, HISTORY_COLUMN: history}


def clips_before(recordings: Sequence[Hashable], clips: int) -> list[list[int]]:
    """For each row the rows before it in its recording, the earliest first, at most so many.

    Args:
        recordings: of each row, in the order in which they were spoken; recordings may be mixed.
        clips: >= 1.
    """
    heard: dict[Hashable, list[int]] = {}
    found = []
    for i, recording in enumerate(recordings):
        before = heard.setdefault(recording, [])
        found.append(before[-clips:])
        before.append(i)
    return found


def joined(texts: Sequence[str | None]) -> str | None:
    """Texts with a space between them; None where none of them says anything."""
    return " ".join(text.strip() for text in texts if text and text.strip()) or None


def last_words(text: str, characters: int) -> str:
    """The end of a text, at most so many characters; words stay whole where there are spaces."""
    if len(text) <= characters:
        return text
    end = text[len(text) - characters :]
    if text[len(text) - characters - 1].isspace():
        return end.strip()
    _, space, whole = end.partition(" ")
    return whole.strip() if space else end
