"""`audiorl dpo`: what `examples/dpo_whisper.py` does."""

from __future__ import annotations

from collections.abc import Sequence

from audiorl.demo.settings import DEMO_ARGUMENTS
from audiorl.trainers.dpo import DPOConfig, DPOTrainer
from audiorl.tuning import tune_on_pairs


def main(argv: Sequence[str] | None = None) -> None:
    tune_on_pairs(DPOTrainer, DPOConfig, argv, demo_arguments=DEMO_ARGUMENTS["dpo"])
