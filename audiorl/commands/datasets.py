"""`audiorl datasets`: the corpora known by name; `audiorl datasets NAME`: all about one; `--export FILE`: its rows.

Only an export loads more than the table.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from audiorl.command_line import read_flags, with_first_word
from audiorl.datasets.corpus import Corpus, find_corpus, list_corpora
from audiorl.terminal import columns

_COLUMNS = ("name", "task", "languages", "hours", "licence", "hub_id")


# the forms of `audiorl.datasets.export.FORMS`, which loads more
_FORMS = (
    "jsonl",
    "nemo",
    "kaldi",
    "lhotse",
    "shar",
    "webdataset",
    "parquet",
    "ms-swift",
    "llama-factory",
    "common-voice",
)


@dataclass
class DatasetsArguments:
    """`audiorl datasets [NAME] [flags]`."""

    name: str | None = field(
        default=None,
        metadata={"help": "The corpus to show. It can also be the first word, without --name. Unset: all are listed."},
    )
    json: bool = field(default=False, metadata={"help": "Print JSON."})
    export: str | None = field(
        default=None, metadata={"help": "Write the corpus's rows to this file, audio beside them."}
    )
    format: str = field(default="jsonl", metadata={"help": "Form of the rows.", "choices": _FORMS})
    split: str = field(default="train", metadata={"help": "Split of the rows to write."})
    language: str | None = field(
        default=None, metadata={"help": "Language of the rows to write, if the corpus has several."}
    )
    limit: int | None = field(default=None, metadata={"help": "Write at most this many rows, 1 or more. Unset: all."})
    columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns with other names than ours, as ours=theirs: audio=audio_filepath text=sentence."},
    )
    path: str | None = field(
        default=None, metadata={"help": "A folder with a copy of the corpus. Unset: it is loaded from the Hub."}
    )


@dataclass
class ExportArguments:
    """`audiorl export [flags]`."""

    dataset_name: str = field(metadata={"help": "Rows in any form: a file, a folder, a Hub name or a corpus."})
    output: str = field(metadata={"help": "The file or folder to write, which must not be there yet."})
    format: str = field(default="jsonl", metadata={"help": "Form to write.", "choices": _FORMS})
    split: str | None = field(default=None, metadata={"help": "Split of the rows, if there are several."})
    limit: int | None = field(default=None, metadata={"help": "Write at most this many rows, 1 or more. Unset: all."})
    columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns with other names than ours, as ours=theirs: audio=audio_filepath text=sentence."},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the corpora, or one of them, or export rows of it.

    Raises:
        ValueError: no such corpus, or what `load_corpus` and `export_rows` refuse.
    """
    args = read_flags(DatasetsArguments, with_first_word("datasets", sys.argv[1:] if argv is None else argv))
    if args.name is None:
        if args.export:
            raise ValueError("--export writes the rows of one corpus. Name it: audiorl datasets NAME --export FILE.")
        known = [_facts(name) for name in list_corpora()]
        print(json.dumps(known, indent=2) if args.json else _table(known))
    elif args.export:
        _export(args, args.name, args.export)
    else:
        facts = _facts(find_corpus(args.name).name)
        print(json.dumps(facts, indent=2) if args.json else _details(facts))


def _facts(name: str) -> dict[str, Any]:
    corpus = find_corpus(name)
    if not isinstance(corpus, Corpus):
        return {"name": name, "hub_id": "(registered by a program)"}
    return {
        "name": corpus.name,
        "task": corpus.task,
        "languages": ["any"] if corpus.any_language else list(corpus.languages),
        "hours": corpus.hours,
        "licence": corpus.licence,
        "hub_id": corpus.hub_id,
        "splits": {
            split: "/".join(filter(None, (part.hub_id, part.config, part.split)))
            + (f", folds {', '.join(map(str, part.folds))}" if part.folds else "")
            for split, part in corpus.splits.items()
        },
        "columns": {ours: str(theirs) for ours, theirs in {**corpus.columns, **corpus.extras}.items()},
        "note": corpus.note,
    }


def _table(known: Sequence[dict[str, Any]]) -> str:
    lines = [_COLUMNS, *(tuple(_cell(facts, column) for column in _COLUMNS) for facts in known)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    if sum(widths) + 2 * (len(widths) - 1) > (columns() or math.inf):
        widths.pop()  # the id on the Hub, which NAME shows
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines
    )
    return f"{text}\n\naudiorl datasets NAME shows splits, columns and what to know of one."


def _cell(facts: dict[str, Any], column: str) -> str:
    value = facts.get(column, "")
    if column == "languages":
        return (", ".join(value) if len(value) < 3 else str(len(value))) or "-"
    return f"{value:,}" if isinstance(value, int | float) else value


def _details(facts: dict[str, Any]) -> str:
    language = facts.get("languages", ())
    lines = [f"{name:<10} {_shown(facts[name])}" for name in _COLUMNS if name in facts]
    for name in ("splits", "columns"):
        if name in facts:
            lines += [f"{name}:", *(f"  {ours:<18} {theirs}" for ours, theirs in facts[name].items())]
    if facts.get("note"):
        lines.append(facts["note"])
    asked = f', language="{next(iter(language))}"' if len(language) > 1 else ', language="en"' * (language == ["any"])
    return "\n".join([*lines, f'\nload_corpus("{facts["name"]}", "train"{asked}, limit=1000)'])


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _export(args: DatasetsArguments, name: str, target: str) -> None:
    from audiorl.datasets.corpora import load_corpus
    from audiorl.datasets.export import export_rows
    from audiorl.datasets.formats import column_names

    corpus = find_corpus(name)
    own = {} if args.path is None else {"path": args.path}
    columns = column_names(args.columns)
    rows = load_corpus(corpus, args.split, args.language, args.limit, streaming=True, columns=columns, **own)
    task = corpus.task if isinstance(corpus, Corpus) else "asr"
    count = export_rows(rows, target, form=args.format, task=task, metadata={"dataset": corpus.name})
    print(f"{count:,} rows of {corpus.name} lie in {target}")


def export(argv: Sequence[str] | None = None) -> None:
    """Write rows of any form in another one: `audiorl export --dataset_name ROWS --output PATH --format FORM`.

    Raises:
        ValueError: what `speech_rows` and `export_rows` refuse.
    """
    args = read_flags(ExportArguments, sys.argv[1:] if argv is None else argv)
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit is how many rows to write, 1 or more; got {args.limit}. Leave it out to write all.")
    from audiorl.datasets.corpora import first_rows, speech_rows
    from audiorl.datasets.export import export_rows

    rows = first_rows(speech_rows(args.dataset_name, split=args.split, columns=args.columns), args.limit)
    count = export_rows(rows, args.output, form=args.format)
    print(f"{count:,} rows of {args.dataset_name} lie in {args.output}")
