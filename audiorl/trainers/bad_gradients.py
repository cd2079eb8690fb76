"""Guards of a run whose numbers are none any more: before the weights are touched, and where hypotheses are sampled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from audiorl.models.sampling import DivergedModelError


class StopOnBadGradients(TrainerCallback):
    """Stops before an optimizer step whose gradients are not finite; fp16 has a scaler that skips such steps itself."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        if not args.fp16 and gradients and not torch.isfinite(torch.stack(torch._foreach_norm(gradients)).sum()):
            raise FloatingPointError(
                f"A gradient is not finite at step {state.global_step + 1}. The weights were not updated; the last "
                f"checkpoint in {args.output_dir} is intact. Lower the learning rate, or look at the rows of this step."
            )


@contextmanager
def sampling_guarded(trainer: Trainer) -> Iterator[None]:
    """Say of a model from which nothing can be sampled any more at which step that was.

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
            f"precision overflows. Go on from a checkpoint in {args.output_dir} of an earlier step with a lower "
            "learning rate, or use bf16, not fp16."
        ) from error
