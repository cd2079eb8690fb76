"""The model's configs stay as the checkpoint has them, whatever `Trainer` writes into them.

1. When it is built it sets `use_cache` of the model's config to its own argument, off unless asked for; saved, that
   would make every later `generate` slow.
2. When training starts it writes the tokenizer's ids of padding, begin and end over those of config and generation
   config, and warns that it did: large-v3 pads with another token in its config than its tokenizer does. Older
   releases (5.17) make a list of the one end token, too; Whisper's `generate` then takes the end for padding and stops
   with an IndexError where a clip has no words.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import TrainerCallback

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
        """After the trainer was built."""
        _write(self._config, "use_cache", self._use_cache)

    @contextlib.contextmanager
    def agreeing_with(self, processor: Any) -> Iterator[None]:
        """Within this block, until training begins, the configs have the tokenizer's ids: nothing is left to align."""
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
