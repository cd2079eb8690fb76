"""The one forward of a model, wrapped or not: everything that touches weights runs inside it."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel

Result = TypeVar("Result")
SpeechCall = Callable[[PreTrainedModel], Result]

# Probabilities of random silence, by the names transformers' speech models give them.
DROPOUT_ATTRIBUTES = (
    "dropout",
    "activation_dropout",
    "attention_dropout",
    "layerdrop",
    "hidden_dropout",
    "feat_proj_dropout",
    "final_dropout",
    "dropout_positions",
)


def base_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside DDP, FSDP, torch.compile and PEFT wrappers."""
    inner: Any = model
    while True:
        if hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        elif hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        elif isinstance(getattr(inner, "module", None), nn.Module):
            inner = inner.module
        else:
            return inner


def run_inside(model: nn.Module, call: SpeechCall[Result]) -> Result:
    """Run `call(base model)` inside the forward of a possibly wrapped model."""
    return model(speech_call=call)


def install_speech_call(model: PreTrainedModel) -> None:
    """Teach a stock model's forward the keyword `speech_call`; without it the forward is the class's own.

    The patch looks the class up at call time and holds no reference to this instance, so a deep copy of the model runs
    its own weights.
    """
    if getattr(model.forward, "takes_speech_call", False):
        return

    # generate() validates its keywords against this signature
    @functools.wraps(type(model).forward)
    def forward(self, *args, speech_call: SpeechCall | None = None, **kwargs):
        if speech_call is not None:
            return speech_call(self)
        return type(self).forward(self, *args, **kwargs)

    forward.takes_speech_call = True  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)


def disable_dropout(model: nn.Module) -> None:
    """Set dropout, layerdrop and SpecAugment of every submodule to 0 for this run; the saved config keeps its values.

    Wav2Vec2 and its kin ask their config at every call, so their submodules get a copy of it. The vector that
    SpecAugment writes over masked frames is read no more, and is frozen: DDP would wait for its gradient.
    """
    _silence_configs(base_model(model))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in DROPOUT_ATTRIBUTES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _silence_configs(base: nn.Module) -> None:
    silent: dict[int, Any] = {}
    for module in base.modules():
        if isinstance(getattr(module, "masked_spec_embed", None), nn.Parameter):
            module.masked_spec_embed.requires_grad_(False)
        config = getattr(module, "config", None)
        if module is base or not (getattr(config, "layerdrop", 0) or getattr(config, "apply_spec_augment", False)):
            continue
        if id(config) not in silent:
            silent[id(config)] = copy.deepcopy(config)
            silent[id(config)].update({"layerdrop": 0.0, "apply_spec_augment": False})
        module.config = silent[id(config)]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every submodule in evaluation mode, and then each in its own again.

    Layers that are checkpointed in training mode forget their cache, with or without a graph.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
