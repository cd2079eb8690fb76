"""Rows in numbered batches that are the same whoever takes them: the ground for shards and for going on after a kill.

Batch n holds the same rows in every process of every run, so what is sampled for it is the same to the last bit, and
its number says whether it is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from datasets import Dataset

from audiorl.datasets import BadRowsError, iterate_batches, missing_columns, speech_rows
from audiorl.datasets.length_filter import check_bounds, drop_outside, outside_seconds, seconds_outside
from audiorl.pairs.records import check_columns
from audiorl.pairs.settings import MiningConfig

Row = dict[str, Any]
OTHER_LANGUAGE = "rows in other languages"
OTHER_LENGTH = "clips outside the seconds asked for"


class NumberedBatches:
    """The rows of a source that filters let through, `config.batch_size` at a time.

    A data set is filtered when this is built, a stream while it is read.

    Attributes:
        left_out: rows that were filtered out so far, by the reason.
        count: how many batches there are; of a stream None until `take` has come to its end.
        clips: how many rows are in them; None of a stream.

    Raises:
        BadRowsError: a column is missing.
        ValueError: bounds that make no sense, columns that mining writes, or nothing is left.
    """

    def __init__(self, rows: Any, config: MiningConfig):
        check_bounds(config.min_audio_seconds, config.max_audio_seconds)
        self.config = config
        self.left_out: Counter[str] = Counter()
        self.count: int | None = None
        self.clips: int | None = None
        self.rows = speech_rows(rows)
        names = self.rows.column_names
        if names is not None:
            check_columns(names, "The rows")
            languages = ("language",) if config.languages else ()
            faults = missing_columns(names, ("audio", "text", *languages, *(config.other_transcripts or ())))
            if faults:
                raise BadRowsError(faults)
        if isinstance(self.rows, Dataset):
            self.rows = self._filtered(self.rows)
            self.clips = len(self.rows)
            self.count = -(-self.clips // config.batch_size)

    def take(self, rank: int = 0, world: int = 1, done: Collection[int] = ()) -> Iterator[tuple[int, list[Row]]]:
        """The batches of one process of several that are not done, with their numbers, in order."""
        if isinstance(self.rows, Dataset):
            for number in self._numbers(rank, world, done):
                yield number, [self.rows[place] for place in self._places(number)]
            return
        # nothing may be counted twice where a stream is read twice
        self.left_out.clear()
        number = -1
        for number, rows in enumerate(iterate_batches(self._wanted(), self.config.batch_size)):
            if number % world == rank and number not in done:
                yield number, rows
        self.count = number + 1

    def own_clips(self, rank: int, world: int, done: Collection[int]) -> int:
        """How many rows of a data set `take` would give."""
        return sum(len(self._places(number)) for number in self._numbers(rank, world, done))

    def own_rows(self, rank: int, world: int, done: Collection[int]) -> Dataset:
        """The rows of a data set that `take` would give."""
        numbers = self._numbers(rank, world, done)
        return self.rows.select([place for number in numbers for place in self._places(number)])

    def _numbers(self, rank: int, world: int, done: Collection[int]) -> list[int]:
        return [number for number in range(rank, self.count or 0, world) if number not in done]

    def _places(self, number: int) -> range:
        size = self.config.batch_size
        return range(number * size, min((number + 1) * size, len(self.rows)))

    def _filtered(self, rows: Dataset) -> Dataset:
        bounds = (self.config.min_audio_seconds, self.config.max_audio_seconds)
        if self.config.languages:
            spoken = rows["language"][:]
            kept = [place for place, language in enumerate(spoken) if language in self.config.languages]
            self._leave_out(OTHER_LANGUAGE, len(rows) - len(kept))
            rows = rows.select(kept)
        if bounds != (None, None):
            inside = drop_outside(rows, outside_seconds(rows, *bounds))
            self._leave_out(OTHER_LENGTH, len(rows) - len(inside))
            rows = inside
        if len(rows) == 0:
            raise ValueError(
                f"No row is left to mine: {dict(self.left_out)}. Change languages, min_audio_seconds or "
                "max_audio_seconds; a duration column is in seconds."
            )
        return rows

    def _wanted(self) -> Iterator[Row]:
        low, high = self.config.min_audio_seconds, self.config.max_audio_seconds
        for row in self.rows:
            if self.config.languages and row.get("language") not in self.config.languages:
                self._leave_out(OTHER_LANGUAGE, 1)
                continue
            if (low, high) != (None, None) and seconds_outside(row, low, high) is not None:
                self._leave_out(OTHER_LENGTH, 1)
                continue
            yield row

    def _leave_out(self, reason: str, count: int) -> None:
        if count:
            self.left_out[reason] += count
