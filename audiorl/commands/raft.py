"""`audiorl raft`: what `examples/raft_whisper.py` does."""

from __future__ import annotations

from collections.abc import Sequence

from audiorl.demo.settings import DEMO_ARGUMENTS
from audiorl.trainers.raft import RAFTConfig, RAFTTrainer
from audiorl.tuning import tune_on_rewards


def main(argv: Sequence[str] | None = None) -> None:
    tune_on_rewards(RAFTTrainer, RAFTConfig, argv, demo_arguments=DEMO_ARGUMENTS["raft"])
