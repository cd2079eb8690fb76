"""Adapters: the layers they sit in, whether they fit a model, the flags that describe them.

`LoraConfig(target_modules=...)` and the like may say, besides what PEFT takes:

    nothing           what the model's family says (`adapter_targets`): of most, every linear layer of encoder and
                      decoder, the head left out (PEFT's "all-linear"); of audio language models "decoder-linear"
    "decoder-linear"  those of the decoder; the encoder stays as it is, so its output is computed once and shared by
                      policy, reference and rollouts

An adapter is saved without its base and loaded on the base's own checkpoint, which lacks tokens that were added to the
vocabulary before. So the embeddings are saved beside the adapter, as PEFT does by default, and a base is made as large
as they are before the adapter is put on it.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from peft import AdaLoraConfig, PeftConfig, PeftModel, PeftType
from peft.utils.save_and_load import load_peft_weights
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig
from transformers.utils import cached_file, is_bitsandbytes_available
from trl import ModelConfig, get_peft_config

from audiorl.models import base_model, family_class

__all__ = [
    "ALL_LINEAR",
    "DECODER_LINEAR",
    "PEFT_TYPES",
    "TOLD_BY_TRAINER",
    "SpeechModelConfig",
    "adapter_config",
    "check_rank_schedule",
    "checked_adapter",
    "decoder_only_targets",
    "require_bitsandbytes",
]


def require_bitsandbytes(wanted_for: str) -> None:
    """Raise where bitsandbytes is not installed."""
    if not is_bitsandbytes_available():
        raise ImportError(
            f"{wanted_for} needs bitsandbytes, which is not installed here. Run `pip install "
            "'audiorl[quantization]'`, or go on without it."
        )


ALL_LINEAR = "all-linear"
DECODER_LINEAR = "decoder-linear"


def decoder_only_targets(model: nn.Module) -> str | set[str]:
    """A regular expression for `target_modules` that matches every linear layer of the decoder and no other.

    For a decoder with experts it is the layers' full names: PEFT would take the last parts of the names alone from an
    expression, which layers of the encoder have too.

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
    if any(name.rpartition(".")[2] == "experts" for name, _ in decoder.named_modules()):
        return {f"{place}.{name}" for name in layers}
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


def checked_adapter(model: nn.Module, peft_config: Any) -> PeftConfig | None:
    """The configuration of a new adapter with its layers filled in, after all that can be checked without building it.

    Args:
        model: the model it is for, without an adapter.
        peft_config: what a user passed; not changed. None gives None.

    Raises:
        ValueError: no PEFT configuration, a kind of adapter that wants text inputs, an adapter on top of another,
            names that match no module or one that is never called, a rank schedule that leads nowhere.
    """
    if peft_config is None:
        return None
    _check_kind(peft_config)
    if isinstance(model, PeftModel):
        raise ValueError(
            "peft_config asks for a new adapter, but the model has one already. Pass the base model, merge the "
            "adapter first (merge_and_unload), or drop peft_config to go on training the adapter it has."
        )
    peft_config = copy.deepcopy(peft_config)
    if peft_config.target_modules is None and not getattr(peft_config, "target_parameters", None):
        peft_config.target_modules = family_class(model).adapter_targets
    if peft_config.target_modules == DECODER_LINEAR:
        peft_config.target_modules = decoder_only_targets(model)
    unadaptable = family_class(model).unadaptable
    if unadaptable and peft_config.target_modules == ALL_LINEAR:
        peft_config.target_modules = called_layers(base_model(model), unadaptable)
    _check_targets(base_model(model), peft_config.target_modules)
    _check_called(base_model(model), peft_config.target_modules, unadaptable)
    _keep_tied(base_model(model), peft_config)
    if isinstance(peft_config, AdaLoraConfig):
        check_rank_schedule(peft_config)
    return peft_config


def _keep_tied(base: Any, peft_config: Any) -> None:
    """Train a head that is its model's embeddings as one with them; PEFT trains two copies unless it is told."""
    tied = getattr(base.config.get_text_config(), "tie_word_embeddings", False)
    leaves = {name.rpartition(".")[2] for name in embedding_layers(base)}
    if tied and leaves & set(peft_config.modules_to_save or ()) and hasattr(peft_config, "ensure_weight_tying"):
        peft_config.ensure_weight_tying = True


def _check_kind(peft_config: Any) -> None:
    if not isinstance(peft_config, PeftConfig):
        raise ValueError(
            f"peft_config describes an adapter, but it is a {type(peft_config).__name__}: {peft_config!r}. Pass "
            "peft.LoraConfig(...), peft.AdaLoraConfig(...) or another configuration of PEFT."
        )
    kind = PeftType(peft_config.peft_type).value if peft_config.peft_type else "without a type"
    if peft_config.is_prompt_learning or not hasattr(peft_config, "target_modules"):
        raise ValueError(
            f"An adapter of type {kind} puts prompts before text inputs, which speech models do not have. Use one that "
            "changes layers: LoraConfig (with use_dora, use_rslora), AdaLoraConfig, LoHaConfig, LoKrConfig, IA3Config."
        )
    if peft_config.task_type is not None:
        raise ValueError(
            f"peft_config.task_type is {peft_config.task_type}, and PEFT's class for it insists on text inputs. Leave "
            "task_type out; audiorl.adapters.adapter_config makes such a configuration from TRL's flags."
        )


def _check_targets(base: nn.Module, targets: Any) -> None:
    """Every name matches a module: PEFT is content if one of them does."""
    names = [name for name, _ in base.named_modules() if name]
    if targets is None or targets == ALL_LINEAR:
        return
    if isinstance(targets, str):
        lost = [] if any(re.fullmatch(targets, name) for name in names) else [targets]
    else:
        lost = [t for t in sorted(targets) if not any(name == t or name.endswith(f".{t}") for name in names)]
    if lost:
        leaves = sorted({name.rpartition(".")[2] for name in linear_names(base)})
        near = {hit for name in lost for hit in get_close_matches(name, leaves, n=2)}
        hint = f" Did you mean {', '.join(sorted(near))}?" if near else ""
        raise ValueError(
            f"target_modules {lost} match no module of {type(base).__name__}.{hint} Its linear layers are called "
            f'{", ".join(leaves)}; "{ALL_LINEAR}" and "{DECODER_LINEAR}" name them all.'
        )


def _check_called(base: nn.Module, targets: Any, unadaptable: Sequence[str]) -> None:
    """No adapter in a layer that would not ask it."""
    lost = sorted(
        {
            name.rpartition(".")[2]
            for name in linear_names(base)
            if name.rpartition(".")[2] in unadaptable and _is_target(name, targets)
        }
    )
    if lost:
        others = sorted({name.rpartition(".")[2] for name in called_layers(base, unadaptable)})
        raise ValueError(
            f"{type(base).__name__} reads the weights of {', '.join(lost)} without calling these layers, so what an "
            f"adapter adds to them would be missed there. Name others in target_modules ({', '.join(others)}), or "
            "leave it out."
        )


def _is_target(name: str, targets: Any) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets or ())


def check_rank_schedule(config: AdaLoraConfig) -> None:
    """Refuse settings of AdaLoRA with which ranks cannot be cut; PEFT would fail in the middle of training."""
    if not 0 <= config.target_r < config.init_r:
        raise ValueError(
            f"AdaLoRA cuts ranks from init_r down to target_r on average; got {config.init_r} and {config.target_r}. "
            "Make init_r the larger one; the paper takes 1.5 times target_r."
        )
    if not (0 < config.beta1 < 1 and 0 < config.beta2 < 1) or config.deltaT < 1:
        raise ValueError(
            f"AdaLoRA takes beta1 and beta2 between 0 and 1 and deltaT >= 1; got {config.beta1}, {config.beta2} and "
            f"{config.deltaT}. PEFT's defaults are 0.85, 0.85 and 1."
        )
    if config.tinit < 0 or config.tfinal < 0:
        raise ValueError(
            f"AdaLoRA's tinit and tfinal are steps, or below 1 shares of all steps; got {config.tinit} and "
            f"{config.tfinal}. Use 0 or more."
        )


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


# ---- flags ----


# Kinds of adapter that have flags; trainers take any PeftConfig that names the layers it changes.
PEFT_TYPES = ("lora", "adalora")
# AdaLoraConfig insists on a number of steps; with this one it waits for the trainer's.
TOLD_BY_TRAINER = 2**31 - 1


@dataclass
class SpeechModelConfig(ModelConfig):
    """TRL's model flags without those that mean nothing here, and what speech models and AdaLoRA need."""

    lora_dropout: float = field(
        default=0.0, metadata={"help": "Dropout of the adapter, 0 to below 1; above 0 needs --disable_dropout false."}
    )
    lora_task_type: str | None = field(
        default=None, metadata={"help": "Must stay unset: PEFT's task classes insist on text inputs."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Must stay unset: hypotheses are kept apart by an attention built on SDPA."}
    )
    peft_type: str = field(
        default="lora", metadata={"help": "With --use_peft: lora (see also --use_dora, --use_rslora) or adalora."}
    )
    lora_decoder_only: bool = field(
        default=False,
        metadata={"help": "Adapt the decoder only; the encoder then runs once for policy, reference and rollouts."},
    )
    adalora_init_r: int | None = field(
        default=None,
        metadata={"help": "AdaLoRA: rank at the start; default 1.5 times --lora_r, the average rank at the end."},
    )
    adalora_tinit: float = field(
        default=0.1, metadata={"help": "AdaLoRA: steps before ranks are cut; below 1, a share of all steps."}
    )
    adalora_tfinal: float = field(
        default=0.3, metadata={"help": "AdaLoRA: steps after the last cut; below 1, a share of all steps."}
    )
    adalora_delta_t: int = field(default=10, metadata={"help": "AdaLoRA: steps between two cuts, at least 1."})
    adalora_beta1: float = field(default=0.85, metadata={"help": "AdaLoRA: smoothing of the importance, 0 to 1."})
    adalora_beta2: float = field(default=0.85, metadata={"help": "AdaLoRA: smoothing of its uncertainty, 0 to 1."})
    adalora_orth_reg_weight: float = field(
        default=0.5, metadata={"help": "AdaLoRA: weight >= 0 of the term that keeps its factors orthogonal."}
    )
    family: str | None = field(
        default=None,
        metadata={"help": "A family of your own for the model, by its dotted path: my_module.MyFamily."},
    )
    audio_window_seconds: int | None = field(
        default=None,
        metadata={
            "help": "Shorten Whisper's window from 30 to this many seconds, which costs less. Longer clips are "
            "refused, and tuning has to regain the accuracy. Not with an adapter: save the shortened base first."
        },
    )
    merge_adapter: bool = field(
        default=False,
        metadata={"help": "After training, also write the base with the adapter merged in to <output_dir>-merged."},
    )

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = self.peft_type.lower()
        if self.peft_type not in PEFT_TYPES:
            near = get_close_matches(self.peft_type, PEFT_TYPES, n=1)
            raise ValueError(
                f"--peft_type {self.peft_type} is unknown; known: {', '.join(PEFT_TYPES)}."
                + (f" Did you mean {near[0]}?" if near else " Pass other adapters as peft_config in Python.")
            )
        for name, reason in (
            ("attn_implementation", "hypotheses are kept apart by an attention built on SDPA"),
            ("lora_task_type", "PEFT's task classes insist on text inputs"),
        ):
            if getattr(self, name) is not None:
                raise ValueError(f"--{name} must stay unset: {reason}. Leave it out.")
        self._refuse_idle_flags()

    def _refuse_idle_flags(self) -> None:
        """A flag that would do nothing is a mistake."""
        given = {f.name for f in fields(self) if getattr(self, f.name) != f.default}
        adapter = {"peft_type", "use_dora", "use_rslora", "merge_adapter"}
        adapter |= {name for name in given if name.startswith(("lora_", "adalora_"))}
        if not self.use_peft and (idle := given & adapter):
            raise ValueError(f"{_flags(idle)} would do nothing without an adapter. Add --use_peft, or leave them out.")
        if self.peft_type == "adalora":
            if clash := given & {"use_dora", "use_rslora", "lora_target_parameters"}:
                raise ValueError(f"AdaLoRA has no {_flags(clash)}. Leave them out, or use --peft_type lora.")
        elif idle := {name for name in given if name.startswith("adalora_")}:
            raise ValueError(f"{_flags(idle)} belong to AdaLoRA. Add --peft_type adalora, or leave them out.")
        if self.lora_decoder_only and self.lora_target_modules is not None:
            raise ValueError(
                "--lora_decoder_only and --lora_target_modules both say where the adapter sits. Choose one."
            )
        four_bit = {name for name in given if "bnb_" in name}
        if four_bit and not self.load_in_4bit:
            raise ValueError(f"{_flags(four_bit)} would do nothing. Add --load_in_4bit, or leave them out.")
        if self.load_in_4bit and self.dtype == "auto":
            raise ValueError("4-bit layers compute in --dtype, so it cannot be auto. Name bfloat16 or float32.")


def _flags(names: set[str]) -> str:
    return ", ".join(f"--{name}" for name in sorted(names))


def adapter_config(flags: ModelConfig) -> PeftConfig | None:
    """The adapter that flags ask for; None without --use_peft. TRL's own flags give LoRA, DoRA or rsLoRA.

    AdaLoRA's `tinit` and `tfinal` may be shares of all steps here, and its `total_step` is told by the trainer.
    """
    if not flags.use_peft:
        return None
    ours = isinstance(flags, SpeechModelConfig)
    targets = DECODER_LINEAR if ours and flags.lora_decoder_only else flags.lora_target_modules
    if not ours or flags.peft_type == "lora":
        config = get_peft_config(flags)
        config.task_type = None
        config.target_modules = set(targets) if isinstance(targets, list) else targets
        return config
    return AdaLoraConfig(
        init_r=flags.adalora_init_r if flags.adalora_init_r is not None else -(-3 * flags.lora_r // 2),
        target_r=flags.lora_r,
        lora_alpha=flags.lora_alpha,
        lora_dropout=flags.lora_dropout,
        target_modules=targets,
        modules_to_save=flags.lora_modules_to_save,
        tinit=_steps_or_share(flags.adalora_tinit),
        tfinal=_steps_or_share(flags.adalora_tfinal),
        deltaT=flags.adalora_delta_t,
        beta1=flags.adalora_beta1,
        beta2=flags.adalora_beta2,
        orth_reg_weight=flags.adalora_orth_reg_weight,
        total_step=TOLD_BY_TRAINER,
    )


def _steps_or_share(value: float) -> float | int:
    return value if 0 < value < 1 else int(value)
