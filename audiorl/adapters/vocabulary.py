"""A vocabulary that was enlarged before the adapter: its embeddings belong to the adapter's files.

An adapter is saved without its base and loaded on the base's own checkpoint, which lacks the rows of tokens that were
added. So the embeddings are saved beside the adapter, as PEFT does by default, and a base is made as large as they are
before the adapter is put on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from peft.utils.save_and_load import load_peft_weights
from safetensors import safe_open
from transformers import AutoConfig
from transformers.utils import cached_file

WEIGHTS = "adapter_model.safetensors"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
# what PEFT puts in front of a base's own names
_PREFIX = "base_model.model."


def vocabulary_changed(base: Any) -> bool:
    """Whether a model has more tokens, or fewer, than the checkpoint that its config names.

    False for a model without a name, in whose place nothing can be loaded, and where that checkpoint is gone.
    """
    known = checkpoint_vocabulary(base)
    return known is not None and known != vocabulary(base)


def checkpoint_vocabulary(base: Any) -> int | None:
    """Tokens of the checkpoint that a model's config names, 0 where it counts none; None where there is no config."""
    name = base.config._name_or_path
    try:
        return _tokens(AutoConfig.from_pretrained(name)) if name else None
    except (OSError, ValueError):
        return None


def vocabulary(base: Any) -> int:
    """Tokens that a model's config counts, 0 where it counts none."""
    return _tokens(base.config)


def _tokens(config: Any) -> int:
    return getattr(config.get_text_config(), "vocab_size", None) or 0


def embedding_layers(base: Any) -> dict[str, Any]:
    """The input and output embeddings of a model, by their names in it; none for a model without a vocabulary."""
    try:
        layers = [base.get_input_embeddings(), base.get_output_embeddings()]
    except NotImplementedError:  # of models that read waveforms alone
        return {}
    return {name: module for name, module in base.named_modules() if any(module is layer for layer in layers)}


def fit_vocabulary(base: Any, adapter: str | os.PathLike[str]) -> None:
    """Make a base as large as the embeddings in an adapter's files, whose rows are loaded with the adapter.

    Args:
        base: the model as its checkpoint has it; changed.
        adapter: folder or Hub name.
    """
    layers = embedding_layers(base)
    wanted = {
        shape[0]
        for key, shape in _shapes(adapter).items()
        for name, layer in layers.items()
        if key.startswith(f"{_PREFIX}{name}.")
        and key.endswith("weight")
        # not the small matrices of LoRA in an embedding
        and len(shape) == 2
        and shape[1] == layer.weight.shape[1]
        and "lora_" not in key
    }
    if len(wanted) == 1 and wanted != {len(base.get_input_embeddings().weight)}:
        base.resize_token_embeddings(wanted.pop(), mean_resizing=False)


def _shapes(adapter: str | os.PathLike[str]) -> Mapping[str, tuple[int, ...]]:
    """The shapes of an adapter's weights by name."""
    path = _file(adapter, WEIGHTS)
    if path is None:  # the older format, a pickle, is read by PEFT
        return {key: tuple(weight.shape) for key, weight in load_peft_weights(os.fspath(adapter), "cpu").items()}
    with safe_open(path, framework="pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}


def holds_processor(adapter: str | os.PathLike[str]) -> bool:
    """Whether the files of a processor lie beside an adapter."""
    return any(_file(adapter, name) is not None for name in PROCESSOR_FILES)


def _file(folder: str | os.PathLike[str], name: str) -> str | None:
    """A file in a folder or a repository of the Hub."""
    if os.path.isdir(folder):
        path = os.path.join(folder, name)
        return path if os.path.exists(path) else None
    return cached_file(
        folder,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
