"""RAFT trainers on tiny models, for the tests of RAFT."""

from __future__ import annotations

from typing import Any

from audiorl.trainers.raft import RAFTConfig, RAFTTrainer
from tests.tiny_models import tiny_whisper
from tests.trainers.grpo_rows import letters, rows
from tests.trainers.pair_rows import settings as pair_settings


def settings(output_dir: Any) -> dict[str, Any]:
    """Two cycles on a CPU, nothing saved, nothing shown; four short hypotheses."""
    ours = {name: value for name, value in pair_settings(output_dir).items() if name != "num_train_epochs"}
    return {**ours, "num_cycles": 2, "num_generations": 4, "max_completion_length": 36}


def config(output_dir: Any, **changes: Any) -> RAFTConfig:
    return RAFTConfig(**{**settings(output_dir), **changes})


def trainer(output_dir: Any, train_rows: Any = None, **changes: Any) -> RAFTTrainer:
    """A trainer on a fresh tiny model; `trainer_` prefixed changes go to the trainer, the others to the config."""
    options = {
        name.removeprefix("trainer_"): changes.pop(name) for name in list(changes) if name.startswith("trainer_")
    }
    model, processor = tiny_whisper()
    return RAFTTrainer(
        options.pop("model", model),
        options.pop("reward_funcs", [letters]),
        args=config(output_dir, **changes),
        train_dataset=rows() if train_rows is None else train_rows,
        processing_class=options.pop("processing_class", processor),
        **options,
    )
