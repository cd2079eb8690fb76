"""What starts keep on disk for the next ones: where, under which conditions, and the rows of large JSON lines.

A file of JSON lines from 8 MiB on is read in parts and written as an Arrow file beside the cache of `datasets`. It is
memory-mapped, so that a million rows take no more memory than one part, and the next start reads no JSON. The Arrow
file counts for that very file alone: its name, size, mtime and ctime, the columns asked for, and the library's code.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import soundfile
from datasets import Dataset

import audiorl
from audiorl.datasets.formats import is_exported, is_plain_lines, line_rows
from audiorl.datasets.manifests import Form, json_form
from audiorl.datasets.storage import OURS
from audiorl.files import whole_file

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "AUDIORL_VERDICTS"
# Files from this size on are read in parts of about the second size.
LARGE_BYTES, PART_BYTES = 1 << 23, 1 << 22
# Rows that are read together from the Arrow file.
_BATCH = 1_000
# Seconds within which a file system may give two states of a file the same time.
SETTLED = 2.0
_PACKAGES = ("audiorl", "transformers", "tokenizers", "datasets", "numpy", "sentencepiece", "mistral-common", "av")

# The rows of a part of a file, their places and numbers, and the form of the file's rows -> their table
TableOf = Callable[[Sequence[Any], Sequence[str], range, Form | None], pa.Table]


def kept_folder() -> Path | None:
    """Where starts keep what they found; None where they keep nothing."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    return Path(datasets.config.HF_DATASETS_CACHE) / "audiorl_verdicts"


def file_stamp(path: str | None) -> tuple[int, int, int]:
    """Size, mtime and ctime of a file, in bytes and ns; -1 for an address and for no file."""
    try:
        found = os.stat((path or "").removeprefix("file://"))
    except (OSError, ValueError):
        return -1, -1, -1
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def settled_before() -> int:
    """Files whose times (ns) lie before this one cannot change again without another time."""
    return time.time_ns() - round(SETTLED * 1e9)


@cache
def code_state() -> list[str]:
    """Versions of what reads audio and text, and the state of the library's source files."""
    versions = [f"{name} {_version(name)}" for name in _PACKAGES]
    versions += [f"python {sys.version}", f"soundfile {soundfile.__version__} {soundfile.__libsndfile_version__}"]
    root = Path(audiorl.__file__).parent
    return versions + [f"{path.relative_to(root)} {file_stamp(str(path))}" for path in sorted(root.rglob("*.py"))]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# ---- rows of a large file ----


def large_json_rows(name: str, columns: Mapping[str, str] | None, table_of: TableOf) -> Dataset | None:
    """The rows of a large file of JSON lines, memory-mapped; None where it has to be read as a whole.

    That is a small file, another encoding than UTF-8, an array, lhotse cuts, an export of ours, one with faults, and
    one whose parts have columns of different types.

    Args:
        columns: ours -> theirs.
        table_of: see `TableOf`; raises ValueError for rows that have to be read together.
    """
    folder, stamp = kept_folder(), file_stamp(name)
    if folder is None or stamp[0] < LARGE_BYTES or not is_plain_lines(name):
        return None
    young = max(stamp[1:]) - settled_before()
    if young > SETTLED * 1e9:
        return None  # its time lies in the future: nothing would show that it has changed
    time.sleep(max(0, young) / 1e9)
    key = [name, os.path.abspath(name), stamp, sorted((columns or {}).items()), code_state()]
    path = folder / "rows" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.arrow"
    if (found := _mapped(path)) is not None:
        return found
    with tempfile.TemporaryDirectory() as parts:
        try:
            _join_parts(_write_parts(name, table_of, Path(parts)), path)
        except (ValueError, pa.ArrowException):
            return None  # what is wrong is told by who reads the whole file
        except OSError as error:
            logger.warning(
                f"The rows of {name} cannot be kept in {path} ({error.strerror or error}), so they are read into "
                f"memory. Make room there and in {tempfile.gettempdir()}, or name another folder in {FOLDER_VARIABLE}."
            )
            return None
    return _mapped(path)


def _mapped(path: Path) -> Dataset | None:
    """The rows of an Arrow file; None where it is missing, or damaged, which is told."""
    if not path.exists():
        return None
    try:
        return Dataset.from_file(str(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        logger.warning(f"{path} is damaged ({error}), so it is written anew.")
        return None


def _write_parts(name: str, table_of: TableOf, folder: Path) -> list[Path]:
    """The tables of the parts of a file, each in a file of its own.

    Raises:
        ValueError: the rows have to be read together.
    """
    written: list[Path] = []
    rows_before, form = 0, None
    for rows, places in _parts(name):
        if any(not isinstance(row, dict) or is_exported(row) for row in rows):
            raise ValueError(f"{name} has rows that are read with all others")
        if not written:
            form = json_form(rows, name)
        if form is not None and form.from_here:
            raise ValueError(f"{name} has paths that start where its first one does")
        table = table_of(rows, places, range(rows_before, rows_before + len(rows)), form)
        rows_before += len(rows)
        written.append(folder / f"{len(written)}.arrow")
        with pa.ipc.new_stream(str(written[-1]), table.schema) as stream:
            stream.write_table(table, max_chunksize=_BATCH)
    return written


def _parts(name: str) -> Iterator[tuple[list[Any], list[str]]]:
    """The lines of a file as rows, some at a time, and their places."""
    line = 1
    with open(name, "rb") as file:
        while some := file.readlines(PART_BYTES):
            rows, places = line_rows(name, b"".join(some), line)
            line += len(some)
            if rows:
                yield rows, places


def _join_parts(parts: Sequence[Path], target: Path) -> None:
    """One Arrow file of all parts. A column that a part lacks, or has only nulls in, has the type of the others.

    Raises:
        pa.ArrowException: a column has different types.
    """
    schemas = []
    for part in parts:
        with pa.memory_map(str(part)) as file:
            schemas.append(pa.ipc.open_stream(file).schema)
    merged = pa.unify_schemas(schemas)
    last = [name for name in ("audio", *OURS) if name in merged.names]
    names = [name for name in merged.names if name not in last] + last
    schema = pa.schema([merged.field(name) for name in names])
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target, "wb") as out, pa.ipc.new_stream(out, schema) as stream:
        for part in parts:
            with pa.memory_map(str(part)) as file:
                for batch in pa.ipc.open_stream(file):
                    stream.write_table(_with_schema(batch, schema))


def _with_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    have = {name: batch.column(name) for name in batch.schema.names}
    columns = [
        have[field.name].cast(field.type) if field.name in have else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
