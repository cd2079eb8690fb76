"""The order of rows where several optimizer steps learn from the same rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, islice

import torch
from torch.utils.data import Sampler


class RepeatedBlocks(Sampler[int]):
    """The rows of each optimizer step, several times in a row; epochs, steps and resuming stay the loader's own.

        [4 2 0 3 | 4 2 0 3 | 1 1 1 1 | 1 1 1 1]      five rows in blocks of 4, twice each

    A last block that is shorter is filled up with its own rows, so that steps stay aligned; the trainer gives the
    repetitions no weight.

    Args:
        num_rows: rows of the data set, > 0.
        block: clips of an optimizer step, over micro-batches and processes, > 0.
        repeats: `num_iterations`, > 0.
        seed: of the order, which is another one in each epoch and the same in each process; None keeps the rows' order.
        steps_done: tells how many optimizer steps lie behind, from which the epoch follows, however a run was resumed.
        drop_last: leave a last block that is shorter out.
    """

    def __init__(
        self,
        num_rows: int,
        block: int,
        repeats: int,
        *,
        seed: int | None,
        steps_done: Callable[[], int],
        drop_last: bool = False,
    ):
        self.num_rows = num_rows
        self.block = block
        self.repeats = repeats
        self.seed = seed
        self.steps_done = steps_done
        self.drop_last = drop_last

    def __len__(self) -> int:
        blocks = self.num_rows // self.block if self.drop_last else -(-self.num_rows // self.block)
        return blocks * self.block * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.num_rows))
        if self.seed is not None:
            epoch = self.steps_done() * self.block // len(self)
            generator = torch.Generator().manual_seed(self.seed + epoch)
            order = torch.randperm(self.num_rows, generator=generator).tolist()
        for start in range(0, len(self) // self.repeats, self.block):
            rows = list(islice(cycle(order[start : start + self.block]), self.block))
            for _ in range(self.repeats):
                yield from rows
