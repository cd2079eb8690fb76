"""From a corpus's rows to ours: columns renamed, values of one type, audio never decoded, the same for every corpus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

from datasets import Audio, ClassLabel, Features, IterableDataset, List, Value

from audiorl.datasets.corpus import Clean, Source, columns_of
from audiorl.datasets.stored_audio import AUDIO

_KINDS: dict[str, Any] = {"audio": AUDIO, "duration": Value("float64"), "all_labels": List(Value("string"))}
Read = Callable[[Mapping[str, Any]], dict[str, Any]]
# What a row is about; of these, clean has a say.
_CLEANED = ("text", "label")


@dataclass(frozen=True)
class RowPlan:
    """How the rows of one split become ours.

    Args:
        name: of the corpus, for messages.
        columns: ours -> theirs, of which none may be missing.
        extras: ours -> theirs; None where theirs is missing.
        language: of all rows; None for no such column.
        clean: see `Corpus`.
        folds: see `Part`.
    """

    name: str
    columns: Mapping[str, Source]
    extras: Mapping[str, Source]
    language: str | None = None
    clean: Clean | None = None
    folds: tuple[int, ...] | None = None

    def features(self) -> Features:
        """The types of the rows it makes; whatever is not audio, a duration or a list is text."""
        names = list(dict.fromkeys([*self.columns, *self.extras]))
        if "label" in names and "text" not in names:
            names.insert(1, "text")
        if self.language is not None:
            names.append("language")
        return Features({name: _KINDS.get(name, Value("string")) for name in names})

    def apply(self, rows: IterableDataset) -> IterableDataset:
        """A corpus's stream as ours.

        Raises:
            ValueError: a column that is needed is missing, with the nearest name.
        """
        found = rows.features
        self._require_columns(list(found))
        for column, feature in found.items():
            if isinstance(feature, Audio):
                rows = rows.cast_column(column, Audio(decode=False))
        sources = {**{ours: theirs for ours, theirs in self.extras.items() if _is_there(theirs, found)}, **self.columns}
        labels = {column: names for column, feature in found.items() if (names := _label_names(feature))}
        read = partial(_typed_row, plan=self, sources=sources, labels=labels)
        if self.clean is not None or self.folds is not None:
            rows = rows.filter(partial(_is_wanted, plan=self, read=read))
        make = partial(_our_row, plan=self, read=read)
        return rows.map(make, features=self.features(), remove_columns=[name for name in found if name != "audio"])

    def _require_columns(self, found: list[str]) -> None:
        needed = {column: ours for ours, theirs in self.columns.items() for column in columns_of(theirs)}
        if self.folds is not None:
            needed["fold"] = "fold"
        missing = next((column for column in needed if column not in found), None)
        if missing is not None:
            near = get_close_matches(missing, found, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; its columns are {found}."
            raise ValueError(
                f"{self.name} has no column {missing!r}, to which {needed[missing]!r} is mapped{meant} "
                f"Pass columns={{{needed[missing]!r}: ...}} with one that it has."
            )


def _is_there(source: Source, found: Features) -> bool:
    return all(column in found for column in columns_of(source))


def _label_names(feature: Any) -> list[str] | None:
    """The names behind a column of numbers, or of lists of numbers."""
    inner = feature.feature if isinstance(feature, List) else feature
    return inner.names if isinstance(inner, ClassLabel) else None


def _our_row(row: Mapping[str, Any], *, plan: RowPlan, read: Read) -> dict[str, Any]:
    ours = {**dict.fromkeys(plan.features()), **read(row), **_cleaned(plan, read(row))}
    if "text" not in plan.columns:
        ours["text"] = ours["label"]
    if plan.language is not None:
        ours["language"] = plan.language
    return ours


def _is_wanted(row: Mapping[str, Any], *, plan: RowPlan, read: Read) -> bool:
    if plan.folds is not None and int(row["fold"]) not in plan.folds:
        return False
    return None not in _cleaned(plan, read(row)).values()


def _cleaned(plan: RowPlan, ours: Mapping[str, Any]) -> dict[str, str | None]:
    """What clean makes of a row's texts; one that is missing stays so, for the check to report."""
    if plan.clean is None:
        return {}
    return {name: plan.clean(ours[name]) for name in _CLEANED if isinstance(ours.get(name), str)}


def _typed_row(
    row: Mapping[str, Any], *, plan: RowPlan, sources: Mapping[str, Source], labels: Mapping[str, list[str]]
) -> dict[str, Any]:
    values = {name: row[source] if isinstance(source, str) else source(row) for name, source in sources.items()}
    return {
        name: _typed(name, value, labels.get(columns_of(sources[name])[0]), plan.name) for name, value in values.items()
    }


def _typed(name: str, value: Any, names: list[str] | None, corpus: str) -> Any:
    if name == "audio" or value is None:
        return value
    if name == "duration":
        return float(value)
    if isinstance(value, list):
        return [_typed(name, item, names, corpus) for item in value]
    if names is not None and isinstance(value, int):
        return names[value] if value >= 0 else None  # -1 stands for no label
    if name in _CLEANED and not isinstance(value, str):
        raise ValueError(
            f"{corpus}: the {name} of a row is {value!r}, and this copy does not say what it stands for. Map {name} to "
            "a column with words, or use a copy that kept its label names."
        )
    return str(value)
