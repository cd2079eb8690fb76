"""Rows, rewards and trainers for the rollout tests: tiny Whisper, clips that differ, rewards that need no luck."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiorl.trainers.grpo import GRPOConfig, GRPOTrainer
from audiorl.trainers.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from tests.tiny_models import tiny_whisper
from tests.trainers.pair_rows import (
    CHOSEN,
    PLAIN_STEPS,
    apart_from_cost,
    largest_difference,
    logged,
    pair_rows,
    weights,
)
from tests.trainers.pair_rows import settings as pair_settings


def letters(completions: list[str], text: list[str], **kwargs: Any) -> list[float]:
    """Share of the transcript's letters that a hypothesis has: random models differ in it, in WER they hardly do."""
    return [
        sum(letter in said for letter in true) / len(true) - 0.01 * len(said)
        for said, true in zip(completions, text, strict=True)
    ]


def shortness(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    return [-float(len(ids)) for ids in completion_ids]


def rows(count: int = 8, **columns: list) -> list[dict[str, Any]]:
    """`count` <= 8 rows of about 0.9 s with `audio`, `text` and other columns."""
    pairs = pair_rows(count, **{"text": list(CHOSEN), **columns})
    return [{name: value for name, value in row.items() if name not in ("chosen", "rejected")} for row in pairs]


def settings(output_dir: Any) -> dict[str, Any]:
    """Few steps on a CPU, nothing saved, nothing shown; four short hypotheses."""
    return {**pair_settings(output_dir), "num_generations": 4, "max_completion_length": 36}


def config(output_dir: Any, **changes: Any) -> GRPOConfig:
    return GRPOConfig(**{**settings(output_dir), **changes})


def trainer(output_dir: Any, train_rows: Any = None, *, online_dpo: bool = False, **changes: Any) -> Any:
    """A trainer on a fresh tiny model; `trainer_` prefixed changes go to the trainer, the others to the config."""
    options = {
        name.removeprefix("trainer_"): changes.pop(name) for name in list(changes) if name.startswith("trainer_")
    }
    model, processor = tiny_whisper(options.pop("kind", "english"))
    made, configured = (OnlineDPOTrainer, OnlineDPOConfig) if online_dpo else (GRPOTrainer, GRPOConfig)
    return made(
        options.pop("model", model),
        reward_funcs=options.pop("reward_funcs", [letters]),
        args=configured(**{**settings(output_dir), **changes}),
        train_dataset=rows() if train_rows is None else train_rows,
        processing_class=options.pop("processing_class", processor),
        **options,
    )


def check_that_it_learns_two_words(
    model: Any, processor: Any, folder: Any, clips: Sequence[dict[str, Any]], peft_config: Any = None, **changes: Any
) -> GRPOTrainer:
    """GRPO on clips that say one of two words raises 1 - WER by 0.2 or more.

    Args:
        clips: rows without their words.
        changes: of the config.

    Returns:
        The trainer after training.
    """
    said = [{**row, "text": ("dog", "so")[i % 2]} for i, row in enumerate(clips)]
    steps = {"lr_scheduler_type": "constant", "per_device_train_batch_size": 4, "num_generations": 8}
    args = config(folder, **{"learning_rate": 3e-3, **steps, **changes})
    grpo = GRPOTrainer(
        model, "one_minus_wer", args, train_dataset=said, processing_class=processor, peft_config=peft_config
    )
    grpo.train()
    rewards = logged(grpo, "reward")
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.2, rewards
    return grpo


def check_accumulation(make: Callable[..., Any], folder: Path, steps: int, **settings: Any) -> None:
    """Four micro-batches of one clip are one batch of four, of six rows: same weights, same log.

    Args:
        make: `trainer` of this module or of another one.
        steps: optimizer steps of the whole run.
        settings: of both runs.
    """
    shared = {**PLAIN_STEPS, **settings}
    big = make(folder / "a", rows(6), per_device_train_batch_size=4, **shared)
    small = make(folder / "b", rows(6), per_device_train_batch_size=1, gradient_accumulation_steps=4, **shared)
    start = weights(big.model)
    big.train()
    small.train()
    assert big.state.global_step == small.state.global_step == steps
    assert largest_difference(weights(big.model), weights(small.model)) < 2e-6
    assert largest_difference(start, weights(big.model)) > 1e-3
    logs = [[apart_from_cost(log) for log in run.state.log_history[:-1]] for run in (big, small)]
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"epoch"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
