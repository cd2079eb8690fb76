"""Callbacks that watch a run: bad numbers, changed configs, SIGTERM.

Numbers   a gradient, weight or sampled hypothesis that is not finite ends the run, with the step in the message. For
          gradients the norm that each step computes is checked. Bad weights make the next loss NaN, so weights are
          checked only before they are saved or evaluated, and at the last step.
Configs   stay as in the checkpoint, although `Trainer` changes them. When it is built, it turns the config's
          `use_cache` off; saved like that, every later `generate` would be slow. When training starts, it overwrites
          the ids of padding, begin and end with the tokenizer's, and warns; for large-v3 the two differ. Older releases
          (5.17) also turn the one end token into a list. Whisper's `generate` then takes the end for padding and stops
          with an IndexError at a clip without words.
SIGTERM   is what schedulers send before they take a machine away. All processes stop at the end of the same optimizer
          step, because saving needs all of them; an evaluation due at that step is skipped. The checkpoint is written,
          and the program ends with exit code 143. A second SIGTERM ends it at once. Under torchrun, one within seconds
          of the first counts as the first, because the system and torchrun both send one. A program with its own
          handler of SIGTERM, and transformers' `enable_jit_checkpoint`, are left alone.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from audiorl.batch import GroupBatch
from audiorl.exits import TERMINATED, tell_launcher
from audiorl.models.forward import own_part
from audiorl.models.sampling import DivergedModelError
from audiorl.terminal import put_bars_away, wrapped


class StopOnBadNumbers(TrainerCallback):
    """Stops before a step with gradients that are not finite, and before weights that are not finite are used or saved.

    fp16 has a scaler that skips steps with bad gradients itself; DeepSpeed steps before it is asked.

    Args:
        trainer: a `SpeechTrainer`.

    Attributes:
        gradient_norm: of the step that comes, as the trainer computed it; None where it did not.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.gradient_norm: Any = None
        self._sound = -1  # the step whose weights were looked at

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        norm, self.gradient_norm = self.gradient_norm, None
        if args.fp16 or self.trainer.is_deepspeed_enabled:
            return
        if norm is None:
            gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        if not (all_finite(gradients) if norm is None else math.isfinite(norm)):
            raise FloatingPointError(
                f"A gradient is not finite at step {state.global_step + 1}. The weights were not updated. Lower the "
                f"learning rate, or look at the rows of this step. {self.trainer.checkpoints.last()}"
            )

    def check_loss(self, loss: Tensor, batch: GroupBatch) -> None:
        """Stop before a step that would spoil the weights; see `SpeechTrainer.check_finite`."""
        if torch.isfinite(loss):
            return
        trainer, rows = self.trainer, batch.row_ids[batch.valid].tolist()
        before = f"; they were not finite before ({self.update()})" if self.spoiled_weights() else ""
        raise FloatingPointError(
            f"The loss is {loss.item()} at step {trainer.state.global_step + 1}, rows {rows} of the training set "
            f"(process {trainer.args.process_index}). The weights were not updated{before}. Lower the learning rate, "
            f"use bf16, not fp16, or look at the rows. {trainer.checkpoints.last()}"
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        leave = control.should_save or control.should_evaluate or control.should_training_stop
        if not leave or self._sound == state.global_step:
            return
        if self.spoiled_weights():
            raise FloatingPointError(
                f"Weights are not finite after the update of step {state.global_step}, although the gradients were "
                f"({self.update()}). These weights are not saved. Lower the learning rate, or look at the optimizer's "
                f"settings (adam_epsilon, weight_decay). {self.trainer.checkpoints.last()}"
            )
        self._sound = state.global_step

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_step_end(args, state, control)

    def spoiled_weights(self) -> bool:
        """Whether a weight that is trained is not finite."""
        return not all_finite([own_part(p) for p in self.trainer.model.parameters() if p.requires_grad])

    def update(self) -> str:
        """How weights are updated, for a message."""
        args = self.trainer.args
        return f"{getattr(args.optim, 'value', args.optim)} with a learning rate of {args.learning_rate:g}"


@torch.no_grad()
def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers of all tensors are finite, in one pass over each and without further memory.

    A sum of norms is finite if, and only if, all numbers are (and none is above 1e19, where a norm of float32
    overflows).
    """
    return not tensors or bool(torch.isfinite(torch.stack(torch._foreach_norm(list(tensors))).sum()))


@contextmanager
def sampling_guarded(trainer: Any) -> Iterator[None]:
    """If nothing can be sampled from the model any more, raise an error that names the step.

    Raises:
        FloatingPointError: with the step and the rows.
    """
    try:
        yield
    except DivergedModelError as error:
        args, step = trainer.args, trainer.state.global_step
        raise FloatingPointError(
            f"The model's log-probabilities are not finite at step {step + 1}, rows {error.row_ids} of the training "
            f"set (process {args.process_index}), so no hypotheses can be sampled: its weights have diverged, or half "
            f"precision overflows. Resume from an earlier checkpoint in {args.output_dir} with a lower learning rate, "
            "or use bf16, not fp16."
        ) from error


TOKENS = ("eos_token_id", "bos_token_id", "pad_token_id")
_ABSENT = object()


class OwnConfigs(TrainerCallback):
    """Remembers a model's configs and puts back what `Trainer` changes.

    Args:
        base: the transformers model, before a `Trainer` gets it.
    """

    def __init__(self, base: nn.Module):
        self.base: Any = base
        self._use_cache = getattr(self._config, "use_cache", _ABSENT)
        self._ids: list[tuple[Any, str, Any]] = []

    @property
    def _config(self) -> Any:
        return getattr(self.base, "config", None)

    def restore_use_cache(self) -> None:
        """Put `use_cache` back; call it after the trainer was built."""
        _write(self._config, "use_cache", self._use_cache)

    @contextlib.contextmanager
    def agreeing_with(self, processor: Any) -> Iterator[None]:
        """Give the configs the tokenizer's ids until training begins, so that `Trainer` has nothing to align."""
        tokenizer, config = getattr(processor, "tokenizer", processor), self._config
        if hasattr(config, "get_text_config"):
            config = config.get_text_config()
        for place in (config, getattr(self.base, "generation_config", None)):
            for name in TOKENS:
                theirs = getattr(tokenizer, name, None)
                if place is not None and theirs is not None:
                    self._ids.append((place, name, getattr(place, name, _ABSENT)))
                    setattr(place, name, theirs)
        try:
            yield
        finally:
            self._restore_ids()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._restore_ids()
        generation = getattr(self.base, "generation_config", None)
        if generation is not None and isinstance(generation.eos_token_id, list) and len(generation.eos_token_id) == 1:
            (generation.eos_token_id,) = generation.eos_token_id

    def _restore_ids(self) -> None:
        while self._ids:
            _write(*self._ids.pop())


def _write(place: Any, name: str, value: Any) -> None:
    if value is not _ABSENT:
        setattr(place, name, value)
    elif name in getattr(place, "__dict__", {}):
        delattr(place, name)


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
        """Handle SIGTERM within this block; afterwards it ends the program again.

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
            os.write(2, b"\n" * os.isatty(2) + HEARD)  # not on the line of a progress bar
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
            told = f"stopped by SIGTERM after step {step} of {steps}. {told}"
            put_bars_away()
            print(wrapped(told, sys.stderr), file=sys.stderr, flush=True)
            tell_launcher(told)
        raise SystemExit(TERMINATED)
