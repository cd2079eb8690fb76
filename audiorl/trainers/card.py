"""The model card of a run: what the trainer knows, what it was told, and the card's files.

1. The card is written beside the weights, and both appear together (`checkpoints.py`).
2. `record_data` and `record_evaluation` tell it what a trainer cannot know: the name of the rows, and the errors before
   and after training.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
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
from huggingface_hub import ModelCard, get_token, try_to_load_from_cache
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from audiorl._version import __version__
from audiorl.adapters import embedding_layers, vocabulary, vocabulary_changed
from audiorl.evaluation import Comparison, Decoded
from audiorl.evaluation.significance import compared
from audiorl.evaluation.transcription import decoding_in_force
from audiorl.losses import LOSS_PRESETS
from audiorl.losses.settings import named_losses
from audiorl.model_card import (
    MODEL_CARD,
    RESULTS_FOLDER,
    Adapter,
    BeforeAndAfter,
    CardFacts,
    DataSource,
    Run,
)
from audiorl.model_card import write_card as write_card_files
from audiorl.model_card.card import iso_code
from audiorl.model_card.papers import method_of, papers
from audiorl.models import SpeechFamily, base_model
from audiorl.models.forward import parameter_counts
from audiorl.trainers.checkpoints import publish_files, staging_dir
from audiorl.trainers.config import without_tokens
from audiorl.trainers.cost import gib, peak_gib

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets")
# Fields that say where and how a run was watched, not what was learnt: by the beginning of their names.
NOT_LEARNING = (
    "accelerator_config",
    "allow_changed_resume",
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
    "init_from",
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


class RunCard:
    """Writes the card of a trainer's model.

    Args:
        trainer: a `SpeechTrainer`, whose run is described.

    Attributes:
        source: what is known of the training rows.
        measurement: what `record_evaluation` was told last.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.source: DataSource | None = None
        self.measurement: BeforeAndAfter | None = None
        self.stopwatch = Stopwatch()
        self._tags: tuple[str, ...] = ()
        self._name: str | None = None

    def note(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Keep what a caller says about the card, for this card and later ones."""
        self._name = model_name or self._name
        if dataset_name is not None and self.source is None:
            self.source = DataSource(dataset_name, on_hub=not os.path.exists(dataset_name))
        if tags is not None:
            self._tags = (tags,) if isinstance(tags, str) else tuple(tags)

    def measure(self, before: Decoded, after: Decoded, source: DataSource | None, trained_on: int = 0) -> Comparison:
        """Keep and return the comparison of the hypotheses before and after; see `record_evaluation`."""
        model, args = self.trainer.model, self.trainer.args
        first, second = (
            self.trainer.family.task.count_all(*decoded, self.trainer.normalizer) for decoded in (before, after)
        )
        rates = {name: compared(first[name], second[name]) for name in first}
        decoding = decoding_in_force(model, {}, args.per_device_eval_batch_size)
        if self.trainer.family.task.writes_text:
            decoding = {"search": search_of(model, decoding), **decoding}
        self.measurement = BeforeAndAfter(rates, source or DataSource(), decoding, trained_on)
        return self.measurement.main[1]

    def publish(self) -> None:
        """Write the card into `output_dir`, in one rename."""
        final = self.trainer.args.output_dir
        staged = os.path.join(staging_dir(final), "card")
        os.makedirs(staged, exist_ok=True)
        self.write(staged, final)
        publish_files(staged, final)
        shutil.rmtree(staging_dir(final), ignore_errors=True)

    def write(self, folder: str, final: str, *, merged: bool = False) -> None:
        """Write the card into `folder`, which becomes, or goes into, `final`."""
        shutil.rmtree(Path(folder) / RESULTS_FOLDER, ignore_errors=True)
        write_card_files(self.facts(final, merged=merged), folder, (self.trainer.args.hub_token, get_token()))

    def facts(self, folder: str, *, merged: bool = False) -> CardFacts:
        """The facts on the card of a model in `folder`; `merged` if its adapter is part of the weights there."""
        trainer, model, args = self.trainer, self.trainer.model, self.trainer.args
        base, on_hub = base_name(model)
        method, adapter = method_of(type(trainer)), adapter_of(model)
        settings, losses = changed_settings(args), losses_of(args)
        license_id, license_link = license_of(model)
        trained, parameters = parameter_counts(model)
        return CardFacts(
            model_name=self._name or os.path.basename(hub_name(trainer).rstrip("/")),
            load_name=hub_name(trainer) if args.push_to_hub or trainer.hub_model_id else os.fspath(folder),
            base_model=base,
            base_on_hub=on_hub,
            init_from=args.init_from,
            init_on_hub=is_repo_id(args.init_from),
            model_type=base_model(model).config.model_type,
            model_class=type(base_model(model)).__name__,
            pipeline_tag=pipeline_tag(trainer.family, model, trainer.train_dataset),
            trainer=type(trainer).__name__,
            method=method,
            papers=papers(method, losses, settings, adapter.kind if adapter else None),
            losses=losses,
            settings=settings,
            clips_per_step=trainer.clips_per_step,
            trained_parameters=trained,
            parameters=parameters,
            data=self._data_source(),
            rewards=self._reward_weights(),
            languages=languages_of(model, trainer.train_dataset, args.language),
            license=license_id,
            license_link=license_link,
            sampling_rate=trainer.family.sampling_rate,
            window=trainer.family.max_seconds,
            run=self._run(),
            runs_in_pipeline=runs_in_pipeline(trainer.family, model, adapted=adapter is not None and not merged),
            call_settings=call_settings(model, args),
            row_settings=row_settings(args, trainer.train_dataset),
            adapter=None if merged else adapter,
            merged=merged,
            measurement=self.measurement,
            tags=self._tags,
        )

    def _reward_weights(self) -> dict[str, float]:
        rewards = getattr(self.trainer, "rewards", None)
        return dict(zip(rewards.names, rewards.weights, strict=True)) if rewards is not None else {}

    def _data_source(self) -> DataSource:
        source, rows = self.source or DataSource(), self.trainer.train_dataset
        count = len(rows) if hasattr(rows, "__len__") else None
        return source if source.rows is not None else DataSource(**{**vars(source), "rows": count})

    def _run(self) -> Run:
        trainer = self.trainer
        return Run(
            seconds=self.stopwatch.seconds,
            first_step=self.stopwatch.first_step,
            last_step=trainer.state.global_step,
            hardware=hardware(trainer.args, trainer.accelerator.distributed_type),
            versions=versions(),
            logged=last_logged_rates(trainer.state.log_history),
        )


def hub_name(trainer: Any) -> str:
    """The model's id on the Hub; without its owner if the Hub has not been reached yet."""
    folder = os.path.basename(os.path.abspath(trainer.args.output_dir))
    return trainer.hub_model_id or trainer.args.hub_model_id or folder


# ---- what a run can say of itself ----


class Stopwatch(TrainerCallback):
    """Measures seconds of training in this process, and the step at which they begin."""

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
    """Fields of a config that differ from its class's defaults, as (value, default), without access tokens.

    A field that is unset by default and that the config fills in by itself with nothing, or with no, is none of them.
    """
    found = {}
    for spec in fields(args):
        value = getattr(args, spec.name)
        default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
        if value is default or (type(value) is type(default) and value == default):
            continue
        value, default = _plain_value(value), _plain_value(default)
        filled_in = default in (None, "") and value in (None, False, "", [], {})
        if spec.init and value != default and not filled_in and not spec.name.startswith(NOT_LEARNING):
            found[spec.name] = (value, None if default is MISSING else default)
    return found


def losses_of(args: Any) -> dict[str, float]:
    """The losses of a config by name, with weights. A preset comes first, then its losses."""
    names = getattr(args, "loss_type", None) or []
    names = named_losses(names)
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
    base, config = base_model(model), model.peft_config[model.active_adapter]
    kind = "DORA" if getattr(config, "use_dora", False) else "RSLORA" if getattr(config, "use_rslora", False) else None
    settings = {name: getattr(config, name, None) for name in ADAPTER_SETTINGS}
    settings = {name: sorted(part) if isinstance(part, set) else part for name, part in settings.items()}
    return Adapter(
        kind or str(getattr(config.peft_type, "value", config.peft_type)),
        {name: part for name, part in settings.items() if part not in (None, "none")},
        quantised_base=bool(getattr(base, "is_quantized", False)),
        tokens=vocabulary(base) if embedding_layers(base) and vocabulary_changed(base) else None,
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


def is_repo_id(name: str | None) -> bool:
    """Whether a name is a model's id on the Hub, with its owner, and not a folder here."""
    return bool(name and "/" in name and REPO_ID.fullmatch(name) and not os.path.exists(name))


def license_of(model: nn.Module) -> tuple[str, str | None]:
    """The base model's licence, and where to read it if the identifier does not say; without network access."""
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
    """ISO codes of the languages trained on; "en" for an English-only checkpoint; empty if rows do not say."""
    named = {language or default for language in _values(rows, "language") or {None}} - {None}
    if not named and _knows_languages(model) is False:
        named = {"en"}
    return sorted({iso_code(language) for language in named if language})


def call_settings(model: nn.Module, args: Any) -> dict[str, Any]:
    """Keywords with which a pipeline decodes as rows without a language or task were decoded here."""
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


def runs_in_pipeline(family: SpeechFamily, model: nn.Module, *, adapted: bool) -> bool:
    """Whether a pipeline of transformers runs the model as it was trained; see `SpeechFamily.runs_in_pipeline`.

    Some classes, Wav2Vec2's for example, load only adapters of their own kind: a pipeline cannot load one of PEFT's.

    Args:
        adapted: whether the model is a base with its adapter beside it.
    """
    if adapted and type(base_model(model)).load_adapter is not PreTrainedModel.load_adapter:
        return False
    return family.runs_in_pipeline(model)


def search_of(model: nn.Module, decoding: Mapping[str, Any]) -> str:
    """How hypotheses were searched for, in words."""
    if not getattr(base_model(model), "can_generate", bool)():
        return "best path"
    return "greedy" if decoding.get("num_beams", 1) == 1 else "beams"


def _knows_languages(model: nn.Module) -> bool | None:
    """Whether a checkpoint has to be told the language; None if its generation config does not say."""
    return getattr(getattr(base_model(model), "generation_config", None), "is_multilingual", None)


def pipeline_tag(family: SpeechFamily, model: nn.Module, rows: Any) -> str:
    """The Hub's name for what the model does: it labels, answers (if every row has a prompt), or transcribes."""
    if not family.task.writes_text:
        return "audio-classification"
    asked = _asks(_values(rows, "prompt")) and not getattr(base_model(model).config, "is_encoder_decoder", False)
    return "audio-text-to-text" if asked else "automatic-speech-recognition"


def _asks(prompts: set[Any]) -> bool:
    return bool(prompts) and all(prompts)


def _values(rows: Any, column: str) -> set[Any]:
    """The values of a column; empty if rows do not have it, or are a stream."""
    if not isinstance(rows, Dataset) or column not in rows.column_names:
        return set()
    # not Dataset.unique: of rows that were filtered it copies all columns first, audio among them
    return set(rows.select_columns(column).with_format("arrow")[:][column].unique().to_pylist())


def hardware(args: TrainingArguments, distributed: DistributedType) -> str:
    """Devices and processes, e.g. "8 processes (MULTI_GPU), NVIDIA A100-SXM4-80GB"."""
    processes = f"{args.world_size} process{'es' if args.world_size > 1 else ''}"
    way = f" ({distributed.value})" if args.world_size > 1 else ""
    if args.device.type == "cuda":
        peak = "" if (found := peak_gib(args.device)) is None else f", peak {gib(found)} of the first"
        return f"{processes}{way}, {torch.cuda.get_device_name(args.device)}{peak}"
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
    """Versions of the packages that a run depends on."""
    found = {library: version(library) for library in LIBRARIES}
    return {"audiorl": __version__, "python": platform.python_version(), **found}


def last_logged_rates(history: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """WER and CER, or accuracy, of the last evaluation in `Trainer`'s log that measured them, fractions."""
    for entry in reversed(list(history)):
        if found := {shown: entry[name] for name, shown in LOGGED_RATES.items() if name in entry}:
            return found
    return {}


def _plain_value(value: Any) -> Any:
    """A value as JSON has it; a loss of your own by its name."""
    return value.value if isinstance(value, Enum) else without_tokens(named_losses(value))
