"""Batches of so many seconds (`max_batch_seconds`): the budget, found or given, and what it brings."""

from __future__ import annotations

import json
import math
import os
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_utils import seed_worker
from transformers.utils import logging

from audiorl.datasets.batching import EpochPlan, largest_number
from audiorl.models import SpeechFamily
from audiorl.trainers.config import AUTO, SpeechConfig

logger = logging.get_logger(__name__)


# Settings of a loader that its batches do not concern; older releases of transformers lack some.
_LOADER_SETTINGS = (
    "num_workers",
    "pin_memory",
    "persistent_workers",
    "prefetch_factor",
    "multiprocessing_context",
    "in_order",
)


def batch_seconds(rows: Any, args: SpeechConfig, growth: float) -> np.ndarray | None:
    """(R,) seconds that each training row takes of `max_batch_seconds`; None without such a budget.

    Args:
        rows: of `usable_rows`.
        growth: how many times as long augmentation may make a clip, >= 1.

    Raises:
        ValueError: a stream, or a clip that alone is beyond the budget.
    """
    if args.max_batch_seconds is None or rows is None:
        return None
    if not isinstance(rows, Dataset):
        raise ValueError(
            f"max_batch_seconds={args.max_batch_seconds} plans the batches of an epoch by the lengths of all clips, "
            f"and the rows are a stream ({type(rows).__name__}). Load them whole (streaming=False), or leave "
            "max_batch_seconds out and bound the clips of a batch with per_device_train_batch_size."
        )
    seconds = np.asarray(rows["duration"][:], dtype=np.float64) * growth
    place = int(seconds.argmax())
    if args.max_batch_seconds != AUTO and seconds[place] > float(args.max_batch_seconds):
        slowed = " where augmentation slows it most" if growth > 1 else ""
        raise ValueError(
            f"max_batch_seconds={args.max_batch_seconds} is less than a single clip: {rows[place]['where']} has "
            f"{seconds[place]:.2f} s{slowed}. Raise max_batch_seconds to {math.ceil(seconds[place])} or more, or leave "
            "long clips out with max_audio_seconds."
        )
    return seconds


# Of the memory that a trial found, which leaves out texts longer than those of the longest clips, and fragments.
_USED_SHARE = 0.9
BUDGET_FILE = "batch_seconds.json"


class BatchBudget:
    """The seconds of `max_batch_seconds`; where that is "auto" they are found once, and checkpoints keep them.

    Args:
        trainer: a `SpeechTrainer` with such a budget.

    Attributes:
        seconds: None until they are found.

    Raises:
        ValueError: clips that augmentation makes longer than those that a trial would hear.
    """

    def __init__(self, trainer: Any):
        given = trainer.args.max_batch_seconds
        self.trainer, self.found = trainer, given == AUTO
        self.seconds: float | None = None if given == AUTO else float(given)
        if self.found and trainer.augmentation.growth is not None:
            raise ValueError(
                f"max_batch_seconds={AUTO!r} tries the clips as they are, and augmentation changes their speed, so "
                "that what fits in the trial may not fit later. Give a number of seconds, or leave speed out of the "
                "augmentation."
            )

    def save(self, checkpoint: str) -> None:
        if self.found and self.trainer.args.process_index == 0:
            with open(os.path.join(checkpoint, BUDGET_FILE), "w") as file:
                json.dump({"max_batch_seconds": self.seconds}, file)

    def load(self, checkpoint: str) -> None:
        """Go on with the budget of a checkpoint, so that a resumed run has the batches of one that did not stop.

        A checkpoint without one, resumed with `allow_changed_resume`, is of a run with a number: there a trial decides.
        """
        path = os.path.join(checkpoint, BUDGET_FILE)
        if self.found and os.path.exists(path):
            with open(path) as file:
                self.seconds = json.load(file)["max_batch_seconds"]

    def of(self, seconds: np.ndarray) -> float:
        """The budget for clips of these seconds, in the order of the training rows.

        Raises:
            ValueError: the longest clip alone does not fit the memory.
        """
        if self.seconds is None:
            self.seconds = self._try(seconds)
        return self.seconds

    def _try(self, seconds: np.ndarray) -> float:
        trainer, order = self.trainer, np.argsort(-seconds, kind="stable")
        longest = float(seconds[order[0]])
        most = min(trainer._train_batch_size, len(order))
        clips = largest_number(lambda n: fits_memory(trainer, trainer.train_dataset.select(order[:n].tolist())), most)
        if clips == 0:
            raise ValueError(
                f"Forward and backward of the longest clip alone ({longest:.2f} s) do not fit the memory of "
                f"{trainer.args.device}. Leave long clips out with max_audio_seconds, or use gradient_checkpointing, "
                "bf16, an adapter or a smaller model."
            )
        found = max(math.ceil(10 * longest), math.floor(10 * _USED_SHARE * clips * longest)) / 10
        bound = f"; per_device_train_batch_size={most} allows no more" if clips == most else ""
        logger.warning(
            f"max_batch_seconds={AUTO!r}: {clips} clips of {longest:.2f} s fit{bound}. The budget is {found:g} s; "
            f"--max_batch_seconds {found:g} gives the same batches without a trial."
        )
        return found


def fits_memory(trainer: Any, rows: Dataset) -> bool:
    """Whether forward and backward of these rows fit, beside the optimizer's state; leaves no trace in the trainer.

    Args:
        trainer: a `SpeechTrainer` before its first step.
    """
    buffers = [(buffer, buffer.clone()) for buffer in trainer.model.buffers()]
    devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    fits = True
    with torch.random.fork_rng(devices=devices):
        try:
            _step_beside_state(trainer, rows)
        except torch.OutOfMemoryError:
            fits = False
    # behind the handler, whose traceback would hold the batch
    trainer.model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    if devices:
        torch.cuda.empty_cache()
    return fits


def _step_beside_state(trainer: Any, rows: Dataset) -> None:
    """A step with as much memory taken as Adam's two moments of each trained weight will take."""
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    state = [torch.empty_like(weight, dtype=torch.float32) for weight in trained for _ in range(2)]
    trainer.try_batch(list(rows))
    del state


def planned_loader(rows: Dataset, plan: Sampler[list[int]], args: SpeechConfig, collate: Any) -> DataLoader:
    """A loader of planned batches, with the settings that the config has for loaders."""
    names = [name for name in _LOADER_SETTINGS if hasattr(args, f"dataloader_{name}")]
    return DataLoader(
        rows,
        batch_sampler=plan,
        collate_fn=collate,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        **{name: getattr(args, f"dataloader_{name}") for name in names},
    )


def tell_plan(plan: EpochPlan, family: SpeechFamily, args: SpeechConfig) -> None:
    """Log what a budget of seconds brings, what bounds it, and whether the model has any use of it."""
    found = plan.padding()
    logger.warning(
        f"max_batch_seconds={plan.max_seconds:g}: {len(plan.seconds):,} clips in {found.batches:,} batches an epoch; "
        f"{found.padded_share:.1%} of the seconds are padding."
    )
    if found.bounded_by_clips:
        logger.warning(
            f"{found.bounded_by_clips:,} of them have room for more clips than per_device_train_batch_size="
            f"{args.per_device_train_batch_size} allows. Raise it."
        )
    if pads_to_window(family, float(plan.seconds.min()), float(plan.seconds.max())):
        logger.warning(
            f"{type(family).__name__} pads every clip to the same window, so max_batch_seconds saves no compute; it "
            "only bounds the number of clips in a batch."
        )


def pads_to_window(family: SpeechFamily, shortest: float, longest: float) -> bool:
    """Whether a family makes equally many features of two clips that differ in length, in seconds."""
    if shortest == longest:
        return False
    noise = np.random.default_rng(0).normal(scale=0.1, size=math.ceil(longest * family.sampling_rate))
    clips = [noise[: int(seconds * family.sampling_rate)].astype(np.float32) for seconds in (shortest, longest)]
    short, long = ({name: made.shape for name, made in family.features([clip]).items()} for clip in clips)
    return short == long
