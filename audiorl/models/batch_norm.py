"""Batch norm that keeps the statistics of its checkpoint, in training too.

In training mode stock batch norm divides by the statistics of the batch, so that a clip's scores depend on the clips
beside it and are not those it was sampled with; and it moves the statistics of the checkpoint.
"""

from __future__ import annotations

import types

from torch import nn


def keep_statistics(model: nn.Module) -> None:
    """Let every batch norm of a model be in evaluation mode, whatever mode the model is put into."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = types.MethodType(_stay_as_it_is, module)  # type: ignore[method-assign]


def _stay_as_it_is(self: nn.Module, mode: bool = True) -> nn.Module:
    return self
