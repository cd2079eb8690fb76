"""One cycle of RAFT: which clips it samples, which hypotheses it keeps, and in what order it learns them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import Sampler

from audiorl.datasets.batching import EpochPlan
from audiorl.text.tasks import Task
from audiorl.trainers.distributed import balanced_order, gathered_rows
from audiorl.trainers.rollout_metrics import StepRollouts, gather_numbers
from audiorl.trainers.rollouts import Rollout, kept_tokens

# Keeps 0.1 * 30 = 3.0000000000000004 from being 4.
ROUNDING = 1e-9


def select_hypotheses(
    rewards: Tensor,
    eligible: Tensor,
    *,
    max_kept_per_clip: int = 1,
    keep_top_percent: float = 1.0,
    reward_threshold: float | None = None,
) -> Tensor:
    """Which hypotheses of a cycle are learnt from.

    1. Of each clip, the `max_kept_per_clip` best.
    2. Of these n, over all clips, the ceil(keep_top_percent * n) best.
    3. Of these, whatever has a reward of at least `reward_threshold`.

    Equal rewards go by order: the earlier clip, the earlier hypothesis.

    Args:
        rewards: (N, K) of N clips; entries outside `eligible` may hold anything, NaN included.
        eligible: (N, K) bool, False for hypotheses that may not be kept whatever their reward.
        max_kept_per_clip: >= 1.
        keep_top_percent: share, above 0 to 1.
        reward_threshold: None for none.

    Returns:
        (N, K) bool.

    Source: Dong et al. 2023 (RAFT), arXiv:2304.06767, algorithm 1, is rule 1 with one hypothesis for each clip; rules 2
    and 3 are the ranking over all samples and the threshold of later implementations.
    """
    values = torch.where(eligible, rewards, -torch.inf)
    rank = values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    best = eligible & (rank < max_kept_per_clip)
    order = torch.where(best, values, -torch.inf).flatten().argsort(dim=0, descending=True, stable=True)
    top = torch.zeros_like(best).flatten()
    top[order[: math.ceil(keep_top_percent * int(best.sum()) - ROUNDING)]] = True
    kept = best & top.view_as(best)
    return kept if reward_threshold is None else kept & (values >= reward_threshold)


def clips_of_cycle(num_rows: int, count: int, cycle: int, seed: int) -> list[int]:
    """The `count` <= `num_rows` rows that a cycle samples, in a different order in each cycle.

    Cycles walk through the rows in a shuffled order and shuffle anew where fewer than `count` are left of it, so that
    a cycle has no row twice.
    """
    windows = num_rows // count
    order = np.random.default_rng([seed, cycle // windows]).permutation(num_rows)
    start = cycle % windows * count
    return order[start : start + count].tolist()


def cycle_factor(step: int, *, steps_per_cycle: int, warmup_steps: int, decay: float, floor: float) -> float:
    """The factor of the learning rate at an optimizer step.

        factor = max(decay ** cycle, floor) * min(1, step / warmup_steps),  cycle = step // steps_per_cycle

    Args:
        step: >= 0, steps that lie behind.
        warmup_steps: >= 0, over the whole run.
        decay: above 0 to 1.
        floor: 0 to 1, the smallest learning rate as a share of the first.
    """
    warm = 1.0 if step >= warmup_steps else step / warmup_steps
    return max(decay ** (step // steps_per_cycle), floor) * warm


KEPT_FILE = "kept_samples.pt"

Hypotheses = tuple[Tensor, Tensor]  # of one clip: tokens (H, T + 1) int32 and keep (H, T) bool


class Drawn(NamedTuple):
    """What a process keeps of a cycle's rollouts, on the CPU: all but the audio."""

    row_ids: Tensor  # (n,) long
    numbers: Tensor  # (n, K, 7 + R), see `rollout_metrics.numbers`
    eligible: Tensor  # (n, K) bool
    hypotheses: list[Hypotheses]  # n times all K


@dataclass
class KeptSamples:
    """What the optimizer steps of a cycle learn from; every process has all of it.

    Attributes:
        cycle: counted from 0.
        row_ids: the rows the cycle goes over.
        hypotheses: row -> what was kept of it; nothing for rows that are learnt by their transcript alone.
    """

    cycle: int
    row_ids: list[int]
    hypotheses: dict[int, Hypotheses]

    def groups(self, row_ids: Tensor, pad: int) -> dict[str, Tensor]:
        """`tokens` (B, H, T + 1) and `keep` (B, H, T) of some rows, H >= 1; nothing counts where nothing was kept.

        Args:
            row_ids: (B,).
            pad: the token written behind the shorter ones.
        """
        found = [self.hypotheses.get(row) for row in row_ids.tolist()]
        shapes = [keep.shape for _, keep in (known for known in found if known is not None)]
        most, longest = (max((shape[axis] for shape in shapes), default=1) for axis in (0, 1))
        tokens = torch.full((len(found), most, longest + 1), pad)
        keep = torch.zeros((len(found), most, longest), dtype=torch.bool)
        for b, known in enumerate(found):
            if known is not None:
                kept, length = known[1].shape
                tokens[b, :kept, : length + 1], keep[b, :kept, :length] = known
        return {"tokens": tokens.to(row_ids.device), "keep": keep.to(row_ids.device)}

    def save(self, folder: str, steps_per_cycle: int) -> None:
        state = {"cycle": self.cycle, "row_ids": self.row_ids, "hypotheses": self.hypotheses}
        torch.save({**state, "steps_per_cycle": steps_per_cycle}, os.path.join(folder, KEPT_FILE))


def load_kept(folder: str, steps_per_cycle: int) -> KeptSamples:
    """What `KeptSamples.save` wrote.

    Raises:
        ValueError: there is no such file, or it belongs to cycles of another length.
    """
    path = os.path.join(folder, KEPT_FILE)
    if not os.path.exists(path):
        raise ValueError(
            f"The checkpoint lies in the middle of a cycle, but {path}, which holds the hypotheses that the cycle "
            "kept, is missing. Resume "
            "from another checkpoint, or with the batch size, accumulation, processes and steps_per_cycle of the "
            "interrupted run."
        )
    saved = torch.load(path, weights_only=True)
    length = saved.pop("steps_per_cycle")
    if length != steps_per_cycle:
        raise ValueError(
            f"The cycles of {path} have {length} optimizer steps, those of this run {steps_per_cycle}. Resume with the "
            "batch size, accumulation, processes and steps_per_cycle of the interrupted run."
        )
    return KeptSamples(**saved)


def drawn_from(rollout: Rollout, numbers: Tensor) -> Drawn:
    """What is kept of one rollout. Hypotheses lose the padding that their clip does not need.

    A hypothesis is eligible if a reward scored it, it ended by itself, and no earlier one of its clip is the same.
    """
    samples = rollout.samples
    eligible = samples.finished.cpu() & ~rollout.rewards.isnan() & rollout.batch.valid.cpu()[:, None]
    hypotheses = []
    for b, (tokens, keep) in enumerate(zip(samples.tokens.cpu().int(), samples.keep.cpu(), strict=True)):
        length = int((keep.any(0).nonzero().max() + 1) if keep.any() else 0)
        hypotheses.append((tokens[:, : length + 1].clone(), keep[:, :length].clone()))
        said = [tuple(ids) for ids in kept_tokens(samples, b)]
        eligible[b] &= torch.tensor([ids not in said[:k] for k, ids in enumerate(said)])
    return Drawn(rollout.batch.row_ids.cpu(), numbers, eligible, hypotheses)


def joined(parts: Sequence[Drawn]) -> Drawn:
    """The rollouts of all batches as one."""
    row_ids, numbers, eligible, hypotheses = zip(*parts, strict=True)
    together = [known for some in hypotheses for known in some]
    return Drawn(torch.cat(row_ids), torch.cat(numbers), torch.cat(eligible), together)


def gather_drawn(
    own: Drawn, order: Sequence[int], accelerator: Accelerator, task: Task
) -> tuple[Tensor, Tensor, StepRollouts]:
    """What all processes sampled, without placeholders and in the order of the cycle; a collective call.

    Args:
        own: of this process.
        order: row ids of the cycle.
        task: of the family.

    Returns:
        (N,) row ids, (N, K) whether a hypothesis is eligible, and the numbers of the N clips.
    """
    everything = gather_numbers(own.numbers, accelerator, task)
    known, _ = gathered_rows(torch.cat([own.row_ids[:, None], own.eligible.long()], 1), accelerator)
    place = {row: i for i, row in enumerate(order)}
    by_place = sorted((place[row], i) for i, row in enumerate(known[:, 0].tolist()) if row >= 0)
    wanted = torch.tensor([i for _, i in by_place], dtype=torch.long)
    ordered: dict[str, Any] = {
        name: values[wanted] for name, values in everything._asdict().items() if isinstance(values, Tensor)
    }
    return known[wanted, 0], known[wanted, 1:].bool(), everything._replace(**ordered, own=slice(0, len(wanted)))


def gather_kept(own: Drawn, row_ids: Tensor, kept: Tensor, accelerator: Accelerator) -> dict[int, Hypotheses]:
    """The kept hypotheses of each row, from the processes that sampled them; a collective call.

    Args:
        row_ids, kept: (N,) and (N, K) bool of all clips.
    """
    chosen = {row: mask for row, mask in zip(row_ids.tolist(), kept, strict=True) if mask.any()}
    mine = {
        row: (tokens[chosen[row]], keep[chosen[row]])
        for row, (tokens, keep) in zip(own.row_ids.tolist(), own.hypotheses, strict=True)
        if row in chosen
    }
    parts = gather_object([mine]) if accelerator.num_processes > 1 else [mine]
    return {row: known for part in parts for row, known in part.items()}


class KeptRows(Sampler[int]):
    """The rows of a cycle, pass after pass until its optimizer steps are full.

    Args:
        length: rows of a cycle: optimizer steps times clips of a step, over micro-batches and processes.
        rows: tells the cycle that is on and its rows, as indices of the data set.
        seed: of the order, which is another one in each pass and the same in each process; None keeps the rows' order.
        values: of every row of the data set, each of which comes equally often; None for rows as they come.
    """

    def __init__(
        self,
        length: int,
        rows: Callable[[], tuple[int, Sequence[int]]],
        seed: int | None,
        values: Sequence[Any] | None = None,
    ):
        self.values = values
        self.length = length
        self.rows = rows
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        cycle, rows = self.rows()
        if self.values is not None and self.seed is not None:
            order = balanced_order([self.values[row] for row in rows], self.length, [self.seed, cycle])
            return iter([rows[i] for i in order])
        return islice(self._passes(cycle, rows), self.length)

    def _passes(self, cycle: int, rows: Sequence[int]) -> Iterator[int]:
        for done in count():
            if self.seed is None:
                yield from sorted(rows)
            else:
                shuffled = np.random.default_rng([self.seed, cycle, done]).permutation(len(rows))
                yield from (rows[i] for i in shuffled.tolist())


class KeptBatches(Sampler[list[int]]):
    """The rows of a cycle in batches by seconds, pass after pass until its optimizer steps are full.

    Args:
        length: batches of a cycle, over micro-batches and processes.
        rows: tells the cycle that is on and its rows, as indices of the data set.
        plan: the batches of some rows; they hold places among those rows.
    """

    def __init__(
        self,
        length: int,
        rows: Callable[[], tuple[int, Sequence[int]]],
        plan: Callable[[Sequence[int]], EpochPlan],
    ):
        self.length, self.rows, self.plan = length, rows, plan

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        cycle, rows = self.rows()
        plan = self.plan(rows)
        # each pass is an epoch of the plan, of a number that no other cycle uses
        passes = (plan.batches_of(cycle * self.length + done) for done in count())
        batches = islice(chain.from_iterable(passes), self.length)
        return ([rows[i] for i in batch] for batch in batches)
