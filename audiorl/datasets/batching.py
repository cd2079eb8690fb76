"""Batches by a budget of seconds instead of a number of clips, planned for a whole epoch.

1. A batch costs its padded seconds: its clips times the longest of them. `SecondsBudget` counts them.
2. `EpochPlan` orders the clips from longest to shortest and cuts them into buckets of similar length. A bucket is a
   whole number of batches with as many clips as the budget allows for its longest clip.
3. In each epoch the rows of a bucket change places, and then the batches. Seed and epoch alone say how, so that every
   process makes the same plan and a resumed run needs no other state.
4. Batches are split until every optimizer step of every process is full, and then dealt to the processes in turns.

Deviations from lhotse's `DynamicBucketingSampler`: a data set is planned as a whole, so that each epoch has equally
many batches and each row comes once; a stream cannot be planned like that and is refused by the trainers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

# The shortest clip of a bucket, as a share of its longest: at most a tenth of a batch is padding. Where too few clips
# are that long to fill a batch, shorter ones fill it, and the bucket is that batch.
SHORTEST_SHARE = 0.9


@dataclass
class SecondsBudget:
    """What a batch may hold: clips are added to it until it is full.

    Args:
        max_seconds: > 0, padded: clips times the longest clip.
        max_clips: > 0; None for any number.

    Attributes:
        clips, longest: how many were added, and the seconds of the longest of them.
    """

    max_seconds: float
    max_clips: int | None = None
    clips: int = field(default=0, init=False)
    longest: float = field(default=0.0, init=False)

    @property
    def padded_seconds(self) -> float:
        return self.clips * self.longest

    def add(self, seconds: float) -> None:
        """Count one more clip."""
        self.clips += 1
        self.longest = max(self.longest, seconds)

    def exceeded(self) -> bool:
        """Whether the clips do not fit together."""
        return self._beyond(self.clips)

    def close_to_exceeding(self) -> bool:
        """Whether one more clip, as long as the longest one, would not fit."""
        return self._beyond(self.clips + 1)

    def _beyond(self, clips: int) -> bool:
        return clips * self.longest > self.max_seconds or (self.max_clips is not None and clips > self.max_clips)


class Bucket(NamedTuple):
    """Clips of similar length."""

    rows: np.ndarray  # (R,) places of the rows, the longest clip first
    sizes: list[int]  # clips of each of its batches; they add up to R


class Padding(NamedTuple):
    """What a plan costs."""

    batches: int  # of an epoch
    padded_share: float  # of the seconds that a model hears, 0 to 1
    bounded_by_clips: int  # batches that would have room for a further clip of their length, but for `max_clips`


class EpochPlan(Sampler[list[int]]):
    """The batches of an epoch in the order in which they go round the processes; a `batch_sampler` of a `DataLoader`.

    Without repeats every row comes once in each epoch, and all epochs have equally many batches.

    Args:
        seconds: (R,) of each row's clip, > 0; at least one row.
        max_seconds: > 0, padded seconds of a batch; at least as long as the longest clip.
        max_clips: > 0, clips of a batch; None for any number.
        seed: of the order.
        num_processes: > 0; each takes every so many-th batch.
        step_batches: batches of an optimizer step over all processes, a multiple of `num_processes`. Runs that agree in
            it have the same plan, whatever the number of processes.
        repeats: > 0, how often the batches of an optimizer step come in a row.

    Attributes:
        epoch: which one begins; a resumed run sets the one it goes on in.
        fillers: how many batches at the end of an epoch repeat others, because there are too few rows for the
            processes; the last so many processes have one each, which must not count. Always 0 with `repeats`, where
            a last step that is too short repeats its own batches instead.

    Raises:
        ValueError: a clip that is longer than the budget, or whose length is not a number above 0.
    """

    def __init__(
        self,
        seconds: Sequence[float] | np.ndarray,
        max_seconds: float,
        *,
        max_clips: int | None = None,
        seed: int = 0,
        num_processes: int = 1,
        step_batches: int = 1,
        repeats: int = 1,
    ):
        self.seconds = np.asarray(seconds, dtype=np.float64)
        if not ((self.seconds > 0) & (self.seconds <= max_seconds)).all():
            raise ValueError(
                f"A budget of {max_seconds:g} s needs clips of more than 0 s and at most as many; row "
                f"{_first_misfit(self.seconds, max_seconds)} does not fit. Raise max_seconds, or leave the row out."
            )
        self.max_seconds, self.max_clips, self.seed = max_seconds, max_clips, seed
        self.num_processes, self.step_batches, self.repeats = num_processes, step_batches, repeats
        self.buckets = cut_buckets(self.seconds, max_seconds, max_clips)
        found = sum(len(bucket.sizes) for bucket in self.buckets)
        self._count = min(_round_up(found, step_batches), len(self.seconds))
        split_batches(self.buckets, self._count - found)
        self.fillers = 0 if repeats > 1 else -self._count % num_processes
        self.epoch = 0

    def __len__(self) -> int:
        if self.repeats > 1:
            return _round_up(self._count, self.step_batches) * self.repeats
        return self._count + self.fillers

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.batches_of(self.epoch)
        if self.repeats == 1:
            yield from batches + batches[: self.fillers]
            return
        for start in range(0, len(batches), self.step_batches):
            step = batches[start : start + self.step_batches]
            full = [step[i % len(step)] for i in range(self.step_batches)]
            for _ in range(self.repeats):
                yield from full

    def batches_of(self, epoch: int) -> list[list[int]]:
        """Every row once, in the batches of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        batches: list[list[int]] = []
        for bucket in self.buckets:
            parts = np.split(rng.permutation(bucket.rows), np.cumsum(bucket.sizes)[:-1])
            batches += [part.tolist() for part in parts]
        return [batches[i] for i in rng.permutation(len(batches))]

    def is_filler(self, process: int) -> bool:
        """Whether the last batch that a process gets in an epoch only repeats another one.

        Args:
            process: 0 <= process < `num_processes` = N; the last round goes to processes 0 to N - 1 in order.
        """
        return process >= self.num_processes - self.fillers

    @property
    def clips_per_step(self) -> float:
        """Mean number of clips in an optimizer step."""
        return len(self.seconds) * self.step_batches / self._count

    def padding(self) -> Padding:
        """How much of what a model hears in the first epoch is padding."""
        batches = self.batches_of(0)
        padded = sum(len(rows) * self.seconds[rows].max() for rows in batches)
        bounded = sum(
            len(rows) == self.max_clips and (len(rows) + 1) * self.seconds[rows].max() <= self.max_seconds
            for rows in batches
        )
        return Padding(len(self), 1.0 - float(self.seconds.sum() / padded), int(bounded))


def cut_buckets(seconds: np.ndarray, max_seconds: float, max_clips: int | None) -> list[Bucket]:
    """Buckets from the longest clips to the shortest; each but the last has only full batches.

    Args:
        seconds: (R,) of each clip, at most `max_seconds`.
        max_seconds, max_clips: of a batch, see `SecondsBudget`.
    """
    order = np.argsort(-seconds, kind="stable")
    falling = -seconds[order]
    buckets, start = [], 0
    while start < len(order):
        longest = -falling[start]
        size = _full_size(float(longest), max_seconds, max_clips)
        similar = int(np.searchsorted(falling, -longest * SHORTEST_SHARE, side="right")) - start
        rows = order[start : start + max(similar // size, 1) * size]
        buckets.append(Bucket(rows, [min(size, len(rows) - i) for i in range(0, len(rows), size)]))
        start += len(rows)
    return buckets


def _full_size(longest: float, max_seconds: float, max_clips: int | None) -> int:
    """How many clips of this length are a full batch."""
    budget = SecondsBudget(max_seconds, max_clips)
    budget.add(longest)
    while not budget.close_to_exceeding():
        budget.add(longest)
    return budget.clips


def split_batches(buckets: Sequence[Bucket], count: int) -> None:
    """Split the batches with the most clips, in place, until there are so many more.

    Args:
        count: >= 0, at most as many as there are clips beside the first of each batch.
    """
    largest = [(-size, place) for place, bucket in enumerate(buckets) for size in bucket.sizes]
    heapq.heapify(largest)
    for _ in range(count):
        size, place = heapq.heappop(largest)
        halves = (-size + 1) // 2, -size // 2
        sizes = buckets[place].sizes
        sizes[sizes.index(-size)] = halves[0]
        sizes.append(halves[1])
        for half in halves:
            heapq.heappush(largest, (-half, place))


def largest_number(fits: Callable[[int], bool], most: int) -> int:
    """The largest number that fits, from 1 to `most`; 0 if not even 1 does. Doubles, then halves the gap.

    Args:
        fits: n -> whether n fits; whatever is smaller than a number that fits has to fit, too.
        most: > 0.
    """
    low, high = 0, 1  # low fits
    while fits(high):
        low = high
        if high == most:
            return most
        high = min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _first_misfit(seconds: np.ndarray, max_seconds: float) -> int:
    return int(np.flatnonzero(~((seconds > 0) & (seconds <= max_seconds)))[0])


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
