"""Turns what a user hands to a trainer into what the trainer works with: model, processor, adapter and rows.

Also from an adapter to a model that needs none (`merge_and_unload`, `export_merged`).
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel, set_seed
from transformers.trainer_utils import seed_worker
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
from audiorl.augment import load_augmentation
from audiorl.collator import HistoryChanges, HotwordChanges, SpeechCollator
from audiorl.datasets import BadRowsError, RowJudge, SkippedRows, drop_bad_rows
from audiorl.datasets.batching import EpochPlan, largest_number
from audiorl.datasets.checks import OutsideSeconds, drop_outside, outside_seconds, stream_within_seconds
from audiorl.datasets.verdicts import judge_rows
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
from audiorl.text.history import HISTORY_COLUMN, HYPOTHESIS_COLUMN
from audiorl.text.keywords import HOTWORDS_COLUMN, distinct_hotwords
from audiorl.trainers.config import AUTO, SpeechConfig
from audiorl.trainers.distributed import loaded_whole

logger = logging.get_logger(__name__)

Found = TypeVar("Found")

# What streams leave out; the rows of a data set are only counted.
LEFT_OUT_FILE = "left_out_clips.jsonl"
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
        raise ValueError(
            f"No model could be loaded from {str(model)!r}: {error}. Check the name; a folder has to hold config.json "
            "and weights, and a Hub name needs a connection."
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
            "The weights of a quantised model cannot be trained. Pass peft_config=LoraConfig(...) to train an adapter "
            "on it, or load the model without quantization_config."
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


# ---- rows, and how their clips are heard ----


def rows_within_bounds(rows: Dataset | IterableDataset, args: SpeechConfig, name: str) -> Dataset | IterableDataset:
    """The rows whose clips are as long as a config wants, and a line that counts the others; a collective call for a
    data set.

    Args:
        rows: from `speech_rows`; a stream is judged row by row as it comes.
        args: the bounds, and where a stream's left-out rows are written.
        name: what the rows are called in that line.

    Raises:
        ValueError: nothing is left.
    """
    bounds = (args.min_audio_seconds, args.max_audio_seconds)
    if bounds == (None, None):
        return rows
    if not isinstance(rows, Dataset):
        return stream_within_seconds(rows, *bounds, SkippedRows(os.path.join(args.output_dir, LEFT_OUT_FILE)))
    return _inside(rows, found_by_one(args, lambda: outside_seconds(rows, *bounds)), args, name)


def usable_rows(
    rows: Dataset | IterableDataset, judge: RowJudge, args: SpeechConfig, name: str, skipped: SkippedRows
) -> Dataset | IterableDataset:
    """The rows that a run can use; a collective call for a data set. Rows of a stream are judged as they come.

    Args:
        rows: from `speech_rows`.
        judge: what the model and the trainer ask of a row.
        args: the seconds that are wanted, and whether bad rows stop the run.
        name: what the rows are called in messages.
        skipped: where bad rows are written, if they do not stop the run.

    Raises:
        BadRowsError: all faults of all rows together.
        ValueError: nothing is left.
    """
    if not isinstance(rows, Dataset):
        return rows_within_bounds(rows, args, name)
    judge = replace(judge, wanted=(args.min_audio_seconds, args.max_audio_seconds))
    judged = found_by_one(args, lambda: judge_rows(rows, judge, progress=not args.disable_tqdm))
    inside = _inside(rows, judged.outside, args, name)
    if judged.faults and args.on_bad_rows == "error":
        raise BadRowsError(judged.faults)
    kept = drop_bad_rows(inside, judged.faults, skipped if args.process_index == 0 else None)
    if len(kept) == 0:
        raise ValueError(
            f"{name} has no usable row left: {len(inside)} rows, {len(judged.faults)} faults. Mend the rows."
        )
    return kept if args.max_batch_seconds is None else with_durations(kept, rows, judged.seconds)


def with_durations(kept: Dataset, rows: Dataset, seconds: Sequence[float]) -> Dataset:
    """Rows that all have a `duration`; those that lack one get the seconds of the audio's header.

    Args:
        kept: the usable ones of `rows`.
        seconds: of the clip of each of `rows`, by its header.
    """
    given = kept["duration"][:] if "duration" in kept.column_names else [None] * len(kept)
    if None not in given:
        return kept
    heard = dict(zip(rows["row_id"], seconds, strict=True))
    known = [heard[row] if own is None else float(own) for row, own in zip(kept["row_id"], given, strict=True)]
    rest = kept.remove_columns("duration") if "duration" in kept.column_names else kept
    return rest.add_column("duration", known)


def found_by_one(args: SpeechConfig, find: Callable[[], Found]) -> Found:
    """Let one process search the files and give all of them the result."""
    found = [find() if args.process_index == 0 else None]
    known = broadcast_object_list(found)[0] if args.world_size > 1 else found[0]
    assert known is not None
    return known


def _inside(rows: Dataset, outside: OutsideSeconds, args: SpeechConfig, name: str) -> Dataset:
    """The rows of a wanted length; logs how many are left out."""
    kept = drop_outside(rows, outside)
    if len(kept) == len(rows):
        return rows
    told = f"{name}: {outside.describe(len(rows), args.min_audio_seconds, args.max_audio_seconds)}"
    if len(kept) == 0:
        raise ValueError(
            f"{told}, so none is left. Change min_audio_seconds or max_audio_seconds; a duration column is in seconds."
        )
    if args.process_index == 0:
        logger.warning(f"{told}.")
    return kept


def tell_unused_rows(args: SpeechConfig, skipped: SkippedRows) -> dict[str, int]:
    """Count the rows that a run could not use, or left out of a stream for their length: counts for its metrics, and a
    log line for each.
    """
    found: dict[str, int] = {}
    if args.on_bad_rows == "skip" and (count := skipped.count()):
        found["skipped_rows"] = count
        logger.warning(f"{count} rows could not be used; {skipped.path} says which and why.")
    bounded = (args.min_audio_seconds, args.max_audio_seconds) != (None, None)
    if bounded and (count := SkippedRows(os.path.join(args.output_dir, LEFT_OUT_FILE)).count()):
        found["left_out_clips"] = count
        logger.warning(f"{count} clips of streams were left out for their length; {LEFT_OUT_FILE} says which.")
    return found


class TrainingAugmentation:
    """The augmentation that a config describes; without one it does nothing.

    Attributes:
        augmentation: None where training clips are heard as they are.
        growth: how much room a clip has to find; None where it keeps its length.
        longest: how many times as long a clip can become, >= 1.
    """

    def __init__(self, args: SpeechConfig):
        seed = args.seed if args.data_seed is None else args.data_seed
        self.augmentation = None if args.augmentation is None else load_augmentation(args.augmentation, seed=seed)
        self.growth = None if self.augmentation is None else self.augmentation.growth
        self.longest = 1.0 if self.augmentation is None else self.augmentation.longest
        self.hotwords: HotwordChanges | None = None
        if args.hotword_dropout or args.hotword_distractors:
            self.hotwords = HotwordChanges(args.hotword_dropout, args.hotword_distractors, seed)
        self.history: HistoryChanges | None = None
        if args.history_dropout or args.history_hypotheses:
            self.history = HistoryChanges(args.history_dropout, args.history_hypotheses, seed)

    def __bool__(self) -> bool:
        return any(part is not None for part in (self.augmentation, self.hotwords, self.history))

    def read_columns(self, rows: Any) -> None:
        """Check that the training rows have what is to be changed, and collect their hot words.

        Raises:
            ValueError: rows without hot words or history, or a stream.
        """
        if rows is None:
            return
        if self.history is not None:
            self._check_history(rows, self.history)
        if self.hotwords is None:
            return
        if not isinstance(rows, Dataset) or HOTWORDS_COLUMN not in rows.column_names:
            raise ValueError(
                "hotword_dropout and hotword_distractors change the column `hotwords` of a data set, and "
                + ("the rows are a stream. " if not isinstance(rows, Dataset) else "the rows do not have it. ")
                + "Load rows with hotwords (streaming=False), or leave the two out."
            )
        self.hotwords.pool = distinct_hotwords(rows[HOTWORDS_COLUMN][:])

    @staticmethod
    def _check_history(rows: Any, history: HistoryChanges) -> None:
        columns = set(getattr(rows, "column_names", None) or ())  # of a stream they may be unknown
        needed = {HISTORY_COLUMN} if history.hypotheses < 1 else set()
        if history.hypotheses:
            needed.add(HYPOTHESIS_COLUMN)
        if columns and (missing := needed - columns):
            raise ValueError(
                f"history_dropout={history.dropout} and history_hypotheses={history.hypotheses} change what was said "
                f"before a clip, and the rows have no {' and '.join(sorted(missing))}, but {sorted(columns)}. Make it "
                "with `audiorl history`, or leave the two out."
            )

    def collator(self, plain: Any) -> Any:
        """The collator of training batches; evaluation batches keep `plain`.

        Raises:
            ValueError: the clips are to be augmented in a collator that cannot do it.
        """
        if not self:
            return plain
        if not isinstance(plain, SpeechCollator):
            raise ValueError(
                f"augmentation, of clips, histories and hot words, acts in SpeechCollator; data_collator is a "
                f"{type(plain).__name__}. Leave it out, "
                "or turn augmentation off and augment in your own collator (audiorl.augment.load_augmentation)."
            )
        augmented = copy.copy(plain)
        augmented.augment_with(self.augmentation)
        augmented.history, augmented.hotwords = self.history, self.hotwords
        return augmented

    def begin_epoch(self, epoch: int) -> None:
        """Tell the loader's workers the epoch before its iterator is made. After a resume it is the resumed epoch."""
        if self.augmentation is not None:
            self.augmentation.set_epoch(epoch)
        for changes in (self.history, self.hotwords):
            if changes is not None:
                changes.set_epoch(epoch)


def balance_values(rows: Any, args: SpeechConfig) -> list[Any] | None:
    """The values that are to come equally often, of each training row; None where no column is balanced.

    Raises:
        ValueError: a stream, or rows without the column.
    """
    if args.balance_column is None or rows is None:
        return None
    if not isinstance(rows, Dataset) or args.balance_column not in rows.column_names:
        found = "a stream" if not isinstance(rows, Dataset) else f"rows with the columns {sorted(rows.column_names)}"
        raise ValueError(
            f"balance_column={args.balance_column!r} balances a column of a data set; got {found}. Name one of its "
            "columns, or leave it out."
        )
    return rows[args.balance_column][:]


# ---- batches of so many seconds ----

# Settings of a loader that its batches do not concern; older releases of transformers lack some.
_LOADER_SETTINGS = (
    "num_workers",
    "pin_memory",
    "persistent_workers",
    "prefetch_factor",
    "multiprocessing_context",
    "in_order",
)


def batch_seconds(rows: Any, args: SpeechConfig, growth: float) -> np.ndarray | None:
    """(R,) seconds that each training row takes of `max_batch_seconds`; None without such a budget.

    Args:
        rows: of `usable_rows`.
        growth: how many times as long augmentation may make a clip, >= 1.

    Raises:
        ValueError: a stream, or a clip that alone is beyond the budget.
    """
    if args.max_batch_seconds is None or rows is None:
        return None
    if not isinstance(rows, Dataset):
        raise ValueError(
            f"max_batch_seconds={args.max_batch_seconds} plans the batches of an epoch by the lengths of all clips, "
            f"and the rows are a stream ({type(rows).__name__}). Load them whole (streaming=False), or leave "
            "max_batch_seconds out and bound the clips of a batch with per_device_train_batch_size."
        )
    seconds = np.asarray(rows["duration"][:], dtype=np.float64) * growth
    place = int(seconds.argmax())
    if args.max_batch_seconds != AUTO and seconds[place] > float(args.max_batch_seconds):
        slowed = " where augmentation slows it most" if growth > 1 else ""
        raise ValueError(
            f"max_batch_seconds={args.max_batch_seconds} is less than a single clip: {rows[place]['where']} has "
            f"{seconds[place]:.2f} s{slowed}. Raise max_batch_seconds to {math.ceil(seconds[place])} or more, or leave "
            "long clips out with max_audio_seconds."
        )
    return seconds


# Of the memory that a trial found, which leaves out texts longer than those of the longest clips, and fragments.
_USED_SHARE = 0.9
BUDGET_FILE = "batch_seconds.json"


class BatchBudget:
    """The seconds of `max_batch_seconds`; where that is "auto" they are found once, and checkpoints keep them.

    Args:
        trainer: a `SpeechTrainer` with such a budget.

    Attributes:
        seconds: None until they are found.

    Raises:
        ValueError: clips that augmentation makes longer than those that a trial would hear.
    """

    def __init__(self, trainer: Any):
        given = trainer.args.max_batch_seconds
        self.trainer, self.found = trainer, given == AUTO
        self.seconds: float | None = None if given == AUTO else float(given)
        if self.found and trainer.augmentation.growth is not None:
            raise ValueError(
                f"max_batch_seconds={AUTO!r} tries the clips as they are, and augmentation changes their speed, so "
                "that what fits in the trial may not fit later. Give a number of seconds, or leave speed out of the "
                "augmentation."
            )

    def save(self, checkpoint: str) -> None:
        if self.found and self.trainer.args.process_index == 0:
            with open(os.path.join(checkpoint, BUDGET_FILE), "w") as file:
                json.dump({"max_batch_seconds": self.seconds}, file)

    def load(self, checkpoint: str) -> None:
        """Go on with the budget of a checkpoint, so that a resumed run has the batches of one that did not stop.

        A checkpoint without one, resumed with `allow_changed_resume`, is of a run with a number: there a trial decides.
        """
        path = os.path.join(checkpoint, BUDGET_FILE)
        if self.found and os.path.exists(path):
            with open(path) as file:
                self.seconds = json.load(file)["max_batch_seconds"]

    def of(self, seconds: np.ndarray) -> float:
        """The budget for clips of these seconds, in the order of the training rows.

        Raises:
            ValueError: the longest clip alone does not fit the memory.
        """
        if self.seconds is None:
            self.seconds = self._try(seconds)
        return self.seconds

    def _try(self, seconds: np.ndarray) -> float:
        trainer, order = self.trainer, np.argsort(-seconds, kind="stable")
        longest = float(seconds[order[0]])
        most = min(trainer._train_batch_size, len(order))
        clips = largest_number(lambda n: fits_memory(trainer, trainer.train_dataset.select(order[:n].tolist())), most)
        if clips == 0:
            raise ValueError(
                f"Forward and backward of the longest clip alone ({longest:.2f} s) do not fit the memory of "
                f"{trainer.args.device}. Leave long clips out with max_audio_seconds, or use gradient_checkpointing, "
                "bf16, an adapter or a smaller model."
            )
        found = max(math.ceil(10 * longest), math.floor(10 * _USED_SHARE * clips * longest)) / 10
        bound = f"; per_device_train_batch_size={most} allows no more" if clips == most else ""
        logger.warning(
            f"max_batch_seconds={AUTO!r}: {clips} clips of {longest:.2f} s fit{bound}. The budget is {found:g} s; "
            f"--max_batch_seconds {found:g} gives the same batches without a trial."
        )
        return found


def fits_memory(trainer: Any, rows: Dataset) -> bool:
    """Whether forward and backward of these rows fit, beside the optimizer's state; leaves no trace in the trainer.

    Args:
        trainer: a `SpeechTrainer` before its first step.
    """
    buffers = [(buffer, buffer.clone()) for buffer in trainer.model.buffers()]
    devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    fits = True
    with torch.random.fork_rng(devices=devices):
        try:
            _step_beside_state(trainer, rows)
        except torch.OutOfMemoryError:
            fits = False
    # behind the handler, whose traceback would hold the batch
    trainer.model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    if devices:
        torch.cuda.empty_cache()
    return fits


def _step_beside_state(trainer: Any, rows: Dataset) -> None:
    """A step with as much memory taken as Adam's two moments of each trained weight will take."""
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    state = [torch.empty_like(weight, dtype=torch.float32) for weight in trained for _ in range(2)]
    trainer.try_batch(list(rows))
    del state


def planned_loader(rows: Dataset, plan: Sampler[list[int]], args: SpeechConfig, collate: Any) -> DataLoader:
    """A loader of planned batches, with the settings that the config has for loaders."""
    names = [name for name in _LOADER_SETTINGS if hasattr(args, f"dataloader_{name}")]
    return DataLoader(
        rows,
        batch_sampler=plan,
        collate_fn=collate,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        **{name: getattr(args, f"dataloader_{name}") for name in names},
    )


def tell_plan(plan: EpochPlan, family: SpeechFamily, args: SpeechConfig) -> None:
    """Log what a budget of seconds brings, what bounds it, and whether the model has any use of it."""
    found = plan.padding()
    logger.warning(
        f"max_batch_seconds={plan.max_seconds:g}: {len(plan.seconds):,} clips in {found.batches:,} batches an epoch; "
        f"{found.padded_share:.1%} of the seconds are padding."
    )
    if found.bounded_by_clips:
        logger.warning(
            f"{found.bounded_by_clips:,} of them have room for more clips than per_device_train_batch_size="
            f"{args.per_device_train_batch_size} allows. Raise it."
        )
    if pads_to_window(family, float(plan.seconds.min()), float(plan.seconds.max())):
        logger.warning(
            f"{type(family).__name__} pads every clip to the same window, so max_batch_seconds saves no compute; it "
            "only bounds the number of clips in a batch."
        )


def pads_to_window(family: SpeechFamily, shortest: float, longest: float) -> bool:
    """Whether a family makes equally many features of two clips that differ in length, in seconds."""
    if shortest == longest:
        return False
    noise = np.random.default_rng(0).normal(scale=0.1, size=math.ceil(longest * family.sampling_rate))
    clips = [noise[: int(seconds * family.sampling_rate)].astype(np.float32) for seconds in (shortest, longest)]
    short, long = ({name: made.shape for name, made in family.features([clip]).items()} for clip in clips)
    return short == long
