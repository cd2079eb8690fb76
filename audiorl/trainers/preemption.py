"""SIGTERM, which schedulers send before they take a machine away: a checkpoint at the next step, then the end.

1. The first SIGTERM is noted. Every process of a run hears of it at the end of the same optimizer step, because saving
   is a matter of all of them; an evaluation that is due at that step is left out.
2. The step's checkpoint is written and training ends; the program says so and ends with exit code 143.
3. A second SIGTERM ends the program at once, as SIGTERM does elsewhere. Under torchrun one that comes within seconds of
   the first counts as the first: there the system and torchrun both send one.

A program that handles SIGTERM itself, and `enable_jit_checkpoint` of transformers, are left alone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from audiorl.exits import TERMINATED

# Seconds within which torchrun passes a signal on that its processes got from the system as well.
PASSED_ON = 5.0
HEARD = b"SIGTERM: a checkpoint is written at the end of this step; a second one ends the run at once\n"


class StopOnSigterm(TrainerCallback):
    """Ends a run with a checkpoint when its process is told to end.

    Args:
        trainer: a `SpeechTrainer`.

    Attributes:
        stopping: whether all processes have agreed to end after this step.
    """

    def __init__(self, trainer: Any):
        self._trainer = trainer
        self._told: float | None = None
        self.stopping = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear SIGTERM within this block; afterwards it ends the program again.

        Raises:
            SystemExit: (at the end of the block) training was ended by one, with code 143.
        """
        self._told, self.stopping = None, False
        alone = threading.current_thread() is not threading.main_thread()
        if alone or self._trainer.args.enable_jit_checkpoint or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            yield
            return
        signal.signal(signal.SIGTERM, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.stopping or self._told is not None:
            self._end()

    def _hear(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self._told is None:
            self._told = now
            os.write(
                2, b"SIGTERM: a checkpoint is written at the end of this step; a second one ends the run at once\n"
            )
        elif "TORCHELASTIC_RUN_ID" not in os.environ or now - self._told > PASSED_ON:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        told = self._told is not None
        if args.world_size > 1:
            mark = torch.tensor(float(told), device=args.device)
            told = bool(self._trainer.accelerator.reduce(mark, reduction="sum"))
        if told:
            self.stopping = True
            control.should_evaluate, control.should_save = False, True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # not before: the switch is part of what a checkpoint holds
        if self.stopping:
            control.should_training_stop = True

    def _end(self) -> None:
        trainer = self._trainer
        if trainer.args.process_index == 0:
            step, steps = trainer.state.global_step, trainer.state.max_steps
            if self.stopping:
                written = os.path.join(trainer.args.output_dir, f"checkpoint-{step}")
                told = f"{written} is written. Start the same command with --resume_from_checkpoint True to go on."
            else:  # too late for a step: training was over
                told = trainer.checkpoints.last()
            print(f"stopped by SIGTERM after step {step} of {steps}. {told}", file=sys.stderr, flush=True)
        raise SystemExit(TERMINATED)
