"""Corpora by name: `load_corpus("librispeech", split="test", limit=100)`.

Rows are read from the Hub as a stream, and only as many as are asked for. Unless a stream is wanted, they are written
to the cache of `datasets`. The same call reads them from there later, even without a network. Audio stays as it was
stored; torchcodec is never used.

`path=` reads a copy of a corpus in a folder. Trainers and commands also find copies in `$AUDIORL_CORPORA/<name>`, and
prefer them to the Hub.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from datasets import Audio, ClassLabel, Dataset, Features, IterableDataset, List, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError, DatasetsError
from datasets.fingerprint import Hasher

from audiorl.datasets.corpus import Clean, Corpus, NamedCorpus, RowSource, Source, columns_of, find_corpus, named_corpus
from audiorl.datasets.formats import ColumnNames, column_names, is_about_loading, loading_problem
from audiorl.datasets.rows import SAVED_FILES, is_local, rows_of
from audiorl.datasets.storage import AUDIO

_KINDS: dict[str, Any] = {"audio": AUDIO, "duration": Value("float64"), "all_labels": List(Value("string"))}
Read = Callable[[Mapping[str, Any]], dict[str, Any]]
# What a row is about; of these, clean has a say.
_CLEANED = ("text", "label")


@dataclass(frozen=True)
class RowPlan:
    """How the rows of one split are brought into the library's form.

    Args:
        name: of the corpus, for messages.
        columns: ours -> theirs; each of theirs must exist.
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
        """A corpus's stream in our form.

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
                f"{self.name} has no column {missing!r}, which {needed[missing]!r} is read from{meant} Pass "
                f"columns={{{needed[missing]!r}: ...}} with one that it has."
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
    """A row's texts after `clean`. A missing text stays missing, for the check to report."""
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


# Where a folder without a card keeps the Parquet files of a split: as the Hub lays them out, or a person.
_LAYOUTS = [f"{folder}{{split}}{end}" for folder in ("{config}/", "data/", "") for end in ("/*", "-*", "")]
# The environment variable with the folder of all copies.
MIRRORS = "AUDIORL_CORPORA"
_ELSEWHERE = f"A copy of the corpus in a folder is loaded with path=, or found in ${MIRRORS}."
# To be raised when rows of the same request become other ones.
_FORM = 1
_DATA_FILES = "**/*.parquet", "**/*.arrow", "README.md"


@dataclass(frozen=True)
class _Request:
    """What decides which rows come; the key of the cache."""

    hub_id: str
    files: str | None
    config: str | None
    split: str
    plan: RowPlan
    limit: int | None
    path: str | None
    on_disk: tuple[tuple[str, int, int], ...]  # of the folder's files: name, size, time of the last change

    def fingerprint(self) -> str:
        """The key of these rows in the cache: the same in every process, however our other code changes."""
        plan = replace(self.plan, clean=None)
        return Hasher.hash([_FORM, repr(replace(self, plan=plan)), Hasher.hash(self.plan.clean)])


def load_corpus(
    corpus: str | Corpus | RowSource,
    split: str = "train",
    language: str | None = None,
    limit: int | None = None,
    streaming: bool = False,
    *,
    path: str | os.PathLike[str] | None = None,
    columns: Mapping[str, Source] | None = None,
) -> Dataset | IterableDataset:
    """The rows of a corpus in the library's form, with the same column names for every corpus.

    `audio`; `text` and `language`, or `label` and `text`; and, as far as the corpus has them, `all_labels`, `speaker`,
    `duration` (seconds), `id`, `gender`, `accent`, `fold`; `where` and `row_id` as in `speech_rows`.

    Args:
        corpus: a name that `list_corpora` gives, or a corpus.
        split: "train", "validation" or "test", or another one that `audiorl datasets NAME` shows.
        language: needed where the corpus has several.
        limit: > 0, take at most this many rows, the first ones; no more are fetched.
        streaming: read rows as they are needed and store nothing.
        path: a folder with a copy of the corpus, instead of the Hub; default `$AUDIORL_CORPORA/<name>` where there is
            one. It is a snapshot of the repository, written by `save_to_disk`, or has Parquet files called
            `[config/]split/*.parquet`, `[config/]split-*.parquet` or `[config/]split.parquet`.
        columns: ours -> theirs, over the corpus's own.

    Raises:
        ValueError: no such corpus, split, language or column, each with the nearest name; no rows; or the corpus
            cannot be loaded, with the reason.
    """
    known = find_corpus(corpus) if isinstance(corpus, str) else corpus
    if limit is not None and limit < 1:
        raise ValueError(f"limit is how many rows to take, 1 or more; got {limit}. Leave it out to take all.")
    if not isinstance(known, Corpus):
        return _from_own(known, split, language, limit, streaming, refused={"path": path, "columns": columns})
    folder = _mirror(known.name) if path is None else os.fspath(path)
    request = _request(known, split, language, limit, folder, columns or {})
    if streaming:
        return rows_of(_open(request))
    try:
        rows = Dataset.from_generator(
            _rows,
            features=request.plan.features(),
            gen_kwargs={"request": request},
            fingerprint=request.fingerprint(),
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, OSError | DatasetsError):  # the network failed on the way
            raise loading_problem(request.path or request.hub_id, error.__cause__, _ELSEWHERE) from error
        raise
    return rows_of(rows)


def speech_rows(
    source: Any, *, split: str | None = None, columns: ColumnNames | None = None, keep_unread: bool = False
) -> Dataset | IterableDataset:
    """Bring rows of any form into the library's one form. Rows that have it already are returned unchanged.

    Args:
        source: path of a file (JSON lines, a JSON array, TSV, CSV, Parquet, a WebDataset tar; a NeMo manifest, lhotse
            cuts, rows of ms-swift or LLaMA-Factory); path of a folder (of `Dataset.save_to_disk`, Kaldi, Lhotse Shar,
            WebDataset, Common Voice, or audio files with their texts in metadata.csv or metadata.jsonl); sequence of
            dicts, `Dataset`, `IterableDataset`, a dict of these by split; the name of a corpus ("name" or "name:split";
            see `load_corpus`), or a name for `datasets.load_dataset`.
        split: the split, if there are several; for a name, whatever `load_dataset` takes; for a corpus default "train".
        columns: columns to rename, ours -> theirs, for example `{"audio": "audio_path"}` or `["audio=audio_path"]`.
            Others keep their names. Rows that were renamed already are accepted.
        keep_unread: whether unreadable lines of a JSON file become rows without values, which the check of rows
            reports or skips. A file without any readable line is refused.

    Returns:
        A `Dataset`; for a stream an `IterableDataset` that has read nothing yet. Each worker or process that reads
        a shared stream numbers its rows from 0; `where` then names the worker.

    Raises:
        BadRowsError: JSON lines or elements that are no objects, or not what their form asks for; all of them, unless
            they are kept.
        ValueError: a file of no known form, no rows, no such file, split, corpus or column, `columns` that is no
            mapping, or a column that is called `where`, `row_id` or `row_faults`.
    """
    columns = column_names(columns)
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if not is_local(name) and (named := named_corpus(name)) is not None:
            source, split = load_named(named, split or "train"), None
    return rows_of(source, split=split, columns=columns, keep_unread=keep_unread)


def load_named(
    named: NamedCorpus, split: str, language: str | None = None, **options: Any
) -> Dataset | IterableDataset:
    """The rows that a corpus name means (see `named_corpus`).

    Args:
        named: its own split goes before `split`.
        split: the one meant where the name says none.
        language: heeded where the corpus is in a language.
        options: see `load_corpus`.
    """
    corpus = named.corpus
    heeds = corpus.speaks if isinstance(corpus, Corpus) else True
    return load_corpus(corpus, named.split or split, language if heeds else None, **options)


def rows_for(
    source: Any, role: str, language: str | None = None, columns: ColumnNames | None = None
) -> Dataset | IterableDataset:
    """The rows that a trainer is given: a corpus name (`role` is its split), or anything `speech_rows` takes.

    Lines of a file that cannot be read are left to the check of rows.
    """
    named = named_corpus(source) if isinstance(source, str) else None
    if named is None:
        return speech_rows(source, columns=columns, keep_unread=True)
    return load_named(named, role, language, columns=column_names(columns))


def first_rows(rows: Dataset | IterableDataset, limit: int | None) -> Dataset | IterableDataset:
    """At most `limit` rows; None for all."""
    if limit is None:
        return rows
    return rows.select(range(min(limit, len(rows)))) if isinstance(rows, Dataset) else rows.take(limit)


class HeldOut(NamedTuple):
    """Rows in two parts, of which `str()` tells in a line."""

    train: Dataset
    held_out: Dataset
    by: str  # what the parts have none in common of: speakers, clips

    def __str__(self) -> str:
        both = len(self.train) + len(self.held_out)
        apart = f"no {self.by} in both" if self.by != "clip" else "rows name no speakers to keep apart"
        return f"Held out to measure on: {len(self.held_out)} of {both} rows, {apart}."


def hold_out(rows: Dataset | IterableDataset, share: float, seed: int = 0) -> HeldOut:
    """Split rows in two, by `speaker` where rows have one, and else so that no clip is in both parts.

    Args:
        share: of the rows that are held out, above 0 and below 1. Speakers stay whole, so it is met as nearly as they
            allow.
        seed: the same seed and rows give the same parts.

    Raises:
        ValueError: a stream, a share out of its range, or too few rows.
    """
    if not 0 < share < 1:
        raise ValueError(
            f"eval_share is the share of rows to hold out, above 0 and below 1; got {share}. 0.1 is usual."
        )
    if not isinstance(rows, Dataset):
        raise ValueError("eval_share splits rows, which a stream cannot offer. Name other rows (--eval_dataset_name).")
    speakers = [str(name or "") for name in rows["speaker"]] if "speaker" in rows.column_names else []
    by = "speaker" if len(set(speakers)) > 1 else "clip"
    clips = [_clip_of(row, place) for place, row in enumerate(rows.select_columns("audio"))] if by == "clip" else []
    groups: dict[str, list[int]] = {}
    for place in range(len(rows)):
        # rows without a speaker among others that have one stand alone
        name = clips[place] if by == "clip" else speakers[place] or f"row {place}"
        groups.setdefault(name, []).append(place)
    if len(groups) < 2:
        raise ValueError(
            f"eval_share holds out some of several clips, and these are {len(groups)}. Name other rows to measure on "
            "(--eval_dataset_name)."
        )
    chosen = _share_of(groups, share * len(rows), seed)
    inside = [place for place in range(len(rows)) if place not in chosen]
    return HeldOut(rows.select(inside), rows.select(sorted(chosen)), by)


def _share_of(groups: Mapping[str, Sequence[int]], target: float, seed: int) -> set[int]:
    """Places of whole groups, drawn until one more would not come nearer to the target; some, and not all."""
    order = np.random.default_rng(seed).permutation(len(groups))
    drawn = [list(groups.values())[number] for number in order]
    chosen: set[int] = set()
    for places in drawn[:-1]:
        if abs(len(chosen) + len(places) - target) < abs(len(chosen) - target):
            chosen |= set(places)
    smallest: list[int] = min(drawn, key=len)
    return chosen or set(smallest)


def _clip_of(row: Mapping[str, Any], place: int) -> str:
    """What the rows of one recording have in common: its path. Rows of samples or bytes are recordings of their own."""
    audio = row["audio"]
    path = audio.get("path") if isinstance(audio, Mapping) else audio
    return path if isinstance(path, str) else f"row {place}"


# ---- what is asked for ----


def _request(
    corpus: Corpus,
    split: str,
    language: str | None,
    limit: int | None,
    path: str | None,
    columns: Mapping[str, Source],
) -> _Request:
    part = corpus.part(split)
    spoken = corpus.language(_code(corpus, language))
    if path is not None and not os.path.isdir(path):
        raise ValueError(
            f"There is no folder {path} with a copy of {corpus.name}. Check path; relative ones start at {os.getcwd()}."
        )
    plan = RowPlan(
        corpus.name,
        {**(part.columns or corpus.columns), **columns},
        {ours: theirs for ours, theirs in corpus.extras.items() if ours not in columns},
        None if spoken is None else re.split("[-_]", spoken)[0].lower(),
        part.clean or corpus.clean,
        part.folds,
    )
    return _Request(
        part.hub_id or corpus.hub_id,
        corpus.files,
        corpus.config_of(part, spoken),
        part.split,
        plan,
        limit,
        path and os.path.abspath(path),
        _on_disk(path) if path else (),
    )


def _mirror(name: str) -> str | None:
    folder = os.path.join(os.environ.get(MIRRORS, ""), name)
    return folder if os.environ.get(MIRRORS) and os.path.isdir(folder) else None


def _code(corpus: Corpus, language: str | None) -> str | None:
    """The code of a language that is named in English."""
    if language is None or corpus.any_language or language in corpus.languages:
        return language
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    return TO_LANGUAGE_CODE.get(language.strip().lower(), language)


def _on_disk(path: str) -> tuple[tuple[str, int, int], ...]:
    names = {name for pattern in _DATA_FILES for name in glob.glob(os.path.join(path, pattern), recursive=True)}
    stats = [(name, os.stat(name)) for name in sorted(names)]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


# ---- where rows come from ----


def _rows(request: _Request) -> Iterator[dict[str, Any]]:
    """The generator that fills the cache."""
    empty = True
    for row in _open(request):
        empty = False
        yield row
    if empty:
        raise ValueError(
            f"{request.plan.name} has no rows of the split {request.split!r} in {request.path or request.hub_id}. "
            "Choose another split, or look into the copy."
        )


def _open(request: _Request) -> IterableDataset:
    try:
        stream = _hub_stream(request) if request.path is None else _folder_stream(request, request.path)
    except (OSError, ValueError, DatasetsError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_about_loading(error):
            raise
        raise loading_problem(request.path or request.hub_id, error, _ELSEWHERE) from error
    ours = request.plan.apply(stream)
    return ours if request.limit is None else ours.take(request.limit)


def _hub_stream(request: _Request) -> IterableDataset:
    if request.files is None:
        return load_dataset(request.hub_id, request.config, split=request.split, streaming=True)
    files = request.files.format(hub_id=request.hub_id, config=request.config, split=request.split)
    return _parquet_stream([files])


def _folder_stream(request: _Request, path: str) -> IterableDataset:
    if any(os.path.isfile(os.path.join(path, name)) for name in SAVED_FILES):
        saved = load_from_disk(path)
        return (saved[request.split] if isinstance(saved, Mapping) else saved).to_iterable_dataset()
    card = os.path.join(path, "README.md")
    if os.path.isfile(card) and _names_files(card):
        return load_dataset(path, request.config, split=request.split, streaming=True)
    files = [file for split in request.split.split("+") for file in _split_files(path, request.config, split)]
    if not files:
        raise ValueError(
            f"it has no Parquet files of the split {request.split!r}"
            + (f", config {request.config!r}" if request.config else "")
            + "; they are called [config/]split/*.parquet, [config/]split-*.parquet or [config/]split.parquet, with "
            "data/ for config/ where there is none"
        )
    return _parquet_stream(files)


def _parquet_stream(files: Sequence[str]) -> IterableDataset:
    return load_dataset("parquet", data_files={"rows": list(files)}, split="rows", streaming=True)


def _split_files(path: str, config: str | None, split: str) -> list[str]:
    for layout in _LAYOUTS:
        if config is None and "{config}" in layout:
            continue
        pattern = layout.format(config=config, split=split) + ".parquet"
        if found := sorted(glob.glob(os.path.join(glob.escape(path), pattern))):
            return found
    return []


def _names_files(card: str) -> bool:
    with open(card, encoding="utf-8") as file:
        head = file.read().split("\n---", 1)[0]
    return head.startswith("---") and "\nconfigs:" in head


def _from_own(
    corpus: RowSource, split: str, language: str | None, limit: int | None, streaming: bool, refused: Mapping[str, Any]
) -> Dataset | IterableDataset:
    given = [name for name, value in refused.items() if value is not None]
    if given:
        raise ValueError(
            f"{corpus.name} is a corpus of your own, whose rows() decides about {' and '.join(given)}. Leave "
            f"{' and '.join(given)} out."
        )
    found = corpus.rows(split, language)
    if isinstance(found, Dataset | IterableDataset | Mapping | str | os.PathLike):
        return first_rows(speech_rows(found), limit)
    if streaming:
        again = {"corpus": corpus, "split": split, "language": language}  # each pass over a stream starts anew
        return first_rows(rows_of(IterableDataset.from_generator(_own_rows, gen_kwargs=again)), limit)
    rows = list(itertools.islice(found, limit))
    if not rows:
        raise ValueError(f"{corpus.name} has no rows in its split {split!r}. Choose another split.")
    return rows_of(rows)


def _own_rows(corpus: RowSource, split: str, language: str | None) -> Iterator[dict[str, Any]]:
    yield from corpus.rows(split, language)
