"""The layers that adapters sit in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from audiorl.models import base_model

ALL_LINEAR = "all-linear"
DECODER_LINEAR = "decoder-linear"


def decoder_only_targets(model: nn.Module) -> str:
    """A regular expression for `target_modules` that matches every linear layer of the decoder and no other.

    Raises:
        ValueError: the model has no decoder apart from its encoder.
    """
    base = base_model(model)
    decoder = base.get_decoder()
    place = next((name for name, module in base.named_modules() if module is decoder and name), None)
    layers = linear_names(decoder) - {name for name, module in decoder.named_modules() if module is _head(base)}
    encoder = base.get_encoder()
    if place is None or not layers or any(module is encoder for module in decoder.modules()):
        raise ValueError(
            f"{type(base).__name__} has no decoder apart from its encoder, so there is no adapter for the decoder "
            "alone. Name the layers in target_modules, or leave it out for all linear layers."
        )
    leaves = "|".join(sorted({re.escape(name.rpartition(".")[2]) for name in layers}))
    return rf"{re.escape(place)}\.(.*\.)?({leaves})"


def called_layers(base: nn.Module, unadaptable: Sequence[str]) -> set[str]:
    """The linear layers that an adapter can change, the head left out."""
    head = next((name for name, module in base.named_modules() if module is _head(base)), None)
    return {name for name in linear_names(base) if name != head and name.rpartition(".")[2] not in unadaptable}


def linear_names(module: nn.Module) -> set[str]:
    return {name for name, part in module.named_modules() if isinstance(part, nn.Linear)}


def _head(base: Any) -> nn.Module | None:
    return base.get_output_embeddings()
