"""Columns that have other names in a source: renamed on the way in, a name that is not there refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from datasets import Dataset, IterableDataset

Rows = TypeVar("Rows", Dataset, IterableDataset)
# How a user says which columns are meant: {"audio": "path"}, or as on the command line ["audio=path"], "audio=path"
ColumnNames = Mapping[str, str] | Sequence[str] | str


def column_names(given: ColumnNames | None) -> dict[str, str] | None:
    """ours -> theirs, from a mapping or from texts of the form `ours=theirs`; None for none.

    Raises:
        ValueError: something else, or one of ours twice.
    """
    if given is None or isinstance(given, Mapping):
        return None if given is None else dict(given)
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
