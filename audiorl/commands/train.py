"""`audiorl sft`, `dpo`, `orpo`, `grpo` and `raft`: what the example script of each method does."""

from __future__ import annotations

from collections.abc import Sequence

from audiorl.demo.settings import DEMO_ARGUMENTS
from audiorl.elsewhere import ORPO_REFUSED
from audiorl.trainers.dpo import DPOConfig, DPOTrainer
from audiorl.trainers.grpo import GRPOConfig, GRPOTrainer
from audiorl.trainers.orpo import ORPOConfig, ORPOTrainer
from audiorl.trainers.raft import RAFTConfig, RAFTTrainer
from audiorl.trainers.sft import SFTConfig, SFTTrainer
from audiorl.tuning import tune_on_pairs, tune_on_rewards, tune_on_transcripts


def sft(argv: Sequence[str] | None = None) -> None:
    tune_on_transcripts(SFTTrainer, SFTConfig, argv, demo_arguments=DEMO_ARGUMENTS["sft"])


def dpo(argv: Sequence[str] | None = None) -> None:
    tune_on_pairs(DPOTrainer, DPOConfig, argv, demo_arguments=DEMO_ARGUMENTS["dpo"])


def orpo(argv: Sequence[str] | None = None) -> None:
    arguments = DEMO_ARGUMENTS["orpo"]
    tune_on_pairs(ORPOTrainer, ORPOConfig, argv, demo_arguments=arguments, refused=ORPO_REFUSED)


def grpo(argv: Sequence[str] | None = None) -> None:
    tune_on_rewards(GRPOTrainer, GRPOConfig, argv, demo_arguments=DEMO_ARGUMENTS["grpo"])


def raft(argv: Sequence[str] | None = None) -> None:
    tune_on_rewards(RAFTTrainer, RAFTConfig, argv, demo_arguments=DEMO_ARGUMENTS["raft"])
