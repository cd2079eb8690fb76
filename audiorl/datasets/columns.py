"""Columns that have other names in a source: renamed on the way in, a name that is not there refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from datasets import Dataset, IterableDataset

Rows = TypeVar("Rows", Dataset, IterableDataset)


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
