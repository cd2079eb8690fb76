"""The guard between a backward pass and the weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer, TrainerCallback


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
