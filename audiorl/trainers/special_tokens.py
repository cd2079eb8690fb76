"""The end token as the checkpoint has it."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback


class OneEndToken(TrainerCallback):
    """Undoes what `Trainer` of older transformers (5.17) does to the model's generation config when it starts.

    There it makes a list of the one end token. Whisper's `generate` then takes the end for padding, in the run and in
    the saved checkpoint, and stops with an IndexError where a clip has no words.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        generation = getattr(model, "generation_config", None)
        if generation is not None and isinstance(generation.eos_token_id, list) and len(generation.eos_token_id) == 1:
            (generation.eos_token_id,) = generation.eos_token_id
