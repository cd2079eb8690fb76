"""Flags, and what they name: the dataclasses whose fields are flags, the parser, rows, model and adapter.

    data, args, model_args = parse((SpeechScriptArguments, DPOConfig, SpeechModelConfig))
    model, processor, adapter = load_from_flags(model_args, args)
    rows, held_out = train_rows(data, args), test_rows(data, args)

The parser is TRL's: every field is a flag, `--config FILE.yaml` reads flags from a file. Misspelt flags are refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from trl import ScriptArguments

from audiorl.command_line import (
    HELP,
    HELP_ALL,
    Flag,
    as_word,
    check_flags,
    flags_of,
    former_flags,
    help_page,
    nearest_choice,
    renamed,
    switched_off,
    with_spaces,
)
from audiorl.exits import MISTYPED, stop
from audiorl.rewards.registry import RewardFlags
from audiorl.terminal import quiet_in_pipes

if TYPE_CHECKING:
    from torch import nn
    from trl import ModelConfig

    from audiorl.adapters import SpeechModelConfig
    from audiorl.datasets.corpora import HeldOut
    from audiorl.datasets.formats import ColumnNames
    from audiorl.model_card import DataSource
    from audiorl.trainers.config import SpeechConfig

# Flags that name a run of your own; without any of them the demo's flags are used
OF_ONES_OWN = ("--model_name_or_path", "--dataset_name", "--config", HELP_ALL, *HELP)


def parse(
    configs: Sequence[type],
    demo_arguments: Sequence[str] = (),
    argv: Sequence[str] | None = None,
    *,
    refused: Mapping[str, str] | None = None,
) -> tuple:
    """Dataclasses filled from the command line.

    Flags override `--config FILE.yaml`, which overrides the defaults. Misspelt flags, on the command line and in the
    file, end the program with the nearest one, flags of `refused` with the reason given there; abbreviations are not
    accepted.

    Args:
        configs: the dataclasses; every field is a flag.
        demo_arguments: flags to use if neither a model, a data set nor a config file is named.
        argv: default `sys.argv`.
        refused: flag -> why it is not accepted.

    Returns:
        One object for each class, in their order; a trainer's config names the checkpoint to resume from.
    """
    from trl.scripts.utils import TrlParser

    quiet_in_pipes()
    former, flags = former_flags(configs), flags_of(configs)
    argv = switched_off(renamed(with_spaces(sys.argv[1:] if argv is None else argv), former), flags)
    if not any(arg in OF_ONES_OWN for arg in argv):
        argv = [*demo_arguments, *argv]
    if asked := {*HELP, HELP_ALL} & set(argv):
        print(help_page(os.path.basename(sys.argv[0]), flags, everything=HELP_ALL in asked), end="")
        raise SystemExit(0)
    parser = TrlParser(list(configs), allow_abbrev=False)
    parser.error = lambda message: stop(nearest_choice(message), MISTYPED)
    try:
        check_flags(argv, flags, former, refused)
        parser = _reading_words(parser, flags, former)
        parsed = cast(tuple, parser.parse_args_and_config(argv))
        _find_checkpoints(parsed)
        return parsed
    except (ValueError, OSError) as error:
        stop(nearest_choice(str(error)), MISTYPED)


def _find_checkpoints(parsed: tuple) -> None:
    """Look for the checkpoint to resume from now, before pairs are mined and clips decoded."""
    for args in parsed:
        if getattr(args, "resume_from_checkpoint", None) is not None:
            from audiorl.trainers.checkpoints import check_resume

            args.resume_from_checkpoint = check_resume(args)


def _reading_words(parser: Any, flags: Mapping[str, Flag], former: Mapping[str, str]) -> Any:
    """The parser, reading a file as it reads the command line: former names, `[1e-5]` as numbers, `2024` as a name."""
    set_defaults = parser.set_defaults_with_config

    def set_read(**settings: Any) -> list[str]:
        today = {former.get(name, name): value for name, value in settings.items()}
        return set_defaults(**{name: as_word(flags[name], value) for name, value in today.items()})

    parser.set_defaults_with_config = set_read
    return parser


# ---- what flags name ----


@dataclass
class RowScriptArguments(ScriptArguments):
    """Where rows come from. A file or folder has no splits; a Hub name has `dataset_train_split` and `_test_split`.

    So has a corpus (`audiorl datasets` lists them), whose language `dataset_config` or the config's `language` chooses.
    """

    eval_dataset_name: str | None = field(
        default=None,
        metadata={"help": "Rows to measure WER on before and after; default the dataset's own test split."},
    )
    eval_share: float | None = field(
        default=None,
        metadata={
            "help": "Hold out this share of the rows to measure WER on, above 0 and below 1: whole speakers where rows "
            "have a `speaker`, the same ones in every run. For rows in one file. Unset: nothing is held out."
        },
    )
    limit: int | None = field(
        default=None,
        metadata={"help": "Train on at most this many rows, and measure on at most this many. 1 or more; unset: all."},
    )

    def __post_init__(self) -> None:
        if self.eval_share is None:
            return
        if not 0 < self.eval_share < 1:
            raise ValueError(
                f"--eval_share is the share of rows to hold out, above 0 and below 1; got {self.eval_share:g}. Write "
                "a tenth as 0.1."
            )
        if self.eval_dataset_name is not None:
            raise ValueError(
                "--eval_share holds rows of --dataset_name out, and --eval_dataset_name names others. Choose one."
            )


@dataclass
class RewardScriptArguments(RewardFlags, RowScriptArguments):
    """Rows, and the rewards their hypotheses get; `reward_weights` is the trainer's."""

    reward_funcs: list[str] = field(
        default_factory=lambda: ["one_minus_wer"],
        metadata={
            "help": "Rewards, by name (audiorl.rewards.reward_names lists them) or by dotted path: "
            "my_module.my_reward, also from a module in the working folder."
        },
    )

    def rewards(self) -> list[Any]:
        """The rewards with the settings that flags give them; see `RewardFlags.configured`."""
        return self.configured(self.reward_funcs)


@dataclass
class SpeechScriptArguments(RowScriptArguments):
    """Rows, and how pairs are mined from transcribed ones."""

    num_generations: int = field(
        default=8,
        metadata={"help": "How many hypotheses to sample for each clip if the rows have transcripts instead of pairs."},
    )
    mining_temperature: float = field(
        default=1.0, metadata={"help": "Temperature at which these hypotheses are sampled, above 0."}
    )


def train_rows(
    script: RowScriptArguments, args: SpeechConfig | None = None, *, columns: ColumnNames | None = None
) -> Any:
    """The rows to train on, by file, folder, corpus or Hub name; with `args`, those of the length it wants.

    Args:
        columns: see `speech_rows`; default those of `args`.
    """
    from audiorl.datasets.corpora import first_rows

    if getattr(script, "eval_share", None) is None:  # `audiorl pairs` has other arguments
        rows = _rows(script, script.dataset_name, script.dataset_train_split, args, columns)
    else:
        parts = _parts(script, args, columns)
        rows = first_rows(parts.train, _limit(script))
        if args is None or args.process_index == 0:
            print(parts, flush=True)
    if args is None:
        return rows
    from audiorl.trainers.clips import rows_within_bounds

    return rows_within_bounds(rows, args, "training rows")


def test_rows(
    script: RowScriptArguments, args: SpeechConfig | None = None, *, columns: ColumnNames | None = None
) -> Any:
    """The rows to measure on; None if the rows to train on are a file and no others are named.

    Raises:
        ValueError: with `args`, whose run measures before and after: fewer than two clips.
    """
    from audiorl.datasets.corpora import first_rows
    from audiorl.datasets.corpus import named_corpus

    own = script.dataset_name
    if script.eval_share is not None:
        rows = first_rows(_parts(script, args, columns).held_out, _limit(script))
        return rows if args is None else _measurable(rows, args)
    if script.eval_dataset_name is None and own is not None and named_corpus(own) is None and os.path.exists(own):
        return None
    if own is not None and named_corpus(own) is not None:
        own = own.partition(":")[0]  # a split that its name gives is the one trained on
    rows = _rows(script, script.eval_dataset_name or own, script.dataset_test_split, args, columns)
    return rows if args is None else _measurable(rows, args)


def _measurable(rows: Any, args: SpeechConfig) -> Any:
    """The rows of the length that the run wants; at least two."""
    from datasets import Dataset

    from audiorl.trainers.clips import rows_within_bounds

    rows = rows_within_bounds(rows, args, "test rows")
    if isinstance(rows, Dataset) and len(rows) < 2:
        raise ValueError(
            "Comparing before with after needs at least two held-out clips. Measure on more "
            "clips (--eval_dataset_name), or leave the held-out rows out."
        )
    return rows


def data_source(script: RowScriptArguments, *, test: bool = False, mined: bool = False) -> DataSource:
    """How the tuned model's card names the rows of `train_rows`, or of `test_rows`.

    Args:
        mined: whether pairs were mined from them, as `SpeechScriptArguments` says.
    """
    from audiorl.datasets.corpus import named_corpus
    from audiorl.model_card import DataSource

    if mined:
        return mined_source(data_source(script, test=test), cast(SpeechScriptArguments, script))
    if test and script.eval_share is not None:
        whole = data_source(replace(script, eval_share=None))
        return DataSource(f"{100 * script.eval_share:g}% of {whole}, held out")
    name, split = script.dataset_name, script.dataset_train_split
    if test:
        name, split = script.eval_dataset_name or name, script.dataset_test_split
    if name is not None and (named := named_corpus(name)) is not None:
        own = None if test and script.eval_dataset_name is None else named.split
        return _corpus_source(named.corpus, own or split, script.dataset_config)
    if name is None or os.path.exists(name):
        return DataSource(None if name is None else os.path.basename(os.path.abspath(name)))
    return DataSource(name, on_hub=True, config=script.dataset_config, split=split)


def mined_source(source: DataSource, script: SpeechScriptArguments) -> DataSource:
    """Transcribed rows from which pairs were mined, as the card names them."""
    how = (
        f"Chosen is a clip's transcript, rejected the worst of {script.num_generations} hypotheses that the model "
        f"itself sampled before training, at temperature {script.mining_temperature:g}."
    )
    return replace(source, pairs=how)


def _corpus_source(corpus: Any, split: str, language: str | None) -> DataSource:
    from audiorl.datasets.corpus import Corpus
    from audiorl.model_card import DataSource

    if not isinstance(corpus, Corpus):  # an object of a user's own
        return DataSource(corpus.name, config=language, split=split)
    part = corpus.part(split)
    config = part.config or corpus.config or language
    return DataSource(part.hub_id or corpus.hub_id, on_hub=True, config=config, split=part.split)


def _parts(script: RowScriptArguments, args: SpeechConfig | None, columns: ColumnNames | None) -> HeldOut:
    """The rows of `dataset_name` in two parts, the same in every run: other seeds are measured on the same clips."""
    from audiorl.datasets.corpora import hold_out

    whole = replace(script, limit=None)
    rows = _rows(whole, script.dataset_name, script.dataset_train_split, args, columns)
    return hold_out(rows, cast(float, script.eval_share))


def _limit(script: RowScriptArguments) -> int | None:
    limit = script.limit
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is how many rows to take, 1 or more; got {limit}. Leave it out to take all.")
    return limit


def _rows(
    script: RowScriptArguments,
    name: str | None,
    split: str,
    args: SpeechConfig | None,
    columns: ColumnNames | None,
) -> Any:
    from datasets import load_dataset

    from audiorl.datasets import speech_rows
    from audiorl.datasets.corpora import first_rows, load_named
    from audiorl.datasets.corpus import named_corpus
    from audiorl.datasets.formats import column_names

    columns = column_names(args.columns if columns is None and args is not None else columns)
    if name is None:
        raise ValueError("No rows to train on. Pass --dataset_name with a JSON lines file, a folder, or a Hub name.")
    limit, streaming = _limit(script), script.dataset_streaming
    if (named := named_corpus(name)) is not None:
        language = script.dataset_config or (args and args.language)
        return load_named(named, split, language, limit=limit, streaming=streaming, columns=columns)
    if os.path.exists(name) or name.endswith((".json", ".jsonl")):
        rows = speech_rows(name, columns=columns, keep_unread=True)  # whoever uses them checks them
    else:
        found = load_dataset(name, script.dataset_config, split=split, streaming=streaming)
        rows = speech_rows(found, columns=columns)
    return first_rows(rows, limit)


def adapter_and_quantization(model: ModelConfig) -> tuple[Any, Any]:
    """`peft_config` and `quantization_config` from the model flags; AdaLoRA is told its steps by the trainer."""
    from trl import get_quantization_config

    from audiorl.adapters import adapter_config, require_bitsandbytes

    if model.load_in_8bit or model.load_in_4bit:
        require_bitsandbytes("--load_in_8bit" if model.load_in_8bit else "--load_in_4bit")
    return adapter_config(model), get_quantization_config(model)


def load_from_flags(model: SpeechModelConfig, args: SpeechConfig) -> tuple[nn.Module, Any, Any]:
    """Model, processor and the adapter to be added, checked against each other before anything is spent on rows.

    `model_init_kwargs` are used up here, with --dtype and --model_revision among them.

    Returns:
        (model, processor, adapter): the model by the class that its config names, `--model_name_or_path` being a
        checkpoint or an adapter; its processor; a `PeftConfig`, None without --use_peft.

    Raises:
        ValueError: no such model, an adapter that does not fit it, or the same setting twice.
    """
    from audiorl.models import shorten_window, use_family
    from audiorl.trainers.loading import load_model, load_processor, plan_adapter

    if model.model_name_or_path is None:
        raise ValueError("No model to train. Pass --model_name_or_path with a checkpoint's folder or Hub name.")
    if model.family is not None:
        use_family(model.family)
    adapter, quantization = adapter_and_quantization(model)
    given: dict[str, Any] = dict(args.model_init_kwargs or {})  # type: ignore[arg-type]
    flags = {"dtype": model.dtype, "revision": model.model_revision}
    if clash := [name for name in flags if name in given]:
        raise ValueError(
            f"{clash} are in --model_init_kwargs, but have flags of their own. Take them out of --model_init_kwargs."
        )
    args.model_init_kwargs = {**given, **flags}
    loaded = load_model(model.model_name_or_path, args, quantization)
    args.model_init_kwargs = None
    processor = load_processor(None, loaded)
    if model.audio_window_seconds is not None:
        shorten_window(loaded, processor, model.audio_window_seconds)
    return loaded, processor, plan_adapter(loaded, adapter)


def place(model: nn.Module, args: SpeechConfig) -> nn.Module:
    """The model on the device it will be trained on; a quantised one stays where it was loaded."""
    from audiorl.models import base_model

    return model if getattr(base_model(model), "is_quantized", False) else model.to(args.device)
