"""Which clips a run hears, and how: those within wanted seconds, augmented in training and never in evaluation."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from transformers.utils import logging

from audiorl.augment import load_augmentation
from audiorl.collator import SpeechCollator
from audiorl.datasets import BadRowsError, RowJudge, SkippedRows, drop_bad_rows
from audiorl.datasets.checks import (
    OutsideSeconds,
    drop_outside,
    judge_rows,
    outside_seconds,
    stream_within_seconds,
)
from audiorl.trainers.config import SpeechConfig

logger = logging.get_logger(__name__)

Found = TypeVar("Found")

# What streams leave out; the rows of a data set are only counted.
LEFT_OUT_FILE = "left_out_clips.jsonl"


def rows_within_bounds(rows: Dataset | IterableDataset, args: SpeechConfig, name: str) -> Dataset | IterableDataset:
    """The rows a config wants to hear, and a line that says how many it does not; a collective call for a data set.

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
    """The rows that a run can use; a collective call for a data set, a stream's are judged as they come.

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
    judged = found_by_one(args, lambda: judge_rows(rows, judge))
    inside = _inside(rows, judged.outside, args, name)
    if judged.faults and args.on_bad_rows == "error":
        raise BadRowsError(judged.faults)
    kept = drop_bad_rows(inside, judged.faults, skipped if args.process_index == 0 else None)
    if len(kept) == 0:
        raise ValueError(
            f"{name} has no usable row left: {len(inside)} rows, {len(judged.faults)} faults. Mend the rows."
        )
    return kept


def found_by_one(args: SpeechConfig, find: Callable[[], Found]) -> Found:
    """What one process finds in the files, told to all of them."""
    found = [find() if args.process_index == 0 else None]
    known = broadcast_object_list(found)[0] if args.world_size > 1 else found[0]
    assert known is not None
    return known


def _inside(rows: Dataset, outside: OutsideSeconds, args: SpeechConfig, name: str) -> Dataset:
    """The rows of a wanted length; says how many are left out."""
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


def count_left_out_of_streams(args: SpeechConfig) -> int:
    """How many different clips the streams of all processes have left out so far."""
    if (args.min_audio_seconds, args.max_audio_seconds) == (None, None):
        return 0
    return SkippedRows(os.path.join(args.output_dir, LEFT_OUT_FILE)).count()


class TrainingAugmentation:
    """What a config says about augmenting clips; it does nothing where the config says nothing.

    Attributes:
        augmentation: None where training clips are heard as they are.
        growth: how much longer a clip can get; None where it keeps its length.
    """

    def __init__(self, args: SpeechConfig):
        seed = args.seed if args.data_seed is None else args.data_seed
        self.augmentation = None if args.augmentation is None else load_augmentation(args.augmentation, seed=seed)
        self.growth = None if self.augmentation is None else self.augmentation.growth

    def __bool__(self) -> bool:
        return self.augmentation is not None

    def collator(self, plain: Any) -> Any:
        """The collator of training batches; that of evaluation batches stays `plain`.

        Raises:
            ValueError: the clips are to be augmented in a collator that cannot do it.
        """
        if self.augmentation is None:
            return plain
        if not isinstance(plain, SpeechCollator):
            raise ValueError(
                f"augmentation acts in SpeechCollator; data_collator is a {type(plain).__name__}. Leave it out, "
                "or turn augmentation off and augment in your own collator (audiorl.augment.load_augmentation)."
            )
        augmented = copy.copy(plain)
        augmented.augment_with(self.augmentation)
        return augmented

    def begin_epoch(self, epoch: int) -> None:
        """Tell the loader's workers the epoch before its iterator is made; a resumed one comes with its own number."""
        if self.augmentation is not None:
            self.augmentation.set_epoch(epoch)
