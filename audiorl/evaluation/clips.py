"""From a row and a hypothesis to what is kept of them once the audio is gone."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from audiorl.audio import channel_of
from audiorl.datasets.stored_columns import text_problem, unkept_values
from audiorl.evaluation.settings import LABELS, EvaluationSettings
from audiorl.evaluation.transcription import Row, TranscribedRow, check_kept
from audiorl.rewards.answers import accepted_answers, is_answer
from audiorl.text.error_rates import tagged_transcript


@dataclass(frozen=True)
class Clip:
    """What is kept of a row and its hypothesis once the audio is gone.

    Attributes:
        id: the row's `id` as text, or its place.
        where: its place for a person to find.
        audio: absolute path or address; None where the audio is no file of its own.
        channel: which of the file's channels was heard; None for the mean of all.
        transcript: as in the row; of label tasks the label, or the first of several right answers.
        hypothesis: as the model said it.
        seconds: of audio.
        speaker, language: as text, None where the row has none.
        group: what the bootstrap draws it with.
        keywords: of its row, where the settings have none for all.
        accepted: of label tasks everything that counts as the label in this row, the label first.
    """

    id: str
    where: str
    audio: str | None
    transcript: str
    hypothesis: str
    seconds: float
    speaker: str | None = None
    language: str | None = None
    group: Any = None
    keywords: Sequence[str] | None = None
    accepted: Sequence[str] = ()
    channel: int | None = None


def clip_of(found: TranscribedRow, place: int, settings: EvaluationSettings) -> Clip:
    """What is kept of a transcribed row.

    Args:
        found: whose row has the columns that `settings` names, see `row_problem`.
        place: its number from 0.
    """
    row = found.row
    speaker, language = row.get(settings.speaker_column), row.get(settings.language_column)
    written = row[settings.text_column]
    accepted = (accepted_answers(written, settings.text_column) or ("",)) if settings.task == LABELS else ()
    return Clip(
        id=str(row["id"]) if row.get("id") is not None else f"row {place}",
        where=str(row.get("where") or f"row {place}"),
        audio=audio_path(row.get("audio")),
        transcript=accepted[0] if accepted else tagged_transcript(written).text,
        hypothesis=found.hypothesis if accepted else tagged_transcript(found.hypothesis).text,
        seconds=found.seconds,
        speaker=None if speaker is None else str(speaker),
        language=None if language is None else str(language),
        group=None if settings.group_column is None else row[settings.group_column],
        keywords=row.get("keywords"),
        accepted=accepted,
        channel=row_channel(row),
    )


def row_problem(row: Row, settings: EvaluationSettings) -> tuple[str, str] | None:
    """What keeps a row from being measured, and what to do about it; None for nothing.

    A row needs a transcript as text, or a label as text or a list of answers, and a value of the group column; keywords
    are a list of texts.
    """
    if unkept_values(row):
        return None  # whoever judges the row says so
    needed = [settings.text_column, *([settings.group_column] if settings.group_column else [])]
    for column in needed:
        if row.get(column) is None:
            nearest = difflib.get_close_matches(column, [name for name in row if name != column], n=1)
            return (
                f"an evaluation needs column {column!r} in every row, and this has none (its columns: "
                f"{', '.join(map(str, row))})",
                (f"Did you mean {nearest[0]!r}? " if nearest else "")
                + "Pass the column's name as text_column or group_column.",
            )
    text = row[settings.text_column]
    if settings.task == LABELS and not is_answer(text):
        return (
            f"A label is a text, or a list of answers that are all right; this row has {text!r:.80} in column "
            f"{settings.text_column!r}",
            "Write the label's name instead of its number.",
        )
    if settings.task != LABELS and not isinstance(text, str):
        return (
            f"A transcript is a text; this row has {type(text).__name__} in column {settings.text_column!r}",
            "Use '' for silence.",
        )
    if settings.task != LABELS and (problem := text_problem(settings.text_column, text)):
        return problem
    keywords = None if settings.keywords is not None else row.get("keywords")
    if keywords is not None and (
        isinstance(keywords, str)
        or not isinstance(keywords, Sequence)
        or not all(isinstance(word, str) for word in keywords)
    ):
        return f"keywords are a list of texts; this row has {keywords!r:.80}", "Write ['Nguyen', 'New York'], or null."
    return None


def check_row(row: Row, place: str, settings: EvaluationSettings) -> None:
    """Refuse a row that cannot be measured, with a ValueError that names it."""
    check_kept(row, place, () if settings.task == LABELS else ("language", "task"))
    if problem := row_problem(row, settings):
        what, remedy = problem
        raise ValueError(f"{place}: {what}. {remedy}")


def row_channel(row: Row) -> int | None:
    """Which channel of its clip a row names; None for the mean of all."""
    channel = channel_of(row.get("channel"))
    return None if channel == "mix" else channel


def audio_path(entry: Any) -> str | None:
    """Where a stored audio entry's file is: absolute path or address, None for bytes inside the data set."""
    if not isinstance(entry, dict) or entry.get("bytes") is not None or not entry.get("path"):
        return None
    path = str(entry["path"])
    return path if "://" in path else os.path.abspath(path)
