"""Rows, rewards and trainers for the rollout tests: tiny Whisper, clips that differ, rewards that need no luck."""

from __future__ import annotations

from typing import Any

from audiorl.trainers.grpo import GRPOConfig, GRPOTrainer
from audiorl.trainers.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from tests.tiny_models import tiny_whisper
from tests.trainers.pair_rows import CHOSEN, pair_rows
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
        options.pop("reward_funcs", [letters]),
        args=configured(**{**settings(output_dir), **changes}),
        train_dataset=rows() if train_rows is None else train_rows,
        processing_class=options.pop("processing_class", processor),
        **options,
    )
