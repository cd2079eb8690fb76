"""Rows and trainers for the trainer tests: tiny Whisper, clips that differ, texts of uneven length."""

from __future__ import annotations

import copy
from typing import Any

from audiorl.trainers.cost import is_cost
from audiorl.trainers.dpo import DPOConfig, DPOTrainer
from tests.tiny_models import SAMPLING_RATE, tiny_clips, tiny_whisper

CHOSEN = (
    "the quick brown fox",
    "she had your dark suit in greasy wash water",
    "the lazy dog",
    "all year",
    "jumps over",
    "brown fox jumps over the dog",
    "water",
    "your dark suit",
)
REJECTED = ("the quick", "she had", "lazy lazy dog dog", "year", "jumps over over", "brown", "greasy water", "dark")
# Adam and clipping hide a gradient that is too large; plain steps move the weights by it.
PLAIN_STEPS = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1e-2}


def pair_rows(count: int = 8, **columns: list) -> list[dict[str, Any]]:
    """`count` <= 8 rows of about 0.9 s with `chosen` and `rejected`."""
    rows = [
        {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "chosen": CHOSEN[i], "rejected": REJECTED[i]}
        for i, clip in enumerate(tiny_clips(count))
    ]
    return [{**row, **{name: values[i] for name, values in columns.items()}} for i, row in enumerate(rows)]


# transformers 5.23 gave it another name
CHECKPOINTING = next(f for f in ("activation_checkpointing", "gradient_checkpointing") if hasattr(DPOConfig, f))


def settings(output_dir: Any) -> dict[str, Any]:
    """Of any trainer: few steps on a CPU, nothing saved, nothing shown."""
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 7,
    }


def config(output_dir: Any, **changes: Any) -> DPOConfig:
    return DPOConfig(**{**settings(output_dir), **changes})


def trainer(output_dir: Any, rows: Any = None, *, kind: str = "english", **changes: Any) -> DPOTrainer:
    """A `DPOTrainer` on a fresh tiny model; `trainer_` prefixed changes go to the trainer, the others to the config."""
    options = {
        name.removeprefix("trainer_"): changes.pop(name) for name in list(changes) if name.startswith("trainer_")
    }
    model, processor = tiny_whisper(kind)
    model = options.pop("model", model)
    return DPOTrainer(
        model,
        args=config(output_dir, **changes),
        train_dataset=pair_rows() if rows is None else rows,
        processing_class=options.pop("processing_class", processor),
        **options,
    )


def logged(trainer: Any, name: str) -> list[float]:
    """A number of the log, wherever it was logged."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def apart_from_cost(log: dict[str, Any]) -> dict[str, Any]:
    """A log without what the run costs, which no two runs share."""
    return {name: value for name, value in log.items() if not is_cost(name)}


def weights(model: Any) -> dict[str, Any]:
    """A copy of all parameters by name."""
    return {name: copy.deepcopy(parameter.detach()) for name, parameter in model.named_parameters()}


def largest_difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)
