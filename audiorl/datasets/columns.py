"""Columns that have other names in a source: renamed on the way in, a name that is not there refused.

What `export_rows` writes is known by its columns and read as what it was made of, without being asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, TypeVar

from datasets import Dataset, Features, IterableDataset

Rows = TypeVar("Rows", Dataset, IterableDataset)
# How a user says which columns are meant: {"audio": "path"}, or as on the command line ["audio=path"], "audio=path"
ColumnNames = Mapping[str, str] | Sequence[str] | str


def column_names(given: ColumnNames | None) -> dict[str, str] | None:
    """ours -> theirs, from a mapping or from texts of the form `ours=theirs`; None for none.

    Raises:
        ValueError: something else, or one of ours twice.
    """
    if given is None:
        return None
    if isinstance(given, Mapping) and all(isinstance(name, str) for pair in given.items() for name in pair):
        return dict(given)
    if isinstance(given, Mapping) or not isinstance(given, str | Sequence):
        raise ValueError(
            f"columns maps our names to theirs, for example {{'audio': 'audio_filepath', 'text': 'sentence'}}; got "
            f"{given!r:.200}. Pass such a dict; columns that keep their names are not listed."
        )
    found: dict[str, str] = {}
    for text in [given] if isinstance(given, str) else given:
        ours, is_one, theirs = str(text).partition("=")
        if not (ours and is_one and theirs) or ours in found:
            raise ValueError(
                f"columns says which columns of the rows are ours, each once, as ours=theirs; got {text!r}. Write "
                "--columns audio=audio_filepath text=sentence, in Python columns={'audio': 'audio_filepath'}."
            )
        found[ours] = theirs
    return found


def told_columns(columns: Mapping[str, str]) -> str:
    """Columns as a person passes them, on the command line and in Python."""
    flag = " ".join(f"{ours}={theirs}" for ours, theirs in columns.items())
    return f"--columns {flag} (in Python columns={dict(columns)})"


def still_to_rename(columns: Mapping[str, str] | None, found: Sequence[str]) -> dict[str, str]:
    """What is left of `columns` for rows that have the library's form, so renamed ones pass a second time."""
    return {ours: theirs for ours, theirs in (columns or {}).items() if theirs in found or ours not in found}


# The columns of an exported file as `speech_rows(columns=...)` takes them. Its `task` says what the file is for ("asr",
# "tts", ...), a row's would say transcribe or translate.
EXPORTED_COLUMNS: Mapping[str, str] = MappingProxyType({"audio": "audio_path", "exported_task": "task"})
EXPORTED_NAMES = frozenset({"audio_path", "text", "duration", "task", "metadata"})
# Columns that models, rewards and evaluation read by name; an export keeps them in its metadata.
_IN_METADATA = ("language", "channel", "prompt", "hotwords", "keywords", "speaker", "id")


def is_exported(names: Iterable[str] | None) -> bool:
    """Whether rows with these columns are of the form that `export_rows` writes."""
    found = set(names or ())
    return found >= EXPORTED_NAMES and "audio" not in found


def exported_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of an exported file under our names, with the columns that the export moved into its metadata."""
    ours = {theirs: name for name, theirs in EXPORTED_COLUMNS.items()}
    metadata = row.get("metadata")
    inside = metadata if isinstance(metadata, Mapping) else {}
    lifted = {name: inside[name] for name in _IN_METADATA if name in inside and name not in row}
    return {**{ours.get(name, name): value for name, value in row.items()}, **lifted}


def exported_rows(rows: Rows) -> Rows:
    """The same for all rows of a data set, or of a stream whose columns are known."""
    features = Features(exported_row(rows.features))  # the types of a struct are laid out as its values are
    return rows.map(exported_row, features=features, remove_columns=list(EXPORTED_COLUMNS.values()))


def renamed_columns(rows: Rows, columns: Mapping[str, str] | None) -> Rows:
    """A data set or stream with its columns renamed.

    Args:
        columns: ours -> theirs; None for none.

    Raises:
        ValueError: a column is not there, or would take the place of another.
    """
    new = _renaming(columns)
    if not new:
        return rows
    if rows.column_names is None:
        raise ValueError(
            f"The stream does not say which columns it has, so columns={dict(columns or {})} cannot be found in it. "
            "Pass features when the stream is made, or rename with map."
        )
    _check(new, list(rows.column_names), "the data set")
    return rows.rename_columns(new)


def renamed_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None, source: str) -> list[Any]:
    """Dicts with their keys renamed, where a row has them.

    Args:
        columns: ours -> theirs; None for none.
        source: where the rows are from, for messages.

    Raises:
        ValueError: no row has a column, or one would take the place of another.
    """
    new = _renaming(columns)
    if not new:
        return list(rows)
    _check(new, list(dict.fromkeys(name for row in rows for name in row)), source)
    return [{new.get(name, name): value for name, value in row.items()} for row in rows]


def _renaming(columns: Mapping[str, str] | None) -> dict[str, str]:
    """theirs -> ours, of what changes."""
    given = columns or {}
    twice = [theirs for theirs in given.values() if list(given.values()).count(theirs) > 1]
    if twice:
        raise ValueError(f"columns maps {twice[0]!r} more than once: {dict(given)}. Map each of theirs to one of ours.")
    return {theirs: ours for ours, theirs in given.items() if theirs != ours}


def _check(new: Mapping[str, str], found: Sequence[str], source: str) -> None:
    for theirs, ours in new.items():
        if theirs not in found:
            near = get_close_matches(theirs, found, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(
                f"columns maps {ours!r} to {theirs!r}, which {source} has not{meant} Its columns are {list(found)}."
            )
    kept = [name for name in found if name not in new]
    taken = next((ours for ours in new.values() if ours in kept), None)
    if taken is not None:
        raise ValueError(
            f"columns maps {taken!r} to another column, but {source} has a {taken!r} of its own. Rename that one too, "
            f"for example columns={{..., 'source_{taken}': {taken!r}}}."
        )
