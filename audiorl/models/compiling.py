"""torch.compile for what a model spends its time in: encoder and decoder, when hypotheses are scored.

The head stays outside (its custom autograd function breaks the graph), and so do sampling and `generate`, whose cache
grows with every token. Compiled are two functions that call a stock module, not the module itself: nothing of it is
seen by a copy of the model, by a checkpoint, or by a user's own calls, and policy and reference share the two.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def run(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)


class Backbone:
    """Runs a model's encoder and decoder: as they are, or compiled from `compile` on.

    A pickled backbone (a data loader's worker gets one with its family) is not compiled: it never runs a model.
    """

    def __init__(self) -> None:
        self.encoder: Callable[..., Any] = run
        self.decoder: Callable[..., Any] = run

    def compile(self, **options: Any) -> None:
        """Compile from the next call on.

        Args:
            options: of `torch.compile`: `backend`, `mode`, `fullgraph`.
        """
        self.encoder, self.decoder = (_compiled(name, options) for name in ("run_encoder", "run_decoder"))

    def __reduce__(self) -> tuple[type[Backbone], tuple[()]]:
        return Backbone, ()


def _compiled(name: str, options: dict[str, Any]) -> Callable[..., Any]:
    # torch counts compiled variants for each code object and gives up at eight: encoder and decoder, with gradient and
    # without, trained and frozen, have room if each backbone has code objects of its own
    own = types.FunctionType(run.__code__.replace(co_name=name), run.__globals__, name)
    # the number of clips and the length of transcripts differ from batch to batch
    return torch.compile(own, dynamic=True, **options)
