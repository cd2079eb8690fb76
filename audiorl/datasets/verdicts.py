"""Judging all rows of a data set: in several processes, and from the verdicts that an earlier start kept.

1. Rows are judged in blocks of 256, by as many processes as there are cores where the data set is large. Faults come in
   the order of the rows, whoever found them.
2. What is kept of a row is that it could be used, or that its clip has no wanted length, and its seconds. A row with a
   fault is judged at every start, since faults may have reasons outside of it: permissions, a network, a full disk.
3. A block's verdicts count only while nothing they rest on has changed: all values of its rows; size, mtime and ctime
   of each audio file; everything `RowJudge` holds rows against, tokenizers and their settings included; the versions of
   the packages that read audio and text; the library's own source files. A file that changed less than two seconds
   before it was judged could change again unseen, so its row is judged again next time.
4. Verdicts lie beside the cache of `datasets`, one file for each judge and data set. Files are written whole, end with
   a checksum, and may be shared by processes, or deleted at any time. `AUDIORL_VERDICTS` names another folder; empty,
   nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import multiprocessing
import os
import pickle
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from torch.utils.data import DataLoader

from audiorl.datasets.checks import (
    OutsideSeconds,
    RowJudge,
    any_length,
    any_text,
    faults_of,
    missing_columns,
    no_time,
)
from audiorl.datasets.faults import RowFault
from audiorl.datasets.kept_rows import FOLDER_VARIABLE, code_state, file_stamp, kept_folder, settled_before
from audiorl.files import whole_file
from audiorl.terminal import progress_bar

logger = logging.getLogger(__name__)

# Rows of a block. They may carry their audio as bytes, so at most this many are in memory at once.
BLOCK = 256
# Data sets with fewer rows are judged in less time than it takes to say that they were.
KEPT_FROM = 1_000
# Rows to judge from which several processes are worth their start, and the most processes.
_WORKERS_FROM, _MOST_WORKERS = 4_000, 16
# A long check keeps what it has found every so many seconds.
_WRITTEN_EVERY = 60.0
_MAGIC = b"audiorl verdicts 1\n"

USABLE, LEFT_OUT, AGAIN = range(3)  # what is known of a row; AGAIN: it has to be judged


class JudgedRows(NamedTuple):
    """The result of `judge_rows`."""

    faults: list[RowFault]  # of the rows that are wanted
    outside: OutsideSeconds  # the rows that are not
    seconds: array[float]  # of each row's clip, by its header; NaN where the header cannot be read


class _Judged(NamedTuple):
    """Some rows of one block, judged."""

    places: Sequence[int]  # in the data set, ascending
    states: bytes
    seconds: array[float]
    faults: list[RowFault]


class _Block(NamedTuple):
    """The verdicts of one block's rows."""

    states: bytearray
    seconds: array[float]


def judge_rows(
    rows: Dataset, judge: RowJudge, *, num_threads: int = 8, num_workers: int | None = None, progress: bool = False
) -> JudgedRows:
    """Judge every row without decoding audio, in one pass: each file is opened once, each text tokenized once.

    Rows whose verdicts an earlier call kept are not judged again, see the module. The result is the same.

    Args:
        rows: from `speech_rows`.
        judge: what the rows have to be.
        num_threads: > 0, audio files opened at once, by each process.
        num_workers: processes that judge; 0 for this one alone, None for what suits the machine and the rows.
        progress: show a bar if it takes longer than a second.

    Returns:
        First one fault for each missing column, then the faults of the rows in their order; the clips that are not of
        the length that `judge` wants, whose faults do not matter; and the seconds of all clips.
    """
    missing = missing_columns(rows.column_names, judge.needed_columns)
    kept = KeptVerdicts.of(rows, judge)
    blocks = [_unknown(min(BLOCK, len(rows) - start)) for start in range(0, len(rows), BLOCK)]
    if kept is not None:
        blocks = [kept.known(digest) or block for digest, block in zip(kept.digests, blocks, strict=True)]
    todo = list(_to_judge(blocks))
    count = sum(map(len, todo))
    found = JudgedRows(missing, OutsideSeconds([], []), array("d"))
    written = time.monotonic()
    with progress_bar(desc="Checking rows", unit="row", total=count, progress=progress, delay=1) as bar:
        try:
            for judged in _judged(rows, judge, todo, num_threads, _workers(count, num_workers)):
                found.faults.extend(judged.faults)
                _note(judged, blocks)
                bar.update(len(judged.places))
                if kept is not None and time.monotonic() - written > _WRITTEN_EVERY:
                    kept.write(blocks)
                    written = time.monotonic()
        finally:  # what an interrupted check has judged is kept, too
            if kept is not None and count:
                kept.write(blocks)
    _collect(blocks, judge, found)
    if kept is not None:
        logger.info(f"{len(rows) - count:,} of {len(rows):,} rows are as {kept.path} says; {count:,} were judged.")
    return found


def check_rows(rows: Dataset, *, num_threads: int = 8, progress: bool = False, **settings: Any) -> list[RowFault]:
    """All faults of all rows, found without decoding audio.

    Args:
        rows: from `speech_rows`.
        num_threads: > 0, audio files opened at once.
        progress: show a bar if it takes longer than a second.
        settings: what rows have to be, see `RowJudge`: `text_columns`, `tokenize`, `max_seconds` and `distinct` have no
            default.

    Returns:
        First one fault for each missing column, then the faults of the rows in their order.
    """
    return judge_rows(rows, RowJudge(**settings), num_threads=num_threads, progress=progress).faults


# ---- judging ----


def _unknown(size: int) -> _Block:
    return _Block(bytearray([AGAIN]) * size, array("d", [math.nan]) * size)


def _to_judge(blocks: Sequence[_Block]) -> Iterator[Sequence[int]]:
    """The places of each block's rows that have to be judged."""
    for number, block in enumerate(blocks):
        start, size = number * BLOCK, len(block.states)
        if block.states.count(AGAIN) == size:
            yield range(start, start + size)
        elif AGAIN in block.states:
            yield [start + i for i, state in enumerate(block.states) if state == AGAIN]


def _workers(count: int, asked: int | None) -> int:
    """How many processes judge `count` rows; 0 for this one alone."""
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 0  # where processes do not fork, each would import everything again; one of a pool may start none
    if asked is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        asked = min(cores, _MOST_WORKERS) if count >= _WORKERS_FROM else 0
    return asked if asked > 1 else 0


class _Blocks(torch.utils.data.Dataset):
    """The judged rows of each block, for the worker processes of a loader."""

    def __init__(self, rows: Dataset, judge: RowJudge, todo: Sequence[Sequence[int]], num_threads: int):
        self.rows, self.judge, self.todo, self.num_threads = rows, judge, todo, num_threads
        self.pool: ThreadPoolExecutor | None = None  # each process starts its own

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, number: int) -> _Judged:
        places = self.todo[number]
        some = list(self.rows.select(places))
        self.pool = self.pool or ThreadPoolExecutor(self.num_threads)
        listening = self.pool.map(self.judge.listen, some)
        texts = [self.judge.read(row).problems for row in some]
        found = _Judged(places, b"", array("d"), [])
        states = bytearray()
        for row, read, heard in zip(some, texts, listening, strict=True):
            found.seconds.append(math.nan if heard.seconds is None else heard.seconds)
            if heard.left_out:
                states.append(LEFT_OUT)
                continue
            faults = faults_of(row, read + heard.problems)
            found.faults.extend(faults)
            states.append(AGAIN if faults else USABLE)
        return found._replace(states=bytes(states))


def _judged(
    rows: Dataset, judge: RowJudge, todo: Sequence[Sequence[int]], num_threads: int, num_workers: int
) -> Iterator[_Judged]:
    """The blocks' rows as they are judged, in their order."""
    if not todo:
        return
    blocks = _Blocks(rows, judge, todo, num_threads)
    if not num_workers:
        with ThreadPoolExecutor(num_threads) as blocks.pool:
            yield from (blocks[number] for number in range(len(todo)))
        return
    loader: Any = DataLoader(
        blocks,
        batch_size=None,
        num_workers=min(num_workers, len(todo)),
        multiprocessing_context="fork",
        generator=torch.Generator(),  # a loader draws a seed, which is not to be taken from the run's generator
    )
    parallel = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else each worker warns that it was forked
    try:
        yield from loader
    finally:
        if parallel is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = parallel


def _note(judged: _Judged, blocks: Sequence[_Block]) -> None:
    block = blocks[judged.places[0] // BLOCK]
    for place, state, seconds in zip(judged.places, judged.states, judged.seconds, strict=True):
        block.states[place % BLOCK] = state
        block.seconds[place % BLOCK] = seconds


def _collect(blocks: Sequence[_Block], judge: RowJudge, found: JudgedRows) -> None:
    for number, block in enumerate(blocks):
        found.seconds.extend(block.seconds)
        if LEFT_OUT in block.states:
            for i, state in enumerate(block.states):
                if state == LEFT_OUT:
                    found.outside.add(number * BLOCK + i, block.seconds[i], judge.wanted[0])


# ---- verdicts that are kept ----


class KeptVerdicts:
    """The verdict file of a data set under one judge.

    Args:
        path: of the file; it need not be there.
        digests: of each block of the rows, see `block_digest`.
        settled: of each row, whether its file is old enough for its verdict to be kept: 1 or 0.
    """

    def __init__(self, path: Path, digests: Sequence[bytes], settled: Sequence[int]):
        self.path = path
        self.digests = digests
        self.settled = settled
        self._blocks = _read_verdicts(path)

    @classmethod
    def of(cls, rows: Dataset, judge: RowJudge) -> KeptVerdicts | None:
        """Those of these rows; None where none are kept: few rows, or a judge that cannot be told from others."""
        folder = kept_folder()
        if folder is None or len(rows) < KEPT_FROM or (name := judge_digest(judge)) is None:
            return None
        given, settled = hashlib.sha256(f"{name}\n{rows.features!r}".encode()), bytearray()
        table = rows.with_format("arrow")
        digests = []
        for start in range(0, len(rows), BLOCK):
            digest, old = block_digest(table[start : start + BLOCK], given)
            digests.append(digest)
            settled += old
        first = _with_rows(
            given, table[:1]
        ).hexdigest()  # without its file's state: a new clip there is no new data set
        return cls(folder / name[:16] / f"{first[:32]}.verdicts", digests, settled)

    def known(self, digest: bytes) -> _Block | None:
        """A copy of a block's verdicts; None if they are not known."""
        found = self._blocks.get(digest)
        return None if found is None else _Block(found.states[:], found.seconds[:])

    def write(self, blocks: Sequence[_Block]) -> None:
        """Keep the verdicts of blocks, and as many that the file had besides.

        A verdict that cannot be kept is no reason to stop: that is told, and rows are judged again next time.
        """
        new: dict[bytes, _Block] = {}
        for number, (digest, block) in enumerate(zip(self.digests, blocks, strict=True)):
            old = self.settled[number * BLOCK : number * BLOCK + len(block.states)]
            states = bytearray(state if keep else AGAIN for state, keep in zip(block.states, old, strict=True))
            if states.count(AGAIN) < len(states):
                new[digest] = _Block(states, block.seconds)
        others = [digest for digest in self._blocks if digest not in new][: len(new)]
        try:
            _write_verdicts(self.path, {**new, **{digest: self._blocks[digest] for digest in others}})
        except OSError as error:
            logger.warning(
                f"The verdicts of the rows cannot be kept in {self.path} ({error.strerror or error}), so the next "
                f"start checks them again. Make room, or name a folder that can be written in {FOLDER_VARIABLE}."
            )


def _read_verdicts(path: Path) -> dict[bytes, _Block]:
    """The blocks of a verdict file; none where it is missing, or damaged, which is told."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        logger.warning(f"{path} cannot be read ({error.strerror or error}), so all rows are checked again.")
        return {}
    body, checksum = content[:-32], content[-32:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != checksum:
        logger.warning(f"{path} is damaged, so all rows are checked again and the file is written anew.")
        return {}
    found: dict[bytes, _Block] = {}
    position = len(_MAGIC)
    while position < len(body):
        digest, size = body[position : position + 32], int.from_bytes(body[position + 32 : position + 34], "little")
        states = body[position + 34 : position + 34 + size]
        position += 34 + size
        found[digest] = _Block(bytearray(states), array("d", body[position : position + 8 * size]))
        position += 8 * size
    return found


def _write_verdicts(path: Path, blocks: dict[bytes, _Block]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    checksum = hashlib.sha256()
    with whole_file(path, "wb") as file:
        for part in (_MAGIC, *map(_block_bytes, blocks.items())):
            checksum.update(part)
            file.write(part)
        file.write(checksum.digest())


def _block_bytes(item: tuple[bytes, _Block]) -> bytes:
    digest, block = item
    return digest + len(block.states).to_bytes(2, "little") + bytes(block.states) + block.seconds.tobytes()


# ---- what verdicts rest on ----


def block_digest(table: pa.Table, given: Any) -> tuple[bytes, bytes]:
    """SHA-256 of a block's rows and of the state of their files; and of each row whether its file is settled.

    Args:
        table: the rows.
        given: a `hashlib` object of what the verdicts rest on besides; it is copied.
    """
    digest = _with_rows(given, table)
    stamps, settled = _stamps(table)
    digest.update(stamps.tobytes())
    return digest.digest(), settled


def _with_rows(given: Any, table: pa.Table) -> Any:
    """A copy of a `hashlib` object that has read the values of all rows besides."""
    digest, sink = given.copy(), pa.BufferOutputStream()
    table = table.replace_schema_metadata(None).combine_chunks()
    with suppress(pa.ArrowInvalid):  # more than 2 GiB of audio. A slice works, too, but brings bits of its neighbors
        table = table.take(pa.array(range(len(table)), pa.int64()))
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    digest.update(sink.getvalue())
    return digest


def _stamps(table: pa.Table) -> tuple[np.ndarray, bytes]:
    """(rows, 3) int64: size, mtime and ctime of each row's file, 0 where the row holds its audio, -1 for no file."""
    stamps = np.zeros((len(table), 3), np.int64)
    if "audio" not in table.column_names:
        return stamps, b"\1" * len(table)
    audio = table.column("audio")
    held = pc.is_valid(pc.struct_field(audio, "bytes")).to_pylist()
    for i, path in enumerate(pc.struct_field(audio, "path").to_pylist()):
        if not held[i]:
            stamps[i] = file_stamp(path)
    latest = stamps[:, 1:].max(axis=1)
    settled = (latest >= 0) & (latest < settled_before())
    return stamps, settled.astype(np.uint8).tobytes()


def judge_digest(judge: RowJudge) -> str | None:
    """What a judge holds rows against, as a name; None if a function of it cannot be told from others.

    Its three functions have to be the library's own, or methods of one object, a family of models, that can be pickled
    and whose classes lie in files.
    """
    functions = (judge.tokenize, judge.last_time, judge.least_seconds)
    owners = [getattr(function, "__self__", None) for function in functions]
    plain = functions == (any_text, no_time, any_length)
    if not plain and (isinstance(owners[0], type | None) or any(owner is not owners[0] for owner in owners)):
        return None
    own = "" if plain else _object_digest(owners[0], functions)
    rules = [_file_stamp(kind.__module__) for kind in type(judge).__mro__ if kind is not object]
    if own is None or None in rules:
        return None
    names = [field.name for field in fields(judge) if field.name not in ("tokenize", "last_time", "least_seconds")]
    said = {
        "judge": [type(judge).__qualname__, rules],
        "settings": {name: getattr(judge, name) for name in names},
        "functions": own,
        "packages": code_state(),
        "user": os.geteuid() if hasattr(os, "geteuid") else None,
    }
    return hashlib.sha256(json.dumps(said, default=repr, sort_keys=True).encode()).hexdigest()


def _object_digest(owner: Any, functions: Sequence[Any]) -> str | None:
    """An object by its content and the files of its classes."""
    parts = [owner, *_values(owner)]
    parts += [value for part in parts for value in _values(part)]
    classes = {kind for part in parts for kind in type(part).__mro__}
    files = [_file_stamp(kind.__module__) for kind in classes if kind.__module__ != "builtins"]
    if None in files:
        return None
    try:
        content = Hasher.hash(owner)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError):
        return None
    return repr((content, sorted(filter(None, files)), [function.__func__.__qualname__ for function in functions]))


def _values(part: Any) -> list[Any]:
    return list(getattr(part, "__dict__", {}).values())


@cache
def _file_stamp(module: str) -> str | None:
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None or not os.path.isfile(path):
        # modules that the interpreter or an extension brings along change with their versions alone
        return module if module in sys.stdlib_module_names or module in sys.builtin_module_names else None
    return f"{module} {file_stamp(path)}"
