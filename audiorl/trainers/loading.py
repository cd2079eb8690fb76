"""From what a user passes as `model`, `processing_class`, `peft_config` and `quantization_config` to a model."""

from __future__ import annotations

import os
from typing import Any

import transformers
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForSpeechSeq2Seq, AutoProcessor

from audiorl.models import base_model
from audiorl.trainers.config import SpeechConfig


def load_model(model: str | os.PathLike | nn.Module, args: SpeechConfig, quantization_config: Any = None) -> nn.Module:
    """A model from its id, path or instance; a folder that holds an adapter gives base and adapter.

    Raises:
        ValueError: keywords for loading beside an instance, which is loaded already.
    """
    # the parser has turned JSON into a dict by now
    given = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    options: dict[str, Any] = {"dtype": "float32", **given}
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    if isinstance(model, nn.Module):
        if args.model_init_kwargs or quantization_config is not None:
            raise ValueError(
                "model_init_kwargs and quantization_config say how to load a model, but an instance was passed, which "
                "is loaded already. Pass the model's name or path, or drop them."
            )
        return model
    try:
        return _from_name(model, options)
    except OSError as error:
        raise ValueError(
            f"No model could be loaded from {str(model)!r}: {error}. Check the name; a folder has to hold config.json "
            "and weights, and a Hub name needs a connection."
        ) from error


def _from_name(model: str | os.PathLike, options: dict[str, Any]) -> nn.Module:
    if os.path.exists(os.path.join(model, "adapter_config.json")):
        adapter = PeftConfig.from_pretrained(model)
        base = _model_class(adapter.base_model_name_or_path, options).from_pretrained(
            adapter.base_model_name_or_path, **options
        )
        return PeftModel.from_pretrained(base, model, is_trainable=True)
    return _model_class(model, options).from_pretrained(model, **options)


def default_output_dir(model: str | os.PathLike | nn.Module, method: str) -> str:
    """Where a trainer without a config writes: "<model name>-<method>" in the current folder."""
    name = base_model(model).config._name_or_path if isinstance(model, nn.Module) else model
    return f"{os.path.basename(str(name)) or 'model'}-{method}"


def load_processor(processing_class: Any, model: nn.Module) -> Any:
    """The processor a user passed, or the one of the model's own checkpoint."""
    if processing_class is not None:
        return processing_class
    name = base_model(model).config._name_or_path
    try:
        return AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No processor was passed, and none loads from {name or 'the model, which has no name'!r}: {error}. "
            "Pass processing_class=AutoProcessor.from_pretrained(...) of the checkpoint."
        ) from error


def prepare_adapter(model: nn.Module, peft_config: PeftConfig | None) -> nn.Module:
    """Wrap the model in a new adapter; a quantised model without one is refused.

    Raises:
        ValueError: an adapter on top of an adapter, or full training of quantised weights.
    """
    if peft_config is not None:
        if isinstance(model, PeftModel):
            raise ValueError(
                "peft_config asks for a new adapter, but the model has one already. Pass the base model, merge the "
                "adapter first (merge_and_unload), or drop peft_config to go on training the adapter it has."
            )
        return get_peft_model(model, peft_config)
    if getattr(base_model(model), "is_quantized", False) and not isinstance(model, PeftModel):
        raise ValueError(
            "The weights of a quantised model cannot be trained. Pass peft_config=LoraConfig(...) to train an adapter "
            "on it, or load the model without quantization_config."
        )
    return model


def _model_class(name: str | os.PathLike, options: dict[str, Any]) -> Any:
    hub_options = {key: options[key] for key in ("revision", "token", "cache_dir") if key in options}
    config = AutoConfig.from_pretrained(name, **hub_options)
    architecture = (config.architectures or [""])[0]
    return getattr(transformers, architecture, None) or AutoModelForSpeechSeq2Seq
