"""Rows with what was said before their clips: from the transcripts, and as a model itself writes it.

`add_history` decodes recordings as one does who uses the model: the first clip of each without a history, the second
behind the hypothesis of the first, and so on. The clips at one place of all recordings are decoded together, so many
recordings go faster than one long one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, Value
from torch import nn

from audiorl.datasets import speech_rows
from audiorl.datasets.formats import ColumnNames
from audiorl.evaluation.transcription import family_of, generation_settings, transcribed_rows
from audiorl.terminal import progress_bar
from audiorl.text.history import HISTORY_COLUMN, HYPOTHESIS_COLUMN, clips_before, joined, last_words

# Columns of rows that are parts of longer recordings, which say when a clip begins.
START_COLUMNS = ("start", "offset")


@dataclass(repr=False)
class RowsWithHistory:
    """What `add_history` made.

    Attributes:
        rows: those that came, with `history`, and with `history_hypothesis` where a model was asked.
        recordings: how many there are.
        cut: histories of which the beginning was left out, of both columns.
        cut_characters: how much of them.
    """

    rows: Dataset
    recordings: int
    cut: int = 0
    cut_characters: int = 0

    def __repr__(self) -> str:
        return f"RowsWithHistory({len(self.rows)} rows, recordings={self.recordings}, cut={self.cut})"

    def __str__(self) -> str:
        cut = f"{self.cut:,} histories were cut at their beginning, by {self.cut_characters:,} characters in all"
        told = f"{len(self.rows):,} clips of {self.recordings:,} recordings have a history"
        return f"{told}; {cut if self.cut else 'none was cut'}"

    def history(self, texts: Sequence[str | None], characters: int | None) -> str | None:
        """The history that some texts make, counted if it is cut."""
        whole = joined(texts)
        if whole is None or characters is None:
            return whole
        kept = last_words(whole, characters)
        self.cut += kept != whole
        self.cut_characters += len(whole) - len(kept)
        return kept


def add_history(
    rows: Any,
    model: nn.Module | None = None,
    processor: Any = None,
    *,
    recording_column: str = "recording",
    text_column: str = "text",
    clips: int = 2,
    characters: int | None = None,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    progress: bool = True,
    family: Any = None,
    columns: ColumnNames | None = None,
) -> RowsWithHistory:
    """Give each row what was said in the clips before it.

    Args:
        rows: whatever `audiorl.datasets.speech_rows` takes but streams; the clips of a recording stand in the order in
            which they were spoken.
        model: what writes `history_hypothesis`, usually the one that is going to be tuned; None makes `history` alone.
        processor: the model's.
        recording_column: what tells recordings apart: a name, a number.
        text_column: of the transcripts.
        clips: how many clips before make a history, >= 1. (2 in arXiv:2603.24034)
        characters: at most so many of a history, whole words, the latest; None cuts nothing.
        batch_size, max_new_tokens, progress, family, columns: see `transcribe`.

    Raises:
        ValueError: a row without a recording, clips out of order, no transcripts and no model, a number out of its
            range, or a model without a place for history.
        AudioFault: a clip cannot be decoded; the message names the row.
    """
    for name, value in (("clips", clips), ("characters", characters)):
        if value is not None and value < 1:
            raise ValueError(f"{name} of a history is a number from 1 on; got {value}. The paper takes 2 clips.")
    known = speech_rows(rows, columns=columns)
    recordings = _recordings(known, recording_column)
    before = clips_before(recordings, clips)
    found = RowsWithHistory(known, len(set(recordings)))
    if text_column in known.column_names:
        texts = known[text_column][:]
        found.rows = _with_column(
            found.rows, HISTORY_COLUMN, [found.history([texts[i] for i in earlier], characters) for earlier in before]
        )
    elif model is None:
        raise ValueError(
            f"The rows have no column {text_column!r}, so nobody knows what was said before, but {known.column_names}. "
            "Name the column of the transcripts (text_column), or a model whose hypotheses are the history."
        )
    if model is None:
        return found
    family = family or family_of(model, processor)
    if not family.decodes_with_prompts or family.history_source != "transcript":
        raise ValueError(
            f"{type(family).__name__} does not read the column {HISTORY_COLUMN}: it has no prompts, or its "
            f"history_source, {family.history_source!r}, is not 'transcript'. Take a Whisper or an audio language "
            "model as speech_family makes it, or make the column without a model."
        )
    family.row_prompt({HISTORY_COLUMN: "a"})  # a model without a place for it is refused before anything is decoded
    transcripts = text_column if text_column in known.column_names else None
    settings: dict[str, Any] = {"batch_size": batch_size, "transcript_column": transcripts, "progress": False}

    def decode(places: Sequence[int], histories: Sequence[str | None]) -> list[str]:
        turn = _with_column(known.select(places), HISTORY_COLUMN, histories)
        written = transcribed_rows(model, family, turn, generation_settings(max_new_tokens, None), **settings)
        return [family.words(one.hypothesis) for one in written]

    turns = progress_bar(_turns(recordings), desc="Decoding recordings", unit="clip each", progress=progress)
    found.rows = _with_column(found.rows, HYPOTHESIS_COLUMN, _own_histories(found, turns, before, characters, decode))
    return found


def _own_histories(
    found: RowsWithHistory,
    turns: Iterable[Sequence[int]],
    before: Sequence[Sequence[int]],
    characters: int | None,
    decode: Callable[[Sequence[int], Sequence[str | None]], list[str]],
) -> list[str | None]:
    """The history of each row from what was decoded of the rows before it.

    Args:
        turns: rows that are decoded together, those of which they need the hypotheses earlier.
        before: of each row the rows of its history.
        decode: rows and their histories -> hypotheses.
    """
    said: list[str | None] = [None] * len(before)
    histories: list[str | None] = [None] * len(before)
    for places in turns:
        for i in places:
            histories[i] = found.history([said[j] for j in before[i]], characters)
        for i, text in zip(places, decode(places, [histories[i] for i in places]), strict=True):
            said[i] = text
    return histories


def _recordings(rows: Any, column: str) -> list[Hashable]:
    """The recording of each row."""
    if not isinstance(rows, Dataset):
        raise ValueError("A history needs all rows at once, and these are a stream. Load them with streaming=False.")
    if column not in rows.column_names:
        raise ValueError(
            f"The rows have no column {column!r} that says which recording a clip is from, but {rows.column_names}. "
            "Name the column (recording_column, --recording_column)."
        )
    found = rows[column][:]
    start = next((name for name in START_COLUMNS if name in rows.column_names), None)
    begins = rows[start][:] if start is not None else [None] * len(found)
    latest: dict[Hashable, float] = {}
    for i, (recording, begin) in enumerate(zip(found, begins, strict=True)):
        if not isinstance(recording, str | int) or recording == "":
            raise ValueError(
                f"{_place(rows, i)}: {column} is {recording!r}, no recording. Give it a name, or remove the row."
            )
        if isinstance(begin, int | float):
            if begin < latest.get(recording, begin):
                raise ValueError(
                    f"{_place(rows, i)}: the clip begins at {begin:g} s of {recording!r}, before the one above it. "
                    f"Sort the rows of a recording by {start}."
                )
            latest[recording] = begin
    return found


def _place(rows: Dataset, i: int) -> str:
    return rows[i].get("where") or f"row {i}"


def _turns(recordings: Sequence[Hashable]) -> list[list[int]]:
    """Rows that can be decoded together: the first clips of all recordings, the second ones, and so on."""
    turns: list[list[int]] = []
    counted: dict[Hashable, int] = {}
    for i, recording in enumerate(recordings):
        turn = counted.get(recording, 0)
        counted[recording] = turn + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(i)
    return turns


def _with_column(rows: Dataset, name: str, values: Sequence[str | None]) -> Dataset:
    """The rows with a column of texts, in place of the one that they had."""
    others = rows.remove_columns(name) if name in rows.column_names else rows
    made = Dataset.from_dict({name: list(values)}, features=Features({name: Value("string")}))
    return others.add_column(name, made[name][:], feature=Value("string"))
