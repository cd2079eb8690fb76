"""Clips outside `min_audio_seconds` and `max_audio_seconds`: left out and counted, alike in all processes."""

from __future__ import annotations

import os

from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from transformers.utils import logging

from audiorl.datasets import SkippedRows
from audiorl.datasets.length_filter import OutsideSeconds, drop_outside, outside_seconds, stream_within_seconds
from audiorl.trainers.config import SpeechConfig

logger = logging.get_logger(__name__)

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
    # one process looks at every file, all of them hear what it found
    found: list[OutsideSeconds | None] = [outside_seconds(rows, *bounds) if args.process_index == 0 else None]
    outside = broadcast_object_list(found)[0] if args.world_size > 1 else found[0]
    assert outside is not None
    kept = drop_outside(rows, outside)
    if len(kept) == len(rows):
        return rows
    told = f"{name}: {outside.describe(len(rows), *bounds)}"
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
