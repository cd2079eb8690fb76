"""What the example scripts and the trainers' commands share: flags, rows from a name, a model from flags."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from accelerate.utils import gather_object
from datasets import Dataset, load_dataset
from torch import nn
from tqdm.auto import tqdm
from trl import ModelConfig, ScriptArguments, get_quantization_config

from audiorl import flags
from audiorl.adapters import SpeechModelConfig, adapter_config, require_bitsandbytes
from audiorl.datasets import SkippedRows, speech_rows
from audiorl.datasets.columns import ColumnNames, column_names
from audiorl.datasets.corpora import first_rows, load_named
from audiorl.datasets.corpus import Corpus, named_corpus
from audiorl.exits import MISTYPED, stop
from audiorl.exits import run as run
from audiorl.model_card import DataSource
from audiorl.models import base_model, shorten_window, speech_family
from audiorl.pairs import MinedPairs, mine_pairs
from audiorl.trainers.checkpoints import check_resume
from audiorl.trainers.clips import rows_within_bounds
from audiorl.trainers.config import SpeechConfig
from audiorl.trainers.loading import load_model, load_processor, plan_adapter

DEMO = "demo"
# split -> clips, seed of the clips; audiorl/demo/README.md says how the settings of the demo were chosen
DEMO_CLIPS = {"tune": (480, 0), "held_out": (240, 1)}


@dataclass
class RowScriptArguments(ScriptArguments):
    """Where rows come from. A file or folder has no splits; a Hub name has `dataset_train_split` and `_test_split`.

    So has a corpus (`audiorl datasets` lists them), whose language `dataset_config` or the config's `language` chooses.
    """

    eval_dataset_name: str | None = field(
        default=None,
        metadata={"help": "Rows to measure WER on before and after; default the dataset's own test split."},
    )
    limit: int | None = field(
        default=None,
        metadata={"help": "At most so many rows to train on, and as many to measure on; 1 or more, default all."},
    )


@dataclass
class RewardScriptArguments(RowScriptArguments):
    """Rows, and the rewards their hypotheses get; `reward_weights` is the trainer's."""

    reward_funcs: list[str] = field(
        default_factory=lambda: ["one_minus_wer"],
        metadata={
            "help": "Rewards by name (audiorl.rewards.reward_names lists them) or by dotted path, my_module.my_reward; "
            "modules in the working folder are found."
        },
    )


@dataclass
class SpeechScriptArguments(RowScriptArguments):
    """Rows, and how pairs are mined from transcribed ones."""

    num_generations: int = field(
        default=8,
        metadata={"help": "Hypotheses sampled for each clip where rows bring no pairs but transcripts."},
    )
    mining_temperature: float = field(default=1.0, metadata={"help": "Temperature of those hypotheses, above 0."})


def parse(
    configs: Sequence[type],
    demo_arguments: Sequence[str] = (),
    argv: Sequence[str] | None = None,
    *,
    refused: Mapping[str, str] | None = None,
) -> tuple:
    """Dataclasses filled from the command line; without a model and a data set, from `demo_arguments` first.

    See `audiorl.flags.parse`. A checkpoint to resume from is looked for now, before pairs are mined and clips decoded.
    """
    parsed = flags.parse(configs, demo_arguments, argv, refused=refused)
    for args in parsed:
        if isinstance(args, SpeechConfig):
            try:
                args.resume_from_checkpoint = check_resume(args)
            except (ValueError, FileNotFoundError) as error:
                stop(str(error), MISTYPED)
    return parsed


def train_rows(
    script: RowScriptArguments, args: SpeechConfig | None = None, *, columns: ColumnNames | None = None
) -> Any:
    """The rows to train on, by file, folder or Hub name, or the demo's; with `args`, those of the length it wants.

    Args:
        columns: see `speech_rows`; default those of `args`.
    """
    rows = _rows(script, script.dataset_name, script.dataset_train_split, args, columns)
    return rows if args is None else rows_within_bounds(rows, args, "training rows")


def test_rows(
    script: RowScriptArguments, args: SpeechConfig | None = None, *, columns: ColumnNames | None = None
) -> Any:
    """The rows to measure on, likewise; None where a file was given to train on and no other to measure.

    Raises:
        ValueError: with `args`, whose run measures before and after: fewer than two clips.
    """
    on_disk = script.dataset_name != DEMO and os.path.exists(script.dataset_name or "")
    if script.eval_dataset_name is None and on_disk:
        return None
    own = script.dataset_name
    if own is not None and named_corpus(own) is not None:
        own = own.partition(":")[0]  # a split that its name gives is the one trained on
    rows = _rows(script, script.eval_dataset_name or own, script.dataset_test_split, args, columns)
    if args is None:
        return rows
    rows = rows_within_bounds(rows, args, "test rows")
    if isinstance(rows, Dataset) and len(rows) < 2:
        raise ValueError(
            "Before and after are compared with intervals, which one held-out clip does not have. Measure on more "
            "clips (--eval_dataset_name), or leave the held-out rows out."
        )
    return rows


def data_source(script: RowScriptArguments, *, test: bool = False, mined: bool = False) -> DataSource:
    """What the rows of `train_rows`, or of `test_rows`, are called on the tuned model's card.

    Args:
        mined: whether pairs were mined from them, as `SpeechScriptArguments` says.
    """
    if mined:
        return mined_source(data_source(script, test=test), cast(SpeechScriptArguments, script))
    name, split = script.dataset_name, script.dataset_train_split
    if test:
        name, split = script.eval_dataset_name or name, script.dataset_test_split
    if name == DEMO:
        return DataSource("synthetic speech of the demo", split="held_out" if test else "tune")
    if name is not None and (named := named_corpus(name)) is not None:
        own = None if test and script.eval_dataset_name is None else named.split
        return _corpus_source(named.corpus, own or split, script.dataset_config)
    if name is None or os.path.exists(name):
        return DataSource(None if name is None else os.path.basename(os.path.abspath(name)))
    return DataSource(name, on_hub=True, config=script.dataset_config, split=split)


def mined_source(source: DataSource, script: SpeechScriptArguments) -> DataSource:
    """Rows of transcripts that `with_pairs` made pairs of, as the card names them."""
    how = (
        f"Chosen is a clip's transcript, rejected the worst of {script.num_generations} hypotheses that the model "
        f"itself sampled before training, at temperature {script.mining_temperature:g}."
    )
    return replace(source, pairs=how)


def _corpus_source(corpus: Any, split: str, language: str | None) -> DataSource:
    if not isinstance(corpus, Corpus):  # an object of a user's own
        return DataSource(corpus.name, config=language, split=split)
    part = corpus.part(split)
    config = part.config or corpus.config or language
    return DataSource(part.hub_id or corpus.hub_id, on_hub=True, config=config, split=part.split)


def _rows(
    script: RowScriptArguments,
    name: str | None,
    split: str,
    args: SpeechConfig | None,
    columns: ColumnNames | None,
) -> Any:
    columns = column_names(args.columns if columns is None and args is not None else columns)
    if name is None:
        raise ValueError("No rows to train on. Pass --dataset_name with a JSON lines file, a folder, or a Hub name.")
    limit, streaming = script.limit, script.dataset_streaming
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is how many rows to take, 1 or more; got {limit}. Leave it out to take all.")
    if name != DEMO and (named := named_corpus(name)) is not None:
        language = script.dataset_config or (args and args.language)
        return load_named(named, split, language, limit=limit, streaming=streaming, columns=columns)
    if name == DEMO:
        rows = speech_rows(_demo_rows("tune" if split == script.dataset_train_split else "held_out"))
    elif os.path.exists(name) or name.endswith((".json", ".jsonl")):
        rows = speech_rows(name, columns=columns, keep_unread=True)  # whoever uses them checks them
    else:
        found = load_dataset(name, script.dataset_config, split=split, streaming=streaming)
        rows = speech_rows(found, columns=columns)
    return first_rows(rows, limit)


def _demo_rows(split: str) -> list[dict[str, Any]]:
    from audiorl.demo import iterate_demo_rows

    count, seed = DEMO_CLIPS[split]
    quiet = int(os.environ.get("RANK", "0")) != 0  # None: also where there is no terminal
    rows = iterate_demo_rows(split, count, seed)
    return list(tqdm(rows, desc=f"Synthesising {split} speech", total=count, unit="clip", disable=quiet or None))


def adapter_and_quantization(model: ModelConfig) -> tuple[Any, Any]:
    """`peft_config` and `quantization_config` from the model flags; AdaLoRA is told its steps by the trainer."""
    if model.load_in_8bit or model.load_in_4bit:
        require_bitsandbytes("--load_in_8bit" if model.load_in_8bit else "--load_in_4bit")
    return adapter_config(model), get_quantization_config(model)


def load_from_flags(model: SpeechModelConfig, args: SpeechConfig) -> tuple[nn.Module, Any, Any]:
    """Model, processor and the adapter to be added, checked against each other before anything is spent on rows.

    `model_init_kwargs` are used up here, with --dtype and --model_revision among them.
    """
    if model.model_name_or_path is None:
        raise ValueError("No model to train. Pass --model_name_or_path with a checkpoint's folder or Hub name.")
    adapter, quantization = adapter_and_quantization(model)
    given: dict[str, Any] = dict(args.model_init_kwargs or {})  # type: ignore[arg-type]
    flags = {"dtype": model.dtype, "revision": model.model_revision}
    if clash := [name for name in flags if name in given]:
        raise ValueError(f"{clash} are in --model_init_kwargs and flags of their own. Leave them out of the former.")
    args.model_init_kwargs = {**given, **flags}
    loaded = load_model(model.model_name_or_path, args, quantization)
    args.model_init_kwargs = None
    processor = load_processor(None, loaded)
    if model.audio_window_seconds is not None:
        shorten_window(loaded, processor, model.audio_window_seconds)
    return loaded, processor, plan_adapter(loaded, adapter)


def place(model: nn.Module, args: SpeechConfig) -> nn.Module:
    """The model on the device it will be trained on; a quantised one stays where it was loaded."""
    return model if getattr(base_model(model), "is_quantized", False) else model.to(args.device)


def mining_options(model: nn.Module, processor: Any, args: SpeechConfig) -> dict[str, Any]:
    """Arguments of `mine_pairs` that a trainer's config decides: language and task, batches, seed, bad rows."""
    family = speech_family(model, processor)
    family.set_defaults(language=args.language, task=args.task)
    skipped = SkippedRows(os.path.join(args.output_dir, "skipped_rows.jsonl"))
    return {
        "family": family,
        "batch_size": args.per_device_eval_batch_size,
        "allow_silence": args.allow_silence,
        "seed": args.seed,
        "progress": args.process_index == 0,
        "skipped": skipped if args.on_bad_rows == "skip" else None,
    }


def with_pairs(model: nn.Module, processor: Any, rows: Any, script: SpeechScriptArguments, args: SpeechConfig) -> Any:
    """Rows that bring `chosen` and `rejected` as they are; transcribed rows become pairs, each process its share."""
    columns = rows.column_names or ()
    if "text" not in columns or "rejected" in columns or not isinstance(rows, Dataset):
        return rows
    share = rows.shard(args.world_size, args.process_index)
    mined = mine_pairs(
        place(model, args),
        processor,
        share,
        num_generations=script.num_generations,
        temperature=script.mining_temperature,
        **mining_options(model, processor, args),
    )
    found = gather_object([mined]) if args.world_size > 1 else [mined]
    clips = sum(part.clips for part in found)
    together = MinedPairs(
        [row for part in found for row in part.rows],
        clips,
        sum(p.mean_wer * p.clips for p in found) / max(clips, 1),
    )
    if args.process_index == 0:
        print(together)
    if not together.rows:
        raise ValueError(
            "The model made no mistake on these clips, so there are no pairs to learn from. Use harder clips, or raise "
            "--mining_temperature."
        )
    return together.rows
