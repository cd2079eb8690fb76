"""What a named corpus is, and which ones there are. Nothing heavy is imported here: `audiorl datasets` only reads this.

A corpus is a `Corpus`, which says where its rows lie on the Hub and what its columns mean, or any object of one's own
with a `name` and a method `rows`; `register_corpus` makes either known by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

Task = Literal["asr", "classification"]
Clean = Callable[[str], str | None]


class Span(NamedTuple):
    """A clip's length in seconds, from the columns with its beginning and its end."""

    begin: str
    end: str

    def __call__(self, row: Mapping[str, Any]) -> float | None:
        begin, end = row[self.begin], row[self.end]
        return None if begin is None or end is None else float(end) - float(begin)


class Samples(NamedTuple):
    """A clip's length in seconds, from a column that counts its samples at a rate in Hz."""

    column: str
    rate: int

    def __call__(self, row: Mapping[str, Any]) -> float | None:
        samples = row[self.column]
        return None if samples is None else samples / self.rate


class First(NamedTuple):
    """The first entry of a column that holds lists; None of an empty one."""

    column: str

    def __call__(self, row: Mapping[str, Any]) -> Any:
        return next(iter(row[self.column] or ()), None)


# what fills a column of ours: a column's name, or a computation on a row
Source = str | Span | Samples | First


def columns_of(source: Source) -> tuple[str, ...]:
    """The columns that a source reads."""
    if isinstance(source, str):
        return (source,)
    return tuple(source) if isinstance(source, Span) else (source.column,)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where the rows of one split lie. What is None is the corpus's.

    Args:
        split: its name on the Hub, several joined by "+".
        config: of the data set on the Hub.
        hub_id: another data set.
        columns: ours -> theirs, all of them.
        folds: only rows with one of these in their column `fold`.
        clean: see `Corpus`.
    """

    split: str
    config: str | None = None
    hub_id: str | None = None
    columns: Mapping[str, Source] | None = None
    folds: tuple[int, ...] | None = None
    clean: Clean | None = None


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus that lies on the Hub as Parquet files.

    Args:
        name: lower case, without "/" and ":".
        hub_id: of the data set.
        task: "asr" (rows have `text` and `language`) or "classification" (rows have `label`, and `text` is the same).
        licence: as its makers state it.
        hours: of audio, of all splits and languages.
        splits: name -> where it lies; "train", "validation" and "test" are roles that every corpus has as far as
            it can.
        columns: ours -> theirs; a column that is not there stops loading.
        extras: likewise; where a copy of the corpus has no such column, rows have None.
        languages: code -> config, None for the corpus's own; empty where nobody speaks.
        any_language: languages are passed on as configs, unseen.
        config: of the data set on the Hub, where it is not the language that chooses one.
        files: the Parquet files' address, with {hub_id}, {config} and {split}, where the Hub's own card names none.
        clean: applied to texts and labels; None leaves the row out.
        note: what a user has to know, for example what is left out.
        other_names: what else the corpus is called -> the splits that are meant by it, none of them for all.
    """

    name: str
    hub_id: str
    task: Task
    licence: str
    hours: float
    splits: Mapping[str, Part]
    columns: Mapping[str, Source]
    extras: Mapping[str, Source] = field(default_factory=dict)
    languages: Mapping[str, str | None] = field(default_factory=dict)
    any_language: bool = False
    config: str | None = None
    files: str | None = None
    clean: Clean | None = None
    note: str = ""
    other_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def speaks(self) -> bool:
        """Whether its rows have a language."""
        return bool(self.languages) or self.any_language

    def part(self, split: str) -> Part:
        """Where a split lies, by its name, the Hub's, or either as people write it: "dev-clean", "val", "test_other".

        Raises:
            ValueError: there is no such split.
        """
        if split in self.splits:
            return self.splits[split]
        asked = _split_key(split)
        found = [part for name, part in self.splits.items() if _split_key(name) == asked]
        found = found or [part for part in self.splits.values() if _split_key(part.split) == asked]
        if len(found) != 1:
            raise ValueError(
                f"{self.name} has no split {split!r}{_meant_split(split, self.splits)} Its splits are "
                f"{list(self.splits)}."
            )
        return found[0]

    def language(self, asked: str | None) -> str | None:
        """The language to load: the one asked for, or the only one there is; None where nobody speaks.

        It may be asked for by its config too, and with the region in which the corpus is spoken: "en_us", "en-US".

        Raises:
            ValueError: there is no such language, or several and none is asked for.
        """
        if asked is None and len(self.languages) <= 1 and not self.any_language:
            return next(iter(self.languages), None)
        if asked is not None and (self.any_language or asked in self.languages):
            return asked
        for is_it in (_is_language, _is_language_of_region):
            spelled = [code for code, config in self.languages.items() if asked and is_it(code, config, asked)]
            if spelled:
                return spelled[0]
        known = "any that its makers list" if self.any_language else ", ".join(self.languages) or "none"
        told = f"{self.name} is in several languages" if asked is None else f"{self.name} has no language {asked!r}"
        near = _meant(asked or "", self.languages)
        raise ValueError(f"{told}{near} Pass language=... with one it has: {known}.")

    def config_of(self, part: Part, language: str | None) -> str | None:
        """The Hub's name for the part in that language."""
        by_language = language if self.any_language else self.languages.get(language or "")
        return part.config or by_language or self.config


@runtime_checkable
class RowSource(Protocol):
    """A corpus of one's own."""

    name: str

    def rows(self, split: str, language: str | None) -> Any:
        """Rows of a split: anything `audiorl.datasets.speech_rows` takes, or an iterable of dicts.

        Raises:
            ValueError: there is no such split or language.
        """


_KNOWN: dict[str, Corpus | RowSource] = {}


def register_corpus(corpus: Corpus | RowSource, *, replace: bool = False) -> None:
    """Make a corpus known by its name, to `load_corpus`, the trainers and the command line.

    Args:
        corpus: a `Corpus`, or an object with a `name` and `rows(split, language)`.
        replace: take the place of one with that name.

    Raises:
        TypeError: it is neither.
        ValueError: the name is taken or cannot be one.
    """
    if not isinstance(corpus, Corpus | RowSource) or isinstance(corpus, type):
        raise TypeError(
            f"A corpus has a name and a method rows(split, language); {corpus!r} has not. Pass an instance of a class "
            "that has, or an audiorl.datasets.Corpus."
        )
    if not re.fullmatch(r"[a-z0-9_.]+", corpus.name):
        raise ValueError(
            f"{corpus.name!r} cannot be a corpus's name: / and : mean something else in names of rows. Use lower-case "
            "letters, digits, _ and dots."
        )
    if corpus.name in _table() and not replace:
        raise ValueError(f"There is a corpus {corpus.name} already. Choose another name, or pass replace=True.")
    _table()[corpus.name] = corpus


def list_corpora() -> list[str]:
    """The names of all corpora, in the order in which they became known."""
    return list(_table())


def find_corpus(name: str) -> Corpus | RowSource:
    """The corpus of that name.

    Raises:
        ValueError: there is none, with the nearest name.
    """
    found = _spelled(name)
    if found is None:
        near = _meant(_plain(name), _table())
        raise ValueError(f"There is no corpus {name!r}{near} `audiorl datasets` lists all; register_corpus adds one.")
    return found


class NamedCorpus(NamedTuple):
    """What a text like "librispeech:test.other" names."""

    corpus: Corpus | RowSource
    split: str | None


def named_corpus(text: str) -> NamedCorpus | None:
    """The corpus that a name of rows means: "name" or "name:split"; None where it means a file or something else."""
    name, _, split = text.partition(":")
    found = None if os.path.exists(text) else _spelled(name)
    return None if found is None else NamedCorpus(found, split or None)


def nearest_corpus(name: str) -> str | None:
    """The corpus whose name is spelt like this one, if any is."""
    return next(iter(get_close_matches(_plain(name.partition(":")[0]), _table(), n=1, cutoff=0.8)), None)


def _plain(name: str) -> str:
    return re.sub(r"[-\s]", "_", name.strip().lower())


def _spelled(name: str) -> Corpus | RowSource | None:
    """The corpus of a name as people write it: "ESC-50", "TED-LIUM", "librispeech_asr"."""
    known = _table()
    if _plain(name) in known:
        return known[_plain(name)]
    key = _name_key(name)
    for corpus in known.values():
        if _name_key(corpus.name) == key:
            return corpus
        if not isinstance(corpus, Corpus):
            continue
        for other, splits in corpus.other_names.items():
            if _name_key(other) == key:
                kept = {split: corpus.splits[split] for split in splits}
                return replace(corpus, name=other, splits=kept) if splits else corpus
    return None


def _name_key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.lower())


# What people call the three roles.
_ROLE_NAMES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}


def _split_key(split: str) -> str:
    role, _, rest = re.sub(r"[-_/\s]+", ".", split.strip().lower()).partition(".")
    return f"{_ROLE_NAMES.get(role, role)}.{rest}".rstrip(".")


def _meant_split(split: str, known: Mapping[str, Any]) -> str:
    """The split that was misspelt: every part of the name has to be near, so that no test set is taken for another."""
    asked = _split_key(split).split(".")
    for name in known:
        parts = _split_key(name).split(".")
        if len(parts) == len(asked) and all(
            get_close_matches(part, [own], cutoff=0.7) for part, own in zip(asked, parts, strict=True)
        ):
            return f"; did you mean {name!r}?"
    return "."


def _is_language(code: str, config: str | None, asked: str) -> bool:
    """Whether a language of a corpus is the one asked for, by its code or its config."""
    return _language_key(asked) in (_language_key(code), _language_key(config or code))


def _is_language_of_region(code: str, config: str | None, asked: str) -> bool:
    """Whether it is, with the region in which the corpus is spoken; any region where the corpus names none."""
    language, _, region = _language_key(asked).partition("_")
    regions = _language_key(config or code).split("_")[1:]
    return language == code.lower() and bool(region) and (not regions or region == regions[-1])


def _language_key(text: str) -> str:
    return re.sub(r"[-\s]", "_", text.strip().lower())


def _meant(name: str, known: Mapping[str, Any]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def _table() -> dict[str, Corpus | RowSource]:
    if not _KNOWN:
        from audiorl.datasets.corpus_table import CORPORA

        _KNOWN.update({corpus.name: corpus for corpus in CORPORA})
    return _KNOWN
