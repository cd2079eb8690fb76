"""What a trainer can say of its own run, for the card of its model."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from huggingface_hub import ModelCard, try_to_load_from_cache
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES

from audiorl._version import __version__
from audiorl.evaluation.results import decoding_in_force
from audiorl.losses import LOSS_PRESETS
from audiorl.model_card import MODEL_CARD, Adapter
from audiorl.model_card.metadata import iso_code
from audiorl.models import base_model
from audiorl.trainers.config import without_tokens

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets")
# Fields that say where and how a run was watched, not what was learnt: by the beginning of their names.
NOT_LEARNING = (
    "accelerator_config",
    "average_tokens_across_devices",  # losses here are divided by counts of all processes in any case
    "dataloader_",
    "ddp_",
    "deepspeed",
    "disable_tqdm",
    "do_",
    "eval_",
    "fsdp",
    "hub_",
    "include_",
    "load_best_model_at_end",
    "local_rank",
    "log_",
    "logging_",
    "num_completions_to_print",
    "on_bad_rows",
    "output_dir",
    "parallelism_config",
    "per_device_eval_",
    "prediction_loss_only",
    "project",
    "push_to_hub",
    "report_",
    "resume_from_checkpoint",
    "run_name",
    "save_",
    "skip_memory_metrics",
    "torch_empty_cache",
    "trackio_",
    "use_cpu",
)
# A model's id on the Hub; the oldest have no owner.
REPO_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# What an evaluation logs -> what it is called on a card.
LOGGED_RATES = {"eval_wer": "WER", "eval_cer": "CER", "eval_accuracy": "accuracy"}
# Of a PEFT configuration: what shapes the adapter.
ADAPTER_SETTINGS = (
    *("r", "lora_alpha", "lora_dropout", "init_r", "target_r", "bias", "target_modules", "modules_to_save"),
)
# Of a pipeline's call, where a checkpoint knows several languages.
CALL_SETTINGS = ("language", "task")
# Stands on a card for the prompts of rows that have several.
A_QUESTION = "your question about the clip"


class Stopwatch(TrainerCallback):
    """Seconds of training in this process, and the step they began with."""

    def __init__(self) -> None:
        self.first_step = 0
        self._began: float | None = None
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        if self._began is None:
            return 0.0
        return (self._ended or time.perf_counter()) - self._began

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first_step, self._began, self._ended = state.global_step, time.perf_counter(), None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._ended = time.perf_counter()


def changed_settings(args: TrainingArguments) -> dict[str, tuple[Any, Any]]:
    """Fields of a config that differ from the defaults of its class, as (value, default), access tokens left out.

    A field that is unset by default and that the config fills in by itself with nothing, or with no, is none of them.
    """
    found = {}
    for spec in fields(args):
        value = _plain_value(getattr(args, spec.name))
        default = _plain_value(spec.default_factory() if spec.default_factory is not MISSING else spec.default)
        filled_in = default in (None, "") and value in (None, False, "", [], {})
        if spec.init and value != default and not filled_in and not spec.name.startswith(NOT_LEARNING):
            found[spec.name] = (value, None if default is MISSING else default)
    return found


def losses_of(args: Any) -> dict[str, float]:
    """The losses of a config by name, with weights; those of a preset spelt out, the preset first."""
    names = getattr(args, "loss_type", None) or []
    names = [names] if isinstance(names, str) else list(names)
    weights = getattr(args, "loss_weights", None) or [1.0] * len(names)
    found = dict(zip(names, weights, strict=True))
    for name in names:
        if name in LOSS_PRESETS:
            found |= dict(zip(*LOSS_PRESETS[name], strict=True))
    return found


def adapter_of(model: nn.Module) -> Adapter | None:
    """The adapter that is trained."""
    if not isinstance(model, PeftModel):
        return None
    config = model.peft_config[model.active_adapter]
    kind = "DORA" if getattr(config, "use_dora", False) else "RSLORA" if getattr(config, "use_rslora", False) else None
    settings = {name: getattr(config, name, None) for name in ADAPTER_SETTINGS}
    settings = {name: sorted(part) if isinstance(part, set) else part for name, part in settings.items()}
    return Adapter(
        kind or str(getattr(config.peft_type, "value", config.peft_type)),
        {name: part for name, part in settings.items() if part not in (None, "none")},
        quantised_base=bool(getattr(base_model(model), "is_quantized", False)),
    )


def base_name(model: nn.Module) -> tuple[str, bool]:
    """The base model's id on the Hub and True, or its folder's name and False."""
    name = str(base_model(model).config._name_or_path or "")
    if REPO_ID.fullmatch(name) and not os.path.exists(name):
        return name, True
    if not name:
        return "a model without a name", False
    folder = Path(name).resolve()
    # "checkpoint-500" alone says nothing
    return "/".join(folder.parts[-2:]) if folder.name.startswith("checkpoint") else folder.name, False


def license_of(model: nn.Module) -> tuple[str, str | None]:
    """The base model's licence, and where to read it if the identifier does not say; no network is asked."""
    name, on_hub = base_name(model)
    # without a name, not the page that happens to lie in the working directory
    folder = base_model(model).config._name_or_path or None
    path = try_to_load_from_cache(name, MODEL_CARD) if on_hub else folder and os.path.join(folder, MODEL_CARD)
    found = None
    if isinstance(path, str) and os.path.isfile(path):
        found = ModelCard.load(path, ignore_metadata_errors=True).data.get("license")
    if isinstance(found, str) and found not in ("other", "unknown"):
        return found, None
    return ("other", f"https://huggingface.co/{name}") if on_hub else ("unknown", None)


def languages_of(model: nn.Module, rows: Any, default: str | None) -> list[str]:
    """ISO codes of the languages trained on; an English-only checkpoint's is "en"; none where rows do not say."""
    named = {language or default for language in _values(rows, "language") or {None}} - {None}
    if not named and _knows_languages(model) is False:
        named = {"en"}
    return sorted({iso_code(language) for language in named if language})


def call_settings(model: nn.Module, args: Any) -> dict[str, Any]:
    """Keywords with which a pipeline decodes as rows without a language or task of their own were decoded here."""
    if not getattr(base_model(model), "can_generate", bool)():
        return {}
    told = {name: value for name in CALL_SETTINGS if (value := getattr(args, name))} if _knows_languages(model) else {}
    # pipelines search with 5 beams where a generation config leaves their number open
    return {**told, "num_beams": decoding_in_force(model, {}, 1).get("num_beams", 1)}


def row_settings(args: Any, rows: Any) -> dict[str, str]:
    """Columns with which `transcribe` asks as training did: language and task of the config, else of the rows; and a
    prompt where every row has one, the rows' own if they share it.
    """
    found = {name: value for name in CALL_SETTINGS if (value := getattr(args, name))}
    for name in CALL_SETTINGS:
        if named := sorted(_values(rows, name) - {None, ""}):
            found.setdefault(name, named[0])
    prompts = _values(rows, "prompt")
    if not _asks(prompts):
        return found
    return {**found, "prompt": prompts.pop() if len(prompts) == 1 else A_QUESTION}


def runs_in_pipeline(model: nn.Module, processor: Any, *, adapted: bool) -> bool:
    """Whether a pipeline of transformers runs the model as it was trained: encoder-decoders, CTC and classifiers.

    No language models, and no decoder that is asked by a chat template: the pipeline sends audio alone. No adapter of a
    class that loads adapters of its own kind only, as Wav2Vec2 does.

    Args:
        adapted: whether what is run is a base with its adapter beside it.
    """
    base = base_model(model)
    if adapted and type(base).load_adapter is not PreTrainedModel.load_adapter:
        return False
    labels = type(base).__name__ in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES.values()
    decoder = getattr(base.config, "is_encoder_decoder", False) and getattr(processor, "chat_template", None) is None
    return labels or bool(decoder) or type(base).__name__.endswith("ForCTC")


def search_of(model: nn.Module, decoding: Mapping[str, Any]) -> dict[str, str]:
    """How hypotheses were searched for, in words; nothing for models that choose a label."""
    if pipeline_tag(model, None) == "audio-classification":
        return {}
    if not getattr(base_model(model), "can_generate", bool)():
        return {"search": "best path"}
    if decoding.get("do_sample"):
        return {"search": "sampling"}
    return {"search": "greedy" if decoding.get("num_beams", 1) == 1 else "beams"}


def _knows_languages(model: nn.Module) -> bool | None:
    """Whether a checkpoint has to be told the language; None where its generation config does not say."""
    return getattr(getattr(base_model(model), "generation_config", None), "is_multilingual", None)


def pipeline_tag(model: nn.Module, rows: Any) -> str:
    """The Hub's name of what the model does: label, answer where every row brings a prompt, or transcribe."""
    base = base_model(model)
    if type(base).__name__ in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES.values():
        return "audio-classification"
    asked = _asks(_values(rows, "prompt")) and not getattr(base.config, "is_encoder_decoder", False)
    return "audio-text-to-text" if asked else "automatic-speech-recognition"


def _asks(prompts: set[Any]) -> bool:
    return bool(prompts) and all(prompts)


def _values(rows: Any, column: str) -> set[Any]:
    """What rows have in a column; nothing where they have none, or are a stream."""
    if not isinstance(rows, Dataset) or column not in rows.column_names:
        return set()
    # not Dataset.unique: of rows that were filtered it copies all columns first, audio among them
    return set(rows.select_columns(column).with_format("arrow")[:][column].unique().to_pylist())


def hardware(args: TrainingArguments, distributed: DistributedType) -> str:
    """Devices and processes, e.g. "8 processes (MULTI_GPU), NVIDIA A100-SXM4-80GB"."""
    processes = f"{args.world_size} process{'es' if args.world_size > 1 else ''}"
    way = f" ({distributed.value})" if args.world_size > 1 else ""
    if args.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(args.device) / 2**30
        return f"{processes}{way}, {torch.cuda.get_device_name(args.device)}, peak {peak:.1f} GiB of the first"
    name = _cpu_name() if args.device.type == "cpu" else args.device.type
    threads = torch.get_num_threads()
    return f"{processes}{way}, {name}, {threads} thread{'s' if threads > 1 else ''} each"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Of what a run depends on."""
    found = {library: version(library) for library in LIBRARIES}
    return {"audiorl": __version__, "python": platform.python_version(), **found}


def last_logged_rates(history: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """WER and CER, or accuracy, of the last evaluation in `Trainer`'s log that measured them, fractions."""
    for entry in reversed(list(history)):
        if found := {shown: entry[name] for name, shown in LOGGED_RATES.items() if name in entry}:
            return found
    return {}


def _plain_value(value: Any) -> Any:
    """As JSON has it."""
    return value.value if isinstance(value, Enum) else without_tokens(value)
