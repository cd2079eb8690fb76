"""Rows, rewards and trainers for the rollout tests: tiny Whisper, clips that differ, rewards that need no luck."""

from __future__ import annotations

from typing import Any

from audiorl.trainers.grpo import GRPOConfig, GRPOTrainer
from audiorl.trainers.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper
from tests.trainers.pair_rows import CHOSEN


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
    made = [
        {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "text": CHOSEN[i]}
        for i, clip in enumerate(tiny_clips(count))
    ]
    return [{**row, **{name: values[i] for name, values in columns.items()}} for i, row in enumerate(made)]


def settings(output_dir: Any) -> dict[str, Any]:
    """Few steps on a CPU, nothing saved, nothing shown."""
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "num_generations": 4,
        "max_completion_length": 36,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 7,
    }


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
