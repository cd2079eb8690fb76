"""`audiorl sft`, `dpo`, `orpo`, `kto`, `grpo` and `raft`: a whole run from flags, as the examples do it.

A trainer of your own takes the place of ours: `tune_on_pairs(MyTrainer, MyConfig)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn

from audiorl.adapters import SpeechModelConfig
from audiorl.datasets import SkippedRows, register_corpus
from audiorl.demo import DEMO_ARGUMENTS, DemoSpeech
from audiorl.elsewhere import ORPO_REFUSED
from audiorl.evaluation import Comparison, Decoded
from audiorl.exits import interruptible
from audiorl.flags import (
    RewardScriptArguments,
    RowScriptArguments,
    SpeechScriptArguments,
    data_source,
    load_from_flags,
    mined_source,
    parse,
    place,
    test_rows,
    train_rows,
)
from audiorl.model_card import DataSource
from audiorl.models import speech_family
from audiorl.pairs import MinedPairs, mine_pairs, unpaired_rows
from audiorl.rewards import RewardSet
from audiorl.terminal import wrapped
from audiorl.trainers.base import SpeechTrainer
from audiorl.trainers.clips import warn_of_clips_trained_on
from audiorl.trainers.config import SpeechConfig
from audiorl.trainers.dpo import DPOConfig, DPOTrainer
from audiorl.trainers.grpo import GRPOConfig, GRPOTrainer
from audiorl.trainers.kto import KTOConfig, KTOTrainer
from audiorl.trainers.orpo import ORPOConfig, ORPOTrainer
from audiorl.trainers.raft import RAFTConfig, RAFTTrainer
from audiorl.trainers.rollout_trainer import RewardedTrainer
from audiorl.trainers.sft import SFTConfig, SFTTrainer


class Method(NamedTuple):
    """How a command tunes: `tune(trainer, config, argv)`, whose flags are the fields of `flags`, config and model."""

    tune: Callable[..., Measured | None]
    trainer: Callable[..., SpeechTrainer]
    config: type[SpeechConfig]
    flags: type[RowScriptArguments]
    refused: Mapping[str, str] = MappingProxyType({})


def sft(argv: Sequence[str] | None = None) -> None:
    run_method("sft", argv, DEMO_ARGUMENTS["sft"])


def dpo(argv: Sequence[str] | None = None) -> None:
    run_method("dpo", argv, DEMO_ARGUMENTS["dpo"])


def orpo(argv: Sequence[str] | None = None) -> None:
    run_method("orpo", argv, DEMO_ARGUMENTS["orpo"])


def kto(argv: Sequence[str] | None = None) -> None:
    run_method("kto", argv, DEMO_ARGUMENTS["kto"])


def grpo(argv: Sequence[str] | None = None) -> None:
    run_method("grpo", argv, DEMO_ARGUMENTS["grpo"])


def raft(argv: Sequence[str] | None = None) -> None:
    run_method("raft", argv, DEMO_ARGUMENTS["raft"])


def tune_on_transcripts(
    trainer_class: Callable[..., SpeechTrainer],
    config: type[SpeechConfig],
    argv: Sequence[str] | None = None,
    *,
    demo_arguments: Sequence[str] = (),
    before: Decoded | None = None,
    next_steps: bool = True,
) -> Measured | None:
    """Tune on rows with `text`.

    Args:
        trainer_class: called as `SFTTrainer` is.
        config: its config; every field is a flag, beside those of `RowScriptArguments` and `SpeechModelConfig`.
        argv, demo_arguments: see `audiorl.flags.parse`.
        before, next_steps: see `tune_and_measure`.
    """
    return _tune_on_rows(trainer_class, RowScriptArguments, config, argv, demo_arguments, before, next_steps)


def tune_on_pairs(
    trainer_class: Callable[..., SpeechTrainer],
    config: type[SpeechConfig],
    argv: Sequence[str] | None = None,
    *,
    demo_arguments: Sequence[str] = (),
    before: Decoded | None = None,
    next_steps: bool = True,
    refused: Mapping[str, str] | None = None,
    prepare: Callable[..., Any] | None = None,
) -> Measured | None:
    """Tune on rows with `chosen` and `rejected`, or with `text`, from which pairs are mined first.

    Args:
        trainer_class: called as `DPOTrainer` is.
        config: its config; every field is a flag, beside those of `SpeechScriptArguments` and `SpeechModelConfig`.
        argv, demo_arguments, refused: see `audiorl.flags.parse`.
        before, next_steps: see `tune_and_measure`.
        prepare: makes the rows that the trainer takes; called as `with_pairs`, which is the default.
    """
    # 1. Flags: every field of the three classes
    prepare = prepare or with_pairs
    register_corpus(DemoSpeech(), replace=True)
    script, args, model_args = parse(
        (SpeechScriptArguments, config, SpeechModelConfig), demo_arguments, argv, refused=refused
    )

    # 2. Model and rows; transcripts without pairs are paired with the model's own worst hypotheses
    model, processor, adapter = load_from_flags(model_args, args)
    rows = train_rows(script, args)
    pairs = prepare(model, processor, rows, script, args)
    held_out = test_rows(script, args)
    evaluated = None
    if args.eval_strategy != "no" and held_out is not None:
        evaluated = prepare(model, processor, held_out, script, args)

    # 3. Tune, with WER before and after
    trainer = trainer_class(
        model,
        args=args,
        train_dataset=pairs,
        eval_dataset=evaluated,
        processing_class=processor,
        peft_config=adapter,
    )
    source = data_source(script)
    mined = "rejected" not in (rows.column_names or ()) and pairs is not rows
    trainer.record_data(mined_source(source, script) if mined else source)
    source = data_source(script, test=True)
    merge = model_args.merge_adapter
    return tune_and_measure(trainer, held_out, source, merge_adapter=merge, before=before, next_steps=next_steps)


def tune_on_rewards(
    trainer_class: Callable[..., SpeechTrainer],
    config: type[SpeechConfig],
    argv: Sequence[str] | None = None,
    *,
    demo_arguments: Sequence[str] = (),
    before: Decoded | None = None,
    next_steps: bool = True,
) -> Measured | None:
    """Tune on rows with `audio` and what the rewards read.

    Args:
        trainer_class: called as `GRPOTrainer` is.
        config: its config; every field is a flag, beside those of `RewardScriptArguments` and `SpeechModelConfig`.
        argv, demo_arguments: see `audiorl.flags.parse`.
        before, next_steps: see `tune_and_measure`.
    """
    return _tune_on_rows(trainer_class, RewardScriptArguments, config, argv, demo_arguments, before, next_steps)


def _tune_on_rows(
    trainer_class: Callable[..., SpeechTrainer],
    kind: type[RowScriptArguments],
    config: type[SpeechConfig],
    argv: Sequence[str] | None,
    demo_arguments: Sequence[str],
    before: Decoded | None,
    next_steps: bool,
) -> Measured | None:
    """The two functions above: a trainer whose rows are taken as they are, with rewards if the flags name some."""
    # 1. Flags: every field of the three classes; rewards are found before anything is loaded
    register_corpus(DemoSpeech(), replace=True)
    script, args, model_args = parse((kind, config, SpeechModelConfig), demo_arguments, argv)
    rewards = [script.rewards()] if isinstance(script, RewardScriptArguments) else []
    for names in rewards:
        RewardSet(names, args.reward_weights)

    # 2. Model and rows
    model, processor, adapter = load_from_flags(model_args, args)
    held_out = test_rows(script, args)

    # 3. Tune, with WER before and after
    trainer = trainer_class(
        model,
        *rewards,
        args=args,
        train_dataset=train_rows(script, args),
        eval_dataset=held_out if args.eval_strategy != "no" else None,
        processing_class=processor,
        peft_config=adapter,
    )
    trainer.record_data(data_source(script))
    source = data_source(script, test=True)
    merge = model_args.merge_adapter
    return tune_and_measure(trainer, held_out, source, merge_adapter=merge, before=before, next_steps=next_steps)


class Measured(NamedTuple):
    """What a model said of the rows to measure on, before and after tuning."""

    before: Decoded
    after: Decoded
    comparison: Comparison


def tune_and_measure(
    trainer: SpeechTrainer,
    held_out: Any,
    source: DataSource | None = None,
    *,
    merge_adapter: bool = False,
    before: Decoded | None = None,
    next_steps: bool = True,
) -> Measured | None:
    """Train, save, measure, push where that is asked for, and say what came of it.

    Everything is written before anything is printed: whoever reads the output may stop reading, as `head` does. It is
    printed too where merging or pushing fails.

    Args:
        held_out: rows to measure WER, or the accuracy of labels, on before and after; None measures nothing.
        source: what the card calls them.
        merge_adapter: write the adapter merged into its base beside `output_dir`.
        before: what the model says of `held_out` now, where that is known; default it is decoded.
        next_steps: see `SpeechTrainer.tell`.

    Returns:
        None without rows to measure on.

    Raises:
        ValueError: another run writes to `output_dir`, before anything is trained.
    """
    args = trainer.args
    if args.process_index == 0:
        trainer.checkpoints.claim()
    if args.eval_strategy == "no":  # else the trainer has said it
        warn_of_clips_trained_on(trainer.train_dataset, held_out, args, "the rows to measure on")
    if held_out is None:
        before = None
    elif before is None:
        before = trainer.decode(held_out)
    trainer.run_report.comes_later = before is not None
    with interruptible(trainer.saver.way_on):
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    found: list[str] = []
    measured = None
    if before is not None:
        after = trainer.decode(held_out)
        measured = Measured(before, after, trainer.record_evaluation(before, after, source, rows=held_out))
    found += trainer.rewards.told() if isinstance(trainer, RewardedTrainer) else []
    try:
        if merge_adapter and (merged := trainer.save_merged()) is not None:
            found.append(f"Base and adapter merged lie in {merged}")
        if args.push_to_hub:
            trainer.push_to_hub()
    finally:
        trainer.tell(*found, next_steps=next_steps)
    return measured


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
        print(wrapped(str(together)))
    if not together.rows:
        raise ValueError(
            "The model made no mistake on these clips, so there are no pairs to learn from. Use harder clips, or raise "
            "--mining_temperature."
        )
    return together.rows


def with_judgements(
    model: nn.Module, processor: Any, rows: Any, script: SpeechScriptArguments, args: SpeechConfig
) -> Any:
    """Rows that bring `completion` and `label` as they are; pairs, mined where there are none, become such rows."""
    if "completion" in (rows.column_names or ()):
        return rows
    return unpaired_rows(with_pairs(model, processor, rows, script, args))


METHODS = {
    "sft": Method(tune_on_transcripts, SFTTrainer, SFTConfig, RowScriptArguments),
    "dpo": Method(tune_on_pairs, DPOTrainer, DPOConfig, SpeechScriptArguments),
    "orpo": Method(tune_on_pairs, ORPOTrainer, ORPOConfig, SpeechScriptArguments, ORPO_REFUSED),
    "kto": Method(partial(tune_on_pairs, prepare=with_judgements), KTOTrainer, KTOConfig, SpeechScriptArguments),
    "grpo": Method(tune_on_rewards, GRPOTrainer, GRPOConfig, RewardScriptArguments),
    "raft": Method(tune_on_rewards, RAFTTrainer, RAFTConfig, RewardScriptArguments),
}


def run_method(
    name: str,
    argv: Sequence[str] | None,
    demo_arguments: Sequence[str] = (),
    before: Decoded | None = None,
    *,
    next_steps: bool = True,
) -> Measured | None:
    """Tune as a key of `METHODS` says; the other arguments are those of `tune_on_pairs`."""
    method = METHODS[name]
    options: dict[str, Any] = {"demo_arguments": demo_arguments, "before": before, "next_steps": next_steps}
    if method.refused:
        options["refused"] = method.refused
    return method.tune(method.trainer, method.config, argv, **options)
