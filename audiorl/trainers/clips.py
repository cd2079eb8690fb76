"""The clips of a run: which rows it can use, how it hears them, and how often."""

from __future__ import annotations

import copy
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from pyarrow.compute import binary_length
from transformers.utils import logging

from audiorl.audio.sources import SEGMENT_COLUMNS
from audiorl.augment import load_augmentation
from audiorl.collator import HistoryChanges, HotwordChanges, SpeechCollator
from audiorl.datasets import BadRowsError, RowJudge, SkippedRows, drop_bad_rows, speech_rows
from audiorl.datasets.checks import OutsideSeconds, drop_outside, outside_seconds, stream_within_seconds
from audiorl.datasets.verdicts import judge_rows
from audiorl.terminal import wrapped
from audiorl.text.history import HISTORY_COLUMN, HYPOTHESIS_COLUMN
from audiorl.text.keywords import HOTWORDS_COLUMN, distinct_hotwords
from audiorl.trainers.config import SpeechConfig
from audiorl.trainers.fingerprint import without_time

logger = logging.get_logger(__name__)

Found = TypeVar("Found")

# What streams leave out; the rows of a data set are only counted.
LEFT_OUT_FILE = "left_out_clips.jsonl"


def rows_within_bounds(rows: Dataset | IterableDataset, args: SpeechConfig, name: str) -> Dataset | IterableDataset:
    """The rows whose clips are as long as a config wants, and a line that counts the others; a collective call for a
    data set.

    Args:
        rows: from `speech_rows`; a stream is judged row by row as it comes.
        args: the bounds, and where a stream's left-out rows are written.
        name: what the rows are called in that line.

    Raises:
        ValueError: nothing is left.
    """
    bounds = (args.min_audio_seconds, args.max_audio_seconds)
    if bounds == (None, None):
        return rows
    if not isinstance(rows, Dataset):
        return stream_within_seconds(rows, *bounds, SkippedRows(os.path.join(args.output_dir, LEFT_OUT_FILE)))
    return _inside(rows, found_by_one(args, lambda: outside_seconds(rows, *bounds)), args, name)


def usable_rows(
    rows: Dataset | IterableDataset, judge: RowJudge, args: SpeechConfig, name: str, skipped: SkippedRows
) -> Dataset | IterableDataset:
    """The rows that a run can use; a collective call for a data set. Rows of a stream are judged as they come.

    Args:
        rows: from `speech_rows`.
        judge: what the model and the trainer ask of a row.
        args: the seconds that are wanted, and whether bad rows stop the run.
        name: what the rows are called in messages.
        skipped: where bad rows are written, if they do not stop the run.

    Raises:
        BadRowsError: all faults of all rows together.
        ValueError: nothing is left.
    """
    if not isinstance(rows, Dataset):
        return rows_within_bounds(rows, args, name)
    judge = replace(judge, wanted=(args.min_audio_seconds, args.max_audio_seconds))
    judged = found_by_one(args, lambda: judge_rows(rows, judge, progress=not args.disable_tqdm))
    inside = _inside(rows, judged.outside, args, name)
    if judged.faults and args.on_bad_rows == "error":
        raise BadRowsError(judged.faults)
    kept = drop_bad_rows(inside, judged.faults, skipped if args.process_index == 0 else None, data=name)
    if len(kept) == 0:
        raise ValueError(
            f"{name} has no usable row left: {len(inside)} rows, {len(judged.faults)} faults. Mend the rows."
        )
    return kept if args.max_batch_seconds is None else with_durations(kept, rows, judged.seconds)


def with_durations(kept: Dataset, rows: Dataset, seconds: Sequence[float]) -> Dataset:
    """Rows that all have a `duration`; those that lack one get the seconds of the audio's header.

    Args:
        kept: the usable ones of `rows`.
        seconds: of the clip of each of `rows`, by its header.
    """
    given = kept["duration"][:] if "duration" in kept.column_names else [None] * len(kept)
    if None not in given:
        return kept
    heard = dict(zip(rows["row_id"], seconds, strict=True))
    known = [heard[row] if own is None else float(own) for row, own in zip(kept["row_id"], given, strict=True)]
    rest = kept.remove_columns("duration") if "duration" in kept.column_names else kept
    return rest.add_column("duration", known)


def found_by_one(args: SpeechConfig, find: Callable[[], Found]) -> Found:
    """Let one process search the files and give all of them the result."""
    found = [find() if args.process_index == 0 else None]
    known = broadcast_object_list(found)[0] if args.world_size > 1 else found[0]
    assert known is not None
    return known


def _inside(rows: Dataset, outside: OutsideSeconds, args: SpeechConfig, name: str) -> Dataset:
    """The rows of a wanted length; logs how many are left out."""
    kept = drop_outside(rows, outside)
    if len(kept) == len(rows):
        return rows
    told = f"{name}: {outside.describe(len(rows), args.min_audio_seconds, args.max_audio_seconds)}"
    if len(kept) == 0:
        raise ValueError(
            f"{told}, so none is left. Change min_audio_seconds or max_audio_seconds; a duration column is in seconds."
        )
    if args.process_index == 0:
        logger.warning(f"{told}.")
    return kept


def clips_trained_on(train: Any, measured: Any) -> int:
    """How many rows of one data set hear what a row of another hears: file, bytes, part and channel are compared."""
    if not isinstance(train, Dataset) or measured is None or isinstance(measured, IterableDataset):
        return 0
    measured = speech_rows(measured)
    sizes = set(_sizes(measured))
    clips = set(_heard(train, sizes))
    return sum(clip in clips for clip in _heard(measured, sizes))


def warn_of_clips_trained_on(train: Any, measured: Any, args: SpeechConfig, name: str) -> None:
    """Say where a run would be measured on what it learns."""
    if args.process_index == 0 and (count := clips_trained_on(train, measured)):
        told = (
            f"{count} of {len(measured)} clips of {name} are trained on too, so a rate on them says little of speech "
            "that the model has not heard. Measure on others: --eval_share 0.1, or another --eval_dataset_name."
        )
        logger.warning(wrapped(told, sys.stderr))


def _sizes(rows: Dataset) -> Iterator[int | None]:
    """Bytes of each row's clip; None of one in a file."""
    for table in rows.select_columns(["audio"]).with_format("arrow").iter(1000):
        yield from binary_length(table.column("audio").combine_chunks().field("bytes")).to_pylist()


def _heard(rows: Dataset, sizes: set[int | None]) -> Iterator[tuple[Any, ...]]:
    """What tells the clip of each row; bytes are read only where they are as many as in `sizes`."""
    columns = [name for name in (*SEGMENT_COLUMNS, "duration", "channel") if name in rows.column_names]
    for table in rows.select_columns(["audio", *columns]).with_format("arrow").iter(1000):
        audio = table.column("audio").combine_chunks()
        content, paths = audio.field("bytes"), audio.field("path").to_pylist()
        for place, size in enumerate(binary_length(content).to_pylist()):
            clip = paths[place]
            if size is not None:
                clip = hashlib.sha256(without_time(content[place].as_py())).digest() if size in sizes else None
            if clip is None:
                continue
            row = {name: table.column(name)[place].as_py() for name in columns}
            part = [row.get(name) for name in SEGMENT_COLUMNS]
            # of a row without a part it is how long its file is
            length = None if part == [None] * len(part) else row.get("duration")
            yield clip, *part, length, row.get("channel")


def tell_unused_rows(args: SpeechConfig, skipped: SkippedRows, left_out: SkippedRows, resumed: bool) -> dict[str, int]:
    """Count the rows that a run could not use, or left out of a stream for their length: counts for its metrics, and a
    log line for each.

    Args:
        skipped, left_out: the files, which may hold rows of earlier runs too.
        resumed: those count, because this run goes on with one of them.
    """
    found: dict[str, int] = {}
    if args.on_bad_rows == "skip" and (count := skipped.count(0 if resumed else skipped.begun)):
        found["skipped_rows"] = count
        logger.warning(f"{count} rows could not be used; {skipped.path} says which and why.")
    bounded = (args.min_audio_seconds, args.max_audio_seconds) != (None, None)
    if bounded and (count := left_out.count(0 if resumed else left_out.begun)):
        found["left_out_clips"] = count
        logger.warning(f"{count} clips of streams were left out for their length; {LEFT_OUT_FILE} says which.")
    return found


class FilledStream(torch.utils.data.IterableDataset):
    """A stream whose last rows are followed by empty ones, until every process has as many rows.

    Else accelerate fills up with the stream's first rows, which would count twice.

    Args:
        rows: what each process reads all of.
        multiple: rows of all processes in a step.
    """

    def __init__(self, rows: IterableDataset, multiple: int):
        self.rows, self.multiple = rows, multiple

    def set_epoch(self, epoch: int) -> None:
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        count = 0
        for row in self.rows:
            yield row
            count += 1
        yield from ({} for _ in range(-count % self.multiple))


def filled_stream(rows: Any, batch_size: int, processes: int) -> Any:
    """What a loader reads: a stream that several processes share row by row is filled up, anything else as it is.

    A stream of as many files as processes, or more, is shared by files, and each process reads its own.
    """
    if processes == 1 or not isinstance(rows, IterableDataset) or rows.num_shards >= processes:
        return rows
    return FilledStream(rows, batch_size * processes)


class TrainingAugmentation:
    """The augmentation that a config describes; without one it does nothing.

    Attributes:
        augmentation: None where training clips are heard as they are.
        growth: how much room a clip has to find; None where it keeps its length.
        longest: how many times as long a clip can become, >= 1.
    """

    def __init__(self, args: SpeechConfig):
        seed = args.seed if args.data_seed is None else args.data_seed
        self.augmentation = None if args.augmentation is None else load_augmentation(args.augmentation, seed=seed)
        self.growth = None if self.augmentation is None else self.augmentation.growth
        self.longest = 1.0 if self.augmentation is None else self.augmentation.longest
        self.hotwords: HotwordChanges | None = None
        if args.hotword_dropout or args.hotword_distractors:
            self.hotwords = HotwordChanges(args.hotword_dropout, args.hotword_distractors, seed)
        self.history: HistoryChanges | None = None
        if args.history_dropout or args.history_hypotheses:
            self.history = HistoryChanges(args.history_dropout, args.history_hypotheses, seed)

    def __bool__(self) -> bool:
        return any(part is not None for part in (self.augmentation, self.hotwords, self.history))

    def read_columns(self, rows: Any) -> None:
        """Check that the training rows have what is to be changed, and collect their hot words.

        Raises:
            ValueError: rows without hot words or history, or a stream.
        """
        if rows is None:
            return
        if self.history is not None:
            self._check_history(rows, self.history)
        if self.hotwords is None:
            return
        if not isinstance(rows, Dataset) or HOTWORDS_COLUMN not in rows.column_names:
            raise ValueError(
                "hotword_dropout and hotword_distractors change the column `hotwords` of a data set, and "
                + ("the rows are a stream. " if not isinstance(rows, Dataset) else "the rows do not have it. ")
                + "Load rows with hotwords (streaming=False), or leave the two out."
            )
        self.hotwords.pool = distinct_hotwords(rows[HOTWORDS_COLUMN][:])

    @staticmethod
    def _check_history(rows: Any, history: HistoryChanges) -> None:
        columns = set(getattr(rows, "column_names", None) or ())  # of a stream they may be unknown
        needed = {HISTORY_COLUMN} if history.hypotheses < 1 else set()
        if history.hypotheses:
            needed.add(HYPOTHESIS_COLUMN)
        if columns and (missing := needed - columns):
            raise ValueError(
                f"history_dropout={history.dropout} and history_hypotheses={history.hypotheses} change what was said "
                f"before a clip, and the rows have no {' and '.join(sorted(missing))}, but {sorted(columns)}. Make it "
                "with `audiorl history`, or leave the two out."
            )

    def collator(self, plain: Any) -> Any:
        """The collator of training batches; evaluation batches keep `plain`.

        Raises:
            ValueError: the clips are to be augmented in a collator that cannot do it.
        """
        if not self:
            return plain
        if not isinstance(plain, SpeechCollator):
            raise ValueError(
                f"augmentation, of clips, histories and hot words, acts in SpeechCollator; data_collator is a "
                f"{type(plain).__name__}. Leave it out, "
                "or turn augmentation off and augment in your own collator (audiorl.augment.load_augmentation)."
            )
        augmented = copy.copy(plain)
        augmented.augment_with(self.augmentation)
        augmented.history, augmented.hotwords = self.history, self.hotwords
        return augmented

    def begin_epoch(self, epoch: int) -> None:
        """Tell the loader's workers the epoch before its iterator is made. After a resume it is the resumed epoch."""
        if self.augmentation is not None:
            self.augmentation.set_epoch(epoch)
        for changes in (self.history, self.hotwords):
            if changes is not None:
                changes.set_epoch(epoch)


def balance_values(rows: Any, args: SpeechConfig) -> list[Any] | None:
    """The values that are to come equally often, of each training row; None where no column is balanced.

    Raises:
        ValueError: a stream, or rows without the column.
    """
    if args.balance_column is None or rows is None:
        return None
    if not isinstance(rows, Dataset) or args.balance_column not in rows.column_names:
        found = "a stream" if not isinstance(rows, Dataset) else f"rows with the columns {sorted(rows.column_names)}"
        raise ValueError(
            f"balance_column={args.balance_column!r} balances a column of a data set; got {found}. Name one of its "
            "columns, or leave it out."
        )
    return rows[args.balance_column][:]
