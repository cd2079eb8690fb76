"""Guards of a run whose numbers are none any more: gradients, weights, and where hypotheses are sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from audiorl.models.sampling import DivergedModelError


class StopOnBadNumbers(TrainerCallback):
    """Stops before a step whose gradients are not finite, and before weights that are not finite are saved.

    A sum of norms is finite if, and only if, all numbers are (and none is above 1e19, where a norm of float32
    overflows). Norms take one pass over what is trained and no memory. fp16 has a scaler that skips steps with bad
    gradients itself.

    Args:
        trainer: a `SpeechTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        if not args.fp16 and not all_finite(gradients):
            raise FloatingPointError(
                f"A gradient is not finite at step {state.global_step + 1}. The weights were not updated. Lower the "
                f"learning rate, or look at the rows of this step. {self.trainer.checkpoints.last()}"
            )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not all_finite([p for p in self.trainer.model.parameters() if p.requires_grad]):
            optimizer = getattr(args.optim, "value", args.optim)
            raise FloatingPointError(
                f"Weights are not finite after the optimizer's update at step {state.global_step + 1}, although the "
                f"gradients were ({optimizer} with a learning rate of {args.learning_rate:g}). These weights are not "
                "saved. Lower the learning rate, or look at the optimizer's settings (adam_epsilon, weight_decay). "
                f"{self.trainer.checkpoints.last()}"
            )


@torch.no_grad()
def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers of all tensors are finite, in one pass over each."""
    return not tensors or bool(torch.isfinite(torch.stack(torch._foreach_norm(list(tensors))).sum()))


@contextmanager
def sampling_guarded(trainer: Any) -> Iterator[None]:
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
