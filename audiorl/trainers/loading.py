"""Turns what a user hands to a trainer into what the trainer works with: model, processor and adapter.

Also from an adapter to a model that needs none (`merge_and_unload`, `export_merged`).
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import warnings
from collections.abc import Iterator
from typing import Any

from datasets import Dataset
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel, set_seed
from transformers.utils import logging

from audiorl.adapters import (
    checked_adapter,
    checkpoint_vocabulary,
    embedding_layers,
    fit_vocabulary,
    holds_processor,
    require_bitsandbytes,
    vocabulary,
    vocabulary_changed,
)
from audiorl.collator import SpeechCollator
from audiorl.models import (
    SpeechFamily,
    base_model,
    disable_dropout,
    family_class,
    model_class,
    registered_family,
    speech_family,
)
from audiorl.models.encoder_cache import EncoderCache
from audiorl.models.forward import is_sharded
from audiorl.trainers.config import SpeechConfig
from audiorl.trainers.distributed import loaded_whole

logger = logging.get_logger(__name__)

# Where a Whisper checkpoint keeps its table of spellings.
SPELLING_FILE = "normalizer.json"


def load_model(model: str | os.PathLike | nn.Module, args: SpeechConfig, quantization_config: Any = None) -> nn.Module:
    """A model from its id, path or instance; a folder that holds an adapter gives base and adapter.

    Raises:
        ValueError: keywords for loading beside an instance, which is loaded already.
        ImportError: a quantised model is asked for where bitsandbytes is missing.
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
        if is_sharded(model):
            raise ValueError(
                "The model's weights are sharded already, as from_pretrained does under DeepSpeed ZeRO 3 once a config "
                "exists. Pass the model's name or path, or load it before the config is made."
            )
        return model
    if isinstance(quantization_config, BitsAndBytesConfig):
        require_bitsandbytes(f"Loading {model} in {'8' if quantization_config.load_in_8bit else '4'} bit")
    return keep_trainable(load_checkpoint(model, options))


def load_checkpoint(model: str | os.PathLike, options: dict[str, Any]) -> nn.Module:
    """A model from its id or path; a folder that holds an adapter gives base and adapter.

    Args:
        options: keywords for `from_pretrained`.

    Raises:
        ValueError: there is no such model.
    """
    try:
        with loaded_whole():
            return _from_name(model, options)
    except OSError as error:
        here = "" if os.path.exists(model) else "no folder here has that name, and the Hub gave none: "
        raise ValueError(
            f"No model could be loaded from {str(model)!r}: {here}{str(error).rstrip('. ')}. Check the name; a folder "
            "has to hold config.json and weights, and a Hub name needs a connection."
        ) from error


def _from_name(model: str | os.PathLike, options: dict[str, Any]) -> nn.Module:
    adapter, whole = (os.path.exists(os.path.join(model, name)) for name in ("adapter_config.json", "config.json"))
    if adapter and not whole:  # a whole checkpoint may bring an adapter of its own
        return load_adapted(model, options)
    return _load(model, options)


def load_adapted(adapter: str | os.PathLike, options: dict[str, Any], *, trainable: bool = True) -> PeftModel:
    """An adapter on the base it names.

    Args:
        adapter: folder or Hub name.
        options: keywords for `from_pretrained` of the base.
        trainable: whether the adapter is to be trained further.

    Raises:
        ValueError: there is no adapter, of a kind that PEFT knows, or it does not name its base.
    """
    try:
        base_name = PeftConfig.from_pretrained(adapter).base_model_name_or_path
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{adapter} holds no adapter that this version of PEFT can read: {error}. Pass a folder that "
            "save_pretrained of a PeftModel wrote."
        ) from error
    if not base_name:
        raise ValueError(
            f"The adapter in {adapter} does not say which model it was trained on. Write its name or path into "
            "base_model_name_or_path in adapter_config.json, or load the base and pass a PeftModel."
        )
    base = _load(base_name, options)
    fit_vocabulary(base, adapter)
    with _without_pefts_warnings():
        found = PeftModel.from_pretrained(base, adapter, is_trainable=trainable)
    found.adapter_source = os.fspath(adapter)
    return found


def merge_and_unload(adapter: str | os.PathLike, **options: Any) -> PreTrainedModel:
    """A plain model with an adapter's change added to its weights, for example to be served without PEFT.

    The base is loaded anew in full precision: what a quantised base was trained with is merged into the original.

    Args:
        adapter: folder or Hub name of an adapter.
        options: keywords for `from_pretrained` of the base; default `dtype="float32"`.

    Raises:
        ValueError: the adapter does not say what its base is, or there is no adapter.
    """
    return load_adapted(adapter, {"dtype": "float32", **options}, trainable=False).merge_and_unload()


def export_merged(adapter: str | os.PathLike, output_dir: str | os.PathLike, processor: Any = None) -> None:
    """Write the merged model, and its processor, as a checkpoint that needs no PEFT."""
    merge_and_unload(adapter).save_pretrained(output_dir)
    if processor is not None:
        processor.save_pretrained(output_dir)
        save_spelling(processor, output_dir)


def save_spelling(processor: Any, folder: str | os.PathLike) -> None:
    """Write the table of British and American spellings of Whisper's tokenizer, which `save_pretrained` leaves out.

    It lies in normalizer.json, as in the released checkpoints; without it `tokenizer.normalize` fails and the
    normalizer "english" changes no spelling. Other processors have none.
    """
    table = getattr(getattr(processor, "tokenizer", processor), "english_spelling_normalizer", None)
    if table:
        path = os.path.join(folder, SPELLING_FILE)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(table, file, indent=2, ensure_ascii=False)


def default_output_dir(model: str | os.PathLike | nn.Module, method: str) -> str:
    """Where a trainer without a config writes: "<model name>-<method>" in the current folder."""
    name = base_model(model).config._name_or_path if isinstance(model, nn.Module) else model
    return f"{os.path.basename(str(name)) or 'model'}-{method}"


def load_processor(processing_class: Any, model: nn.Module) -> Any:
    """The processor that a user passed, or the one of the model's own checkpoint.

    For an adapter that was loaded by its name, it is the one that lies beside the adapter, where there is one: tokens
    may have been added to it.
    """
    if processing_class is not None:
        return processing_class
    name, adapter = base_model(model).config._name_or_path, getattr(model, "adapter_source", None)
    try:
        processor = family_class(model).load_processor(name)
        # by its class: an adapter's folder has no config.json, which would name it
        return type(processor).from_pretrained(adapter) if adapter and holds_processor(adapter) else processor
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No processor was passed, and none loads from {name or 'the model, which has no name'!r}: {error}. "
            "Pass processing_class=AutoProcessor.from_pretrained(...) of the checkpoint; for labels it is "
            "AutoFeatureExtractor.from_pretrained(...)."
        ) from error


def configured_family(model: nn.Module, processor: Any, args: SpeechConfig) -> SpeechFamily:
    """The model's family, with language, task and backbone set from a config that suits it."""
    family = speech_family(model, processor)
    family.set_defaults(language=args.language, task=args.task)
    args.check_family(family)
    if args.torch_compile:
        family.compile_backbone(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
    return family


def plan_adapter(model: Any, peft_config: Any) -> PeftConfig | None:
    """Check the adapter to be added against the model, before anything is spent on rows.

    Raises:
        ValueError: see `checked_adapter`; or full training of quantised weights; or DoRA where PEFT cannot do it; or
            a base that no checkpoint holds.
    """
    planned, base = checked_adapter(model, peft_config), base_model(model)
    if planned is not None or isinstance(model, PeftModel):
        _check_base(base)
    if not getattr(base, "is_quantized", False):
        return planned
    if planned is None and not isinstance(model, PeftModel):
        raise ValueError(
            "The weights of a quantised model cannot be trained. Train an adapter on it (--use_peft true, in Python "
            "peft_config=LoraConfig(...)), or load the model whole (without --load_in_8bit or --load_in_4bit, in "
            "Python without quantization_config)."
        )
    adapters = [planned] if planned is not None else model.peft_config.values()
    eight_bit_on_cpu = getattr(base, "is_loaded_in_8bit", False) and base.device.type == "cpu"
    if eight_bit_on_cpu and any(getattr(adapter, "use_dora", False) for adapter in adapters):
        raise ValueError(
            "DoRA on an 8-bit base does not run on a CPU: PEFT moves the weights whenever it measures them, and "
            "bitsandbytes loses their scales. Use load_in_4bit, LoRA without use_dora, or a GPU."
        )
    keep_trainable(_without_rounded_inputs(model))
    return planned


def _check_base(base: Any) -> None:
    """Check that the base can be loaded again by its name: an adapter is saved without its base."""
    if difference := getattr(base, "differs_from_checkpoint", None):
        raise ValueError(
            f"An adapter is saved without its base and loaded on {base.config._name_or_path or 'the one it names'!r}, "
            f"but this base {difference}: the adapter would come back on another model. Save the base as it is now "
            "(model.save_pretrained(folder), processor.save_pretrained(folder)) and train the adapter on that folder."
        )
    # embeddings are saved with the adapter; a head that reads no embeddings, as that of CTC, is not
    if not embedding_layers(base) and vocabulary_changed(base):
        raise ValueError(
            f"An adapter is saved without its base and loaded on {base.config._name_or_path!r}, whose vocabulary has "
            f"{checkpoint_vocabulary(base)} tokens, but this base has {vocabulary(base)}: its head would be lost. Save "
            "the base as it is now (model.save_pretrained(folder), processor.save_pretrained(folder)) and train the "
            "adapter on that folder."
        )


def keep_trainable(model: nn.Module) -> nn.Module:
    """Keep bitsandbytes from repacking 4-bit weights for inference.

    On a CPU with bfloat16 instructions it does so at the first call in evaluation mode, for good: scales are rounded,
    and no gradient passes the layer from then on.

    Raises:
        ValueError: it has happened already.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    for module in layers:
        module.support_avx512bf16_for_cpu = False
        if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
            raise ValueError(
                "This 4-bit model has run in evaluation mode on the CPU, and bitsandbytes repacked its weights so that "
                "no gradient passes. Load it anew with audiorl.trainers.loading.load_model, or pass its name."
            )
    return model


def add_adapter(model: nn.Module, planned: PeftConfig | None, seed: int) -> nn.Module:
    """The model in a new adapter whose first weights follow from `seed`; without a plan, the model as it is."""
    if planned is None:
        return model
    set_seed(seed)
    with _without_pefts_warnings():
        return get_peft_model(model, planned)


@contextlib.contextmanager
def _without_pefts_warnings() -> Iterator[None]:
    """Hide warnings that PEFT (0.21) causes itself."""
    with warnings.catch_warnings():
        # it takes AdaLoRA's rank_pattern for LoRA's, whose keys are other names
        warnings.filterwarnings("ignore", "(?s).*rank_pattern keys did not match", RuntimeWarning)
        # it asks transformers for the name of before 5.23
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def tunable(model: nn.Module, planned: PeftConfig | None, family: SpeechFamily, args: SpeechConfig) -> nn.Module:
    """The model with its adapter, encoder and dropout as the config says."""
    model = add_adapter(model, planned, args.seed)
    if args.freeze_encoder:
        check_untouched_encoder(model, planned, family)
        family.freeze_encoder(model)
    if args.disable_dropout:
        disable_dropout(model)
    return model


def make_encoder_cache(model: nn.Module, family: SpeechFamily, args: SpeechConfig) -> EncoderCache | None:
    """The encoder cache that a config names.

    Raises:
        ValueError: the encoder is trained, or adapted, quantised or sharded.
    """
    if args.encoder_cache is None:
        return None
    if not family.encoder_is_frozen(model):
        raise ValueError(
            "encoder_cache keeps what the encoder says of each clip, and this encoder is trained, so that it changes. "
            "Freeze it (--freeze_encoder true; with an adapter --lora_decoder_only), or leave encoder_cache out."
        )
    return EncoderCache(args.encoder_cache, family, model, dtype=args.encoder_cache_dtype or "bfloat16")


def fill_encoder_cache(trainer: Any, rows: Any) -> None:
    """Encode the clips of rows that the trainer's encoder cache lacks, each process its share; a collective call.

    Raises:
        ValueError: a stream, a collator of the user's own, or too little room on the disk.
    """
    family, args, collator = trainer.family, trainer.args, trainer.data_collator
    if family.encoder_cache is None or rows is None:
        return
    if not isinstance(collator, SpeechCollator):
        raise ValueError(
            f"encoder_cache is read by SpeechCollator; data_collator is a {type(collator).__name__}. Leave one of the "
            "two out, or derive the collator from SpeechCollator."
        )
    base = base_model(trainer.model)
    if not getattr(base, "is_quantized", False):
        trainer.model.to(args.device)  # FSDP and DeepSpeed leave it where it was loaded until training starts
    share = rows.select(range(args.process_index, len(rows), args.world_size)) if isinstance(rows, Dataset) else rows
    family.encoder_cache.fill(
        trainer.model,
        family,
        share,
        collator.decode,
        processes=args.world_size,
        workers=args.dataloader_num_workers,
        progress=args.process_index == 0 and not args.disable_tqdm,
    )
    trainer.accelerator.wait_for_everyone()


def check_untouched_encoder(model: nn.Module, planned: PeftConfig | None, family: SpeechFamily) -> None:
    """Refuse a new adapter inside an encoder that is to be frozen: it would never change."""
    if planned is not None and not family.encoder_is_frozen(model):
        raise ValueError(
            "freeze_encoder leaves the encoder as it is, but the new adapter has layers in it, which would never "
            'change. Pass target_modules="decoder-linear" (--lora_decoder_only) or, where there is no decoder, the '
            "names of the layers behind the encoder; or leave freeze_encoder off."
        )


def check_trained(model: nn.Module, args: SpeechConfig) -> None:
    """Refuse to train a model without trainable parameters.

    Raises:
        ValueError: with what froze them.
    """
    if any(parameter.requires_grad for parameter in model.parameters()):
        return
    count = sum(parameter.numel() for parameter in model.parameters())
    if isinstance(model, PeftModel):
        remedy = (
            "The adapter was loaded to be used, not trained: PeftModel.from_pretrained(base, folder, "
            "is_trainable=True) trains it further, and so does the folder's name in place of the model."
        )
    elif args.freeze_encoder:
        remedy = "freeze_encoder leaves nothing of it to train. Leave it off, or train an adapter (peft_config)."
    else:
        remedy = "Call model.requires_grad_(True), or train an adapter on it (peft_config=LoraConfig(...))."
    raise ValueError(f"0 of the model's {count:,} parameters are trained: requires_grad is False for all. {remedy}")


def _load(name: str | os.PathLike, options: dict[str, Any]) -> PreTrainedModel:
    """A model by the class that its config names, quantised but for what its family keeps in full precision."""
    hub_options = {key: options[key] for key in ("revision", "token", "cache_dir") if key in options}
    config = AutoConfig.from_pretrained(name, **hub_options)
    kind, quantised = model_class(config), options.get("quantization_config")
    if isinstance(quantised, BitsAndBytesConfig) and quantised.llm_int8_skip_modules is None:
        family = registered_family(kind, config.model_type)
        spared = () if family is None else family.unquantised
        quantised = copy.deepcopy(quantised)  # the caller's stays as it was
        quantised.llm_int8_skip_modules = list(spared) or None
        options = {**options, "quantization_config": quantised}
    return _without_rounded_inputs(kind.from_pretrained(name, **options))


def _without_rounded_inputs(model: Any) -> Any:
    """8-bit layers that compute in evaluation what they compute in training; see `audiorl.models.eight_bit`."""
    if getattr(base_model(model), "is_loaded_in_8bit", False):
        from audiorl.models.eight_bit import use_eight_bit_linear  # imports bitsandbytes

        use_eight_bit_linear(model)
    return model
