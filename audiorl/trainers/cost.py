"""What a run costs: where its time goes, how much speech and how many tokens it learns from in a second, its memory.

1. At any moment one part of an optimizer step is at work; `during` says which. A part inside another one interrupts it,
   so the shares of all parts add up to 1.
2. On a GPU the boundaries between parts are events in its queue. They are read when a log waits for the GPU anyway, so
   measuring makes no step wait. A loader that keeps ahead of the GPU then has no share of the time.
3. Speech and tokens are counted where they lie and read with the other metrics.

    time/PART                          share of the time since the last log, a mean over processes
    time/seconds_left                  what the other steps take at the pace so far
    audio_seconds_per_second           speech that the steps learnt from, each clip once in each step, all processes
    audio_seconds_per_second/device    the same of one process, where there are several
    tokens_per_second                  tokens that the losses were made of, all hypotheses, all processes
    memory/peak_gib                    highest so far, in the first process: tensors of the GPU, or the whole process
                                       where there is none

The last log of a run has the same of the whole run, under names that begin with `train_`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from audiorl.batch import SECONDS, GroupBatch

GIB = 2**30
# parts of a step: waiting for the loader, sampling, rewards, forward passes, backward passes with the optimizer, and
# evaluations, checkpoints and logs
PARTS = ("data", "rollout", "rewards", "scoring", "update", "other")
# of trainers that sample nothing
OFFLINE_PARTS = ("data", "scoring", "update", "other")
SPEED, DEVICE_SPEED, TOKENS, PEAK, LEFT = (
    "audio_seconds_per_second",
    "audio_seconds_per_second/device",
    "tokens_per_second",
    "memory/peak_gib",
    "time/seconds_left",
)
# The line that a person reads has this many shares at most, and none below this.
SHOWN_PARTS, SHOWN_SHARE = 3, 0.05
# Events that may wait to be read, thousands of steps without a log apart.
MOST_EVENTS = 10_000


def is_cost(name: str) -> bool:
    """Whether a column of the log says what a run costs, which differs from run to run."""
    name = name.removeprefix("train_")
    return name.startswith("time/") or name in (SPEED, DEVICE_SPEED, TOKENS, PEAK)


class PartClock:
    """Seconds of each part, one of which is always on.

    Args:
        device: whose time it is; on a CUDA device that of its queue, elsewhere the program's.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.part = "other"
        self._marks: list[tuple[str, Any]] = []  # what began, and when
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self.start()

    def start(self) -> None:
        """Forget what was measured and begin with "other"."""
        self._marks, self._seconds = [], dict.fromkeys(PARTS, 0.0)
        self.enter("other")

    def enter(self, part: str) -> None:
        """From now on time is this part's."""
        self.part = part
        self._marks.append((part, self._now()))
        if self.device.type != "cuda" or len(self._marks) > MOST_EVENTS:
            self._settle()

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """In this block time is the part's, afterwards again that of the part before."""
        before = self.part
        self.enter(part)
        try:
            yield
        finally:
            self.enter(before)

    def read(self) -> dict[str, float]:
        """Seconds of each part since the last call; waits for a GPU."""
        self.enter(self.part)
        self._settle()
        found, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        return found

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _settle(self) -> None:
        marks, self._marks = self._marks, self._marks[-1:]
        if self.device.type == "cuda":
            marks[-1][1].synchronize()
        for (part, begun), (_, ended) in pairwise(marks):
            on_gpu = self.device.type == "cuda"
            self._seconds[part] += begun.elapsed_time(ended) / 1000 if on_gpu else ended - begun


class CostMeter(TrainerCallback):
    """Measures what a trainer's steps cost, and puts it into its logs.

    Args:
        trainer: a `SpeechTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.clock = PartClock(trainer.args.device)
        self.parts: tuple[str, ...] = OFFLINE_PARTS  # a trainer that samples sets PARTS
        self._counts: dict[str, Tensor] = {}  # speech and tokens since the last log
        self._totals: dict[str, float] = {}
        self._elapsed, self._steps = 0.0, 0  # since the last log
        self._begun, self._first_step = time.monotonic(), 0

    # ---- what is measured ----

    def during(self, part: str) -> Any:
        return self.clock.during(part)

    def scoring(self) -> Any:
        """The forward passes of a step; those of an evaluation stay with what is no part of a step."""
        return self.during("other" if self.clock.part == "other" else "scoring")

    def count_speech(self, batch: GroupBatch) -> None:
        """Count the clips of a micro-batch, if its collator says how long they are."""
        if SECONDS in batch.tensors:
            self._add(SPEED, torch.where(batch.valid, batch.tensors[SECONDS], 0.0).sum())

    def count_tokens(self, batch: GroupBatch) -> None:
        """Count the tokens that a loss is made of."""
        self._add(TOKENS, batch.keep.sum())

    def _add(self, name: str, count: Tensor) -> None:
        self._counts[name] = self._counts.get(name, 0) + count.detach().double()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.start()
        self._counts, self._totals, self._steps = {}, {}, 0
        self._begun, self._first_step = time.monotonic(), state.global_step
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.enter("other")
        self._steps += 1

    # ---- what is logged ----

    def report(self) -> None:
        """Hand this process's figures since the last log to the trainer's metrics, which gather them."""
        if not self._steps:
            return
        metrics, device = self.trainer.metrics, self.trainer.accelerator.device
        seconds = self.clock.read()
        self._elapsed, self._steps = sum(seconds.values()), 0
        whole = torch.tensor(self._elapsed, dtype=torch.float64, device=device)
        for part in self.parts:
            metrics.add_ratio("train", f"time/{part}", whole.new_tensor(seconds[part]), whole)
        counts, self._counts = self._counts, {}
        for name, count in counts.items():
            metrics.add_ratio("train", name, count.to(device), whole)

    def completed(self, logs: Mapping[str, float]) -> dict[str, float]:
        """The logs with what follows from the gathered figures and, at the end of the run, with the whole run's."""
        found, state = dict(logs), self.trainer.state
        if "time/other" in found:
            processes = self.trainer.args.world_size
            if processes > 1 and SPEED in found:
                found[DEVICE_SPEED] = found[SPEED]
            for name in (SPEED, TOKENS):
                if name in found:
                    found[name] *= processes
            self._remember(found)
            if (peak := peak_gib(self.trainer.args.device)) is not None:
                found[PEAK] = peak
            if (left := self.seconds_left(state.global_step, state.max_steps)) is not None:
                found[LEFT] = left
        return {**found, **self.totals()} if "train_runtime" in found else found

    def _remember(self, found: Mapping[str, float]) -> None:
        names = [SPEED, DEVICE_SPEED, TOKENS, *(f"time/{part}" for part in self.parts)]
        for name in names:
            if name in found:
                self._totals[name] = self._totals.get(name, 0.0) + found[name] * self._elapsed
        self._totals[""] = self._totals.get("", 0.0) + self._elapsed

    def totals(self) -> dict[str, float]:
        """Rates and shares of the whole run so far, from its logs; empty before the first one."""
        elapsed = self._totals.get("", 0.0)
        if not elapsed:
            return {}
        means = {f"train_{name}": total / elapsed for name, total in self._totals.items() if name}
        peak = peak_gib(self.trainer.args.device)
        return means if peak is None else {**means, f"train_{PEAK}": peak}

    def seconds_left(self, step: int, steps: int) -> float | None:
        """What the other steps of the run take at the pace so far; None before the first one."""
        done = step - self._first_step
        return None if done <= 0 else (time.monotonic() - self._begun) / done * max(steps - step, 0)


def peak_gib(device: torch.device) -> float | None:
    """The highest memory so far, in GiB: of tensors on a GPU since training began, else of the whole process.

    None where nothing says it. Logs, the closing words of a run and its card have the peak from here.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GIB


def gib(number: float) -> str:
    """Memory for a person: "1.06 GiB", "40.2 GiB", "141 GiB"."""
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} GiB"


def _plain(number: float) -> str:
    """Three digits, and no power of ten: 0.512, 51.2, 5,120."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def cost_in_words(logs: Mapping[str, float]) -> list[str]:
    """A log's cost for a person, in a few words each: how fast its steps were.

    The last log has the whole run's speech, tokens and memory, and where most of the time went; the files have them of
    every log.
    """
    found = {name.removeprefix("train_"): value for name, value in logs.items() if name.startswith("train_")}
    if "time/other" not in found:
        return _speed_in_words(logs)[:1]
    words = _speed_in_words(found)
    if PEAK in found:
        words.append(f"peak {gib(found[PEAK])}")
    if words:
        words[0] = f"the whole run: {words[0]}"
    shares = {part: found.get(f"time/{part}", 0.0) for part in PARTS}
    most = sorted((part for part in PARTS if shares[part] >= SHOWN_SHARE), key=lambda part: -shares[part])
    return [*words, "time: " + ", ".join(f"{part} {100 * shares[part]:.0f} %" for part in most[:SHOWN_PARTS])]


def _speed_in_words(found: Mapping[str, float]) -> list[str]:
    units = {SPEED: "s of audio/s", TOKENS: "tokens/s"}
    return [f"{_plain(found[name])} {unit}" for name, unit in units.items() if name in found]
