"""Trainers whose model gets an adapter: what tests of LoRA, AdaLoRA and quantised bases share."""

from __future__ import annotations

from peft import AdaLoraConfig

from audiorl.adapters import TOLD_BY_TRAINER
from tests.trainers.pair_rows import trainer

SAVING = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2}


def adalora(**changes) -> AdaLoraConfig:
    settings = {
        "init_r": 6,
        "target_r": 2,
        "target_modules": ["q_proj", "fc1"],
        "lora_alpha": 32,
        "total_step": TOLD_BY_TRAINER,
        "tinit": 1,
        "tfinal": 2,
    }
    return AdaLoraConfig(**{**settings, **changes})


def adapted(folder, config, **changes):
    """A trainer that gives a fresh tiny model an adapter; gradients large enough to be seen in a few steps."""
    return trainer(folder, trainer_peft_config=config, **{"learning_rate": 1e-2, **changes})
