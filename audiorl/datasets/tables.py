"""Rows in tables: a TSV or CSV with a header, a split of Common Voice."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from typing import Any

from audiorl.datasets.formats import JsonRows, utf8_text

Row = Mapping[str, Any]

# Columns of numbers; and those in which an empty cell says nothing
_NUMBERS = ("duration", "offset", "start", "end")
_UNSAID = (
    *_NUMBERS,
    "channel",
    "language",
    "task",
    "prompt",
    "history",
    "history_hypothesis",
    "hotwords",
    "speaker",
    "id",
)
_COMMON_VOICE = {"audio": "path", "text": "sentence"}
_COMMON_VOICE_EXTRAS = {"speaker": "client_id", "language": "locale"}
CLIPS = "clips"


def read_table(name: str) -> JsonRows:
    """A TSV or CSV file whose first line names the columns. A TSV has no quotes, as Common Voice writes it.

    Raises:
        ValueError: no header, a line with more or fewer values, with its place; a table of another kind.
    """
    text = utf8_text(name)
    header = text.split("\n", 1)[0]
    tabs = "\t" in header
    if not tabs and "," not in header:
        mark = next((mark for mark in "|;" if mark in header), None)
        split = "one column" if mark is None else f"columns separated by {mark!r}"
        raise ValueError(
            f"{name} is a text with {split}, which is no known form of rows. Write TSV with a header (audio, text), "
            'or JSON lines: {"audio": "clip.wav", "text": "..."}.'
        )
    how: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    reader = csv.DictReader(io.StringIO(text, newline=None if tabs else ""), **how)
    names = [column.strip() for column in reader.fieldnames or ()]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"{name}:1 names the columns {names}. Give each column one name of its own.")
    reader.fieldnames = names
    rows, places = [], []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise csv.Error(f"it does not have one value for each of the columns {names}")
            rows.append({column: cell(column, value) for column, value in row.items()})
            places.append(f"{name}:{reader.line_num}")
    except csv.Error as error:
        rule = "Keep tabs out of values." if tabs else "Quote values that have commas."
        raise ValueError(f"{name}:{reader.line_num} cannot be read: {error}. {rule}") from error
    if {"path", "sentence"} <= set(names) and tabs and "audio" not in names:
        rows = [_common_voice_row(row, os.path.dirname(name)) for row in rows]
    return JsonRows(rows, places)


def cell(column: str, value: str) -> Any:
    if not value and column in _UNSAID:
        return None
    if column not in _NUMBERS:
        return value
    try:
        return float(value)
    except ValueError:
        return value  # which the check reports with its row


def _common_voice_row(row: Row, folder: str) -> dict[str, Any]:
    ours = {ours: row[theirs] for ours, theirs in _COMMON_VOICE.items()}
    if os.path.isdir(os.path.join(folder, CLIPS)):
        ours["audio"] = os.path.join(CLIPS, ours["audio"])
    extras = {ours: row[theirs] or None for ours, theirs in _COMMON_VOICE_EXTRAS.items() if theirs in row}
    taken = {*_COMMON_VOICE.values(), *_COMMON_VOICE_EXTRAS.values()}
    return {**ours, **extras, **{name: value for name, value in row.items() if name not in taken}}


def common_voice_table(name: str, split: str | None) -> str:
    """The table of a split in a folder of Common Voice."""
    tables = {file.split(".tsv")[0]: file for file in sorted(os.listdir(name)) if file.endswith((".tsv", ".tsv.gz"))}
    asked = "dev" if split == "validation" and "validation" not in tables else split
    if asked not in tables:
        raise ValueError(
            f"{name} is a folder of Common Voice with the splits {sorted(tables)}; got split={split!r}. Name one, "
            f"or the file: {os.path.join(name, next(iter(tables.values())))}."
        )
    return os.path.join(name, tables[asked])
